"""Reads the figures of the job streams and of the results streams' readers, in two round trips. Only reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis

from sfworker.broker.keys import DEAD_CONSUMER, RETRY_CONSUMER, Keys
from sfworker.broker.orders import NEVER_DUE
from sfworker.broker.overview import as_text

MOST_READERS = 16
"""Groups of a results stream whose figures are read. Somebody who makes more shall not make as many metrics."""


class Gauges(Struct, frozen=True, kw_only=True):
    """Figures of one stream and one of its groups, by name. What the server does not know is left out."""

    stream: str
    tenant: str
    group: str
    figures: dict[str, float]


async def gauges(redis: Redis, areas: Sequence[Keys], group: str) -> tuple[list[Gauges], list[Gauges]]:
    """Return the figures of the group on the job streams, and of every group on the results streams.

    A key that holds no stream, or has no such group, has none.
    """
    jobs = [(area, stream) for area in areas for stream in area.job_streams()]
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for area in areas:
            pipeline.xlen(area.results)
            pipeline.xinfo_groups(area.results)
        for area, stream in jobs:
            pipeline.xlen(stream)
            pipeline.xinfo_groups(stream)
            pipeline.xpending(stream, group)
            pipeline.zcount(area.retries(stream, group), NEVER_DUE, NEVER_DUE)
            pipeline.zcount(area.retries(stream, group), f"({NEVER_DUE}", "+inf")
        (seconds, microseconds), *replies = await pipeline.execute(raise_on_error=False)
    now = seconds + microseconds / 1e6
    of_results, of_jobs = replies[: 2 * len(areas)], replies[2 * len(areas) :]
    read = [
        (area, stream, length, info, pending, [held if isinstance(held, int) else 0 for held in helds])
        for (area, stream), length, groups, pending, *helds in zip(
            jobs, *(of_jobs[place::5] for place in range(5)), strict=True
        )
        for info in _groups(groups)
        if as_text(info["name"]) == group and isinstance(pending, dict)
    ]
    async with redis.pipeline(transaction=False) as pipeline:
        for _, stream, _, info, *_ in read:
            pipeline.xrange(stream, f"({info['last-delivered-id'].decode()}", "+", count=1)
        unread = await pipeline.execute(raise_on_error=False)
    return (
        [
            Gauges(
                stream=stream,
                tenant=area.tenant,
                group=group,
                figures=_of_jobs(length, info.get("lag"), pending, helds, oldest, now),
            )
            for (area, stream, length, info, pending, helds), oldest in zip(read, unread, strict=True)
            if isinstance(oldest, list)
        ],
        [
            Gauges(
                stream=area.results, tenant=area.tenant, group=as_text(info["name"]), figures=_of_reader(length, info)
            )
            for area, length, groups in zip(areas, of_results[::2], of_results[1::2], strict=True)
            for info in _groups(groups)[:MOST_READERS]
        ],
    )


def _groups(reply: Any) -> list[dict[str, Any]]:
    """Return a reply that may be an error, as where there is no such key."""
    return reply if isinstance(reply, list) else []


def _of_jobs(
    length: int, lag: int | None, pending: dict[str, Any], helds: list[int], oldest: list[Any], now: float
) -> dict[str, float]:
    owned = {as_text(each["name"]): int(each["pending"]) for each in pending["consumers"] or ()}
    # As in `overview`: only the stream itself says whether anything is queued, and a lag may be unknown or too large.
    queued = lag if lag is not None else length - sum(owned.values())
    retrying, dead = owned.pop(RETRY_CONSUMER, 0), owned.pop(DEAD_CONSUMER, 0)
    figures = {
        "queued": max(1, min(queued, length)) if oldest else 0,
        "oldest_age": max(now - int(oldest[0][0].decode().partition("-")[0]) / 1000, 0.0) if oldest else 0.0,
        "pending": sum(owned.values()),
        "retrying": max(0, retrying - sum(helds)),
        "held": helds[0],
        "limited": helds[1],
        "dead": dead,
    }
    return figures if lag is None else {**figures, "lag": lag}


def _of_reader(length: int, info: dict[str, Any]) -> dict[str, float]:
    lag = info.get("lag")
    pending = {"pending": info["pending"]}
    return pending if lag is None else {**pending, "lag": min(lag, length)}
