"""`sfworker dead`: list the jobs that failed for good, show one, replay one, delete them."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

from sfworker.cli.arguments import count, not_empty
from sfworker.cli.connection import (
    add_group_argument,
    add_redis_arguments,
    connected_broker,
    connected_redis,
    settings_from,
)
from sfworker.cli.many import add_many_arguments, for_many, require_many
from sfworker.cli.replay import replay_one, why_not_dead
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from rich.console import Console

    from sfworker.settings import Settings

SUMMARY = "List, show, replay or delete jobs that failed for good"
ROWS = 100
_WIDTH_OF_TABLES = 120
_ID_HELP = "execution_id; the entry's id of one that has none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="list them, the oldest first")
    listing.add_argument("--error-type", metavar="TYPE", help="only those that failed with this error")
    listing.add_argument("--limit", type=count, metavar="N", help=f"at most so many (default: {ROWS}; JSON: all)")
    listing.set_defaults(act=_list)

    showing = actions.add_parser("show", help="show one, with each attempt and its envelope")
    showing.add_argument("id", type=not_empty, metavar="ID", help=_ID_HELP)
    showing.set_defaults(act=_show)

    replaying = actions.add_parser("replay", help="run one again, as `sfworker replay --execution-id` does")
    replaying.add_argument("id", type=not_empty, metavar="ID", help=_ID_HELP)
    replaying.set_defaults(act=_replay)

    purging = actions.add_parser("purge", help="delete one or all, without asking")
    which = purging.add_mutually_exclusive_group(required=True)
    which.add_argument("id", type=not_empty, metavar="ID", nargs="?", help=_ID_HELP)
    which.add_argument("--all", action="store_true", help="all of them")
    add_many_arguments(purging)
    purging.set_defaults(act=_purge)

    for action in (listing, showing, replaying, purging):
        action.add_argument("--json", action="store_true", help="print JSON, for programs")
        add_group_argument(action)
        add_redis_arguments(action)


def run(arguments: argparse.Namespace) -> int:
    code: int = asyncio.run(arguments.act(arguments, settings_from(arguments)))
    return code


async def _list(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.broker.dead import dead_jobs
    from sfworker.broker.keys import Keys
    from sfworker.cli.console import console, print_json
    from sfworker.cli.known import require_group
    from sfworker.report.execution import summary

    limit = arguments.limit if arguments.limit is not None or arguments.json else ROWS
    found: list[dict[str, Any]] = []
    more = False
    async with connected_redis(settings) as redis:
        await require_group(redis, Keys(settings.prefix), arguments.group)
        async for job in dead_jobs(redis, Keys(settings.prefix), arguments.group):
            if arguments.error_type in {None, job.error_type}:
                if len(found) == limit:
                    more = True
                    break
                found.append(summary(job))
    if arguments.json:
        print_json(found)
        return 0
    out = console()
    if not found:
        print("no job has failed for good" + (f" with {arguments.error_type}" if arguments.error_type else ""))
        return 0
    if out.width < _WIDTH_OF_TABLES:
        _print_blocks(out, found)
    else:
        _print_table(out, found)
    if more:
        print(f"and more; --limit N shows more than {limit}")
    return 0


def _print_blocks(out: Console, found: list[dict[str, Any]]) -> None:
    for each in found:
        attempts = "" if each["attempts"] is None else f" after {_times(each['attempts'], 'attempt')}"
        print(_name(each))
        print(f"  {each['task_type'] or '(no task type)'}, failed at {_cell('buried_at', each['buried_at'])}{attempts}")
        _print_error(out, each)


def _print_table(out: Console, found: list[dict[str, Any]]) -> None:
    from sfworker.cli.console import table

    listed = table("execution", "stream", "task type", "attempts >", "error type", "error", "failed at")
    listed.columns[0].no_wrap = True  # to be copied
    for each in found:
        names = ("stream", "task_type", "attempts", "error_type", "error", "buried_at")
        listed.add_row(_name(each), *(_cell(name, each[name]) for name in names))
    out.print(listed)


def _name(about: dict[str, Any]) -> str:
    from sfworker.report.tables import shown

    return shown(about["execution_id"] or about["entry_id"])


def _print_error(out: Console, about: dict[str, Any]) -> None:
    """Print type and sentence of an error, where there is one, in lines that fit."""
    from rich.padding import Padding

    if said := ": ".join(about[name] for name in ("error_type", "error") if about[name]):
        out.print(Padding(said, (0, 0, 0, 4)))


async def _show(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.broker.dead import find_dead_job
    from sfworker.broker.keys import Keys
    from sfworker.cli.console import console, print_json, table
    from sfworker.report.execution import decoded, past_attempt, summary

    async with connected_redis(settings) as redis:
        job = await find_dead_job(redis, Keys(settings.prefix), arguments.group, arguments.id)
    if job is None:
        raise SecretFlowTaskError(await why_not_dead(settings, arguments.group, arguments.id))
    about = summary(job)
    history = [past_attempt(past) for past in job.history]
    envelope = decoded(job.attempt.entry.envelope)
    if arguments.json:
        print_json({**about, "history": history, "envelope": envelope})
        return 0
    out = console()
    facts = table("", "")
    for name, value in about.items():
        facts.add_row(name, _cell(name, value))
    facts.show_header = False
    out.print(facts)
    print_attempts(out, history)
    print("envelope:")
    print_json(envelope)
    return 0


def print_attempts(out: Console, history: list[dict[str, Any]]) -> None:
    """Print how attempts have ended, as `past_attempt` gives them."""
    for past in history:
        replays = f" after {_times(past['replays'], 'replay')}" if past["replays"] else ""
        print(f"attempt {past['attempt']}{replays}: {past['outcome'].replace('_', ' ')}, on {past['worker_id']},")
        print(f"  from {_cell('_at', past['started_at'])} to {_cell('_at', past['ended_at'])}")
        _print_error(out, past)


async def _replay(arguments: argparse.Namespace, settings: Settings) -> int:
    return await replay_one(settings, arguments.group, arguments.id, as_json=arguments.json)


async def _purge(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.broker.dead import find_dead_job
    from sfworker.cli.console import say
    from sfworker.cli.known import require_group

    if not arguments.all:
        require_many(arguments, "--all")
    async with connected_redis(settings) as redis, connected_broker(settings, arguments.group) as broker:
        if arguments.all:
            await require_group(redis, broker.keys, arguments.group)
            figures, sentence = await for_many(
                redis, broker.keys, arguments, "purged", lambda job: broker.purge(job.attempt.entry)
            )
            say(dict(figures), sentence, as_json=arguments.json)
            return 0
        wanted = await find_dead_job(redis, broker.keys, arguments.group, arguments.id)
        purged = wanted is not None and await broker.purge(wanted.attempt.entry)
    if not purged:
        raise SecretFlowTaskError(await why_not_dead(settings, arguments.group, arguments.id))
    say({"meant": 1, "purged": 1}, "1 purged", as_json=arguments.json)
    return 0


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    return f"{str(value)[:19]}Z" if name.endswith("_at") else str(value)


def _times(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
