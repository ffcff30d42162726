"""Counts jobs by state and lists live workers, for people and for autoscaling.

Only reads. They are taken one after the other, so a job that moves meanwhile may be counted twice or not at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sfworker.broker.keys import DEAD_CONSUMER, PRIORITIES, RETRY_CONSUMER, Keys
from sfworker.broker.limits import Limit, standing_limits
from sfworker.broker.misplaced import misplaced
from sfworker.broker.orders import NEVER_DUE, Order, standing_orders


class StreamOverview(Struct, frozen=True, kw_only=True):
    """Counts of one job stream. `dead` are the jobs that failed for good; the others are live work."""

    stream: str
    priority: str
    queued: int
    oldest_age: float | None = None
    """Time since the oldest queued job was appended, in s; None where none is queued."""
    running: int
    retrying: int
    held: int = 0
    """Those whose task type an operator has paused."""
    limited: int = 0
    """Those that wait because of a limit."""
    dead: int


class RunningJob(Struct, frozen=True, kw_only=True):
    """An execution that a worker runs, when it wrote its heartbeat."""

    execution_id: str
    """The entry's id, where the envelope holds none."""
    task_type: str
    began: float
    """Time of the attempt's begin, in s since 1970 by the worker's clock."""
    progress: float | None = None
    memory_bytes: int = 0
    """Of its processes on the worker's host."""


class WorkerOverview(Struct, frozen=True, kw_only=True):
    """A heartbeat that has not expired, as its worker wrote it."""

    worker_id: str
    started_at: str | None = None
    concurrency: int = 0
    running: int = 0
    free: int = 0
    executions: list[Any] = []
    jobs: list[RunningJob] = []
    limits: dict[str, int] = {}
    """Those of its settings, by a name of `broker/limits.py`."""


class Overview(Struct, frozen=True, kw_only=True):
    """Counts of all job streams, and the workers of the group."""

    queued: int
    running: int
    retrying: int
    held: int = 0
    limited: int = 0
    dead: int
    streams: list[StreamOverview]
    workers: list[WorkerOverview]
    orders: list[Order] = []
    limits: list[Limit] = []
    misplaced: list[str] = []
    """A sentence for each key that holds a value of another type. Job streams among them are not counted."""


async def overview(redis: Redis, keys: Keys, group: str, tenants: Sequence[str] = ()) -> Overview:
    """Return the figures of the consumer group `group`; while it does not exist yet, every job counts as queued."""
    areas = [keys, *keys.of_tenants(tenants)]
    wrong = {place.key: place.sentence(kind) for place, kind in (await misplaced(redis, areas, group)).items()}
    counted = [
        (area, stream, priority)
        for area in areas
        for priority in PRIORITIES
        if (stream := area.jobs(priority)) not in wrong
    ]
    seconds, microseconds = await redis.time()
    now = seconds + microseconds / 1e6
    streams = [await _stream(redis, area, stream, priority, group, now) for area, stream, priority in counted]
    workers = [] if keys.workers(group) in wrong else await live_workers(redis, keys, group)
    return Overview(
        queued=sum(stream.queued for stream in streams),
        running=sum(stream.running for stream in streams),
        retrying=sum(stream.retrying for stream in streams),
        held=sum(stream.held for stream in streams),
        limited=sum(stream.limited for stream in streams),
        dead=sum(stream.dead for stream in streams),
        streams=streams,
        workers=workers,
        orders=await standing_orders(redis, keys, group),
        limits=await standing_limits(redis, areas, group, [worker.limits for worker in workers]),
        misplaced=list(wrong.values()),
    )


async def consumers(redis: Redis, keys: Keys) -> dict[str, set[str]]:
    """Return the consumer groups on the job streams, each with the names of its consumers."""
    found: dict[str, set[str]] = {}
    for stream in keys.job_streams():
        try:
            groups = [as_text(info["name"]) for info in await redis.xinfo_groups(stream)]
            for group in groups:
                names = {as_text(info["name"]) for info in await redis.xinfo_consumers(stream, group)}
                found.setdefault(group, set()).update(names)
        except ResponseError as error:
            if not str(error).startswith(("no such key", "NOGROUP", "WRONGTYPE")):
                raise
    return found


