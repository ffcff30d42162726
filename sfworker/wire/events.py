"""Status events and results, as the web side hears them. Field names are a contract."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Status = Literal["RUNNING", "SUCCESS", "FAILURE", "RETRY", "CANCELLED"]
Stage = Literal[
    "task_started",
    "cluster_ready",
    "devices_ready",
    "progress",
    "task_succeeded",
    "task_retrying",
    "task_replayed",
    "task_failed_final",
    "task_cancelled",
]
Timestamp = Annotated[str, Meta(description="ISO 8601 with zone.", extra_json_schema={"format": "date-time"})]
ErrorType = Annotated[str, Meta(description="Name of the error, for programs.")]
FINAL_STATUSES = frozenset({"SUCCESS", "FAILURE", "CANCELLED"})


def timestamp(unix_seconds: float) -> str:
    """A time as ISO 8601 with zone and milliseconds."""
    return datetime.fromtimestamp(unix_seconds, timezone.utc).isoformat(timespec="milliseconds")


class StatusEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of an execution, as published on `task_status:<execution_id>`, `task_status` and `sf:results`."""

    execution_id: str | None
    task_id: str | None
    subtask_id: str | None
    status: Status
    stage: Stage
    timestamp: Timestamp
    worker_id: str
    attempt: Annotated[int, Meta(description="1 for the first run of the execution.")]
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    message: str | None = None
    retry_count: int | None = None
    error: Annotated[str, Meta(description="A sentence for people; holds no data.")] | None = None
    error_type: ErrorType | None = None
    retryable: bool | None = None
    message_id: Annotated[str, Meta(description="Stream entry id, where no execution_id could be read.")] | None = None


class Notice(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an execution that was sent again, as published on `sf:notices`."""

    execution_id: str | None
    task_id: str | None
    subtask_id: str | None
    status: Annotated[Status | None, Meta(description="Of what was sent first; absent where it was not kept.")] = None
    timestamp: Timestamp
    worker_id: str
    message: Annotated[str, Meta(description="A sentence for people.")]
    differs: Annotated[bool, Meta(description="Whether what was sent now is other than what was sent first.")]


class PerformanceMetrics(Struct, frozen=True, kw_only=True):
    """Time by phase in seconds, and the largest resident memory per party in bytes."""

    cluster_init_seconds: float = 0.0
    device_init_seconds: float = 0.0
    execution_seconds: float = 0.0
    total_seconds: float = 0.0
    queue_seconds: float = 0.0
    peak_rss_bytes: dict[str, int] = {}


class TaskMetadata(Struct, frozen=True, kw_only=True):
    """Identifies a run: the execution, its worker and its time."""

    task_id: str | None
    subtask_id: str | None
    execution_id: str | None
    task_type: str | None
    started_at: Timestamp | None
    completed_at: Timestamp
    devices_used: list[str] = []
    attempt: int = 0
    worker_id: str = ""
    session_job: Annotated[
        int | msgspec.UnsetType,
        Meta(description="Where its session had served jobs before: its place among them, from 2."),
    ] = msgspec.UNSET


class JobResult(Struct, frozen=True, kw_only=True):
    """The one final answer of an execution, at `sf:result:<execution_id>` and on `sf:results`."""

    status: Literal["success", "failure", "cancelled"]
    result: Annotated[
        Any,
        Meta(
            description="Of a success, what `sfworker schema TASK_TYPE --result` describes; else null.",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ] = None
    performance_metrics: PerformanceMetrics = PerformanceMetrics()
    task_metadata: TaskMetadata
    error: str | msgspec.UnsetType | None = msgspec.UNSET
    error_type: ErrorType | msgspec.UnsetType | None = msgspec.UNSET
    message_id: str | msgspec.UnsetType = msgspec.UNSET
    disclosures: Annotated[
        list[str] | msgspec.UnsetType,
        Meta(description="What the task type reveals, and to whom, in the words of its catalogue entry."),
    ] = msgspec.UNSET
    warnings: Annotated[
        list[str] | msgspec.UnsetType,
        Meta(description="What the envelope holds that has no effect, such as options of SecretFlow for Ray."),
    ] = msgspec.UNSET
