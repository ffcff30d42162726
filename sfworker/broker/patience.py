"""Repeats operations while Redis is away or refuses, after growing pauses with jitter, and logs that now and then.

The scripts that change an execution's state find out for themselves whether they have run already, so sending one again
after its reply was lost is safe.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from redis.exceptions import RedisError

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
_T = TypeVar("_T")
_log = logging.getLogger("sfworker.broker")


async def patiently(what: str, action: Callable[[], Awaitable[_T]]) -> _T:
    """Return the answer of `action`, however long Redis is away. `what` says in the log what is waiting."""
    attempt = 0
    while True:
        try:
            answer = await action()
        except (RedisError, OSError) as error:
            if attempt % 10 == 0:
                _log.warning("Redis is away or refuses (%s); %s waits", type(error).__name__, what)
            await anyio.sleep(pause(attempt))
            attempt += 1
        else:
            if attempt:
                _log.info("Redis answers again after %d attempts; %s goes on", attempt, what)
            return answer


def pause(attempt: int) -> float:
    """Return the seconds to wait after failed attempt number `attempt` (from 0), doubling to 2 s, with jitter."""
    # Jitter, so that many workers do not come back to a restarted Redis in step.
    longest = min(FIRST_PAUSE * 2.0 ** min(attempt, 16), LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
