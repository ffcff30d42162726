"""Builds status events and results and hands them to the broker. Runs in the daemon.

The beginning and the end of an attempt are sent until Redis has answered; all that happens in between is sent once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial

import msgspec
from redis.exceptions import RedisError

from sfworker.broker.broker import Attempt, Broker, Replay, Started
from sfworker.broker.patience import patiently
from sfworker.errors import Failure
from sfworker.publish.progress_reporter import News
from sfworker.wire.events import JobResult, Stage, Status, StatusEvent, timestamp

_log = logging.getLogger("sfworker.publish")
_encode = msgspec.json.Encoder().encode
_ATTEMPT = b'"attempt":0'
"""Place where `start.lua` puts the number. Inside a text, JSON would have escaped these quotes."""


class StatusNotifier:
    """Publishes for one worker. Methods that return bool return whether the attempt was still this worker's."""

    def __init__(self, broker: Broker, worker_id: str) -> None:
        self._broker = broker
        self._worker_id = worker_id

    async def started(self, attempt: Attempt, *, silently: bool = False) -> Started:
        """Begin the attempt, with a RUNNING event unless `silently`."""
        head, found, tail = _encode(self._event(attempt, 0, "RUNNING", "task_started")).partition(_ATTEMPT)
        around = (head + found[:-1], tail)  # without the 0, in whose place the script puts the number
        start = partial(self._broker.start, attempt, around, silently=silently)
        return await patiently("the start of a job", start)

    async def progressed(self, attempt: Attempt, number: int, news: Sequence[News]) -> None:
        """Publish how the attempt goes, once. An event that is lost while Redis is away is made up for by the next."""
        events = [
            self._event(attempt, number, "RUNNING", one.stage, progress=one.progress, message=one.message)
            for one in news
        ]
        try:
            await self._broker.progress(attempt, *map(_encode, events))
        except (RedisError, OSError) as error:
            _log.debug("a progress event was not published (%s)", type(error).__name__)

    async def succeeded(self, attempt: Attempt, number: int, result: JobResult) -> bool:
        return await self._finish(attempt, self._event(attempt, number, "SUCCESS", "task_succeeded"), result)

    async def cancelled(self, attempt: Attempt, number: int, result: JobResult) -> bool:
        return await self._finish(attempt, self._event(attempt, number, "CANCELLED", "task_cancelled"), result)

    async def cancelled_in_queue(self, attempt: Attempt, result: JobResult) -> bool:
        event = self._event(attempt, 0, "CANCELLED", "task_cancelled")  # 0, as no attempt has begun
        cancel = partial(self._broker.cancel_queued, attempt, _encode(event), _encode(result))
        return await patiently("a queued job's cancellation", cancel)

    async def failed(self, attempt: Attempt, number: int, failure: Failure, result: JobResult) -> bool:
        """Answer an execution that failed for good."""
        event = self._event(attempt, number, "FAILURE", "task_failed_final", failure=failure)
        bury = partial(self._broker.bury, attempt, _encode(event), _encode(result))
        return await patiently("a job's failure", bury)

    async def wrote(self, attempt: Attempt, path: str) -> None:
        """Note in the execution's record a path that the attempt stages."""
        await patiently("what a job writes", partial(self._broker.wrote, attempt, path))

    async def lost(self, attempt: Attempt, failure: Failure, result: JobResult) -> list[str] | None:
        """Answer a job whose payload was deleted. Returns the paths its attempts staged, None if answered elsewhere."""
        event = self._event(attempt, 0, "FAILURE", "task_failed_final", failure=failure)
        lost = partial(self._broker.lost, attempt, _encode(event), _encode(result))
        return await patiently("the answer to a lost job", lost)

    async def retrying(
        self,
        attempt: Attempt,
        number: int,
        failure: Failure,
        retry_count: int,
        delay_seconds: float,
        *,
        counts: bool = True,
    ) -> bool:
        event = self._event(
            attempt,
            number,
            "RETRY",
            "task_retrying",
            failure=failure,
            retry_count=retry_count,
            message=f"next attempt in {delay_seconds:.0f} s",
        )
        retry = partial(self._broker.retry, attempt, _encode(event), delay_seconds, counts=counts)
        return await patiently("a job's retry", retry)

    async def lease_lost(self, attempt: Attempt) -> None:
        """Note in the execution's history that the lease was lost, which does not count as a crash."""
        await patiently("the note of a lost lease", partial(self._broker.disown, attempt))

    async def replayed(self, attempt: Attempt) -> Replay:
        """Let a buried execution start anew. Sent once, as whoever asked is told where Redis is away."""
        event = self._event(attempt, 0, "RETRY", "task_replayed", retry_count=0)
        return await self._broker.replay(attempt, _encode(event))

    async def _finish(self, attempt: Attempt, event: StatusEvent, result: JobResult) -> bool:
        finish = partial(self._broker.finish, attempt, event.status, _encode(event), _encode(result))
        return await patiently("a job's result", finish)

    def _event(
        self,
        attempt: Attempt,
        number: int,
        status: Status,
        stage: Stage,
        *,
        progress: float | None = None,
        message: str | None = None,
        failure: Failure | None = None,
        retry_count: int | None = None,
    ) -> StatusEvent:
        return StatusEvent(
            execution_id=attempt.execution_id,
            task_id=attempt.task_id,
            subtask_id=attempt.subtask_id,
            status=status,
            stage=stage,
            timestamp=timestamp(time.time()),
            worker_id=self._worker_id,
            attempt=number,
            progress=progress,
            message=message,
            retry_count=retry_count,
            error=failure.error if failure else None,
            error_type=failure.error_type if failure else None,
            retryable=failure.retryable if failure else None,
            message_id=None if attempt.execution_id else attempt.entry.entry_id,
        )
