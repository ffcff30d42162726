"""Reads the jobs that failed for good: their envelopes, and how each attempt at them ended."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sfworker.broker.broker import Attempt
from sfworker.broker.entry import entry_from_fields
from sfworker.broker.keys import DEAD_CONSUMER, Keys

PAGE = 100
_ENTRY_ID = re.compile(r"\d{1,20}-\d{1,20}")


class PastAttempt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of one attempt, as the scripts noted it. Times are in milliseconds, by Redis' clock."""

    attempt: int
    worker: str
    started: int
    ended: int
    outcome: str
    """failed, retrying, crashed (its worker fell silent), lease_lost (that worker came back) or released."""
    error_type: str | None = None
    error: str | None = None
    replays: int = 0
    """Number of replays of the execution before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadJob:
    """A job that failed for good. Fields from its record are empty where that has expired."""

    attempt: Attempt
    buried_at: float
    attempts: int | None
    replays: int
    error_type: str | None
    error: str | None
    history: list[PastAttempt]
    """The last hundred attempts, oldest first."""


async def dead_jobs(redis: Redis, keys: Keys, group: str) -> AsyncIterator[DeadJob]:
    """Yield all of them by stream and age, read page by page. A group that does not exist yet has none."""
    async for page in dead_by_page(redis, keys, group):
        for job in page:
            yield job


async def dead_by_page(redis: Redis, keys: Keys, group: str) -> AsyncIterator[list[DeadJob]]:
    """Yield all of them by stream and age, a page at a time."""
    for stream in keys.job_streams():
        after = "-"
        while page := await _buried(redis, stream, group, after, "+", PAGE):
            yield await _read(redis, keys, group, stream, page)
            after = f"({next(reversed(page))}"


async def find_dead_job(redis: Redis, keys: Keys, group: str, known_as: str) -> DeadJob | None:
    """Return the one of this execution_id, by its record, or of this entry id."""
    places = [(stream, known_as) for stream in keys.job_streams() if _ENTRY_ID.fullmatch(known_as)]
    record = keys.execution(known_as)
    recorded = await redis.execute_command("HMGET", record, "group", "stream", "entry")  # type: ignore[no-untyped-call, unused-ignore]
    if None not in recorded:
        of_group, stream, entry_id = (value.decode() for value in recorded)
        places += [(stream, entry_id)] if of_group == group else []
    for stream, entry_id in places:
        if page := await _buried(redis, stream, group, entry_id, entry_id, 1):
            return (await _read(redis, keys, group, stream, page))[0]
    return None


async def _buried(redis: Redis, stream: str, group: str, first: str, last: str, count: int) -> dict[str, int]:
    """Return buried entries by id, each with the milliseconds since then."""
    try:
        found = await redis.xpending_range(stream, group, first, last, count, DEAD_CONSUMER)
    except ResponseError as error:
        if not str(error).startswith(("no such key", "NOGROUP", "WRONGTYPE")):
            raise
        return {}
    return {entry["message_id"].decode(): entry["time_since_delivered"] for entry in found}


async def _read(redis: Redis, keys: Keys, group: str, stream: str, page: dict[str, int]) -> list[DeadJob]:
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for entry_id in page:
            pipeline.xrange(stream, entry_id, entry_id)
        (seconds, microseconds), *found = await pipeline.execute()
    now = seconds + microseconds / 1e6
    attempts = [
        Attempt.of(entry_from_fields(stream, entry_id, payload[0][1] if payload else None))
        for entry_id, payload in zip(page, found, strict=True)
    ]
    async with redis.pipeline(transaction=False) as pipeline:
        for attempt in attempts:
            pipeline.hgetall(keys.execution(attempt.record_name))
        records = await pipeline.execute()
    return [
        _dead_job(attempt, now - page[attempt.entry.entry_id] / 1000, _about(attempt, group, record))
        for attempt, record in zip(attempts, records, strict=True)
    ]


def _about(attempt: Attempt, group: str, record: dict[bytes, bytes]) -> dict[str, str]:
    """Return the record if it is about this entry, otherwise nothing."""
    known = {name.decode(): value.decode() for name, value in record.items()}
    place = (known.get("group"), known.get("stream"), known.get("entry"))
    return known if place == (group, attempt.entry.stream, attempt.entry.entry_id) else {}


def history(record: dict[str, str]) -> list[PastAttempt]:
    """Return the ended attempts that a record holds, oldest first."""
    past = {int(name[5:]): value for name, value in record.items() if name.startswith("past:")}
    return [msgspec.json.decode(past[number], type=PastAttempt) for number in sorted(past)]


def _dead_job(attempt: Attempt, buried_at: float, record: dict[str, str]) -> DeadJob:
    return DeadJob(
        attempt=attempt,
        buried_at=int(record["buried"]) / 1000 if "buried" in record else buried_at,
        attempts=int(record["attempt"]) if "attempt" in record else None,
        replays=int(record.get("replays", 0)),
        error_type=record.get("error_type") or None,
        error=record.get("error") or None,
        history=history(record),
    )
