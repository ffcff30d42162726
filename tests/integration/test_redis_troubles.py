"""What befalls a Redis server and the way to it. One worker lives through all of it, without being started again."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from sfworker.cli import main
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.client import SyncClient
from tests.network import HOST, Network, free_ports, start_sentinel
from tests.running_worker import RunningWorker, envelope, until

LEASE = 1.5
MOST_WARNINGS = 25
"""In the seconds that a trouble takes here; each loop of the worker says once that Redis is away, then now and then."""


def act(action: str, **parameters: Any) -> dict[str, Any]:
    options = {"max_retries": 3, "retry_delay": 0}
    return envelope({"task_type": "act_alone", "action": action, **parameters}, options=options)


def warnings(worker: RunningWorker) -> list[str]:
    return [line for line in worker.log().splitlines() if json.loads(line)["level"] in ("WARNING", "ERROR")]


def answered_once(worker: RunningWorker, *execution_ids: str) -> None:
    """Wait until each has ended well, and look whether it was said once."""
    for execution_id in execution_ids:
        assert worker.until_ended(execution_id)["status"] == "SUCCESS"
    for execution_id in execution_ids:
        assert [result["status"] for result in worker.said(execution_id, "result")] == ["success"]
        assert [event["status"] for event in worker.said(execution_id)].count("SUCCESS") == 1


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis("--appendfsync", "no") as server:
        yield server


@pytest.fixture(scope="module")
def network(server: EmbeddedRedis) -> Iterator[Network]:
    with Network(server.socket_path) as network:
        yield network


@pytest.fixture(scope="module")
def long_lived(
    server: EmbeddedRedis, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningWorker]:
    """Reaches Redis through the network; the test looks at the server past it."""
    directory = tmp_path_factory.mktemp("long-lived")
    url = f"redis://{HOST}:{network.port}/0"
    values = {"lease_seconds": str(LEASE), "worker_hostname": "long", "concurrency": "2"}
    with RunningWorker(url, directory, seen_at=server.url, **values) as worker:
        yield worker


@pytest.fixture
def worker(long_lived: RunningWorker) -> Iterator[RunningWorker]:
    """After each trouble it serves on, nothing is left over, and it has not said too much."""
    process, said = long_lived.process.pid, len(warnings(long_lived))
    yield long_lived
    assert long_lived.run(act("succeed"), 10.0)["status"] == "success"
    assert long_lived.process.poll() is None
    assert long_lived.process.pid == process
    for stream in ("sf:jobs:high", "sf:jobs", "sf:jobs:low"):
        assert long_lived.redis.xlen(stream) == 0
    assert len(warnings(long_lived)) - said <= MOST_WARNINGS


@contextmanager
def during_a_job(worker: RunningWorker, seconds: float = 1.0) -> Iterator[str]:
    """The block happens while a job runs, which is answered once afterwards."""
    execution_id = worker.send(act("report", seconds=seconds))
    worker.until_said(execution_id, "task_started")
    yield execution_id
    answered_once(worker, execution_id)


# --- what somebody does to the server


def test_the_consumer_group_is_destroyed_in_mid_job(worker: RunningWorker) -> None:
    with during_a_job(worker) as running:
        worker.redis.xgroup_destroy("sf:jobs", "secretflow")
        more = [worker.send(act("succeed")) for _ in range(3)]
        answered_once(worker, running, *more)


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
def test_connections_are_killed_again_and_again(worker: RunningWorker, kind: str) -> None:
    sent = [worker.send(act("report", seconds=0.3)) for _ in range(8)]
    until_time = time.monotonic() + 3.0
    while time.monotonic() < until_time:
        worker.redis.client_kill_filter(_type=kind, skipme=True)
        time.sleep(0.05)
    answered_once(worker, *sent)
    execution_id = worker.send(act("hang"))
    worker.until_said(execution_id, "task_started")
    worker.redis.set(f"sf:cancel:{execution_id}", "1")
    worker.redis.publish("sf:control", execution_id)
    assert worker.until_ended(execution_id, 5.0)["status"] == "CANCELLED"


def test_the_server_pauses_for_longer_than_the_lease(worker: RunningWorker) -> None:
    with during_a_job(worker):
        worker.redis.client_pause(int(2500 * LEASE))
        time.sleep(2.5 * LEASE)


def test_an_outcome_is_kept_until_there_is_memory_for_it(worker: RunningWorker) -> None:
    with during_a_job(worker, 0.5) as execution_id:
        worker.redis.config_set("maxmemory", "1mb")
        try:
            time.sleep(2.5)  # it ends meanwhile
            assert worker.said(execution_id, "result") == []
            assert worker.redis.xpending("sf:jobs", "secretflow")["pending"] == 1
        finally:
            worker.redis.config_set("maxmemory", "0")
    assert worker.said(execution_id)[-1]["attempt"] == 1


def test_the_server_takes_no_writes_for_a_while(
    worker: RunningWorker, server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    with during_a_job(worker, 0.5) as execution_id:
        worker.redis.replicaof(HOST, 1)  # where nobody listens: it keeps its data, and is a replica
        assert main(["doctor", "--quick", "--redis", server.url]) == 1
        assert "this server is a replica" in capsys.readouterr().out
        time.sleep(2.5)
        assert worker.said(execution_id, "result") == []
        worker.redis.replicaof("NO", "ONE")
    assert worker.said(execution_id)[-1]["attempt"] == 1


# --- what befalls the way to it


def test_a_slow_network_costs_time_and_no_lease(worker: RunningWorker, network: Network) -> None:
    network.delay = 0.1  # and as much back
    try:
        with during_a_job(worker, 2 * LEASE) as execution_id:
            pass
    finally:
        network.delay = 0.0
    assert worker.said(execution_id)[-1]["attempt"] == 1


def test_a_dead_network_comes_back(worker: RunningWorker, network: Network) -> None:
    with during_a_job(worker, LEASE):
        network.die()
        time.sleep(2.5 * LEASE)  # the job ends meanwhile, and nobody else is there to take it over
        network.revive()


def test_a_job_is_taken_from_a_worker_that_is_cut_off(
    worker: RunningWorker, network: Network, server: EmbeddedRedis, tmp_path: Path
) -> None:
    with RunningWorker(server.url, tmp_path, lease_seconds=str(LEASE), worker_hostname="other") as other:
        other.process.send_signal(signal.SIGSTOP)
        execution_id = worker.send(act("report", seconds=2 * LEASE))
        worker.until_said(execution_id, "task_started")
        other.process.send_signal(signal.SIGCONT)
        network.die()
        try:
            final = other.until_ended(execution_id)
        finally:
            network.revive()  # what was sent meanwhile arrives now
    assert (final["worker_id"][:6], final["attempt"]) == ("other-", 2)
    answered_once(worker, execution_id)


# --- sentinels


class Sentinels:
    """A master, its replica and three sentinels, of which two decide."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        ports = free_ports(5)
        self.servers = [
            self._server(stack, ports[0]),
            self._server(stack, ports[1], "--replicaof", HOST, str(ports[0])),
        ]
        for number, port in enumerate(ports[2:]):
            file = directory / f"sentinel-{number}.conf"
            file.write_text(
                f"port {port}\nbind {HOST}\ndir {directory}\nsentinel monitor main {HOST} {ports[0]} 2\n"
                "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
            )
            start_sentinel(stack, file)
        self._asked: Any = stack.enter_context(Redis(HOST, ports[2]))
        # The first that is named is not there: that costs no time.
        self.url = f"redis+sentinel://{HOST}:1,{','.join(f'{HOST}:{port}' for port in ports[2:])}/main/0"
        until(self._complete)

    def fail_over(self) -> None:
        self._asked.execute_command("SENTINEL", "FAILOVER", "main")

    def _server(self, stack: ExitStack, port: int, *options: str) -> EmbeddedRedis:
        return stack.enter_context(EmbeddedRedis("--port", str(port), "--bind", HOST, *options))

    def _complete(self) -> bool:
        """Whether the sentinels know each other and the replica is up to date."""
        with suppress(RedisError):
            state = self._asked.sentinel_master("main")
            known = (state["num-other-sentinels"], state["num-slaves"]) == (2, 1)
            return known and self._asked.sentinel_slaves("main")[0]["master-link-status"] == "ok"
        return False


