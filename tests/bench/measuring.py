"""What every part of the bench uses: the table's rows, a subscriber, a worker of its own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfworker.cli.console import console
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.ray.head import ENVIRONMENT
from tests.running_worker import RunningWorker, envelope, until

REPETITIONS = 5
PAUSE = 0.1  # so that a worker is idle again
LOOK = 0.005


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


def seconds_and_peak(running: RunningWorker, job: dict[str, Any]) -> tuple[float, int]:
    """Run a job. Seconds from append to answer, and the most bytes of memory that a party process had.

    That is what the processes say themselves, as looking at them meanwhile would take a third of a processor.
    """
    running.until_clean()
    began = time.perf_counter()
    running.send(job)
    while (answer := running.redis.get(f"sf:result:{job['execution_id']}")) is None:
        time.sleep(LOOK)
    seconds, result = time.perf_counter() - began, json.loads(answer)
    if result["status"] != "success":
        raise SystemExit(f"{job['task_config']['task_type']} answered {answer!r}")
    return seconds, max(result["performance_metrics"]["peak_rss_bytes"].values())


def cpu(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare(how: str, inputs: dict[str, str], python: str) -> list[float]:
    """Seconds of each repetition of `bare_psi`."""
    command = [python, "-m", "tests.bench.bare_psi", how, str(REPETITIONS), *inputs.values()]
    environment = os.environ | ENVIRONMENT
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "SECONDS " not in done.stdout or done.returncode:
        raise SystemExit(done.stderr)
    return [float(seconds) for seconds in json.loads(done.stdout.rpartition("SECONDS ")[2])]


def write_ids(directory: Path, rows: int) -> dict[str, str]:
    """Two parties' files of unique ids, half of them common, in an order of their own."""
    inputs = {}
    for number, party in enumerate(("alice", "bob")):
        ids = [f"{n:010d}" for n in range(number * rows // 2, number * rows // 2 + rows)]
        random.Random(number).shuffle(ids)
        path = directory / f"{party}-{rows}.csv"
        path.write_text("id\n" + "\n".join(ids) + "\n")
        inputs[party] = str(path)
    return inputs
