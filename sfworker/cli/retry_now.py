"""`sfworker retry-now`: try jobs again at once that wait for their next attempt."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import (
    add_group_argument,
    add_redis_arguments,
    connected_client,
    connected_to_group,
    settings_from,
)
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Try jobs again at once that wait for their next attempt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("execution_id", type=not_empty, metavar="ID", nargs="?", help="the execution_id of the envelope")
    which.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from sfworker.cli.console import say

    settings, group, execution_id = settings_from(arguments), arguments.group, arguments.execution_id
    if arguments.all:
        hastened = asyncio.run(_all(settings, group))
        sentence = f"{hastened} will be tried again as soon as workers are free"
    else:
        asyncio.run(_one(settings, group, execution_id))
        hastened, sentence = 1, f"{execution_id} is tried again as soon as a worker is free"
    say({"hastened": hastened}, sentence, as_json=arguments.json)
    return 0


async def _one(settings: Settings, group: str, execution_id: str) -> None:
    from sfworker.cli.known import sentence

    async with connected_to_group(settings, group) as (_, broker):
        outcome = await broker.hasten_one(execution_id)
    if outcome == "not waiting":
        async with connected_client(settings) as client:
            known = await client.find(execution_id)
        raise SecretFlowTaskError(f"{sentence(execution_id, known)}, so there is no attempt to hasten")
    if outcome == "held":
        raise SecretFlowTaskError(f"jobs like {execution_id} are paused; `sfworker resume` lets them begin")
    if outcome == "limited":
        raise SecretFlowTaskError(f"a limit holds {execution_id} up; `sfworker status` names it")


async def _all(settings: Settings, group: str) -> int:
    async with connected_to_group(settings, group) as (_, broker):
        return await broker.hasten_all()