def test_worker_and_clients_follow_the_master(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        servers = Sentinels(stack, tmp_path)
        first, second = servers.servers
        values = {"lease_seconds": str(LEASE), "seen_at": first.url}
        worker = stack.enter_context(RunningWorker(servers.url, tmp_path, **values))
        (tmp_path / "other").mkdir()
        stack.enter_context(RunningWorker(servers.url, tmp_path / "other", **values))
        client = stack.enter_context(SyncClient(servers.url))
        assert client.wait(client.submit(act("succeed")).execution_id, 30)["status"] == "success"

        # The master dies while a job runs, which no other worker takes over then.
        running = client.submit(act("report", seconds=4 * LEASE)).execution_id
        worker.until_said(running, "task_started")
        assert worker.redis.wait(1, 5000) == 1
        first.stop(0)
        result = client.wait(running, 30)
        assert (result["status"], result["task_metadata"]["attempt"]) == ("success", 1)
        assert client.wait(client.submit(act("succeed")).execution_id, 30)["status"] == "success"
        assert main(["status", "--redis", servers.url]) == 0
        assert main(["doctor", "--quick", "--redis", servers.url]) == 0
        assert "set `min-replicas-to-write 1`" in capsys.readouterr().out
        worker.redis = stack.enter_context(Redis.from_url(second.url))
        answered_once(worker, running)

        # It comes back as a replica, and is made the master again: the other one is demoted while it lives. What the
        # sentinels would do after eight seconds is done at once, and no connection is closed.
        first.start()
        follow(first, second)
        until(lambda: accepted(servers.fail_over), 30)
        until(lambda: promoted(first), 30)
        follow(second, first)
        job = act("succeed")
        until(lambda: accepted(lambda: client.submit(job)))
        assert client.wait(job["execution_id"], 30)["status"] == "success"
        worker.redis = stack.enter_context(Redis.from_url(first.url))
        answered_once(worker, job["execution_id"])
        assert worker.process.poll() is None
        assert len(warnings(worker)) <= MOST_WARNINGS


def promoted(server: EmbeddedRedis) -> bool:
    with suppress(RedisError), Redis.from_url(server.url) as client:  # sentinels close connections
        found: Any = client.info("replication")
        return bool(found["role"] == "master")
    return False


def follow(replica: EmbeddedRedis, master: EmbeddedRedis) -> None:
    """Make a server the other one's replica, and wait until it has its data."""
    with Redis.from_url(replica.url) as ours, Redis.from_url(master.url) as theirs:
        port: Any = theirs.config_get("port")
        ours.replicaof(HOST, port["port"])

        def up_to_date() -> bool:
            with suppress(RedisError):  # sentinels close connections
                found: Any = ours.info("replication")
                return bool(found.get("master_link_status") == "up")
            return False

        until(up_to_date)


def accepted(command: Callable[[], object]) -> bool:
    with suppress(RedisError):
        command()
        return True
    return False


def test_no_sentinel_that_knows_the_master_is_a_redis_that_is_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis+sentinel://user:word@127.0.0.1:1,127.0.0.1:2/main/0")
    assert main(["status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("sfworker: redis+sentinel://127.0.0.1:1,127.0.0.1:2/main/0 names no master;")
