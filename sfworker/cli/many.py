"""Acts on many of the jobs that failed for good, page by page: which of them, a trial run, how far it is."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from sfworker.cli.arguments import age, count
from sfworker.errors import SettingsError

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sfworker.broker.dead import DeadJob
    from sfworker.broker.keys import Keys

_SAY_SECONDS = 5.0


def add_many_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that acts on many."""
    parser.add_argument("--limit", type=count, metavar="N", help="of many, at most so many, the oldest first")
    parser.add_argument(
        "--older-than", type=age, metavar="AGE", help="of many, those that failed so long ago: 90s, 15m, 12h or 7d"
    )
    parser.add_argument("--dry-run", action="store_true", help="of many, only count them; nothing is changed")


def require_many(arguments: argparse.Namespace, options: str) -> None:
    """Raise SettingsError where one job is named and an option is given that is for many."""
    for option in ("limit", "older_than", "dry_run"):
        if getattr(arguments, option):
            raise SettingsError(f"--{option.replace('_', '-')}: goes with {options}, not with one job")


async def for_many(
    redis: Redis,
    keys: Keys,
    arguments: argparse.Namespace,
    done: str,
    act: Callable[[DeadJob], Awaitable[bool]],
    error_type: str | None = None,
) -> tuple[dict[str, int], str]:
    """Call `act` for those that are meant, a page of them at the same time.

    Returns how many are meant and for how many it was true, and that in words; `done` is what becomes of them.
    """
    from sfworker.broker.dead import dead_by_page

    acted, chosen, said_at = 0, 0, time.monotonic()

    async def act_and_count(job: DeadJob) -> None:
        nonlocal acted
        if await act(job):
            acted += 1

    async for page in dead_by_page(redis, keys, arguments.group):
        before = time.time() - (arguments.older_than or 0)
        meant = [job for job in page if error_type in {None, job.error_type} and job.buried_at <= before]
        if arguments.limit is not None:
            meant = meant[: arguments.limit - chosen]
        chosen += len(meant)
        if not arguments.dry_run:
            async with anyio.create_task_group() as tasks:
                for job in meant:
                    tasks.start_soon(act_and_count, job)
        if time.monotonic() > said_at + _SAY_SECONDS:
            print(f"{chosen if arguments.dry_run else acted} so far", file=sys.stderr)
            said_at = time.monotonic()
        if chosen == arguments.limit:
            break
    return {"meant": chosen, done: acted}, f"{chosen} would be {done}" if arguments.dry_run else f"{acted} {done}"
