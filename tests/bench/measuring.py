"""What every part of the bench uses: the table's rows, a subscriber, a worker of its own."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfworker.cli.console import console
from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.running_worker import RunningWorker, envelope, until

REPETITIONS = 5
PAUSE = 0.1  # so that a worker is idle again


class Figures:
    """Rows of the table, as they are found."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, bool | None]] = []

    def add(self, what: str, measured: str, target: str = "", met: bool | None = None) -> None:
        self.rows.append((what, measured, target, met))
        console(stderr=True).print(f"{what}: {measured}")


class Listener:
    """Hears every status event as a subscriber does, with the moment that it came."""

    def __init__(self, redis: Any) -> None:
        self._pubsub = redis.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe("task_status")
        until(lambda: redis.pubsub_numsub("task_status")[0][1])

    def until(self, execution_id: str, *statuses: str, attempt: int = 1) -> tuple[float, dict[str, Any]]:
        """The next event of the execution, from this attempt on, with one of `statuses`, and when it was heard."""
        while True:
            message = self._pubsub.get_message(timeout=60)
            heard = time.perf_counter()
            if message is None:
                continue
            event = json.loads(message["data"])
            if event["execution_id"] == execution_id and event["status"] in statuses and event["attempt"] >= attempt:
                return heard, event


@contextmanager
def worker(**settings: str) -> Iterator[RunningWorker]:
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis() as redis:
        values = {"log_level": "INFO", "worker_hostname": "bench", **settings}
        with RunningWorker(redis.url, Path(directory) / "worker", **values) as running:
            running.run(envelope({"task_type": "hello"}))
            yield running
