"""`sfworker list`: list executions in any state, newest first, by page."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING, Any

from sfworker.cli.arguments import age, count
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_redis, settings_from

if TYPE_CHECKING:
    from sfworker.broker.finding import Listed, Wanted
    from sfworker.settings import Settings

SUMMARY = "List jobs in any state, newest first"
ROWS = 50
_STATES = ("queued", "running", "waiting", "success", "failure", "cancelled")
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", action="append", choices=_STATES, help="only these; may be repeated (waiting: for its next attempt)"
    )
    parser.add_argument("--task-type", metavar="TYPE", default="", help="only this task type")
    parser.add_argument("--error-type", metavar="TYPE", default="", help="only those that failed with this error")
    parser.add_argument("--worker", metavar="ID", default="", help="only those that this worker runs or has answered")
    parser.add_argument("--text", metavar="TEXT", default="", help="only those with this in one of their three ids")
    parser.add_argument("--since", type=age, metavar="AGE", help="only those younger than this, as in 30m, 12h or 7d")
    parser.add_argument("--limit", type=count, metavar="N", default=ROWS, help="at most so many (default: %(default)s)")
    parser.add_argument("--before", type=_cursor, metavar="PLACE", help="go on where an earlier list has ended")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    found, place = asyncio.run(_found(arguments, settings_from(arguments)))
    if arguments.json:
        from sfworker.cli.console import print_json

        print_json({"executions": [facts(one) for one in found], "next": place})
        return 0
    if not found:
        print("no such job is known here" if arguments.before is None else "no more")
        return 0
    _print(found)
    if place is not None:
        print(f"and more; the same with --before {place} goes on")
    return 0


def facts(one: Listed) -> dict[str, Any]:
    """Return an execution for programs, with times as ISO 8601."""
    from msgspec import to_builtins

    from sfworker.wire.events import timestamp

    shown = {name: value if value != "" else None for name, value in to_builtins(one).items()}
    times = {name: shown.pop(name) for name in ("appended", "started", "ended")}
    return {**shown, **{f"{name}_at": timestamp(ms / 1000) if ms else None for name, ms in times.items()}}


async def _found(arguments: argparse.Namespace, settings: Settings) -> tuple[list[Listed], str | None]:
    """Return a page and the place where the next one begins, None behind the last."""
    from sfworker.broker.finding import page
    from sfworker.broker.keys import Keys
    from sfworker.cli.known import require_group

    group, keys = arguments.group, Keys(settings.prefix)
    async with connected_redis(settings) as redis:
        await require_group(redis, keys, group)
        found, place = await page(redis, keys, group, _wanted(arguments), arguments.limit, arguments.before)
    return found, None if place is None else f"{place[0]}+{place[1]}"


def _wanted(arguments: argparse.Namespace) -> Wanted:
    from sfworker.broker.finding import STATES, Wanted

    return Wanted(
        states=frozenset(arguments.state or STATES),
        task_type=arguments.task_type,
        error_type=arguments.error_type,
        worker=arguments.worker,
        text=arguments.text,
        since=0 if arguments.since is None else int((time.time() - arguments.since) * 1000),
    )


def _cursor(text: str) -> tuple[int, int]:
    """Read a place as it was printed. Raises ArgumentTypeError where it is none."""
    from sfworker.broker.finding import place

    read = place(text)
    if read is None:
        raise argparse.ArgumentTypeError(f"{text} is no place; take the one that a list has ended with")
    return read


def _print(found: list[Listed]) -> None:
    from sfworker.cli.console import console, table
    from sfworker.report.tables import shown

    out = console()
    listed = table("execution", "state", "task type", "attempts >", "ago >", "took >", "worker", "error type")
    listed.columns[0].no_wrap = out.width >= 120  # to be copied
    now = time.time() * 1000
    for one in found:
        took = length((one.ended - one.started) / 1000) if one.ended and one.started else ""
        attempts = str(one.attempts or "")
        ago = length(max(0.0, now - one.at) / 1000)
        listed.add_row(
            shown(one.execution_id), one.state, one.task_type, attempts, ago, took, one.worker, one.error_type
        )
    out.print(listed)


def length(seconds: float) -> str:
    """Put a length of time in few characters, as in 2.4 s, 17m or 3d."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= 2 * size or size == 1)
    return f"{seconds / size:.0f}{unit}"
