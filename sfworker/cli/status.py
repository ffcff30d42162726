"""`sfworker status`: what is queued, running, waiting and buried, and who is there to work."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_redis, settings_from

if TYPE_CHECKING:
    from sfworker.broker.overview import Overview
    from sfworker.settings import Settings

SUMMARY = "Show queues and workers"


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
        _print(figures)
    return 0


async def _overview(settings: Settings, group: str) -> Overview:
    from sfworker.broker.keys import Keys
    from sfworker.broker.overview import overview

    async with connected_redis(settings) as redis:
        return await overview(redis, Keys(settings.prefix), group)


def _print(figures: Overview) -> None:
    from sfworker.cli.console import console, table

    out = console()
    queues = table("stream", "queued >", "running >", "retrying >", "dead >")
    for stream in figures.streams:
        counts = (stream.queued, stream.running, stream.retrying, stream.dead)
        queues.add_row(stream.stream, *map(str, counts))
    out.print(queues)
    if not figures.workers:
        out.print("no worker has a heartbeat; `sfworker run` starts one")
        return
    workers = table("worker", "since", "running >", "free >", "executions")
    for worker in figures.workers:
        executions = ", ".join(map(str, worker.executions))
        workers.add_row(worker.worker_id, worker.started_at or "", str(worker.running), str(worker.free), executions)
    out.print(workers)
