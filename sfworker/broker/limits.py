"""Reads how many jobs of a task type or tenant may run at once or start in a minute, and how far each limit is used.

A limit is named `running type psi`, `starts type psi`, `running tenant acme` or `starts tenant acme`. What was ordered
of it comes before the workers' settings. The scripts keep to it (`lua/prelude.lua`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Literal, cast

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sfworker.broker.keys import Keys
from sfworker.broker.orders import LIMIT, NEVER_DUE
from sfworker.settings import Settings

RUNNING = "running "
STARTS = "starts "
_MINUTE_MS = 60_000
_NAME = re.compile(r"(running|starts) (type|tenant) (\S+)")
_ORDERED = re.compile(rb"(\d+|-) (\d+)")


class Limit(Struct, frozen=True, kw_only=True):
    """The limits of a task type or tenant, and how far they are used. None: any number."""

    of: Literal["type", "tenant"]
    name: str
    most_running: int | None = None
    running: int = 0
    """Those that run, and the ones that were let go and that a worker is about to begin."""
    most_starts: int | None = None
    """In a minute."""
    starts: int = 0
    """In the last minute, as far as they were limited."""
    waiting: int = 0
    """Jobs that these limits hold up."""

    @property
    def sentence(self) -> str:
        """Say the limits, and how far they are used."""
        said = [] if self.most_running is None else [f"{self.running} of {self.most_running} run"]
        said += [] if self.most_starts is None else [f"{self.starts} of {self.most_starts} started in the last minute"]
        what = self.name if self.of == "type" else f"tenant {self.name}"
        return f"limited: of {what} {', '.join(said) or 'any number may run'}; {self.waiting} wait"


def of_type(task_type: str) -> str:
    """Return the subject of limits that a task type is."""
    return f"type {task_type}"


def of_tenant(tenant: str) -> str:
    """Return the subject of limits that a tenant is."""
    return f"tenant {tenant}"


def limits_of_settings(settings: Settings) -> dict[str, int]:
    """Return the limits that a worker's settings hold, by name."""
    return {
        **{f"{RUNNING}{of_type(name)}": most for name, most in settings.max_running_of_types.items()},
        **{f"{RUNNING}{of_tenant(name)}": most for name, most in settings.max_running_of_tenants.items()},
        **{f"{STARTS}{of_type(name)}": most for name, most in settings.max_starts_of_types.items()},
        **{f"{STARTS}{of_tenant(name)}": most for name, most in settings.max_starts_of_tenants.items()},
    }


async def standing_limits(
    redis: Redis, areas: Sequence[Keys], group: str, of_workers: Iterable[Mapping[str, int]]
) -> list[Limit]:
    """Return the limits that stand, the smaller one where the settings of workers differ."""
    most: dict[str, int | None] = {}
    for each in of_workers:
        for name, number in each.items():
            most[name] = min(most.get(name) or number, number)
    most |= await _ordered(redis, areas[0].orders(group))
    subjects = sorted({name.partition(" ")[2] for name in most})
    if not subjects:
        return []
    seconds, microseconds = await redis.time()
    since = seconds * 1000 + microseconds // 1000 - _MINUTE_MS
    return [await _limit(redis, areas, group, subject, most, since) for subject in subjects]


async def _ordered(redis: Redis, orders: str) -> dict[str, int | None]:
    """Return operators' limits by name. What none of our commands has written is passed over, as by the scripts."""
    try:
        found = await cast(Awaitable["dict[bytes, bytes]"], redis.hgetall(orders))
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return {}
    limits: dict[str, int | None] = {}
    for field, value in found.items():
        name, ordered = field.decode(errors="replace").removeprefix(LIMIT), _ORDERED.fullmatch(value)
        if field.startswith(LIMIT.encode()) and _NAME.fullmatch(name) and ordered is not None:
            limits[name] = None if ordered[1] == b"-" else int(ordered[1])
    return limits


async def _limit(
    redis: Redis, areas: Sequence[Keys], group: str, subject: str, most: Mapping[str, int | None], since: int
) -> Limit:
    of, _, name = subject.partition(" ")
    score = _score(subject)
    # To the next text after all of the subject's.
    end = f"({subject}\v"
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("ZLEXCOUNT", areas[0].running(group), f"[{subject}\n", end)
        pipeline.execute_command("ZLEXCOUNT", areas[0].starts(group), f"[{subject}\n{since}", end)
        for area in areas:
            for stream in area.job_streams() if of == "type" or name == area.tenant else ():
                pipeline.zcount(area.retries(stream, group), score, score)
        replies = await pipeline.execute(raise_on_error=False)
    running, starts, *waiting = (reply if isinstance(reply, int) else 0 for reply in replies)  # others: another type
    return Limit(
        of="type" if of == "type" else "tenant",
        name=name,
        most_running=most.get(f"{RUNNING}{subject}"),
        running=running,
        most_starts=most.get(f"{STARTS}{subject}"),
        starts=starts,
        waiting=sum(waiting),
    )


def _score(subject: str) -> int:
    """Return the score of the subject's waiting jobs, as `score_of` in `lua/prelude.lua`."""
    return NEVER_DUE + 1 + int(hashlib.sha1(subject.encode()).hexdigest()[:10], 16)  # noqa: S324 - a number from a name
