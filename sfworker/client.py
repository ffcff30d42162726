"""Clients for the web side, which send jobs, follow them, read their results, cancel and replay them.

But for `replay`, `served` and the record that `find` asks for, they speak the documented keys only, so whatever they do
another language does in a few lines. They check no envelope: that is the worker's part, which answers a bad one with a
FAILURE that names the field. Reads are repeated while Redis is away; `submit`, `cancel` and `replay` never are: the
caller decides whether to send again (which is safe: a second job with the same `execution_id` is answered from the
first, and what was replayed is not dead any more). Envelopes that are made of parameter structs are checked, though:
of a flow, none is sent where one is wrong.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal
from redis import exceptions

from sfworker.broker.broker import Replay, open_broker
from sfworker.broker.connection import connect
from sfworker.broker.dead import find_dead_job
from sfworker.broker.keys import PRIORITIES, Keys
from sfworker.broker.overview import is_served
from sfworker.broker.patience import pause
from sfworker.catalog.base import TaskParams
from sfworker.errors import EnvelopeError, FlowError
from sfworker.flow import Job, PlannedStep, Step, plan
from sfworker.publish.status_notifier import StatusNotifier
from sfworker.report.tables import tables
from sfworker.settings import Settings
from sfworker.wire.envelope import decode_ids
from sfworker.wire.events import FINAL_STATUSES

if TYPE_CHECKING:
    from pandas import DataFrame

POLL_SECONDS = 2.0
BLOCK_MILLISECONDS = 2000
READ_COUNT = 500
CANCEL_TTL_SECONDS = 86_400
MAX_CONNECTIONS = 1024  # each `wait` and `events` that is under way holds one
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError)
_FROM_THE_START = "0-0"
_UNDER_WAY = {"RUNNING", "RETRY"}
_ANEW = "to run it anew, give the step another execution_id, or the flow another task_id"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Submission:
    """A job that was appended. `results_after` is where its events start on the results stream."""

    execution_id: str
    entry_id: str
    results_after: str = _FROM_THE_START


class Result(dict[str, Any]):
    """A result as the worker publishes it, whose tables can be had as data frames."""

    def tables(self) -> list[str]:
        """Return the names of its tables: those of the result's fields, and `summary` of what is no table."""
        return list(tables(self))

    def frame(self, name: str) -> DataFrame:
        """Return one of its tables, with pandas. Raises ValueError where there is none of this name."""
        import pandas

        found = tables(self)
        if name not in found:
            raise ValueError(f"no table {name!r}; there is {', '.join(found) or 'none'}")
        return pandas.DataFrame(found[name].rows, columns=found[name].columns)


State = Literal["unseen", "sent", "queued", "running", "waiting", "answered"]
_STATES_OF_RECORDS: dict[str, State] = {
    "running": "running",
    "retry": "waiting",
    "dead": "answered",
    "done": "answered",
}
_STATES_OF_EVENTS: dict[str, State] = {
    "RUNNING": "running",
    "RETRY": "waiting",
    "SUCCESS": "answered",
    "FAILURE": "answered",
    "CANCELLED": "answered",
}


@dataclass(frozen=True)
class Known:
    """The state of an execution, as far as Redis tells.

    `waiting`: for its next attempt. `sent`: its entry is there, and what became of it may not be read. `unseen`:
    nothing was said of it, and whether it was sent may not be read.
    """

    state: State
    result: dict[str, Any] | None = None
    event: dict[str, Any] | None = None
    """The last one, where the state had to be told from it, or where an answered one's result has expired."""
    group: str | None = None
    """The consumer group that took it, where its record may be read."""

    @property
    def answered_at(self) -> str | None:
        """Return when it was answered, as ISO 8601 with zone."""
        if self.state != "answered":
            return None
        told = ((self.result or {}).get("task_metadata") or {}).get("completed_at") or (self.event or {}).get(
            "timestamp"
        )
        return told if isinstance(told, str) else None


