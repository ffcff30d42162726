"""The kept local head: on loopback alone, for whoever has its token, and gone with its worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.errors import ClusterInitializationError
from sfworker.pool.ray_head import LocalHead
from sfworker.pool.run_dir import run_dir
from sfworker.ray.head import ENVIRONMENT
from sfworker.settings import load
from tests.bench.gateway import SPU
from tests.processes import told
from tests.running_worker import PARTIES, RunningWorker, envelope, until

_LISTENS = "0A"
_PLAIN = {"PATH": os.environ["PATH"]}
_DRIVER = """
import json, os, ray, sys
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
class Host:
    def where(self):
        return os.getpid()
hosts = [ray.remote(Host).options(num_cpus=0, resources={party: 1}).remote() for party in ("alice", "bob")]
print(json.dumps(ray.get([host.where.remote() for host in hosts], timeout=60)), flush=True)
sys.stdin.read()
"""
_WORKER = """
import anyio, json, os, sys
from sfworker.pool.ray_head import LocalHead
from sfworker.pool.run_dir import run_dir
from sfworker.settings import load
async def main():
    with run_dir(sys.argv[1]) as directory:
        head = LocalHead(load(), directory)
        print(await head.address(), head.pid, json.dumps(head.token, separators=(",", ":")), flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


def in_session(session: int) -> set[int]:
    """Process ids of a session, zombies left out."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[3]) == session and stat[0] != "Z":
            found.add(int(name))
    return found


def named(name: str, session: int) -> list[int]:
    return [pid for pid in in_session(session) if told(pid, "comm").decode().strip() == name]


def children(parent: int) -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def listening(pids: set[int]) -> set[str]:
    """Local addresses at which these processes listen, in the kernel's hexadecimal."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(os.readlink(descriptor))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in sockets and (fields[3] == _LISTENS or table.startswith("udp")):
                found.add(fields[1].partition(":")[0])
    return found


def with_environment(text: str) -> set[int]:
    """Process ids of those that have this in their environment, but for this one."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        if text.encode() in environment and int(name) != os.getpid():
            found.add(int(name))
    return found


def write_tables(data: Path) -> None:
    for number, party in enumerate(PARTIES):
        rows = [f"{n},{n * n}" for n in range(number * 50, number * 50 + 100)]
        (data / f"{party}.csv").write_text("\n".join([f"id,{party}", *rows]) + "\n")


def psi(**more: Any) -> dict[str, Any]:
    task = {
        "task_type": "psi",
        "keys": {party: ["id"] for party in PARTIES},
        "input_paths": {party: f"{party}.csv" for party in PARTIES},
        "output_paths": {party: f"out-{party}.csv" for party in PARTIES},
        "receiver": "alice",
    }
    return envelope(task, spu_config=SPU, **more)


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


AT_ONCE = 2.0


@pytest.fixture
def parent() -> Iterator[Path]:
    """A directory with a path short enough for Ray's sockets, and for those beside it."""
    with tempfile.TemporaryDirectory(prefix="h", dir="/tmp") as directory:
        yield Path(directory)
        shutil.rmtree(f"{directory}-run", ignore_errors=True)


def driver(address: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER, address],
        env=_PLAIN | ENVIRONMENT | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_head_serves_on_loopback_those_with_its_token_and_is_gone_with_its_worker(parent: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(parent)], env=_PLAIN, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert worker.stdout is not None
        address, session_number, token = worker.stdout.readline().decode().split()
        session = int(session_number)
        ours, stranger = driver(address, **json.loads(token)), driver(address, RAY_NUM_REDIS_GET_RETRIES="1")
        assert ours.stdout is not None
        hosts = json.loads(ours.stdout.readline())
        assert len(set(hosts)) == 2
        assert set(hosts) <= in_session(session)
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in hosts} == {os.getpriority(os.PRIO_PROCESS, 0)}
        assert listening(in_session(session) | {ours.pid}) == LOOPBACK
        assert stranger.wait(60) != 0
        said = stranger.communicate()[1]
        assert "token" in said, said
        begun = time.monotonic()
        worker.kill()
        until(lambda: not in_session(session))
        until(lambda: not list(parent.iterdir()))
        assert time.monotonic() - begun < AT_ONCE
        ours.communicate("")
    finally:
        worker.kill()
        worker.communicate()


async def test_a_path_that_is_too_long_for_its_sockets_is_refused_with_the_remedy(tmp_path: Path) -> None:
    head = LocalHead(load(_PLAIN), str(tmp_path / ("d" * 40)))
    with pytest.raises(ClusterInitializationError, match="SFWORKER_RUN_DIR to a directory whose path has at most 18"):
        await head.address()


@pytest.mark.slow
async def test_a_head_that_died_is_replaced_and_one_that_is_stopped_leaves_nothing(parent: Path) -> None:
    with run_dir(str(parent)) as directory:
        head = LocalHead(load(_PLAIN), directory)
        address = await head.address()
        assert await head.address() == address
        first = head.pid
        for name in ("gcs_server", "raylet"):
            session = head.pid
            [pid] = named(name, session)
            os.kill(pid, signal.SIGKILL)
            await anyio.to_thread.run_sync(until, lambda session=session: not in_session(session))
            await anyio.to_thread.run_sync(until, lambda: not os.listdir(directory))
            await head.address()
            assert head.pid != session
        assert head.pid != first
        await head.stop()
        assert not in_session(head.pid)
    assert not os.listdir(parent)


@pytest.mark.slow
async def test_a_head_whose_watcher_dies_goes_with_it(parent: Path) -> None:
    """Otherwise nothing would end it with its worker."""
    with run_dir(str(parent)) as directory:
        head = LocalHead(load(_PLAIN), directory)
        await head.address()
        [watcher] = (pid for pid in children(head.pid) if pid not in in_session(head.pid))
        os.kill(watcher, signal.SIGKILL)
        await anyio.to_thread.run_sync(until, lambda: not in_session(head.pid))
        await head.stop()


@pytest.mark.slow
def test_jobs_run_on_the_workers_own_head_as_in_a_mesh_and_nothing_outlives_the_worker(parent: Path) -> None:
    data, run = parent / "data", Path(f"{parent}-run")
    settings = {"ray_addresses": "local", "data_roots": str(data), "ray_at_start": "true", "session_jobs": "8"}
    data.mkdir()
    write_tables(data)
    with EmbeddedRedis() as redis, RunningWorker(redis.url, parent, **settings) as worker:
        local = worker.run(psi())["result"]
        in_mesh = {party: (data / f"out-{party}.csv").read_bytes() for party in PARTIES}
        on_ray = {"parties": PARTIES, "address": "local", "engine": "ray"}
        result = worker.run(psi(sf_init_config=on_ray), 90)
        assert result["result"] == local
        assert {party: (data / f"out-{party}.csv").read_bytes() for party in PARTIES} == in_mesh
        kept = [worker.run(psi(sf_init_config=on_ray, options={"session": "reuse"})) for _ in range(2)]
        assert [each["task_metadata"].get("session_job", 1) for each in kept] == [1, 2]
        assert [each["result"] for each in kept] == [local, local]
        elsewhere = on_ray | {"parties": ["alice", "dave"]}
        refused = worker.run(envelope({"task_type": "health_check"}, sf_init_config=elsewhere))
        assert refused["error_type"] == "ParameterValidationError"
        assert "dave has no place on this worker's own Ray; add it to SECRETFLOW_PARTIES" in refused["error"]
        assert len(with_environment(str(data))) > 10
        worker.kill()
        until(lambda: not with_environment(str(data)), 20.0)
        until(lambda: not list(run.iterdir()))
