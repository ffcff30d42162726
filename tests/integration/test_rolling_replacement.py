"""All workers are replaced, one after the other, while jobs keep coming."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from redis import Redis

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.chaos.jobs import Kind
from tests.chaos.verdict import violations
from tests.running_worker import RunningWorker, envelope, until

WORKERS, GENERATIONS = 2, 2
UNDER_WAY = 20
SUCCEEDS = Kind("any", 1.0, frozenset({"success"}), {}, {})


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis("--appendfsync", "no") as server:
        yield server


def act(action: str, **parameters: Any) -> dict[str, Any]:
    """A job that may not fail once."""
    return envelope({"task_type": "act_alone", "action": action, **parameters})


def submit_until(stop: Event, worker: RunningWorker) -> list[str]:
    """Keep sending, every tenth a job that is longer than the drain; returns the ids."""
    sent: list[str] = []
    while not stop.wait(0.03):
        if worker.redis.xlen("sf:jobs") < UNDER_WAY:
            sent.append(worker.send(act("report", seconds=1.5) if len(sent) % 10 == 5 else act("succeed")))
    return sent


def until_all_started(worker: RunningWorker, execution_ids: list[str]) -> None:
    for execution_id in execution_ids:
        worker.until_said(execution_id, "task_started")


def replace(worker: RunningWorker) -> int:
    """Stop it; returns how many of its jobs were released."""
    assert worker.stop() == 0
    assert worker.processes() == set()
    assert list(worker.run_dir.iterdir()) == []
    return worker.log().count("given back, for any worker to run again")


def test_replacing_the_workers_under_load_loses_nothing_and_doubles_nothing(
    redis: EmbeddedRedis, tmp_path: Path
) -> None:
    stop_sending = Event()
    # Workers die with the thread that starts them: every one has stopped before the threads end.
    with ThreadPoolExecutor(2) as starters, ThreadPoolExecutor(1) as sender, ExitStack() as stack:
        stack.callback(stop_sending.set)

        def start(number: int) -> RunningWorker:
            directory = tmp_path / str(number)
            directory.mkdir()
            settings = {"worker_hostname": f"w{number}", "concurrency": "3", "drain_timeout": "0.3"}
            return stack.enter_context(RunningWorker(redis.url, directory, **settings))

        starting = starters.map(start, range(WORKERS * GENERATIONS))
        working = deque(next(starting) for _ in range(WORKERS))
        first = working[0]
        sent = [first.send(act("hang", attempts=1)) for _ in range(WORKERS)]
        until_all_started(first, sent)  # so that each will be released
        sending = sender.submit(submit_until, stop_sending, first)
        released = 0
        for successor in starting:
            working.append(successor)
            released += replace(working.popleft())
        stop_sending.set()
        sent += sending.result()
        until(lambda: first.redis.exists(*(f"sf:result:{execution_id}" for execution_id in sent)) == len(sent), 60.0)
        assert [replace(worker) for worker in working] == [0] * WORKERS

    with Redis.from_url(redis.url) as client:
        assert list(violations(client, dict.fromkeys(sent, SUCCEEDS), set())) == []
        results = [json.loads(client.get(f"sf:result:{execution_id}")) for execution_id in sent]
    print(f"{len(sent)} jobs, {WORKERS * (GENERATIONS - 1)} workers replaced, {released} jobs released")
    assert released >= WORKERS
    # Each release is followed by one more attempt, and nothing else is.
    assert sum(result["task_metadata"]["attempt"] - 1 for result in results) == released
