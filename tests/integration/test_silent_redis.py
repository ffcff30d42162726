"""Redis that is silent for longer than the lease: no worker knows then who lives, and none takes another one's job."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.running_worker import RunningWorker, envelope, until

LEASE = 1.2


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis("--appendfsync", "no", "--lua-time-limit", "50") as server:
        yield server


@pytest.fixture(scope="module")
def workers(server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningWorker]]:
    """Two, each with a free slot beside the job that the tests look at."""

    def worker(name: str) -> RunningWorker:
        directory = tmp_path_factory.mktemp(name)
        values = {"lease_seconds": str(LEASE), "worker_hostname": name, "concurrency": "3", "spare_processes": "0"}
        return RunningWorker(server.url, directory, **values)

    with worker("first") as first, worker("second") as second:
        yield [first, second]


def stop(server: EmbeddedRedis, seconds: float) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(server.pid, signal.SIGCONT)


def keep_busy(server: EmbeddedRedis, seconds: float) -> None:
    def run() -> None:
        with Redis.from_url(server.url) as client, suppress(ResponseError):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(seconds)
    with Redis.from_url(server.url) as client:
        client.script_kill()
    thread.join()


def pause(server: EmbeddedRedis, seconds: float) -> None:
    with Redis.from_url(server.url) as client:
        client.client_pause(int(seconds * 1000))
    time.sleep(seconds)


def restart(server: EmbeddedRedis, seconds: float) -> None:
    server.stop()
    time.sleep(seconds)
    server.start()


def act(action: str, **parameters: Any) -> dict[str, Any]:
    return envelope({"task_type": "act_alone", "action": action, **parameters}, options={"max_retries": 3})


def record(worker: RunningWorker, execution_id: str) -> dict[str, str]:
    found = worker.redis.hgetall(f"sf:exec:{execution_id}")
    return {name.decode(): value.decode() for name, value in found.items()}


@pytest.mark.parametrize(
    ("trouble", "leases"),
    [
        (stop, 1),
        pytest.param(stop, 2, marks=pytest.mark.slow),
        (stop, 5),
        (keep_busy, 1.5),
        (pause, 1.5),
        (restart, 1.5),
    ],
)
def test_no_worker_that_lives_loses_its_job(
    server: EmbeddedRedis, workers: list[RunningWorker], trouble: Callable[[EmbeddedRedis, float], None], leases: float
) -> None:
    first, second = workers
    held = [first.send(act("hang")) for _ in range(3)]  # of which each worker has some
    for execution_id in held:
        first.until_said(execution_id, "task_started")
    trouble(server, leases * LEASE)
    time.sleep(1.5 * LEASE)
    for execution_id in held:
        known = record(first, execution_id)
        assert (known["state"], known["attempt"], known["crashes"]) == ("running", "1", "0")
        first.redis.set(f"sf:cancel:{execution_id}", "1")
        first.redis.publish("sf:control", execution_id)
    for execution_id in held:
        assert first.until_ended(execution_id)["status"] == "CANCELLED"
    assert not any("lease was lost" in worker.log() for worker in (first, second))


def test_a_worker_that_dies_meanwhile_is_found_out(
    server: EmbeddedRedis, workers: list[RunningWorker], tmp_path: Path
) -> None:
    values = {"lease_seconds": str(LEASE), "worker_hostname": "mortal", "spare_processes": "0"}
    first = workers[0]
    for worker in workers:
        worker.process.send_signal(signal.SIGSTOP)
    with RunningWorker(server.url, tmp_path, **values) as mortal:
        execution_id = mortal.send(act("hang", attempts=1))
        mortal.until_said(execution_id, "task_started")
        for worker in workers:
            worker.process.send_signal(signal.SIGCONT)
        time.sleep(LEASE)
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(LEASE)
        mortal.kill()
        time.sleep(LEASE)
        os.kill(server.pid, signal.SIGCONT)
        back = time.monotonic()
        until(lambda: len([event for event in first.said(execution_id) if event["stage"] == "task_started"]) == 2)
        assert time.monotonic() - back < 2 * LEASE
    assert (first.until_ended(execution_id)["attempt"], record(first, execution_id)["state"]) == (2, "done")
