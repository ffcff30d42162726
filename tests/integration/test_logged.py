"""What the log says of an execution, in fields that a log store searches."""

from __future__ import annotations

import json
from typing import Any

from tests.acting_job import SECRET
from tests.running_worker import RunningWorker, envelope, until

TRACE = "0af7651916cd43dd8448eb211c80319c"


def records(worker: RunningWorker, execution_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in worker.log().splitlines() if line.endswith("}")]
    return [record for record in lines if record.get("execution_id") == execution_id]


def ended(worker: RunningWorker, execution_id: str) -> dict[str, Any]:
    """The record on the attempt's end."""
    return until(lambda: [each for each in records(worker, execution_id) if "seconds" in each])[0]


def test_every_record_of_an_execution_says_which_attempt_of_which_job_it_is_of(worker: RunningWorker) -> None:
    job = envelope({"task_type": "act_alone", "action": "warn"})
    entry = {"envelope": json.dumps(job), "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    worker.redis.xadd("sf:jobs", entry)
    execution_id = job["execution_id"]
    worker.until_ended(execution_id)
    end = ended(worker, execution_id)
    assert 0 < end["seconds"] < 60
    found = records(worker, execution_id)
    about = {"task_type": "act_alone", "attempt": 1, "trace_id": TRACE, "task_id": "task", "subtask_id": "subtask"}
    assert len(found) >= 5
    assert all(record.items() >= about.items() for record in found)
    # Warnings of libraries in Python and C++ are among them, and no text that may hold data.
    warned = {record["message"].partition(" at ")[0]: record for record in found if record["logger"] == "py.warnings"}
    assert warned.keys() == {"UserWarning", "RuntimeWarning"}
    assert warned["UserWarning"]["message"].endswith(": the balance does not add up")
    assert warned["RuntimeWarning"]["message"].endswith("withheld because it may quote data")
    assert "tests/acting_job.py:" in warned["RuntimeWarning"]["message"]
    assert "the bucket is full" in {record["message"] for record in found if record["logger"] == "secretflow.cpp"}
    assert SECRET not in worker.log()


def test_the_record_on_a_failure_says_its_kind(worker: RunningWorker) -> None:
    execution_id = worker.send(envelope({"task_type": "act_alone", "action": "raise_final"}))
    worker.until_ended(execution_id)
    end = ended(worker, execution_id)
    assert (end["error_type"], end["task_type"], end["attempt"]) == ("InputDataError", "act_alone", 1)
    refused = worker.send(envelope({"task_type": "psi"}))
    worker.until_ended(refused)
    assert ended(worker, refused)["task_type"] == "psi"
