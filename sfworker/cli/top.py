"""`sfworker top`: workers, streams, running jobs and recent failures, live."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from sfworker.cli.arguments import seconds
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_redis, settings_from
from sfworker.cli.plain import plain

if TYPE_CHECKING:
    from rich.console import Group

    from sfworker.broker.look import Seen
    from sfworker.settings import Settings

SUMMARY = "Watch workers, streams, running jobs and recent failures, live"
_BAR = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--every", type=seconds, default=2.0, metavar="SECONDS", help="how often to look (default: %(default)s)"
    )
    parser.add_argument("--once", action="store_true", help="look once; without a terminal this is always so")
    parser.add_argument("--json", action="store_true", help="look once and print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    asyncio.run(_watch(settings_from(arguments), arguments))
    return 0


async def _watch(settings: Settings, arguments: argparse.Namespace) -> None:
    from sfworker.broker.keys import Keys
    from sfworker.broker.look import look
    from sfworker.cli.console import console, print_json
    from sfworker.cli.known import require_group

    out = console()
    keys, group, tenants = Keys(settings.prefix), arguments.group, settings.tenants
    async with connected_redis(settings) as redis:
        await require_group(redis, keys, group)
        if arguments.json:
            print_json(_facts(await look(redis, keys, group, tenants)))
        elif arguments.once or not sys.stdout.isatty():
            out.print(_page(await look(redis, keys, group, tenants)))
        else:
            from rich.live import Live

            with Live(console=out, screen=True, auto_refresh=False) as live:
                while True:
                    live.update(_page(await look(redis, keys, group, tenants)), refresh=True)
                    await anyio.sleep(arguments.every)


def _facts(seen: Seen) -> dict[str, Any]:
    from sfworker.cli.listing import facts

    return {**msgspec.to_builtins(seen.figures), "failures": [facts(one) for one in seen.failures]}


def _page(seen: Seen) -> Group:
    from rich.console import Group

    from sfworker.cli.console import table
    from sfworker.cli.listing import length

    now, figures = time.time(), seen.figures
    streams = table("stream", "queued >", "oldest >", "running >", "retrying >", "held >", "dead >")
    for stream in figures.streams:
        age = stream.oldest_age
        counts = (stream.running, stream.retrying, stream.held + stream.limited, stream.dead)
        streams.add_row(stream.stream, str(stream.queued), "" if age is None else length(age), *map(str, counts))
    workers = table("worker", "running >", "free >", "memory >")
    jobs = table("execution", "task type", "for >", "progress", "memory >", "worker")
    for worker in figures.workers:
        used = sum(job.memory_bytes for job in worker.jobs)
        workers.add_row(plain(worker.worker_id), str(worker.running), str(worker.free), _megabytes(used))
        for job in worker.jobs:
            place = (_megabytes(job.memory_bytes), worker.worker_id)
            row = (job.execution_id, job.task_type, length(max(0.0, now - job.began)), _bar(job.progress), *place)
            jobs.add_row(*map(plain, row))
    failures = table("failed", "task type", "ago >", "error type", "worker")
    for one in seen.failures:
        ago = length(max(0.0, now - one.at / 1000))
        failures.add_row(*map(plain, (one.execution_id, one.task_type, ago, one.error_type, one.worker)))
    said = [*figures.misplaced, *(order.sentence for order in figures.orders)]
    said += [limit.sentence for limit in figures.limits]
    said += [] if figures.workers else ["no worker serves this group now"]
    shown = [part for part in (workers, jobs, failures) if part.row_count]
    return Group(streams, *map(plain, said), *shown)


def _bar(progress: float | None) -> str:
    if progress is None:
        return ""
    done = round(_BAR * min(max(progress, 0.0), 1.0))
    return f"{'█' * done}{'░' * (_BAR - done)} {progress:4.0%}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size else ""
