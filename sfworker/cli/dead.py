"""`sfworker dead`: the jobs that failed for good: list them, look at one, replay one, forget them."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from sfworker.cli.connection import (
    add_group_argument,
    add_redis_arguments,
    connected_broker,
    connected_redis,
    settings_from,
)
from sfworker.cli.replay import replay_one

if TYPE_CHECKING:
    from sfworker.broker.dead import DeadJob, PastAttempt
    from sfworker.settings import Settings

SUMMARY = "Show, replay or forget jobs that failed for good"
ROWS = 100
_ID_HELP = "execution_id, or the entry's id"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="what there is, oldest first")
    listing.add_argument("--error-type", metavar="TYPE", help="only those that failed with this error")
    listing.add_argument("--limit", type=int, metavar="N", help=f"at most so many (default: {ROWS}; JSON: all)")
    listing.set_defaults(act=_list)

    showing = actions.add_parser("show", help="one with its envelope and each attempt")
    showing.add_argument("id", metavar="ID", help=_ID_HELP)
    showing.set_defaults(act=_show)

    replaying = actions.add_parser("replay", help="run one again, as `sfworker replay --execution-id`")
    replaying.add_argument("id", metavar="ID", help=_ID_HELP)
    replaying.set_defaults(act=_replay)

    purging = actions.add_parser("purge", help="delete for good; asks nothing")
    which = purging.add_mutually_exclusive_group(required=True)
    which.add_argument("id", metavar="ID", nargs="?", help=_ID_HELP)
    which.add_argument("--all", action="store_true", help="all of them")
    purging.set_defaults(act=_purge)

    for action in (listing, showing):
        action.add_argument("--json", action="store_true", help="print JSON, for programs")
    for action in (listing, showing, replaying, purging):
        add_group_argument(action)
        add_redis_arguments(action)


def run(arguments: argparse.Namespace) -> int:
    code: int = asyncio.run(arguments.act(arguments, settings_from(arguments)))
    return code


async def _list(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.broker.dead import dead_jobs
    from sfworker.broker.keys import Keys
    from sfworker.cli.console import console, print_json, table

    limit = arguments.limit if arguments.limit is not None or arguments.json else ROWS
    found: list[dict[str, Any]] = []
    more = False
    async with connected_redis(settings) as redis:
        async for job in dead_jobs(redis, Keys(settings.prefix), arguments.group):
            if arguments.error_type in {None, job.error_type}:
                if len(found) == limit:
                    more = True
                    break
                found.append(_summary(job))
    if arguments.json:
        print_json(found)
        return 0
    out = console()
    if not found:
        out.print("nothing is dead")
        return 0
    listed = table("execution", "stream", "task type", "attempts >", "error type", "error", "buried at")
    listed.columns[0].no_wrap = True  # to be copied
    for each in found:
        names = ("stream", "task_type", "attempts", "error_type", "error", "buried_at")
        listed.add_row(each["execution_id"] or each["entry_id"], *(_cell(name, each[name]) for name in names))
    out.print(listed)
    if more:
        out.print(f"and more; --limit N shows more than {limit}")
    return 0


async def _show(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.broker.dead import find_dead_job
    from sfworker.broker.keys import Keys
    from sfworker.cli.console import console, print_json, table

    async with connected_redis(settings) as redis:
        job = await find_dead_job(redis, Keys(settings.prefix), arguments.group, arguments.id)
    if job is None:
        print(f"{arguments.id}: is not among the dead")
        return 1
    about = _summary(job)
    history = [_past(past) for past in job.history]
    envelope = _decoded(job.attempt.entry.envelope)
    if arguments.json:
        print_json({**about, "history": history, "envelope": envelope})
        return 0
    out = console()
    facts = table("", "")
    for name, value in about.items():
        facts.add_row(name, _cell(name, value))
    facts.show_header = False
    out.print(facts)
    attempts = table("attempt >", "replays >", "worker", "started at", "ended at", "outcome", "error type", "error")
    for past in history:
        attempts.add_row(*(_cell(name, value) for name, value in past.items()))
    out.print(attempts)
    print_json(envelope)
    return 0


async def _replay(arguments: argparse.Namespace, settings: Settings) -> int:
    return await replay_one(settings, arguments.group, arguments.id)


async def _purge(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.broker.dead import dead_jobs, find_dead_job

    purged = 0
    async with connected_redis(settings) as redis, connected_broker(settings, arguments.group) as broker:
        if arguments.all:
            async for job in dead_jobs(redis, broker.keys, arguments.group):
                purged += await broker.purge(job.attempt.entry)
        else:
            wanted = await find_dead_job(redis, broker.keys, arguments.group, arguments.id)
            purged += wanted is not None and await broker.purge(wanted.attempt.entry)
    if not arguments.all and not purged:
        print(f"{arguments.id}: is not among the dead, nothing changed")
        return 1
    print(f"{purged} purged")
    return 0


def _summary(job: DeadJob) -> dict[str, Any]:
    from sfworker.wire.events import timestamp

    attempt = job.attempt
    envelope = _decoded(attempt.entry.envelope)
    task = envelope.get("task_config") if isinstance(envelope, dict) else None
    task_type = task.get("task_type") if isinstance(task, dict) else None
    return {
        "execution_id": attempt.execution_id,
        "entry_id": attempt.entry.entry_id,
        "stream": attempt.entry.stream,
        "task_id": attempt.task_id,
        "subtask_id": attempt.subtask_id,
        "task_type": task_type if isinstance(task_type, str) else None,
        "attempts": job.attempts,
        "replays": job.replays,
        "error_type": job.error_type,
        "error": job.error,
        "buried_at": timestamp(job.buried_at),
    }


def _past(past: PastAttempt) -> dict[str, Any]:
    from sfworker.wire.events import timestamp

    return {
        "attempt": past.attempt,
        "replays": past.replays,
        "worker_id": past.worker,
        "started_at": timestamp(past.started / 1000),
        "ended_at": timestamp(past.ended / 1000),
        "outcome": past.outcome,
        "error_type": past.error_type,
        "error": past.error,
    }


def _decoded(envelope: bytes | None) -> Any:
    """The envelope; as text, where it is no JSON; None, where it was deleted."""
    if envelope is None:
        return None
    try:
        return msgspec.json.decode(envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return envelope.decode(errors="replace")


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    return f"{str(value)[:19]}Z" if name.endswith("_at") else str(value)
