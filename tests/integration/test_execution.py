"""How an execution goes and ends, seen from Redis and from the process table."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.acting_job import SECRET
from tests.running_worker import RunningWorker, envelope, kill, until


def act(
    action: str, *, alone: bool = False, options: dict[str, Any] | None = None, **parameters: Any
) -> dict[str, Any]:
    task = {"task_type": "act_alone" if alone else "act", "action": action, **parameters}
    return envelope(task, options=options or {})


def stages(worker: RunningWorker, execution_id: str) -> list[str]:
    return [event["stage"] for event in worker.said(execution_id)]


def test_a_job_that_succeeds_says_each_stage_and_its_figures(worker: RunningWorker) -> None:
    job = act("succeed")
    result = worker.run(job)
    assert stages(worker, job["execution_id"]) == ["task_started", "cluster_ready", "devices_ready", "task_succeeded"]
    assert result["status"] == "success"
    metrics, metadata = result["performance_metrics"], result["task_metadata"]
    assert 0 < metrics["cluster_init_seconds"] < metrics["total_seconds"]
    assert metrics["queue_seconds"] >= 0
    assert set(metrics["peak_rss_bytes"]) == {"alice", "bob"}
    assert all(rss > 50_000_000 for rss in metrics["peak_rss_bytes"].values())
    assert metadata["devices_used"] == ["alice", "bob"]
    assert metadata["attempt"] == 1
    assert metadata["task_type"] == "act"
    assert metadata["started_at"] <= metadata["completed_at"]
    for event in worker.said(job["execution_id"]):
        assert (event["task_id"], event["subtask_id"], event["attempt"]) == ("task", "subtask", 1)
        assert event["worker_id"] == metadata["worker_id"]


def test_progress_is_published_while_the_job_runs(worker: RunningWorker) -> None:
    job = act("report", seconds=1.5)
    execution_id = worker.send(job)
    first = worker.until_said(execution_id, "progress")
    assert worker.redis.get(f"sf:result:{execution_id}") is None
    assert first["message"].startswith("step ")
    worker.until_ended(execution_id)
    reported = [event["progress"] for event in worker.said(execution_id) if event["stage"] == "progress"]
    assert reported == sorted(reported)
    assert len(reported) >= 2


def test_every_party_has_a_process_of_its_own_and_each_job_new_ones(worker: RunningWorker) -> None:
    pids = [worker.run(act("succeed"))["result"]["pid"] for _ in range(3)]
    assert len(set(pids)) == 3


def test_an_error_that_no_retry_helps_fails_at_once(worker: RunningWorker) -> None:
    job = act("raise_final", at="alice", options={"max_retries": 3})
    result = worker.run(job)
    assert (result["status"], result["error_type"]) == ("failure", "InputDataError")
    assert result["error"] == "task_config.action: told to raise; no retry helps"
    final = worker.said(job["execution_id"])[-1]
    assert (final["status"], final["stage"], final["retryable"]) == ("FAILURE", "task_failed_final", False)


def test_the_text_of_foreign_errors_is_withheld(worker: RunningWorker) -> None:
    result = worker.run(act("raise_foreign", at="bob"))
    assert result["error_type"] == "TaskExecutionError"
    assert result["error"].startswith("RuntimeError at ")
    assert "acting_job.py:" in result["error"]
    assert SECRET not in result["error"]


def test_a_literal_of_the_code_is_no_data(worker: RunningWorker) -> None:
    result = worker.run(act("raise_literal", at="bob"))
    assert result["error_type"] == "TaskExecutionError"
    assert result["error"].endswith(": the balance does not add up")


def test_an_error_that_recurs_is_not_tried_again(worker: RunningWorker) -> None:
    job = act("raise_type", at="bob", options={"max_retries": 3})
    result = worker.run(job)
    assert result["error_type"] == "RecurringError"
    assert SECRET not in result["error"]
    assert worker.said(job["execution_id"])[-1]["retryable"] is False


def test_what_jobs_print_is_logged_without_its_text_and_with_the_ids(worker: RunningWorker) -> None:
    job = act("succeed")
    worker.run(job)
    [line] = until(
        lambda: [
            line
            for line in worker.log().splitlines()
            if f'"execution_id": "{job["execution_id"]}"' in line and "acting: succeed" in line and '"bob"' in line
        ]
    )
    assert '"task_id": "task"' in line
    assert '"subtask_id": "subtask"' in line
    assert SECRET not in worker.log()


def test_a_job_is_tried_again_and_succeeds(worker: RunningWorker) -> None:
    job = act("raise", attempts=1, options={"max_retries": 1, "retry_delay": 0.1})
    result = worker.run(job)
    assert result["status"] == "success"
    assert result["task_metadata"]["attempt"] == 2
    events = worker.said(job["execution_id"])
    retry = next(event for event in events if event["status"] == "RETRY")
    assert (retry["stage"], retry["retry_count"], retry["retryable"]) == ("task_retrying", 1, True)
    assert [event["attempt"] for event in events if event["stage"] == "task_started"] == [1, 2]


def test_retries_end(worker: RunningWorker) -> None:
    job = act("raise", options={"max_retries": 2, "retry_delay": 0})
    assert worker.run(job)["error"] == "told to raise; a retry may help"
    assert [event["status"] for event in worker.said(job["execution_id"]) if event["stage"] != "cluster_ready"].count(
        "RETRY"
    ) == 2


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_a_party_process_that_is_killed_ends_the_job_at_once(worker: RunningWorker, party: str) -> None:
    job = act("hang", at=party)
    execution_id = worker.send(job)
    worker.until_said(execution_id, "devices_ready")
    victims = until(worker.parties_with_children)
    began = time.monotonic()
    kill(victims[0])
    final = worker.until_ended(execution_id)
    assert time.monotonic() - began < 2.0  # the figure is the benchmark's; this only tells it from a time limit
    assert final["error_type"] == "PartyProcessLostError"
    assert final["error"].startswith(f"the process of {party} was killed by signal 9 (SIGKILL)")
    assert final["retryable"] is True


@pytest.mark.parametrize(("action", "said"), [("exit", "exit code 3"), ("kill", "signal 9 (SIGKILL)")])
def test_a_party_process_that_ends_by_itself_is_explained(worker: RunningWorker, action: str, said: str) -> None:
    result = worker.run(act(action, at="bob"))
    assert result["error_type"] == "PartyProcessLostError"
    assert result["error"].startswith("the process of bob ")
    assert said in result["error"]


def test_how_a_process_ended_is_waited_for(worker: RunningWorker) -> None:
    """Its socket's close is heard at once, and how it ended only from the template, which may be slow."""
    execution_id = worker.send(act("hang", at="alice"))
    worker.until_said(execution_id, "devices_ready")
    [victim] = until(worker.parties_with_children)
    template = worker.template()
    os.kill(template, signal.SIGSTOP)
    try:
        kill(victim)
        time.sleep(1.0)
    finally:
        os.kill(template, signal.SIGCONT)
    final = worker.until_ended(execution_id)
    assert final["error"].startswith("the process of alice was killed by signal 9 (SIGKILL)")


