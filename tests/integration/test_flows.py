"""Flows on a real worker: what a script that is started again finds done, and how it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sfworker.catalog import TaskParams
from sfworker.client import SyncClient
from sfworker.errors import FlowError
from sfworker.flow import Job, Options, Step
from sfworker.tasks import Hello
from tests.acting_job import ActAloneParams
from tests.running_worker import RunningWorker


def run(worker: RunningWorker, job: Job, *steps: TaskParams | Step) -> dict[str, Any]:
    url = str(worker.environment["REDIS_URL"])
    with SyncClient(url, job=job) as client:
        return dict(client.run_flow(steps, timeout=60))


def test_a_script_that_failed_goes_on_where_it_stopped(worker: RunningWorker, data: Path) -> None:
    job = Job(task_id=uuid4().hex, parties=["alice", "bob"], options=Options(max_retries=0))
    failing = Step(ActAloneParams(action="raise", until=str(data / "mended")), "second")
    steps: list[TaskParams | Step] = [Hello(), failing, Hello(name="third")]
    failed = rf"step second \(execution {job.task_id}-second\) failed: TaskExecutionError: "
    with pytest.raises(FlowError, match=failed):
        run(worker, job, *steps)
    assert worker.said(f"{job.task_id}-hello-2") == []
    with pytest.raises(FlowError, match=failed):  # it stands until it is replayed
        run(worker, job, *steps)
    (data / "mended").touch()
    with SyncClient(worker.environment["REDIS_URL"], job=job) as client:
        assert client.replay(f"{job.task_id}-second") == "replayed"
        results = client.run_flow(steps, timeout=60)
    assert list(results) == ["hello", "second", "hello-2"]
    assert results["hello-2"]["result"]["message"] == "Hello, third!"
    assert len(worker.said(f"{job.task_id}-hello", "result")) == 1


def test_steps_that_do_not_need_each_other_run_at_once(worker: RunningWorker) -> None:
    job = Job(task_id=uuid4().hex, parties=["alice", "bob"])
    results = run(worker, job, Step(ActAloneParams(action="hang", seconds=0.0), "a"), Step(Hello(), depends_on=[]))
    assert {name: result["status"] for name, result in results.items()} == {"a": "success", "hello": "success"}


@pytest.mark.parametrize("kept", [True, False], ids=["answered before", "expired"])
def test_the_same_id_with_other_parameters_is_an_error_and_so_is_a_result_that_is_gone(
    worker: RunningWorker, kept: bool
) -> None:
    job = Job(task_id=uuid4().hex, parties=["alice", "bob"])
    run(worker, job, Hello())
    if kept:
        with pytest.raises(FlowError, match="was sent before with other parameters, options or devices"):
            run(worker, job, Hello(name="another"))
    else:
        worker.redis.delete(f"sf:result:{job.task_id}-hello")
        with pytest.raises(FlowError, match="was answered before, and its result has expired"):
            run(worker, job, Hello())
    assert len(worker.said(f"{job.task_id}-hello", "result")) == 1
