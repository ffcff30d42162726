"""Lists executions in any state, newest first, and finds one with all that Redis holds of it. Only reads.

Those that ended are in an index that the scripts keep (`enlist` in `lua/prelude.lua`), the others are found by their
entries: queued ones in the streams, begun ones by whose they are. Of those that wait, however many there are, only the
ids are read before the first one is shown.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sfworker.broker.dead import PastAttempt, history
from sfworker.broker.entry import Entry, entry_from_fields
from sfworker.broker.keys import DEAD_CONSUMER, RETRY_CONSUMER, Keys
from sfworker.broker.overview import last_delivered
from sfworker.settings import OUTCOMES
from sfworker.wire.envelope import decode_ids, decode_task_type

PAGE = 500
PENDING = 200
ENTRIES = 50
"""Entries whose payload is read at once, each of which may be as long as an envelope."""
State = Literal["queued", "running", "waiting", "success", "failure", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "waiting", "success", "failure", "cancelled")
_ENDS: dict[str, State] = {"SUCCESS": "success", "FAILURE": "failure", "CANCELLED": "cancelled"}
_PLACE = re.compile(r"(\d{1,15})(?:\+(\d{1,9}))?")


class Listed(Struct, frozen=True, kw_only=True):
    """An execution in a list. Times are in ms by Redis' clock, 0 where there is none."""

    execution_id: str
    """The entry's id, where the envelope holds none."""
    state: State
    task_type: str = ""
    error_type: str = ""
    worker: str = ""
    """The worker that runs it, or that has answered it."""
    attempts: int = 0
    appended: int
    started: int = 0
    """Begin of the last attempt."""
    ended: int = 0
    stream: str
    entry_id: str
    task_id: str = ""
    subtask_id: str = ""

    @property
    def at(self) -> int:
        """Time of its last step, by which lists are ordered."""
        return self.ended or self.started or self.appended


class Wanted(Struct, frozen=True, kw_only=True):
    """Says which executions a list is to hold. An empty field stands for anything."""

    states: frozenset[State] = frozenset(STATES)
    task_type: str = ""
    error_type: str = ""
    worker: str = ""
    text: str = ""
    """Part of an id, in upper or lower case."""
    since: int = 0
    until: int | None = None
    """Time in ms of the youngest one."""

    def has(self, one: Listed) -> bool:
        """Return whether the list is to hold `one`."""
        return (
            one.state in self.states
            and self.task_type in ("", one.task_type)
            and self.error_type in ("", one.error_type)
            and self.worker in ("", one.worker)
            and self.since <= one.at
            and (self.until is None or one.at <= self.until)
            and (not self.text or self.text.casefold() in "\n".join(_ids(one)).casefold())
        )


def _ids(one: Listed) -> tuple[str, str, str]:
    return one.execution_id, one.task_id, one.subtask_id


class _Facts(Struct, frozen=True, array_like=True):
    """A member of the index, as `enlist` in `lua/prelude.lua` makes it."""

    execution_id: str
    status: str
    task_type: str
    error_type: str
    worker: str
    attempts: Annotated[int, Meta(ge=0)]
    started: float
    stream: str
    entry_id: str
    task_id: str
    subtask_id: str


async def executions(redis: Redis, keys: Keys, group: str, wanted: Wanted) -> AsyncIterator[Listed]:
    """Yield the executions that are `wanted`, newest first."""
    sources = [_held(redis, keys, group, wanted)] if wanted.states & {"running", "queued"} else []
    if wanted.states & {"waiting", "queued"}:
        sources += [_waiting(redis, keys, group, stream, wanted) for stream in keys.job_streams()]
    if "queued" in wanted.states:
        sources += [_queued(redis, stream, group, wanted) for stream in keys.job_streams()]
    sources += [_ended(redis, keys.ended(outcome), wanted) for outcome in OUTCOMES if outcome in wanted.states]
    heads = [(head, source) for source in sources if (head := await anext(source, None)) is not None]
    while heads:
        newest = max(range(len(heads)), key=lambda place: heads[place][0].at)
        one, source = heads[newest]
        yield one
        following = await anext(source, None)
        if following is None:
            del heads[newest]
        else:
            heads[newest] = (following, source)


