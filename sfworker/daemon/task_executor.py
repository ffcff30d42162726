"""Runs one attempt, from an entry that this worker owns to the answer that Redis has accepted. Runs in the daemon.

entry --accept--> start --> compute --> outcome --> succeed | cancel | retry | bury | release | say nothing
         |          |
         refuse     duplicate, lost, poison, cancelled
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import anyio
import msgspec

from sfworker.broker.broker import Attempt, Broker, Lease, Started
from sfworker.broker.patience import patiently
from sfworker.catalog import all_task_types
from sfworker.catalog.job import Job, accept, require_time_left
from sfworker.daemon.retrying import decide
from sfworker.errors import (
    CrashLoopError,
    EnvelopeError,
    ExpiredError,
    Failure,
    JobCancelledError,
    JobLostError,
    PartyProcessLostError,
    ResultSaveError,
    SecretFlowTaskError,
    published_error_types,
)
from sfworker.logs import bind
from sfworker.pool.keepers import HereKeeper, Keeper
from sfworker.pool.mesh import Heard
from sfworker.pool.outcome import Outcome, Stop
from sfworker.pool.pool import Execution, Pool
from sfworker.pool.starts import shared_id
from sfworker.publish.progress_reporter import ProgressReporter
from sfworker.publish.status_notifier import StatusNotifier
from sfworker.settings import Settings
from sfworker.telemetry import OTHER, EndedAttempt, ExecutionTrace, Telemetry, trace_id
from sfworker.wire.envelope import Options, parties_elsewhere
from sfworker.wire.events import JobResult, PerformanceMetrics, TaskMetadata, timestamp
from sfworker.wire.frames import MOST_SPANS, Keeping, Making, Progressed, Staging
from sfworker.wire.gateway import Ended

_log = logging.getLogger("sfworker.executor")
PEER_PAUSE = 0.25
"""Share of the rendezvous by which the next one follows. Two parties that wait so are there together soon."""
RETURN_SECONDS = 1.0
"""Time until the next attempt where a gateway or the peer's worker has left, whose place others take."""
ROOM_SECONDS = 5.0
"""Time until a job asks again for room on its cluster."""
_WAITS = {
    "held": "an operator has paused jobs like this one; it waits until they are resumed",
    "limited": "a limit of its task type or tenant is reached; it waits until there is room",
}
"""By verdict, why an attempt was not begun."""
_NOT_STARTED = Started("lost", 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Services:
    """Parts of a worker that every attempt uses."""

    settings: Settings
    worker_id: str
    broker: Broker
    pool: Pool
    notifier: StatusNotifier
    telemetry: Telemetry


class TaskExecutor:
    """Runs attempts for all of a worker's slots."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def execute(self, attempt: Attempt, execution: Execution) -> None:
        """Bring the attempt to its end. Stopping `execution` ends it early."""
        if attempt.entry.envelope is None:
            identify = partial(self._services.broker.identify, attempt)
            attempt = await patiently("whom to answer for a lost job", identify)
            await _Run(self._services, attempt, _NOT_STARTED, None).report_loss()
            return
        job: Job | None = None
        refusal: Failure | None = None
        try:
            job = self._accept(attempt)
        except SecretFlowTaskError as error:
            refusal = Failure.of(error)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw would come again and again, unanswered
            [*_, at] = traceback.extract_tb(error.__traceback__)  # and not the text, which may quote the envelope
            _log.error("an envelope could not be judged: %s in %s:%s", type(error).__name__, at.name, at.lineno)
            refusal = Failure.of(EnvelopeError("envelope: this worker cannot judge it; compare it with the schema"))
        # A refused job counts as an attempt, which is answered without a RUNNING event.
        started = await self._services.notifier.started(attempt, silently=refusal is not None)
        try:
            if job is not None:  # Redis may have been away until now, and the job may have expired meanwhile
                require_time_left(job.envelope, time.time())
        except ExpiredError as error:
            refusal = Failure.of(error)
        run = _Run(self._services, attempt, started, job)
        run.bind_to_log()
        if started.verdict == "lost":
            _log.warning("another worker has taken this job over before it started here")
            run.note_end("lost")
        elif started.verdict in _WAITS:
            _log.info(_WAITS[started.verdict])
            run.note_end(started.verdict)
        elif started.verdict == "duplicate":
            _log.info("this execution_id was sent before; the first one's answer stands")
            run.note_end("duplicate")
        elif started.verdict == "poison":
            await run.bury(Failure.of(CrashLoopError()), Outcome())
        elif started.verdict == "cancelled":
            await run.cancel(Outcome())
        elif refusal is not None:
            await run.bury(refusal, Outcome())
        else:
            await run.compute_and_answer(execution)

    async def cancel_queued(self, attempt: Attempt) -> None:
        """Answer a job that nobody has taken yet and that the web side wants cancelled."""
        await _Run(self._services, attempt, _NOT_STARTED, None).cancel_queued()

    def _accept(self, attempt: Attempt) -> Job:
        envelope = attempt.entry.envelope
        if not envelope:
            raise EnvelopeError("envelope: the stream entry has no such field; append the job as `envelope`, in JSON")
        job = accept(envelope, self._services.settings, time.time())
        asked = job.envelope.options.priority
        stream = self._services.broker.area(attempt.entry.stream).jobs(asked)
        if asked != Options().priority and attempt.entry.stream != stream:
            job.warnings.append(f"options.priority: has no effect, as the stream decides; append the job to {stream}")
        return job


class _Run:
    """One attempt whose start Redis has answered, or that is answered without a start."""

    def __init__(self, services: Services, attempt: Attempt, started: Started, job: Job | None) -> None:
        self._worker_id = services.worker_id
        self._broker = services.broker
        self._pool = services.pool
        self._notifier = services.notifier
        self._telemetry = services.telemetry
        self._settings = services.settings
        self._attempt = attempt
        self._started = started
        self._job = job
        self._began = time.time()
        self._trace = self._begin_trace()

    async def compute_and_answer(self, execution: Execution) -> None:
        job, number = self._job, self._started.attempt
        if job is None:
            return
        _log.info("attempt %d of a %s job begins", number, job.task_type.name)
        async with anyio.create_task_group() as tasks:
            reporter = ProgressReporter(partial(self._notifier.progressed, self._attempt, number), tasks)

            steps: list[tuple[float, str]] = []

            def hear(frame: Heard) -> None:
                if self._trace.records and isinstance(frame, Progressed) and len(steps) < MOST_SPANS:
                    steps.append((time.time(), frame.message or ""))
                if isinstance(frame, Making | Staging | Keeping):
                    path = frame.staged if isinstance(frame, Staging) else frame.path
                    tasks.start_soon(self._notifier.wrote, self._attempt, path)
                else:
                    if isinstance(frame, Progressed):
                        execution.progress = frame.fraction
                    reporter.hear(frame)

            replays = self._started.replays
            async with self._pool.execute(job, number, execution, hear, self._tenant, replays, self._trace) as outcome:
                await reporter.close()  # every stage is published before the answer
                self._trace_outcome(outcome, steps)
                await self._answer(job, outcome)

    async def report_loss(self) -> None:
        """Answer a job whose payload was deleted."""
        failure = Failure.of(JobLostError())
        result = self._result("failure", Outcome(), failure)
        if (written := await self._notifier.lost(self._attempt, failure, result)) is not None:
            await self._remove_left_behind(written)
            _log.error("the payload of this entry was deleted before it was answered: that job is lost")
            await self._end("failure", Outcome(), failure.error_type)
            self._note_end(failure.error_type)

    async def bury(self, failure: Failure, outcome: Outcome) -> None:
        """Answer with a failure that no further attempt follows."""
        result = self._result("failure", outcome, failure)
        if await self._publish(partial(self._notifier.failed, self._attempt, self._started.attempt, failure, result)):
            told = self._told(failure)
            _log.warning("failed for good with %s: %s", failure.error_type, failure.error, extra=told)
            await self._end("failure", outcome, failure.error_type)
            self._note_end(
                f"{failure.error_type}: {failure.error}" if self._settings.tell_peers_why else failure.error_type,
                replays=self._started.replays,
            )

    async def cancel(self, outcome: Outcome) -> None:
        result = self._result("cancelled", outcome, Failure.of(JobCancelledError()))
        if await self._publish(partial(self._notifier.cancelled, self._attempt, self._started.attempt, result)):
            _log.info("cancelled", extra=self._told())
            await self._end("cancelled", outcome, None)
            self._note_end("it was cancelled")

    async def cancel_queued(self) -> None:
        result = self._result("cancelled", Outcome(), Failure.of(JobCancelledError()))
        if await self._notifier.cancelled_in_queue(self._attempt, result):
            _log.info("cancelled before anybody took it")
            await self._end("cancelled", Outcome(), None)
            self._note_end("it was cancelled")

    async def _answer(self, job: Job, outcome: Outcome) -> None:
        failure = outcome.failure
        if failure is None:
            await self._succeed(outcome)
            return
        await self._keeper(outcome).discard(outcome.outputs)
        if failure.error_type == PartyProcessLostError.__name__ and not outcome.template_lost:
            self._telemetry.count("party_crash")
        if outcome.stopped is Stop.LEASE_LOST:
            await self._lease_lost("the computation was ended and nothing is published")
        elif outcome.stopped is Stop.DRAINED or outcome.never_ran:  # not the job's doing, so no attempt is used up
            await self._release("releases", outcome)
        elif outcome.stopped is Stop.CANCELLED:
            await self.cancel(outcome)
        elif outcome.no_room or (outcome.peer_absent and self._started.releases < self._settings.max_peer_waits):
            await self._come_again(failure, outcome)
        elif outcome.template_lost:
            # It may be the job that ends the template, so this counts towards `max_crashes`.
            await self._release("crashes", outcome)
        else:
            await self._retry_or_bury(job, failure, outcome)

    async def _succeed(self, outcome: Outcome) -> None:
        if outcome.outputs:
            keeper = self._keeper(outcome)
            try:
                await keeper.flush(outcome.outputs)
                # Another worker may have started this job while this one was cut off. Its outputs are not replaced, so
                # the lease is looked at after the flush, which may take long.
                renew = partial(self._broker.renew, [self._attempt])
                if (await patiently("the check before outputs are renamed", renew)) == [Lease.LOST]:
                    await keeper.discard(outcome.outputs)
                    await self._lease_lost("its outputs are dropped and nothing is published")
                    return
                await keeper.commit(outcome.outputs)
            except ResultSaveError as error:
                await self.bury(Failure.of(error), outcome)
                return
        result = self._result("success", outcome, None)
        if await self._publish(partial(self._notifier.succeeded, self._attempt, self._started.attempt, result)):
            outcome.is_answered = True
            _log.info("succeeded after %.3f s", result.performance_metrics.total_seconds, extra=self._told())
            await self._end("success", outcome, None)
            self._note_end("it has succeeded")

    def _note_end(self, why: str, *, replays: int | None = None) -> None:
        """Let peers that come for this execution hear that it has ended here."""
        peers = parties_elsewhere(self._attempt.entry.envelope or b"") if self._settings.has_gateway() else []
        if peers and self._attempt.execution_id:
            known_as = shared_id(self._attempt.execution_id, self._tenant)
            self._pool.gateway.note_end(Ended(known_as, why, peers, replays))

    async def _retry_or_bury(self, job: Job, failure: Failure, outcome: Outcome) -> None:
        used = self._started.used_up
        granted = msgspec.structs.replace(
            job.envelope.options, max_retries=job.resources.retries, retry_delay=job.resources.retry_delay
        )
        decision = decide(failure, used, granted)
        if not decision.retry:
            await self.bury(failure, outcome)
            return
        retry = partial(
            self._notifier.retrying, self._attempt, self._started.attempt, failure, used, decision.delay_seconds
        )
        if await self._publish(retry):
            delay, told = decision.delay_seconds, self._told(failure)
            _log.warning(
                "failed with %s, next attempt in %.0f s: %s", told["error_type"], delay, failure.error, extra=told
            )
            await self._end("retry", outcome, failure.error_type)

    async def _come_again(self, failure: Failure, outcome: Outcome) -> None:
        """Let other jobs have the slot for a while. No attempt is used up."""
        if outcome.no_room:
            delay = ROOM_SECONDS
        elif outcome.peer_returns:
            delay = RETURN_SECONDS
        else:
            delay = self._settings.rendezvous_seconds * PEER_PAUSE
        used = self._started.used_up - 1
        retry = partial(
            self._notifier.retrying, self._attempt, self._started.attempt, failure, used, delay, counts=False
        )
        if await self._publish(retry):
            told = self._told(failure)
            _log.warning("comes again in %.0f s and uses up no attempt: %s", delay, failure.error, extra=told)
            await self._end("retry", outcome, failure.error_type)

    async def _release(self, counter: Literal["releases", "crashes"], outcome: Outcome) -> None:
        if await patiently("a job that is given back", partial(self._broker.release, self._attempt, counter)):
            _log.warning("given back, for any worker to run again", extra=self._told())
            self.note_end("released", outcome)

    async def _publish(self, publish: Callable[[], Awaitable[bool]]) -> bool:
        began = time.time()
        landed = await publish()
        self._trace.span("publish", began, time.time())
        if not landed:
            await self._lease_lost("its outcome is dropped")
        return landed

    async def _lease_lost(self, consequence: str) -> None:
        _log.warning("the lease was lost; %s", consequence)
        await self._notifier.lease_lost(self._attempt)
        self.note_end("lost")

    def _result(
        self, status: Literal["success", "failure", "cancelled"], outcome: Outcome, failure: Failure | None
    ) -> JobResult:
        attempt = self._attempt
        return JobResult(
            status=status,
            result=outcome.result if status == "success" else None,
            performance_metrics=PerformanceMetrics(
                cluster_init_seconds=outcome.timings.cluster,
                device_init_seconds=outcome.timings.devices,
                execution_seconds=outcome.timings.execution,
                total_seconds=time.time() - self._began,
                queue_seconds=self._queue_seconds,
                peak_rss_bytes=outcome.peak_rss,
            ),
            task_metadata=TaskMetadata(
                task_id=attempt.task_id,
                subtask_id=attempt.subtask_id,
                execution_id=attempt.execution_id,
                task_type=self._job.task_type.name if self._job else None,
                started_at=timestamp(self._began),
                completed_at=timestamp(time.time()),
                devices_used=outcome.devices,
                attempt=self._started.attempt,
                worker_id=self._worker_id,
                session_job=outcome.number + 1 if outcome.number else msgspec.UNSET,
            ),
            error=failure.error if failure else msgspec.UNSET,
            error_type=failure.error_type if failure else msgspec.UNSET,
            message_id=msgspec.UNSET if attempt.execution_id else attempt.entry.entry_id,
            disclosures=self._job.disclosures if self._job else msgspec.UNSET,
            warnings=self._job.warnings if self._job and self._job.warnings else msgspec.UNSET,
        )

    async def _remove_left_behind(self, written: list[str]) -> None:
        if written:
            await self._pool.remove_left_behind(written)

    def _keeper(self, outcome: Outcome) -> Keeper:
        return outcome.keeper or HereKeeper(self._settings)

    @property
    def _tenant(self) -> str:
        return self._broker.area(self._attempt.entry.stream).tenant

    @property
    def _queue_seconds(self) -> float:
        """Seconds from the append, by Redis' clock, to this attempt's start, by this host's clock."""
        return max(0.0, self._began - self._attempt.entry.appended_at)

    def _begin_trace(self) -> ExecutionTrace:
        attempt, entry = self._attempt, self._attempt.entry
        attributes: dict[str, str | int] = {
            "execution_id": attempt.known_as,
            "task_id": attempt.task_id or "",
            "subtask_id": attempt.subtask_id or "",
            "attempt": self._started.attempt,
            "worker_id": self._worker_id,
            "stream": entry.stream,
            "message_id": entry.entry_id,
            "task_type": self._task_type,
        }
        trace = self._telemetry.execution(entry.traceparent, entry.appended_at, attributes)
        trace.span("queue", entry.appended_at, self._began)
        return trace

    def _trace_outcome(self, outcome: Outcome, steps: list[tuple[float, str]]) -> None:
        if not self._trace.records:
            return
        begun = self._began
        for phase, name in (("cluster", "cluster"), ("devices", "devices")):
            if ended := outcome.timings.ended.get(phase):
                self._trace.span(name, begun, ended)
                begun = ended
        now = time.time()
        is_ready = "devices" in outcome.timings.ended or (self._job is not None and self._job.mode == "none")
        task = self._trace.span("task", begun, outcome.timings.ended.get("execution", now)) if is_ready else None
        for at, message in steps:
            self._trace.span("step", begun, at, task, step=message[:100])
            begun = at
        for party, traced in outcome.traced.items():
            told: list[Any] = []
            for each in traced.spans:
                # A party process is a stranger, whose clock may be another host's.
                began, ended = (min(max(at, self._began), now) for at in (each.began, each.ended))
                within = told[each.within] if 0 <= each.within < len(told) else task
                left_out = {} if told or not traced.left_out else {"left_out": traced.left_out}
                told.append(self._trace.span(each.name, began, ended, within, party=party, **left_out))

    async def _end(self, outcome_name: str, outcome: Outcome, error_type: str | None) -> None:
        if outcome_name != "retry":  # the next attempt goes on from the checkpoints that are kept
            await self._remove_left_behind([*self._started.written, *outcome.kept, *outcome.made])
        self.note_end(outcome_name, outcome, error_type)

    def bind_to_log(self) -> None:
        """Bind what is known of the attempt from its start to all records from now on."""
        trace = trace_id(self._trace.traceparent) or trace_id(self._attempt.entry.traceparent)
        bind(task_type=self._task_type, attempt=self._started.attempt, trace_id=trace)

    def _told(self, failure: Failure | None = None) -> dict[str, str | float]:
        """Return the fields of a record on the attempt's end."""
        seconds = {"seconds": round(time.time() - self._began, 3)}
        return {**seconds, "error_type": failure.error_type} if failure else {**seconds}

    def note_end(self, outcome_name: str, outcome: Outcome | None = None, error_type: str | None = None) -> None:
        """Tell telemetry how the attempt ended."""
        seconds = {"queue": self._queue_seconds, "total": time.time() - self._began}
        memory: int | None = None
        if outcome is not None:
            timings = outcome.timings
            measured = {"cluster": timings.cluster, "devices": timings.devices, "execution": timings.execution}
            seconds |= {phase: measured[phase] for phase in timings.ended}
            memory = max(outcome.peak_rss.values(), default=None)
        stream = self._attempt.entry.stream
        named = "" if error_type is None else error_type if error_type in published_error_types() else OTHER
        ended = EndedAttempt(self._task_type, outcome_name, named, stream, self._tenant, seconds, memory)
        self._telemetry.finished(ended)
        self._trace.end(outcome_name, error_type)

    @property
    def _task_type(self) -> str:
        """Name of the task type, also of a refused job; of an unknown one there could be any number."""
        if self._job is not None:
            return self._job.task_type.name
        named = self._attempt.task_type
        return named if any(known.name == named for known in all_task_types()) else OTHER