class Client:
    """Asynchronous client. Use as `async with Client(url) as client`.

    `job` is what envelopes have in common that are made of parameter structs.
    """

    def __init__(
        self, redis_url: str = "redis://localhost:6379/0", *, prefix: str = "sf", job: Job | None = None
    ) -> None:
        self.keys = Keys(prefix)
        self.job = job or Job()
        self._url = redis_url
        self._redis = connect(redis_url, max_connections=MAX_CONNECTIONS)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._redis.aclose()

    async def submit(self, envelope: dict[str, Any] | TaskParams, priority: str | None = None) -> Submission:
        """Append a job to the stream of `priority` (`high`, `normal`, `low`; default: the envelope's options.priority).

        Of a parameter struct the envelope is made as `Job.envelope` does, a new execution each time; that says what is
        wrong with it. Raises EnvelopeError without an `execution_id`, ValueError for an unknown `priority`, redis' own
        errors where Redis is away or refuses. A lost connection leaves open whether the job was appended; sending the
        same envelope again is safe.
        """
        if isinstance(envelope, TaskParams):
            envelope = self.job.envelope(envelope)
        execution_id = envelope.get("execution_id")
        if not isinstance(execution_id, str) or not execution_id:
            raise EnvelopeError("envelope: needs an execution_id, a non-empty string")
        stream = self.keys.jobs(_rank(envelope, priority))
        fields: dict[Any, Any] = {"envelope": msgspec.json.encode(envelope), **_traceparent()}
        after = await self._tail(self.keys.results)
        entry_id = await self._redis.xadd(stream, fields)
        return Submission(execution_id, entry_id.decode(), after)

    async def result(self, execution_id: str) -> Result | None:
        """Return the final result, or None where there is none yet, or no more (it is kept for a day)."""
        data = await self._redis.get(self.keys.result(execution_id))
        return None if data is None else Result(msgspec.json.decode(data, type=dict[str, Any]))

    async def find(self, execution_id: str, newest: int | None = None) -> Known | None:
        """Tell what is known of an execution; None where nothing is.

        `newest` bounds how many entries of each stream are looked through. Whoever may not read the workers' records,
        as the user `web` of deploy/users.acl, is told by what was said alone.
        """
        record = await self._record(execution_id)
        group = record[1] if record else None
        if record and record[0] != "answered":
            return Known(record[0], group=group)
        result = await self.result(execution_id)
        if result is not None:
            return Known("answered", result, group=group)
        # Jobs before results: what ends in between is then seen on the results stream.
        sent = False if record else await self._is_sent(execution_id, newest)
        event = None if sent and record == () else await self._last_event(execution_id, newest)
        if record:
            return Known("answered", event=event, group=group)
        if event is not None and (state := _STATES_OF_EVENTS.get(str(event.get("status")))):
            return Known(state, event=event)
        if sent is False:
            return None
        return Known("unseen" if sent is None else "sent" if record is None else "queued")

    async def served(self, group: str = "secretflow") -> bool | None:
        """Return whether a live worker serves the consumer group; None where that may not be read."""
        try:
            return await is_served(self._redis, self.keys, group)
        except exceptions.NoPermissionError:
            return None

    async def wait(self, execution_id: str, timeout: float | None = None) -> Result:
        """Wait for the final result. Raises TimeoutError after `timeout` seconds; the job itself goes on."""
        with anyio.fail_after(timeout):
            return await _patiently(lambda: self._wait(execution_id))

    async def run_flow(self, steps: Iterable[TaskParams | Step], timeout: float | None = None) -> dict[str, Result]:
        """Run the steps of a flow, each when those that it depends on have succeeded; return the results by name.

        Nothing is sent where an envelope is wrong, which raises ParameterValidationError. A step that was answered
        before, by its execution_id, is not run again as long as its result is kept. Raises FlowError, naming the step,
        where one fails or was cancelled, where what was answered before differs from what is sent now, and where its
        result has expired; then nothing more is sent, and steps that run go on. TimeoutError after `timeout` seconds.
        """
        with anyio.fail_after(timeout):
            return await self._run_flow(plan(self.job, steps))

    async def events(self, execution: Submission | str) -> AsyncGenerator[dict[str, Any], None]:
        """Yield status events in order, those said before included, and end after the final one.

        Given an id instead of a Submission, the whole results stream is searched. Ends without a final event only where
        that is older than what the results stream keeps, or where a job was sent again that had been answered before.
        """
        if isinstance(execution, str):
            execution = Submission(execution, entry_id="")
        execution_id, after = execution.execution_id, execution.results_after
        tail = await _patiently(partial(self._tail, self.keys.results))
        ended = replayed = False
        while True:
            caught_up = _order(after) >= _order(tail)
            # A final event that others follow was undone by a replay, so only the last of what was said is an end.
            if ended and caught_up:
                return
            entries = await _patiently(partial(self._read_results, after, block=caught_up))
            for entry_id, fields in entries:
                after = entry_id.decode()
                if fields.get(b"kind") != b"status" or fields.get(b"execution_id") != execution_id.encode():
                    continue
                event = msgspec.json.decode(fields[b"payload"], type=dict[str, Any])
                ended = event.get("status") in FINAL_STATUSES
                replayed = replayed or event.get("stage") == "task_replayed"
                yield event
                if ended and _order(after) >= _order(tail):
                    return
            if entries:
                continue
            if not caught_up:
                tail = after  # the newest entries have been deleted meanwhile
            elif not replayed and await _patiently(partial(self.result, execution_id)) is not None:
                # Result and final event are written in one step: what is behind `after` now holds it, or nothing will.
                tail = await _patiently(partial(self._tail, self.keys.results))
                if _order(after) >= _order(tail):
                    return

    async def cancel(self, execution_id: str) -> bool:
        """Ask for an execution to be cancelled.

        It is answered within two seconds, whether it runs, waits for a retry or is queued.

        Returns False, and changes nothing, where it has ended already.
        """
        if await self._redis.exists(self.keys.result(execution_id)):
            return False
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(self.keys.cancel(execution_id), "1", ex=CANCEL_TTL_SECONDS)
            pipeline.publish(self.keys.control, execution_id)
            await pipeline.execute()
        return True

    async def replay(self, execution_id: str, group: str = "secretflow") -> Replay:
        """Let an execution that failed for good start anew, its counters reset; its new result replaces the old one.

        Anything but `replayed` has changed nothing: `not dead` (it runs, waits, has ended otherwise, or was replayed
        before), `gone` (its payload was deleted) or `superseded` (it was sent again since). One without execution_id is
        known by its entry's id. `group` is the workers' consumer group. It needs a worker's rights on Redis.
        """
        settings = Settings(redis_url=self._url, prefix=self.keys.prefix)
        async with open_broker(settings, group, worker_id="") as broker:
            job = await find_dead_job(self._redis, self.keys, group, execution_id)
            return await StatusNotifier(broker, worker_id="").replayed(job.attempt) if job else "not dead"

    async def _run_flow(self, steps: list[PlannedStep]) -> dict[str, Result]:
        results: dict[str, Result] = {}
        unsent, sent = list(steps), dict[str, PlannedStep]()
        unsure = set[str]()
        streams = (self.keys.results, self.keys.notices)
        after = {stream: await _patiently(partial(self._tail, stream)) for stream in streams}
        poll_at = 0.0
        while unsent or sent:
            for step in [each for each in unsent if results.keys() >= set(each.depends_on)]:
                unsent.remove(step)
                earlier = await _patiently(partial(self.result, step.execution_id))
                entry_id = (await _patiently(partial(self.submit, step.envelope))).entry_id
                sent[entry_id] = step
                if earlier is not None:  # maybe of other parameters, as a notice will say
                    unsure.add(entry_id)
            notices, ended = await _patiently(partial(self._hear, after))
            if polls := anyio.current_time() >= poll_at:  # for entries that were trimmed before they were read
                poll_at = anyio.current_time() + POLL_SECONDS
            for entry_id, step in list(sent.items()):
                if (notice := notices.get(entry_id)) is not None:
                    unsure.discard(entry_id)
                    _heed(step, notice)
                if entry_id in unsure or not (polls or notice is not None or step.execution_id in ended):
                    continue
                result = await _patiently(partial(self.result, step.execution_id))
                if result is not None:
                    results[step.name] = _succeeded(step, result)
                    del sent[entry_id]
                elif notice is not None and notice.get("status") not in _UNDER_WAY:
                    raise FlowError(f"{_called(step)} was answered before, and its result has expired; {_ANEW}")
        return {step.name: results[step.name] for step in steps}

    async def _hear(self, after: dict[str, str]) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """Wait for what is said `after`, which moves on; return notices by entry, and the executions that ended."""
        notices, ended = dict[str, dict[str, Any]](), set[str]()
        streams: dict[Any, Any] = dict(after)
        for name, entries in await self._redis.xread(streams, count=READ_COUNT, block=BLOCK_MILLISECONDS):
            for entry_id, fields in entries:
                after[name.decode()] = entry_id.decode()
                if b"entry_id" in fields:
                    notices[fields[b"entry_id"].decode()] = msgspec.json.decode(fields[b"payload"], type=dict[str, Any])
                elif fields.get(b"kind") == b"result" and b"execution_id" in fields:
                    ended.add(fields[b"execution_id"].decode())
        return notices, ended

    async def _wait(self, execution_id: str) -> Result:
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(self.keys.statuses(execution_id))
            while True:
                # After subscribing, so that no final status falls between; repeatedly, because pub/sub loses some.
                result = await self.result(execution_id)
                if result is not None:
                    return result
                poll_at = anyio.current_time() + POLL_SECONDS
                while (left := poll_at - anyio.current_time()) > 0:
                    if _is_final(await pubsub.get_message(ignore_subscribe_messages=True, timeout=left)):
                        break

    async def _record(self, execution_id: str) -> tuple[State, str | None] | tuple[()] | None:
        """Return state and group by the workers' record; empty without one, None where it may not be read."""
        record = self.keys.execution(execution_id)
        try:
            state, group = await self._redis.execute_command("HMGET", record, "state", "group")  # type: ignore[no-untyped-call, unused-ignore]
        except exceptions.NoPermissionError:
            return None
        if state is None:
            return ()
        return _STATES_OF_RECORDS[state.decode()], group and group.decode()

    async def _is_sent(self, execution_id: str, newest: int | None) -> bool | None:
        """Return whether its entry is on one of the job streams; None where they may not be read."""
        try:
            for stream in self.keys.job_streams():
                async for fields in self._newest_first(stream, newest):
                    if decode_ids(fields.get(b"envelope", b"")).execution_id == execution_id:
                        return True
        except exceptions.NoPermissionError:
            return None
        return False

    async def _last_event(self, execution_id: str, newest: int | None) -> dict[str, Any] | None:
        async for fields in self._newest_first(self.keys.results, newest):
            if fields.get(b"kind") == b"status" and fields.get(b"execution_id") == execution_id.encode():
                return msgspec.json.decode(fields[b"payload"], type=dict[str, Any])
        return None

    async def _newest_first(self, stream: str, at_most: int | None) -> AsyncIterator[dict[bytes, bytes]]:
        before, left = "+", sys.maxsize if at_most is None else at_most
        while page := await self._redis.xrevrange(stream, before, "-", count=min(READ_COUNT, left)) if left else []:
            for _, fields in page:
                yield fields
            before, left = f"({page[-1][0].decode()}", left - len(page)

    async def _tail(self, stream: str) -> str:
        """Return the id of the last entry on a stream."""
        newest = await self._redis.xrevrange(stream, count=1)
        return newest[0][0].decode() if newest else _FROM_THE_START

    async def _read_results(self, after: str, *, block: bool) -> list[tuple[bytes, dict[bytes, bytes]]]:
        streams = await self._redis.xread(
            {self.keys.results: after}, count=READ_COUNT, block=BLOCK_MILLISECONDS if block else None
        )
        return streams[0][1] if streams else []