Place = tuple[int, int]
"""Place in a list: the time in ms of the last one before it, and how many of that time were before it."""


async def page(
    redis: Redis, keys: Keys, group: str, wanted: Wanted, limit: int, after: Place | None = None
) -> tuple[list[Listed], Place | None]:
    """Return a page of the executions that are `wanted`, and the place where the next begins, None behind the last."""
    found: list[Listed] = []
    latest, shown = after or (None, 0)
    async for one in executions(redis, keys, group, msgspec.structs.replace(wanted, until=latest)):
        if one.at == latest and shown > 0:  # on the page before, with the same time
            shown -= 1
        elif len(found) < limit:
            found.append(one)
        else:
            last = found[-1].at
            of_last = sum(1 for each in found if each.at == last)
            return found, (last, of_last + (after[1] if after and after[0] == last else 0))
    return found, None


def place(text: str) -> Place | None:
    """Read a place as lists show it, `time+number`; None where it is none."""
    read = _PLACE.fullmatch(text)
    return None if read is None else (int(read[1]), int(read[2] or 0))


_OF_RECORD = ["state", "worker", "attempt", "started", "entry"]
_NO_RECORD: list[bytes | None] = [None] * len(_OF_RECORD)
_LIVE: frozenset[State] = frozenset({"queued", "running", "waiting"})


async def _held(redis: Redis, keys: Keys, group: str, wanted: Wanted) -> AsyncIterator[Listed]:
    """Yield the executions that workers own, most of which have begun."""
    found: list[Listed] = []
    for stream in keys.job_streams():
        try:
            consumers = [info["name"] for info in await redis.xinfo_consumers(stream, group) if info["pending"]]
        except ResponseError as error:
            if not str(error).startswith(("no such key", "NOGROUP")):
                raise
            continue
        for consumer in consumers:
            if consumer not in (RETRY_CONSUMER.encode(), DEAD_CONSUMER.encode()):
                found += await _live_page(redis, keys, group, stream, await _owned(redis, stream, group, consumer))
    for one in sorted(found, key=lambda each: each.at, reverse=True):
        if wanted.has(one):
            yield one


async def _waiting(redis: Redis, keys: Keys, group: str, stream: str, wanted: Wanted) -> AsyncIterator[Listed]:
    """Yield a stream's executions that wait or were given back. Only their ids are read at once."""
    until = wanted.until
    places = [
        entry_id
        for entry_id in await _owned(redis, stream, group, RETRY_CONSUMER)
        if wanted.since <= _ms(entry_id) and (until is None or _ms(entry_id) <= until)
    ]
    while page := places[-ENTRIES:]:
        del places[-ENTRIES:]
        begun = "waiting" in wanted.states
        for one in await _live_page(redis, keys, group, stream, page[::-1], begun=begun):
            if wanted.has(one):
                yield one


async def _owned(redis: Redis, stream: str, group: str, consumer: str | bytes) -> list[str]:
    """Return the ids of the entries that a consumer owns, oldest first."""
    found: list[str] = []
    first = "-"
    try:
        while page := await redis.xpending_range(stream, group, first, "+", PENDING, consumer):
            found += [entry["message_id"].decode() for entry in page]
            first = f"({found[-1]}"
    except ResponseError as error:
        if not str(error).startswith(("no such key", "NOGROUP")):
            raise
    return found


