"""`sfworker top`: what one look shows, of jobs as a broker has left them and of a worker that runs one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.integration.test_execution import act
from tests.running_worker import RunningWorker, until


def test_a_look_shows_streams_their_oldest_job_and_failures(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    found = json.loads(sfworker("top", "--json").out)
    assert [one["execution_id"] for one in found["failures"]] == ["failed"]
    assert found["failures"][0]["error_type"] == "InputDataError"
    ages = {stream["stream"]: stream["oldest_age"] for stream in found["streams"]}
    assert all(0 <= ages[stream] < 60 for stream in ages)
    sfworker("pause", "--task-type", "psi")
    page = sfworker("top").out
    for words in ("sf:jobs:low", "paused: no psi job begins", "no worker serves this group now", "InputDataError"):
        assert words in page
    assert "\x1b" not in page


def test_a_running_job_shows_its_progress_and_memory(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from sfworker.cli import main

    monkeypatch.setenv("REDIS_URL", worker.redis_url)
    execution_id = worker.send(act("report", seconds=12.0))

    def running() -> Any:
        assert main(["top", "--json"]) == 0
        [one] = json.loads(capfd.readouterr().out)["workers"]
        # Jobs of other tests may still be there.
        return next((job for job in one["jobs"] if job["progress"] and job["execution_id"] == execution_id), None)

    job = until(running, 30)
    assert (job["execution_id"], job["task_type"]) == (execution_id, "act")
    assert 10e6 < job["memory_bytes"] < 2e9
    assert 0 < job["progress"] <= 1
    assert abs(time.time() - job["began"]) < 30
    main(["top"])
    assert "█" in capfd.readouterr().out
    worker.redis.set(f"sf:cancel:{execution_id}", "1")
    worker.redis.publish("sf:control", execution_id)
    worker.until_ended(execution_id)


def test_on_a_terminal_it_goes_on_until_ctrl_c(redis_url: str, redis: Any, jobs: list[str]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sfworker", "top", "--every", "0.1"]
    with subprocess.Popen(
        command, env={**os.environ, "REDIS_URL": redis_url, "TERM": "xterm"}, stdout=theirs, stderr=theirs, stdin=theirs
    ) as process:
        os.close(theirs)
        said = b""
        while said.count(b"sf:jobs:low") < 2:  # it looks again and again
            said += os.read(ours, 65536)
        process.send_signal(2)
        assert process.wait(20) == 130
    os.close(ours)