class SyncClient:
    """The same for code without an event loop, which runs in a thread. Use as `with SyncClient(url) as client`."""

    def __init__(
        self, redis_url: str = "redis://localhost:6379/0", *, prefix: str = "sf", job: Job | None = None
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal())
        try:
            self._client = self._stack.enter_context(
                self._portal.wrap_async_context_manager(Client(redis_url, prefix=prefix, job=job))
            )
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def close(self) -> None:
        self._stack.close()

    def submit(self, envelope: dict[str, Any] | TaskParams, priority: str | None = None) -> Submission:
        """As `Client.submit`."""
        submission: Submission = self._portal.call(self._client.submit, envelope, priority)
        return submission

    def result(self, execution_id: str) -> Result | None:
        """As `Client.result`."""
        result: Result | None = self._portal.call(self._client.result, execution_id)
        return result

    def find(self, execution_id: str, newest: int | None = None) -> Known | None:
        """As `Client.find`."""
        return self._portal.call(self._client.find, execution_id, newest)

    def served(self, group: str = "secretflow") -> bool | None:
        """As `Client.served`."""
        return self._portal.call(self._client.served, group)

    def wait(self, execution_id: str, timeout: float | None = None) -> Result:
        """As `Client.wait`."""
        return self._portal.call(self._client.wait, execution_id, timeout)

    def run_flow(self, steps: Iterable[TaskParams | Step], timeout: float | None = None) -> dict[str, Result]:
        """As `Client.run_flow`."""
        return self._portal.call(self._client.run_flow, steps, timeout)

    def events(self, execution: Submission | str) -> Generator[dict[str, Any], None, None]:
        """As `Client.events`."""
        events = self._client.events(execution)
        try:
            while (event := self._portal.call(_next_or_none, events)) is not None:
                yield event
        finally:
            self._portal.call(events.aclose)

    def cancel(self, execution_id: str) -> bool:
        """As `Client.cancel`."""
        return self._portal.call(self._client.cancel, execution_id)

    def replay(self, execution_id: str, group: str = "secretflow") -> Replay:
        """As `Client.replay`."""
        replay: Replay = self._portal.call(self._client.replay, execution_id, group)
        return replay


