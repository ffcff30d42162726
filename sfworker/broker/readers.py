"""Finds the consumer group of the web side that is behind on the results stream."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sfworker.broker.keys import Keys
from sfworker.settings import Settings, variable

NODE = 100
"""Entries that a stream may have more than its length, as Redis trims whole nodes."""


@dataclass(frozen=True)
class SlowReader:
    """A consumer group that holds the results stream longer than `SFWORKER_RESULTS_MAXLEN`."""

    group: str
    length: int
    loses: bool
    """True where the stream is so long that the oldest entries are deleted unread."""

    def sentence(self, bound: int) -> str:
        """Say it in words. `bound` is the length from which on unread entries are deleted."""
        behind = f"consumer group {self.group} has yet to read the oldest of its {self.length} entries"
        if self.loses:
            return f"{behind}; more than {bound} are not kept, so that it loses some"
        return f"{behind}; from {bound} on they are deleted unread"


async def slow_reader(redis: Redis, keys: Keys, settings: Settings) -> SlowReader | None:
    """Return the slowest group where the stream is longer than it would be without it."""
    length = await redis.xlen(keys.results)
    if length <= settings.results_maxlen + NODE:
        return None
    unread: list[tuple[tuple[int, int], str]] = []
    try:
        for info in await redis.xinfo_groups(keys.results):
            first = info["last-delivered-id"]
            if info["pending"]:
                first = (await redis.xpending(keys.results, info["name"]))["min"] or first
            milliseconds, _, sequence = first.decode().partition("-")
            unread.append(((int(milliseconds), int(sequence)), info["name"].decode(errors="replace")))
    except ResponseError as error:
        if not str(error).startswith(("no such key", "NOGROUP")):
            raise
    if not unread:
        return None
    return SlowReader(min(unread)[1], length, length + NODE >= settings.results_unread_maxlen)


REMEDY = f"read and acknowledge faster, destroy the group if nobody reads, or raise {variable('results_unread_maxlen')}"