def test_a_killed_job_is_tried_again(worker: RunningWorker) -> None:
    job = act("kill", at="alice", attempts=1, options={"max_retries": 1, "retry_delay": 0})
    assert worker.run(job)["status"] == "success"
    assert "RETRY" in [event["status"] for event in worker.said(job["execution_id"])]


@pytest.mark.parametrize("alone", [False, True])
def test_the_soft_time_limit_asks(worker: RunningWorker, alone: bool) -> None:
    result = worker.run(act("hang", alone=alone, options={"soft_time_limit": 0.5, "time_limit": 30}))
    assert result["error_type"] == "SoftTimeLimitExceededError"
    assert "options.soft_time_limit" in result["error"]
    assert result["performance_metrics"]["total_seconds"] < 10


def test_the_hard_time_limit_kills(worker: RunningWorker) -> None:
    job = act("stubborn", options={"soft_time_limit": 0.3, "time_limit": 1.0, "max_retries": 3})
    result = worker.run(job)
    assert result["error_type"] == "TimeLimitExceededError"
    assert 1.0 <= result["performance_metrics"]["total_seconds"] < 5


def test_a_hard_time_limit_alone(worker: RunningWorker) -> None:
    result = worker.run(act("hang", options={"soft_time_limit": 5, "time_limit": 0.5}))
    assert result["error_type"] == "TimeLimitExceededError"
    assert "options.time_limit" in result["error"]