async def live_workers(redis: Redis, keys: Keys, group: str) -> list[WorkerOverview]:
    """Return the workers that serve the consumer group now."""
    return list(_decoded(await _heartbeats(redis, keys, group)))


async def all_limits(redis: Redis, keys: Keys, group: str, tenants: Sequence[str] = ()) -> list[Limit]:
    """Return the limits that stand, of orders and of the workers' settings."""
    of_workers = [worker.limits for worker in await live_workers(redis, keys, group)]
    return await standing_limits(redis, [keys, *keys.of_tenants(tenants)], group, of_workers)


async def is_served(redis: Redis, keys: Keys, group: str) -> bool:
    """Return whether a live worker serves the consumer group `group`."""
    return bool(await _heartbeats(redis, keys, group))


async def last_delivered(redis: Redis, stream: str, group: str) -> str:
    """Return the id of the last entry of a job stream that the group has taken; those after it are queued."""
    with suppress(ResponseError):  # no such key
        for info in await redis.xinfo_groups(stream):
            if as_text(info["name"]) == group:
                return as_text(info["last-delivered-id"])
    return "0-0"


async def _stream(redis: Redis, keys: Keys, stream: str, priority: str, group: str, now: float) -> StreamOverview:
    length = await redis.xlen(stream)
    owned: dict[str, int] = {}
    lag, delivered = None, "-"
    try:
        # Before the pending entries: a job that is taken in between is then seen twice, never missed.
        for info in await redis.xinfo_groups(stream):
            if as_text(info["name"]) == group:
                lag, delivered = info.get("lag"), f"({as_text(info['last-delivered-id'])}"
        pending = await redis.xpending(stream, group)
        owned = {as_text(consumer["name"]): int(consumer["pending"]) for consumer in pending["consumers"] or ()}
    except ResponseError as error:
        if not str(error).startswith(("no such key", "NOGROUP")):
            raise
    # Finished entries are deleted, so where the server knows no lag (before 7.0, and when an entry was deleted unread)
    # the rest of the stream is what nobody has taken yet. With a second group on the same stream that is too many (the
    # worker warns of that, not we), with pending entries whose payload was deleted too few; and until 8.2 a lag counts
    # what was trimmed unread, for good. Whether anything is queued at all, the stream itself says.
    queued = lag if lag is not None else length - sum(owned.values())
    unread = await redis.xrange(stream, delivered, "+", count=1)
    queued = max(1, min(queued, length)) if unread else 0
    waiting, dead = owned.pop(RETRY_CONSUMER, 0), owned.pop(DEAD_CONSUMER, 0)
    held, limited = await _held(redis, keys.retries(stream, group)) if waiting else (0, 0)
    return StreamOverview(
        stream=stream,
        priority=priority,
        queued=queued,
        oldest_age=max(now - int(as_text(unread[0][0]).partition("-")[0]) / 1000, 0.0) if unread else None,
        running=sum(owned.values()),
        retrying=max(0, waiting - held - limited),
        held=held,
        limited=limited,
        dead=dead,
    )


async def _held(redis: Redis, due_times: str) -> tuple[int, int]:
    """Return how many wait for a pause of their type to end, and how many because of a limit."""
    with suppress(ResponseError):  # another type, which workers replace
        paused = int(await redis.zcount(due_times, NEVER_DUE, NEVER_DUE))
        return paused, int(await redis.zcount(due_times, f"({NEVER_DUE}", "+inf"))
    return 0, 0


async def _heartbeats(redis: Redis, keys: Keys, group: str) -> list[bytes]:
    """Return the heartbeats that have not expired, of the workers that serve the group."""
    known = await cast(Awaitable["dict[bytes, bytes]"], redis.hgetall(keys.workers(group)))
    names = sorted(as_text(name) for name in known)
    heartbeats = await redis.mget([keys.worker(name) for name in names]) if names else []
    return [heartbeat for heartbeat in heartbeats if heartbeat is not None]


def _decoded(heartbeats: Iterable[bytes]) -> Iterable[WorkerOverview]:
    for heartbeat in heartbeats:
        try:
            yield msgspec.json.decode(heartbeat, type=WorkerOverview)
        except msgspec.DecodeError:  # of another version: it lives, but its words are not ours
            continue


def as_text(name: bytes | str) -> str:
    """Return the name of a group or consumer, which may hold any bytes."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name  # others name theirs as they like
