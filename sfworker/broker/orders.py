"""Reads what operators want of all workers of a group: what is paused or limited, and which workers are to stop.

The scripts look at it where jobs are taken and begun (`pause` in `lua/prelude.lua`), so that nothing paused begins.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sfworker.broker.keys import Keys

PAUSE_ALL = "pause"
PAUSE_STREAM = "pause stream "
PAUSE_TYPE = "pause type "
DRAIN = "drain "
LIMIT = "limit "
"""Before the name of a limit, see `broker/limits.py`."""
NEVER_DUE = 9_999_999_999_999
"""Score among the due times of a job whose task type is paused, as in `lua/prelude.lua`."""


class Order(Struct, frozen=True, kw_only=True):
    """An order that stands."""

    name: str
    """One of those above, with a stream, task type or worker."""
    since: int | None
    """In ms by Redis' clock; None where somebody has written no time there. The order stands all the same."""

    @property
    def sentence(self) -> str:
        """Say what the order does."""
        if self.name == PAUSE_ALL:
            return "paused: no job begins"
        if self.name.startswith(PAUSE_STREAM):
            return f"paused: no job of {self.name.removeprefix(PAUSE_STREAM)} begins"
        if self.name.startswith(PAUSE_TYPE):
            return f"paused: no {self.name.removeprefix(PAUSE_TYPE)} job begins"
        return f"draining: {self.name.removeprefix(DRAIN)} takes no more jobs and stops"


async def standing_orders(redis: Redis, keys: Keys, group: str) -> list[Order]:
    """Return the orders that stand, by name."""
    try:
        found = await cast(Awaitable["dict[bytes, bytes]"], redis.hgetall(keys.orders(group)))
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):  # as somebody has put that there, there is no order
            raise
        return []
    return [
        Order(name=name.decode(errors="replace"), since=int(since) if since.isdigit() else None)
        for name, since in sorted(found.items())
        if not name.startswith(LIMIT.encode())
    ]
