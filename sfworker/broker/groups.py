"""Lists the consumer groups on the job streams and removes one.

An entry is deleted when all groups on its stream have answered it, so a group that nobody serves keeps every job there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sfworker.broker.keys import Keys
from sfworker.broker.overview import as_text, overview


class Group(Struct, frozen=True, kw_only=True):
    """A consumer group, and what it has to do on all job streams."""

    name: str
    workers: int
    """Live workers that serve it."""
    queued: int
    taken: int
    """Jobs that run, wait for their next attempt or are held up."""
    dead: int

    @property
    def trouble(self) -> str | None:
        """A sentence about what is wrong with it, or None."""
        if self.workers:
            return None
        left = self.queued + self.taken
        return f"no worker serves it, so {left or 'no'} jobs wait" + ("" if left else "; it keeps each new one")


async def groups(redis: Redis, keys: Keys, tenants: Sequence[str]) -> list[Group]:
    """Return the groups on all job streams, by name."""
    on: dict[str, set[str]] = {}
    for stream in (stream for area in [keys, *keys.of_tenants(tenants)] for stream in area.job_streams()):
        with suppress(ResponseError):  # no such key, or another type
            for info in await redis.xinfo_groups(stream):
                on.setdefault(as_text(info["name"]), set()).add(stream)
    found = []
    for name in sorted(on):
        of = await overview(redis, keys, name, tenants)
        streams = [each for each in of.streams if each.stream in on[name]]
        found.append(
            Group(
                name=name,
                workers=len(of.workers),
                queued=sum(each.queued for each in streams),
                taken=sum(each.running + each.retrying + each.held for each in streams),
                dead=sum(each.dead for each in streams),
            )
        )
    return found


async def remove(redis: Redis, keys: Keys, tenants: Sequence[str], group: str) -> None:
    """Remove a group from all job streams, with its books. Entries that it has not answered stay for other groups."""
    for area in [keys, *keys.of_tenants(tenants)]:
        for stream in area.job_streams():
            try:
                await redis.xgroup_destroy(stream, group)
            except ResponseError as error:
                if not str(error).startswith(("no such key", "WRONGTYPE", "The XGROUP subcommand requires the key")):
                    raise
            await redis.delete(area.retries(stream, group))
        await redis.delete(area.answers(group))
    await redis.delete(keys.workers(group), keys.orders(group), keys.running(group), keys.starts(group))
