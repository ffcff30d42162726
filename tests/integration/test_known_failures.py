"""How other workers and services have failed, tried on two real workers that could take each other's jobs, and on one.

What is found in the places where it belongs is not repeated here: `tests/README.md` names a test for each failure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.jobs.test_health_check import HEU
from tests.processes import told
from tests.running_worker import RunningWorker, envelope, until

LEASE = 1.5
MOST_ERRORS = 200
"""That two workers may cause in three seconds of a trouble; a loop without pauses causes thousands."""
Pair = tuple[RunningWorker, RunningWorker]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis("--appendfsync", "no") as server:
        yield server


@pytest.fixture(scope="module")
def both(server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    values = {"lease_seconds": str(LEASE), "spare_processes": "0", "drain_timeout": "60"}
    with (
        RunningWorker(server.url, tmp_path_factory.mktemp("first"), worker_hostname="first", **values) as first,
        RunningWorker(server.url, tmp_path_factory.mktemp("second"), worker_hostname="second", **values) as second,
    ):
        yield first, second


@pytest.fixture
def pair(both: Pair) -> Iterator[Pair]:
    """Two workers; after each test both live, own nothing and have nothing left over."""
    yield both
    for worker in both:
        assert worker.process.poll() is None
        worker.until_clean(spares=0)
        assert "unexpectedly" not in worker.log()
    assert owners(both[0]) == {}


def act(action: str, **parameters: Any) -> dict[str, Any]:
    options = {"max_retries": 3, "retry_delay": 0}
    return envelope({"task_type": "act_alone", "action": action, **parameters}, options=options)


def begun(pair: Pair, job: dict[str, Any]) -> Pair:
    """Send a job; the worker that runs it, and the other one."""
    event = pair[0].until_said(pair[0].send(job), "task_started")
    first, second = pair
    return pair if event["worker_id"].startswith(first.name) else (second, first)


def owners(worker: RunningWorker) -> dict[bytes, int]:
    found = worker.redis.xpending("sf:jobs", "secretflow")
    return {consumer["name"]: consumer["pending"] for consumer in found["consumers"]}


def answered_once(worker: RunningWorker, execution_id: str) -> dict[str, Any]:
    """The final event; there is one, and one result."""
    final = worker.until_ended(execution_id)
    assert len(worker.said(execution_id, "result")) == 1
    assert worker.said(execution_id)[-1] == final
    return final


# --- leases


@pytest.mark.parametrize("meanwhile", ["connections break", "its worker drains"])
def test_a_job_of_any_length_stays_with_its_worker(pair: Pair, meanwhile: str) -> None:
    job = act("report", seconds=3 * LEASE)
    worker, other = begun(pair, job)
    if meanwhile == "its worker drains":
        worker.process.terminate()
    else:
        for _ in range(25):  # while the job says how far it is, and the lease is renewed twice
            worker.redis.client_kill_filter(_type="normal", skipme=True)
            time.sleep(0.05)
    final = answered_once(other, job["execution_id"])
    assert (final["status"], final["attempt"]) == ("SUCCESS", 1)
    assert final["worker_id"].startswith(worker.name)
    if meanwhile == "its worker drains":
        assert worker.process.wait(20) == 0
        worker.start()


def test_a_worker_that_was_paused_past_its_lease_steals_nothing_back_and_computes_no_more(pair: Pair) -> None:
    job = act("hang", attempts=1)
    worker, other = begun(pair, job)
    computing = until(worker.parties_with_children)
    worker.process.send_signal(signal.SIGSTOP)
    try:
        final = answered_once(other, job["execution_id"])
        assert (final["status"], final["attempt"]) == ("SUCCESS", 2)
    finally:
        worker.process.send_signal(signal.SIGCONT)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in computing))
    until(lambda: "the lease was lost; the computation was ended and nothing is published" in worker.log())
    assert answered_once(other, job["execution_id"]) == final


# --- what a server loses or refuses


def test_a_group_that_cannot_be_made_again_is_asked_for_with_pauses(pair: Pair) -> None:
    worker, _ = pair
    worker.redis.execute_command("ACL", "SETUSER", "default", "-xgroup")
    try:
        worker.redis.execute_command("ACL", "SETUSER", "default", "+xgroup|destroy")
        before = errors(worker)
        worker.redis.xgroup_destroy("sf:jobs", "secretflow")
        time.sleep(3.0)  # what happens in this time is what is measured
        assert 0 < errors(worker) - before <= MOST_ERRORS
    finally:
        worker.redis.execute_command("ACL", "SETUSER", "default", "+@all")
    job = act("succeed")
    worker.send(job)
    assert answered_once(worker, job["execution_id"])["status"] == "SUCCESS"


def errors(worker: RunningWorker) -> int:
    """How many commands this server has refused."""
    return sum(each["count"] for each in worker.redis.info("errorstats").values())


def test_an_answer_that_a_failover_loses_is_given_again(pair: Pair) -> None:
    """The new master is as far as the old one was while the job ran."""
    job = act("report", seconds=1.0)
    worker, _ = begun(pair, job)
    names = ["sf:jobs", "sf:results", f"sf:exec:{job['execution_id']}"]
    before = {name: worker.redis.dump(name) for name in names}
    answered_once(worker, job["execution_id"])
    with worker.redis.pipeline() as pipeline:
        pipeline.delete(f"sf:result:{job['execution_id']}")
        for name, dumped in before.items():
            pipeline.restore(name, 0, dumped, replace=True)
        pipeline.execute()
    final = answered_once(worker, job["execution_id"])
    assert (final["status"], final["attempt"]) == ("SUCCESS", 2)
    until(lambda: owners(worker) == {})


def test_a_job_whose_reading_reply_is_lost_is_run_before_its_lease_runs_out(worker: RunningWorker) -> None:
    job = act("succeed")
    [heartbeat] = worker.redis.keys("sf:worker:*")
    with worker.redis.pipeline() as pipeline:  # in one step, so that the worker itself reads nothing
        pipeline.xadd("sf:jobs", {"envelope": json.dumps(job)})
        pipeline.xreadgroup("secretflow", heartbeat.decode().removeprefix("sf:worker:"), {"sf:jobs": ">"})
        _, read = pipeline.execute()
    assert len(read) == 1
    worker.redis.client_kill_filter(_type="normal", skipme=True)
    worker.until_ended(job["execution_id"], 10.0)  # the shared worker's lease is 15 s
    final = answered_once(worker, job["execution_id"])
    assert (final["status"], final["attempt"]) == ("SUCCESS", 1)


def test_a_job_whose_payload_is_trimmed_while_it_runs_is_left_to_finish(pair: Pair) -> None:
    job = act("report", seconds=3 * LEASE)
    worker, _ = begun(pair, job)
    worker.redis.xtrim("sf:jobs", maxlen=0)
    until(lambda: owners(worker) == {})
    final = answered_once(worker, job["execution_id"])
    assert (final["status"], final["attempt"]) == ("SUCCESS", 1)


def test_one_whose_payload_is_trimmed_before_its_worker_dies_is_answered_as_lost(tmp_path: Path) -> None:
    with EmbeddedRedis() as server, RunningWorker(server.url, tmp_path / "first", lease_seconds=str(LEASE)) as first:
        job = act("report", seconds=600)
        first.send(job)
        first.until_said(job["execution_id"], "task_started")
        first.redis.xtrim("sf:jobs", maxlen=0)
        first.kill()
        with RunningWorker(server.url, tmp_path / "second", lease_seconds=str(LEASE)) as second:
            assert second.until_ended(job["execution_id"])["error_type"] == "JobLostError"


def test_a_worker_says_at_its_start_what_of_the_server_may_cost_jobs(tmp_path: Path) -> None:
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all -xclaim\n")
    options = ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru", "--aclfile", str(users))
    with EmbeddedRedis(*options) as server, RunningWorker(server.url, tmp_path, spare_processes="0") as worker:
        until(lambda: "permissions: refused: XCLAIM sf:jobs" in worker.log())
        assert "persistence: the append-only file is off" in worker.log()
        assert "eviction: maxmemory-policy is allkeys-lru" in worker.log()


# --- SecretFlow as a service


def spu(protocol: str, field: str) -> dict[str, Any]:
    return {"cluster_def": {"runtime_config": {"protocol": protocol, "field": field}}}


def test_sessions_of_every_kind_at_once_and_one_after_the_other(worker: RunningWorker) -> None:
    """In one process a second session would find the first one's parties, devices and threads."""
    kinds: list[tuple[list[str], dict[str, Any]]] = [
        (["alice", "bob"], {"spu_config": spu("SEMI2K", "FM64")}),
        (["alice", "bob", "carol"], {"spu_config": spu("ABY3", "FM64")}),
        (["bob", "carol"], {"spu_config": spu("CHEETAH", "FM64")}),
        (["alice", "bob"], {"spu_config": spu("SEMI2K", "FM128"), "heu_config": HEU}),
        (["alice", "bob"], {}),
    ]
    jobs = [
        envelope({"task_type": "health_check"}, sf_init_config={"parties": parties, "address": "local"}, **devices)
        for parties, devices in kinds
    ]
    sent = [worker.send(job) for job in jobs]
    for execution_id, (parties, devices) in zip(sent, kinds, strict=True):
        assert answered_once(worker, execution_id)["status"] == "SUCCESS"
        [result] = worker.said(execution_id, "result")
        assert set(result["result"]["devices"]) == {*parties, *(name.removesuffix("_config") for name in devices)}


