"""`sfworker cancel`: end a job that is queued, runs or waits for its next attempt."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_client, settings_from
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Cancel a job that is queued, runs or waits for its next attempt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("execution_id", type=not_empty, metavar="ID", help="the execution_id of the envelope")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_cancel(arguments, settings_from(arguments)))


async def _cancel(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.cli.console import say
    from sfworker.cli.known import sentence, unknown

    execution_id = arguments.execution_id
    async with connected_client(settings) as client:
        known = await client.find(execution_id)
        if (known and known.state == "answered") or not await client.cancel(execution_id):
            known = await client.find(execution_id)  # it may have ended just now
            raise SecretFlowTaskError(f"{sentence(execution_id, known)}, so there is nothing to cancel")
        if known is None:
            raise SecretFlowTaskError(f"{unknown(execution_id)}; if it is sent within a day, it is cancelled")
        group = known.group or arguments.group
        served = await client.served(group)
        facts = {"execution_id": execution_id, "state": known.state, "group": group, "served": served}
        say(facts, f"{sentence(execution_id, known)} and is being cancelled", as_json=arguments.json)
        if served is False:
            print(f"no worker serves group {group} now; the next one cancels it", file=sys.stderr)
    return 0