async def _live_page(
    redis: Redis, keys: Keys, group: str, stream: str, entry_ids: list[str], *, begun: bool = True
) -> list[Listed]:
    """Read pending entries and their records; unless `begun`, only of those that have not begun."""
    if not entry_ids:
        return []
    known = await cast(
        Awaitable["list[bytes | None]"], redis.hmget(keys.answers(group), [f"{stream} {each}" for each in entry_ids])
    )
    page = [
        (entry_id, None if ids is None else msgspec.json.decode(ids, type=tuple[str, str, str]))
        for entry_id, ids in zip(entry_ids, known, strict=True)
        if begun or ids is None
    ]
    async with redis.pipeline(transaction=False) as pipeline:
        for entry_id, ids in page:
            pipeline.xrange(stream, entry_id, entry_id)
            pipeline.hmget(keys.execution(ids[0] if ids else ""), _OF_RECORD)
        replies = await pipeline.execute(raise_on_error=False)  # what somebody put in a record's place is none
    found = []
    for (entry_id, ids), entries, record in zip(page, replies[::2], replies[1::2], strict=True):
        entry = entry_from_fields(stream, entry_id, entries[0][1] if entries else None)
        found.append(_live(entry, ids, record if isinstance(record, list) else _NO_RECORD))
    return found


def _live(entry: Entry, ids: tuple[str, str, str] | None, record: list[bytes | None]) -> Listed:
    """Put an unanswered execution in a list; without `ids` it has not begun."""
    state, worker, attempt, started, of_entry = record
    known = decode_ids(entry.envelope or b"")
    told = (known.execution_id, known.task_id, known.subtask_id) if known.usable() else (entry.entry_id, "", "")
    execution_id, task_id, subtask_id = (each if isinstance(each, str) else "" for each in ids or told)
    queued = Listed(
        execution_id=execution_id,
        state="queued",
        task_type=decode_task_type(entry.envelope or b""),
        appended=_ms(entry.entry_id),
        stream=entry.stream,
        entry_id=entry.entry_id,
        task_id=task_id,
        subtask_id=subtask_id,
    )
    if ids is None or of_entry != entry.entry_id.encode():
        return queued
    return msgspec.structs.replace(
        queued,
        state="running" if state == b"running" else "waiting",
        worker=(worker or b"").decode(),
        attempts=int(attempt or 0),
        started=int(started or 0),
    )


async def _queued(redis: Redis, stream: str, group: str, wanted: Wanted) -> AsyncIterator[Listed]:
    after, before = await last_delivered(redis, stream, group), "+" if wanted.until is None else str(wanted.until)
    while page := await redis.xrevrange(stream, before, f"({after}", count=ENTRIES):
        for entry_id, fields in page:
            one = _live(entry_from_fields(stream, entry_id.decode(), fields), None, _NO_RECORD)
            if one.at < wanted.since:
                return
            if wanted.has(one):
                yield one
        before = f"({page[-1][0].decode()}"


async def _ended(redis: Redis, index: str, wanted: Wanted) -> AsyncIterator[Listed]:
    latest: float | str = "+inf" if wanted.until is None else wanted.until
    passed = 0  # of those with that time
    while page := await redis.zrevrangebyscore(index, latest, wanted.since, start=passed, num=PAGE, withscores=True):
        for member, time in page:
            one = _of_facts(member, int(time))
            if one is not None and wanted.has(one):
                yield one
        last = page[-1][1]
        passed = sum(1 for _, time in page if time == last) + (passed if last == latest else 0)
        latest = last


def _of_facts(member: bytes, ended: int) -> Listed | None:
    try:
        facts = msgspec.json.decode(member, type=_Facts)
    except msgspec.DecodeError:  # somebody else's
        return None
    return Listed(
        execution_id=facts.execution_id,
        state=_ENDS.get(facts.status, "failure"),
        task_type=facts.task_type,
        error_type=facts.error_type,
        worker=facts.worker,
        attempts=facts.attempts,
        appended=_ms(facts.entry_id),
        started=int(facts.started),
        ended=ended,
        stream=facts.stream,
        entry_id=facts.entry_id,
        task_id=facts.task_id,
        subtask_id=facts.subtask_id,
    )


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


