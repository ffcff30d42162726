"""Says which of the worker's keys hold a value of another type, that somebody else has put there.

The group's own books are deleted and built again. In the place of a stream nothing is touched: a job stream is passed
over until the key is removed, and without the results stream no job is taken and outcomes wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from sfworker.broker.keys import Keys
from sfworker.settings import OUTCOMES


@dataclass(frozen=True)
class Place:
    """A key that has to hold one type, or nothing."""

    key: str
    type: str
    is_book: bool = False
    """True where nothing is lost when it is deleted."""

    def sentence(self, found: str) -> str:
        """Say what is wrong, and what to do."""
        said = f"{self.key} holds a {found} instead of a {self.type}"
        if self.is_book:
            return f"{said}, which the worker replaces"
        what = "no job is taken and outcomes wait" if self.key.endswith(":results") else "its jobs are not taken"
        return f"{said}, so {what}; remove that key"


def places(areas: Sequence[Keys], group: str) -> list[Place]:
    """List the keys whose names are known beforehand, of all tenants."""
    found = [Place(key, "hash", is_book=True) for key in (areas[0].workers(group), areas[0].orders(group))]
    found += [Place(key, "zset", is_book=True) for key in (areas[0].running(group), areas[0].starts(group))]
    for keys in areas:
        found += [Place(stream, "stream") for stream in (*keys.job_streams(), keys.results)]
        found += [Place(keys.retries(stream, group), "zset", is_book=True) for stream in keys.job_streams()]
        found.append(Place(keys.answers(group), "hash", is_book=True))
        found += [Place(keys.ended(outcome), "zset", is_book=True) for outcome in OUTCOMES]
    return found


async def misplaced(redis: Redis, areas: Sequence[Keys], group: str) -> dict[Place, str]:
    """Return the places where something else is, each with the type of that."""
    looked_at = places(areas, group)
    async with redis.pipeline(transaction=False) as pipeline:
        for place in looked_at:
            pipeline.type(place.key)
        types = await pipeline.execute()
    found = {place: answer.decode() for place, answer in zip(looked_at, types, strict=True)}
    return {place: kind for place, kind in found.items() if kind not in ("none", place.type)}
