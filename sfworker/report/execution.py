"""Tells all that is known of one execution, as JSON is made of it; paths of data only where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from redis.asyncio import Redis

from sfworker.broker.dead import DeadJob, PastAttempt
from sfworker.broker.finding import find, said
from sfworker.broker.keys import Keys
from sfworker.report.hiding import without_paths, without_what_looks_like_paths
from sfworker.wire.events import timestamp


async def about(
    redis: Redis, keys: Keys, group: str, execution_id: str, *, paths: bool = False
) -> dict[str, Any] | None:
    """Return what is known of an execution, whatever its state, or None."""
    found = await find(redis, keys, group, execution_id)
    if found is None:
        return None
    envelope = decoded(found.envelope)
    return {
        "execution_id": execution_id,
        "state": found.state,
        "group": found.group,
        "entry_id": found.entry_id,
        "worker": found.worker or None,
        "held_by": found.held_by or None,
        "envelope": envelope if paths else without_what_looks_like_paths(envelope),
        "attempts": [past_attempt(past) for past in found.history],
        "events": await said(redis, keys, execution_id, found.entry_id),
        "result": found.result if paths else without_paths(found.result),
    }


def steps(events: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float | None]]:
    """Yield status events with the seconds since the one before; of the progress within one stage, the last alone."""
    before: datetime | None = None
    for event, following in zip(events, [*events, {}][1:], strict=True):
        same = ("stage", "attempt")
        if event.get("stage") == "progress" and all(event.get(each) == following.get(each) for each in same):
            continue
        at = _time(event.get("timestamp"))
        yield event, (at - before).total_seconds() if at and before else None
        before = at or before


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def summary(job: DeadJob) -> dict[str, Any]:
    """Return a job that failed for good as JSON is made of it, without its envelope and attempts."""
    attempt = job.attempt
    envelope = decoded(attempt.entry.envelope)
    task = envelope.get("task_config") if isinstance(envelope, dict) else None
    task_type = task.get("task_type") if isinstance(task, dict) else None
    return {
        "execution_id": attempt.execution_id,
        "entry_id": attempt.entry.entry_id,
        "stream": attempt.entry.stream,
        "task_id": attempt.task_id,
        "subtask_id": attempt.subtask_id,
        "task_type": task_type if isinstance(task_type, str) else None,
        "attempts": job.attempts,
        "replays": job.replays,
        "error_type": job.error_type,
        "error": job.error,
        "buried_at": timestamp(job.buried_at),
    }


def past_attempt(past: PastAttempt) -> dict[str, Any]:
    """Return an ended attempt for programs."""
    return {
        "attempt": past.attempt,
        "replays": past.replays,
        "worker_id": past.worker,
        "started_at": timestamp(past.started / 1000),
        "ended_at": timestamp(past.ended / 1000),
        "outcome": past.outcome,
        "error_type": past.error_type,
        "error": past.error,
    }


def decoded(envelope: bytes | None) -> Any:
    """Return the envelope decoded, as text if it is no JSON, None if it was deleted."""
    if envelope is None:
        return None
    try:
        return msgspec.json.decode(envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return envelope.decode(errors="replace")