def test_a_mesh_opens_no_port_and_starts_no_ray(worker: RunningWorker) -> None:
    job = envelope({"task_type": "act", "action": "hang"}, spu_config=spu("SEMI2K", "FM64"))
    execution_id = worker.send(job)
    worker.until_said(execution_id, "devices_ready")
    processes = worker.processes()
    assert len(worker.parties()) >= 2
    assert not {inode for pid in processes for inode in sockets(pid)} & listening(worker.process.pid)
    names = {told(pid, "cmdline") for pid in processes}
    assert not [name for name in names if b"raylet" in name or b"gcs_server" in name]
    worker.redis.set(f"sf:cancel:{execution_id}", "1")
    worker.redis.publish("sf:control", execution_id)
    assert worker.until_ended(execution_id)["status"] == "CANCELLED"


def sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets that a process holds."""
    with suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                kind, _, inode = os.readlink(descriptor).partition(":")
                if kind == "socket":
                    yield inode.strip("[]")


def listening(pid: int) -> set[str]:
    """Inodes of the TCP sockets that anybody listens on, seen from a process."""
    lines = [
        line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()
    ]
    return {fields[9] for fields in lines if fields[3] == "0A"}


LINK = """
import json
import secretflow
from sfworker.session.device_manager import DeviceManager
from sfworker.wire.frames import Start

links = []
secretflow.SPU = lambda cluster_def, link_desc, log_options: links.append(link_desc)
for link_desc in (None, {"recv_timeout_ms": 5, "connect_retry_times": 6}):
    spu_config = {"cluster_def": {"runtime_config": {}}, "link_desc": link_desc}
    start = Start(
        execution_id="e", task_id="t", subtask_id="s", attempt=1, self_party="alice", parties=["alice", "bob"],
        mode="mesh", spu_config=spu_config, heu_config=None, task_config={}, mesh_dir="/",
        scratch_dir="/", data_roots={}, log_level="INFO", max_result_bytes=1,
    )
    DeviceManager(start)._spu({}, 0)
print(json.dumps(links))
"""


def test_the_links_time_limit_is_no_limit_of_the_job() -> None:
    """SecretFlow's own is two minutes without a word from the peer; the job's limits are the envelope's."""
    found = subprocess.run([sys.executable, "-c", LINK], capture_output=True, text=True, check=True, timeout=60)
    usual, chosen = json.loads(found.stdout.splitlines()[-1])
    assert usual["recv_timeout_ms"] >= 7 * 86_400_000
    assert chosen == usual | {"recv_timeout_ms": 5, "connect_retry_times": 6}
