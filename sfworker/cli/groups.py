"""`sfworker groups`: the consumer groups on the job streams; remove one that nobody serves."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import add_redis_arguments, connected_redis, settings_from
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "List the consumer groups on the job streams, or remove one that nobody serves"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list them, each with its workers and what it has left to do")
    listing.set_defaults(act=_list)
    removing = actions.add_parser("remove", help="remove one, so that entries do not wait for it any more")
    removing.add_argument("group", type=not_empty, metavar="GROUP", help="its name")
    removing.add_argument("--force", action="store_true", help="also where it has jobs left, which nobody answers then")
    removing.set_defaults(act=_remove)
    for action in (listing, removing):
        action.add_argument("--json", action="store_true", help="print JSON, for programs")
        add_redis_arguments(action)


def run(arguments: argparse.Namespace) -> int:
    code: int = asyncio.run(arguments.act(arguments, settings_from(arguments)))
    return code


async def _list(arguments: argparse.Namespace, settings: Settings) -> int:
    from msgspec import to_builtins

    from sfworker.broker.groups import groups
    from sfworker.broker.keys import Keys
    from sfworker.cli.console import console, print_json, table

    async with connected_redis(settings) as redis:
        found = await groups(redis, Keys(settings.prefix), settings.tenants)
    if arguments.json:
        print_json([{**to_builtins(one), "trouble": one.trouble} for one in found])
        return 0
    if not found:
        print("no consumer group is on the job streams; a worker's first start makes one")
        return 0
    listed = table("group", "workers >", "queued >", "taken >", "dead >", "")
    for one in found:
        figures = (one.workers, one.queued, one.taken, one.dead)
        listed.add_row(one.name, *map(str, figures), one.trouble or "")
    console().print(listed)
    return 0


async def _remove(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.broker.groups import groups, remove
    from sfworker.broker.keys import Keys
    from sfworker.cli.console import say

    name, keys = arguments.group, Keys(settings.prefix)
    async with connected_redis(settings) as redis:
        found = next((one for one in await groups(redis, keys, settings.tenants) if one.name == name), None)
        if found is None:
            raise SecretFlowTaskError(f"no group {name} is on the job streams")
        if found.workers:
            raise SecretFlowTaskError(f"{found.workers} workers serve group {name} now; stop them first")
        if (found.taken or found.queued) and not arguments.force:
            left = f"{found.queued} queued jobs and {found.taken} that were taken"
            raise SecretFlowTaskError(f"group {name} has {left} and no answer; --force drops its claim on them")
        await remove(redis, keys, settings.tenants, name)
    say({"removed": name}, f"group {name} is removed", as_json=arguments.json)
    return 0
