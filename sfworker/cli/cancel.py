"""`sfworker cancel`: stop an execution that is queued, runs or waits for its next attempt."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.connection import add_redis_arguments, connected_client, settings_from

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Ask for an execution to be cancelled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("execution_id", metavar="ID", help="the execution_id of the envelope")
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_cancel(arguments.execution_id, settings_from(arguments)))


async def _cancel(execution_id: str, settings: Settings) -> int:
    async with connected_client(settings) as client:
        asked = await client.cancel(execution_id)
    print(f"{execution_id}: asked to stop" if asked else f"{execution_id}: has ended already, nothing changed")
    return 0 if asked else 1
