"""Reads what an operator looks at first: streams, workers, recent failures."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from redis.asyncio import Redis

from sfworker.broker.finding import Listed, Wanted, executions
from sfworker.broker.keys import Keys
from sfworker.broker.overview import Overview, overview

FAILURES = 5


class Seen(Struct, frozen=True):
    """Holds the findings of one look."""

    figures: Overview
    failures: list[Listed]


async def look(redis: Redis, keys: Keys, group: str, tenants: Sequence[str]) -> Seen:
    """Return the figures of the consumer group `group` and its last failures."""
    failures: list[Listed] = []
    async for one in executions(redis, keys, group, Wanted(states=frozenset({"failure"}))):
        failures.append(one)
        if len(failures) == FAILURES:
            break
    return Seen(await overview(redis, keys, group, tenants), failures)