async def _next_or_none(events: AsyncGenerator[_T, None]) -> _T | None:
    return await anext(events, None)


def is_refused(error: BaseException) -> bool:
    """Return whether Redis refuses the user name or password, which redis-py reports as a lost connection."""
    kinds = (exceptions.AuthenticationError, exceptions.AuthorizationError)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


async def _patiently(read: Callable[[], Awaitable[_T]]) -> _T:
    """Return the answer to a read, however often Redis goes away meanwhile."""
    attempt = 0
    while True:
        try:
            return await read()
        except _AWAY as error:
            if isinstance(error, exceptions.MaxConnectionsError) or is_refused(error):
                raise  # no patience mends that
            await anyio.sleep(pause(attempt))
            attempt += 1


def _rank(envelope: dict[str, Any], priority: str | None) -> str:
    """Return the priority whose stream the job goes to; `normal` for nonsense, which the worker then answers."""
    if priority is not None:
        if priority not in PRIORITIES:
            raise ValueError(f"priority: one of {', '.join(PRIORITIES)}")
        return priority
    options = envelope.get("options")
    wanted = options.get("priority") if isinstance(options, dict) else None
    return wanted if wanted in PRIORITIES else "normal"


def _traceparent() -> dict[str, str]:
    """Return the current span as a field of the entry, so that the execution's trace joins the caller's."""
    if "opentelemetry.trace" not in sys.modules:  # then nobody in this process can have started a span
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {"traceparent": carrier["traceparent"]} if "traceparent" in carrier else {}


def _heed(step: PlannedStep, notice: Mapping[str, Any]) -> None:
    if notice.get("differs"):
        raise FlowError(f"{_called(step)} was sent before with other parameters, options or devices; {_ANEW}")


def _succeeded(step: PlannedStep, result: Result) -> Result:
    """Return the result. Raises FlowError where it is that of no success."""
    match result.get("status"):
        case "success":
            return result
        case "cancelled":
            raise FlowError(f"{_called(step)} was cancelled; {_ANEW}")
    raise FlowError(
        f"{_called(step)} failed: {result.get('error_type')}: {result.get('error')}; "
        f"mend it and let a worker's operator replay this execution, or {_ANEW}"
    )


def _called(step: PlannedStep) -> str:
    return f"step {step.name} (execution {step.execution_id})"


def _is_final(message: dict[str, Any] | None) -> bool:
    if message is None:
        return False
    try:
        event = msgspec.json.decode(message["data"])
    except msgspec.DecodeError:
        return False
    return isinstance(event, dict) and event.get("status") in FINAL_STATUSES


def _order(entry_id: str) -> tuple[int, int]:
    """Return a stream entry's id as numbers, which compare by age."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
