"""Operators pause, resume and drain real workers, by the commands that they type."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.test_execution import act
from tests.running_worker import RunningWorker


def order(worker: RunningWorker, *words: str) -> str:
    command, environment = [sys.executable, "-m", "sfworker", *words], {**os.environ, "REDIS_URL": worker.redis_url}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_pause_lets_running_jobs_finish_and_no_other_begin(worker: RunningWorker) -> None:
    running = worker.send(act("report", alone=True, seconds=2.0))
    worker.until_said(running, "task_started")
    order(worker, "pause", "--all")
    order(worker, "pause", "--task-type", "act_alone")
    kept = [worker.send(act("succeed", alone=True)) for _ in range(3)]
    assert worker.until_ended(running)["status"] == "SUCCESS"
    time.sleep(1.5)  # a worker looks each second
    assert [worker.said(each) for each in kept] == [[], [], []]
    order(worker, "resume", "--all")
    hello = act("succeed")
    assert worker.run(hello)["status"] == "success"  # of another type, and sent after those
    assert [worker.said(each) for each in kept] == [[], [], []]
    assert '"held": 3' in order(worker, "status", "--json")
    order(worker, "resume", "--task-type", "act_alone")
    for each in kept:
        ended = worker.until_ended(each)
        assert (ended["status"], ended["attempt"]) == ("SUCCESS", 1)


def test_a_drained_worker_finishes_and_stops_and_the_other_goes_on(redis_url: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with (
        RunningWorker(redis_url, first, lease_seconds=3.0) as drained,
        RunningWorker(redis_url, second, lease_seconds=3.0) as other,
    ):
        running = drained.send(act("report", alone=True, seconds=3.0))
        name = drained.until_said(running, "task_started")["worker_id"]
        stops = drained if f"-{drained.process.pid}-" in name else other
        order(drained, "drain", name)
        assert stops.process.wait(20) == 0
        ended = drained.until_ended(running)
        assert (ended["status"], ended["attempt"]) == ("SUCCESS", 1)
        assert drained.run(act("succeed"))["status"] == "success"
        assert not drained.redis.exists("sf:orders:secretflow")
