"""`sfworker drain`: let one worker finish what it runs and stop, as SIGTERM does on its own host."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_to_group, settings_from
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Let a worker finish what it runs, take no more, and stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("worker_id", type=not_empty, metavar="WORKER", help="its id, as `sfworker status` prints it")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_drain(settings_from(arguments), arguments))


async def _drain(settings: Settings, arguments: argparse.Namespace) -> int:
    from sfworker.broker.orders import DRAIN
    from sfworker.broker.overview import live_workers
    from sfworker.cli.console import say

    group, worker_id = arguments.group, arguments.worker_id
    async with connected_to_group(settings, group) as (redis, broker):
        workers = await live_workers(redis, broker.keys, group)
        found = next((worker for worker in workers if worker.worker_id == worker_id), None)
        if found is None:
            served = ", ".join(worker.worker_id for worker in workers) or "none"
            raise SecretFlowTaskError(f"no worker {worker_id} serves group {group} now; there is {served}")
        await broker.give_order(f"{DRAIN}{worker_id}")
    sentence = f"{worker_id} takes no more jobs within a third of its lease, and stops when what it runs has ended"
    say({"worker_id": worker_id, "running": found.running}, sentence, as_json=arguments.json)
    return 0