@pytest.mark.parametrize("action", ["hang", "stubborn"])
def test_a_running_job_is_cancelled(worker: RunningWorker, action: str) -> None:
    job = act(action, at="alice")
    execution_id = worker.send(job)
    worker.until_said(execution_id, "devices_ready")
    began = time.monotonic()
    worker.redis.set(f"sf:cancel:{execution_id}", "1")
    worker.redis.publish("sf:control", execution_id)
    final = worker.until_ended(execution_id)
    assert time.monotonic() - began < 2.0
    assert (final["status"], final["stage"]) == ("CANCELLED", "task_cancelled")
    [result] = worker.said(execution_id, "result")
    assert (result["status"], result["result"]) == ("cancelled", None)
    assert worker.redis.xpending("sf:jobs", "secretflow")["consumers"] is not None
    assert not worker.redis.exists(f"sf:cancel:{execution_id}")


def test_a_job_that_its_soft_time_limit_does_not_end_is_cancelled(worker: RunningWorker) -> None:
    job = act("stubborn", alone=True, options={"soft_time_limit": 1, "time_limit": 60})
    execution_id = worker.send(job)
    started = worker.until_said(execution_id, "task_started")
    until(lambda: time.time() > datetime.fromisoformat(started["timestamp"]).timestamp() + 1.5)
    worker.redis.set(f"sf:cancel:{execution_id}", "1")
    worker.redis.publish("sf:control", execution_id)
    final = worker.until_ended(execution_id, 20)
    assert final["status"] == "CANCELLED"


def test_a_queued_job_is_cancelled(worker: RunningWorker) -> None:
    job = act("succeed")
    worker.redis.set(f"sf:cancel:{job['execution_id']}", "1")
    assert worker.run(job)["status"] == "cancelled"
    assert stages(worker, job["execution_id"]) == ["task_cancelled"]


def test_the_same_execution_sent_twice_is_answered_once(worker: RunningWorker) -> None:
    job = act("report", seconds=0.5)
    worker.send(job)
    worker.run(job)
    worker.send(job)
    worker.run(act("succeed"))
    assert len(worker.said(job["execution_id"], "result")) == 1
    assert stages(worker, job["execution_id"]).count("task_started") == 1


def test_outputs_appear_whole_and_only_on_success(worker: RunningWorker, data: Path) -> None:
    paths = {"alice": str(data / "a.txt"), "bob": str(data / "b.txt")}
    assert worker.run(act("raise_final", output_paths=paths))["status"] == "failure"
    assert list(data.iterdir()) == []
    execution_id = worker.send(act("hang", output_paths=paths))
    worker.until_said(execution_id, "devices_ready")
    until(lambda: len(list(data.iterdir())) == 2)
    assert not (data / "a.txt").exists()
    worker.redis.set(f"sf:cancel:{execution_id}", "1")
    worker.redis.publish("sf:control", execution_id)
    worker.until_ended(execution_id)
    assert list(data.iterdir()) == []
    assert worker.run(act("succeed", output_paths=paths))["status"] == "success"
    assert {path.name: path.read_text() for path in data.iterdir()} == {"a.txt": "written\n", "b.txt": "written\n"}


def test_urgent_jobs_overtake_and_the_others_get_their_share(worker: RunningWorker) -> None:
    """Whichever turn it is: any ten slots in a row are seven, two and one."""
    blockers = [worker.send(act("report", alone=True, seconds=1.0)) for _ in range(2)]
    for blocker in blockers:
        worker.until_said(blocker, "task_started")
    queued = {"sf:jobs:low": 3, "sf:jobs": 4, "sf:jobs:high": 8}  # the least urgent are sent first
    sent = {worker.send(act("succeed", alone=True), stream): stream for stream in queued for _ in range(queued[stream])}
    for execution_id in (*blockers, *sent):
        worker.until_ended(execution_id)
    started = [
        sent[execution_id]
        for _, fields in worker.redis.xrange("sf:results")
        if (execution_id := fields.get(b"execution_id", b"").decode()) in sent and b"task_started" in fields[b"payload"]
    ]
    assert Counter(started[:10]) == {"sf:jobs:high": 7, "sf:jobs": 2, "sf:jobs:low": 1}
