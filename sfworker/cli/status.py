"""`sfworker status`: count the jobs that are queued, run, wait for a retry or failed for good, and list the workers."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_redis, settings_from

if TYPE_CHECKING:
    from sfworker.broker.overview import Overview
    from sfworker.settings import Settings

SUMMARY = "Show how many jobs are queued, run or have failed for good, and the workers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_group_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    figures = asyncio.run(_overview(settings_from(arguments), arguments.group))
    if arguments.json:
        from sfworker.cli.console import print_json

        print_json(figures)
    else:
        _print(figures, arguments.group)
    return 0


async def _overview(settings: Settings, group: str) -> Overview:
    from sfworker.broker.keys import Keys
    from sfworker.broker.overview import overview
    from sfworker.cli.known import require_group

    async with connected_redis(settings) as redis:
        keys = Keys(settings.prefix)
        await require_group(redis, keys, group)
        return await overview(redis, keys, group, settings.tenants)


def _print(figures: Overview, group: str) -> None:
    from sfworker.cli.console import console, table

    out = console()
    queues = table("stream", "queued >", "running >", "retrying >", "dead >")
    for stream in figures.streams:
        counts = (stream.queued, stream.running, stream.retrying, stream.dead)
        queues.add_row(stream.stream, *map(str, counts))
    out.print(queues)
    for sentence in figures.misplaced:
        print(sentence)
    if figures.dead:
        print("Dead jobs have failed for good; `sfworker dead list` names them.")
    if not figures.workers:
        print(f"no worker serves group {group} now; `sfworker run` starts one")
        return
    workers = table("worker", "since", "running >", "free >", "executions")
    workers.columns[0].ratio = workers.columns[-1].ratio = 1  # the others are not to be folded
    for worker in figures.workers:
        executions = ", ".join(map(str, worker.executions))
        since = f"{worker.started_at[:19]}Z" if worker.started_at else ""
        workers.add_row(worker.worker_id, since, str(worker.running), str(worker.free), executions)
    out.print(workers)
