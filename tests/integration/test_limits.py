"""What an execution may use, and what it can rely on, seen from Redis and from the process table."""

from __future__ import annotations

from tests.running_worker import RunningWorker, envelope


def test_a_forked_process_computes_with_threads_of_its_own(worker: RunningWorker) -> None:
    assert worker.run(envelope({"task_type": "act_alone", "action": "multiply"}), 20)["status"] == "success"