class Found(Struct, frozen=True, kw_only=True):
    """All that Redis holds of one execution."""

    state: State
    group: str | None
    """None where it has not begun."""
    envelope: bytes | None
    """None where it is kept no longer."""
    entry_id: str | None
    worker: str
    """The worker of the last attempt of one that is not answered, or failed for good."""
    held_by: str
    """The order or limit that holds it up, empty where none does: `pause`, `limit type psi`, ..."""
    history: list[PastAttempt]
    """The last hundred ended attempts of one that is not answered, or failed for good, oldest first."""
    result: dict[str, Any] | None


async def find(redis: Redis, keys: Keys, group: str, execution_id: str) -> Found | None:
    """Return what is known of an execution, or None."""
    record = await _record(redis, keys.execution(execution_id))
    answer = await redis.get(keys.result(execution_id))
    stream, _, entry_id = record.get("answered", f"{record.get('stream', '')} {record.get('entry', '')}").rpartition(
        " "
    )
    if entry_id:
        entry: Entry | None = await _entry(redis, stream, entry_id)
    else:
        entry = await _not_begun(redis, keys, group, execution_id)
    if not record and answer is None and entry is None:
        return None
    return Found(
        state=_state(record, answer),
        group=record.get("group"),
        envelope=(entry and entry.envelope) or await _kept_envelope(redis, keys.envelope(execution_id)),
        entry_id=entry.entry_id if entry else None,
        worker=record.get("worker", ""),
        held_by=record.get("held", ""),
        history=history(record),
        result=None if answer is None else msgspec.json.decode(answer, type=dict[str, Any]),
    )


async def _kept_envelope(redis: Redis, key: str) -> bytes | None:
    envelope = await redis.get(key)
    return None if envelope is None else entry_from_fields("", "", {b"envelope": envelope}).envelope


async def _record(redis: Redis, key: str) -> dict[str, str]:
    try:
        record = await cast(Awaitable["dict[bytes, bytes]"], redis.hgetall(key))
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return {}
    return {name.decode(): value.decode() for name, value in record.items()}


async def _entry(redis: Redis, stream: str, entry_id: str) -> Entry:
    found = await redis.xrange(stream, entry_id, entry_id)
    return entry_from_fields(stream, entry_id, found[0][1] if found else None)


async def _not_begun(redis: Redis, keys: Keys, group: str, execution_id: str) -> Entry | None:
    wanted = Wanted(states=frozenset({"queued"}), text=execution_id)
    async for one in executions(redis, keys, group, wanted):
        if one.execution_id == execution_id:
            return await _entry(redis, one.stream, one.entry_id)
    return None


async def said(redis: Redis, keys: Keys, execution_id: str, entry_id: str | None) -> list[dict[str, Any]]:
    """Return the status events of an execution since its entry, oldest first, as far as the results stream has them."""
    since = entry_id or "-"
    found: list[dict[str, Any]] = []
    while page := await redis.xrange(keys.results, since, "+", count=ENTRIES):
        found += [
            msgspec.json.decode(fields[b"payload"], type=dict[str, Any])
            for _, fields in page
            if fields.get(b"kind") == b"status" and fields.get(b"execution_id") == execution_id.encode()
        ]
        since = f"({page[-1][0].decode()}"
    return found


def _state(record: dict[str, str], answer: bytes | None) -> State:
    state = record.get("state", "")
    if state in ("running", "retry"):
        return "running" if state == "running" else "waiting"
    if state == "dead":
        return "failure"
    if state == "done":
        return _ENDS.get(record.get("status", ""), "failure")
    return "queued" if answer is None else msgspec.json.decode(answer, type=_Answer).status


class _Answer(Struct, frozen=True):
    status: Literal["success", "failure", "cancelled"]
