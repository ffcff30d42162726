"""Events and results byte by byte: other programs read them, so a change here is a change of the contract."""

from __future__ import annotations

from typing import get_args

import msgspec

from sfworker.wire.events import (
    FINAL_STATUSES,
    JobResult,
    PerformanceMetrics,
    Stage,
    Status,
    StatusEvent,
    TaskMetadata,
)

TIME = "2026-11-24T13:41:40.113+00:00"


def event(**fields: object) -> bytes:
    common = {
        "execution_id": "e",
        "task_id": "t",
        "subtask_id": "s",
        "timestamp": TIME,
        "worker_id": "host-1",
        "attempt": 1,
    }
    return msgspec.json.encode(StatusEvent(**{**common, **fields}))  # type: ignore[arg-type]


def metadata(execution_id: str | None = "e") -> TaskMetadata:
    return TaskMetadata(
        task_id="t",
        subtask_id="s",
        execution_id=execution_id,
        task_type="psi",
        started_at=TIME,
        completed_at=TIME,
        devices_used=["alice", "spu"],
        attempt=2,
        worker_id="host-1",
    )


METADATA = (
    b'"task_metadata":{"task_id":"t","subtask_id":"s","execution_id":"e","task_type":"psi",'
    b'"started_at":"2026-11-24T13:41:40.113+00:00","completed_at":"2026-11-24T13:41:40.113+00:00",'
    b'"devices_used":["alice","spu"],"attempt":2,"worker_id":"host-1"}'
)
NO_TIMES = (
    b'"performance_metrics":{"cluster_init_seconds":0.0,"device_init_seconds":0.0,"execution_seconds":0.0,'
    b'"total_seconds":0.0,"queue_seconds":0.0,"peak_rss_bytes":{}}'
)


class TestStatusEvent:
    def test_started(self) -> None:
        assert event(status="RUNNING", stage="task_started") == (
            b'{"execution_id":"e","task_id":"t","subtask_id":"s","status":"RUNNING","stage":"task_started",'
            b'"timestamp":"2026-11-24T13:41:40.113+00:00","worker_id":"host-1","attempt":1}'
        )

    def test_progress(self) -> None:
        assert (
            event(status="RUNNING", stage="progress", progress=0.25, message="第 1 轮")
            == (
                '{"execution_id":"e","task_id":"t","subtask_id":"s","status":"RUNNING","stage":"progress",'
                '"timestamp":"2026-11-24T13:41:40.113+00:00","worker_id":"host-1","attempt":1,'
                '"progress":0.25,"message":"第 1 轮"}'
            ).encode()
        )

    def test_progress_of_nothing_is_said(self) -> None:
        assert b'"progress":0.0' in event(status="RUNNING", stage="progress", progress=0.0)

    def test_retrying(self) -> None:
        said = event(
            status="RETRY",
            stage="task_retrying",
            retry_count=1,
            error="The computation failed.",
            error_type="TaskExecutionError",
            retryable=True,
        )
        assert said.endswith(
            b'"attempt":1,"retry_count":1,"error":"The computation failed.",'
            b'"error_type":"TaskExecutionError","retryable":true}'
        )

    def test_of_an_entry_without_ids(self) -> None:
        said = event(
            execution_id=None,
            task_id=None,
            subtask_id=None,
            status="FAILURE",
            stage="task_failed_final",
            message_id="1-0",
        )
        assert said == (
            b'{"execution_id":null,"task_id":null,"subtask_id":null,"status":"FAILURE","stage":"task_failed_final",'
            b'"timestamp":"2026-11-24T13:41:40.113+00:00","worker_id":"host-1","attempt":1,"message_id":"1-0"}'
        )

    def test_words_of_the_contract(self) -> None:
        assert get_args(Status) == ("RUNNING", "SUCCESS", "FAILURE", "RETRY", "CANCELLED")
        assert {"SUCCESS", "FAILURE", "CANCELLED"} == FINAL_STATUSES
        assert get_args(Stage) == (
            "task_started",
            "cluster_ready",
            "devices_ready",
            "progress",
            "task_succeeded",
            "task_retrying",
            "task_replayed",
            "task_failed_final",
            "task_cancelled",
        )


class TestResult:
    def test_success(self) -> None:
        metrics = PerformanceMetrics(
            cluster_init_seconds=0.04,
            device_init_seconds=0.01,
            execution_seconds=0.3,
            total_seconds=0.5,
            queue_seconds=0.15,
            peak_rss_bytes={"alice": 1024, "bob": 2048},
        )
        result = JobResult(
            status="success",
            result={"intersection_count": 3},
            performance_metrics=metrics,
            task_metadata=metadata(),
        )
        assert msgspec.json.encode(result) == (
            b'{"status":"success","result":{"intersection_count":3},'
            b'"performance_metrics":{"cluster_init_seconds":0.04,"device_init_seconds":0.01,"execution_seconds":0.3,'
            b'"total_seconds":0.5,"queue_seconds":0.15,"peak_rss_bytes":{"alice":1024,"bob":2048}},' + METADATA + b"}"
        )

    def test_failure(self) -> None:
        result = JobResult(
            status="failure",
            task_metadata=metadata(),
            error="A parameter is wrong.",
            error_type="ParameterValidationError",
        )
        assert msgspec.json.encode(result) == (
            b'{"status":"failure","result":null,' + NO_TIMES + b"," + METADATA + b","
            b'"error":"A parameter is wrong.","error_type":"ParameterValidationError"}'
        )

    def test_of_an_entry_without_ids(self) -> None:
        result = JobResult(
            status="failure",
            task_metadata=metadata(execution_id=None),
            error="x",
            error_type="EnvelopeError",
            message_id="1-0",
        )
        assert msgspec.json.encode(result).endswith(b'"error":"x","error_type":"EnvelopeError","message_id":"1-0"}')
