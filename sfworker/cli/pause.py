"""`sfworker pause`: let workers finish what runs and begin no more, of a stream, of a task type or at all."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_to_group, settings_from
from sfworker.errors import SettingsError

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Let running jobs finish and begin no more, of a stream, of a task type or at all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_order_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_pause(settings_from(arguments), arguments))


def add_order_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `pause` and `resume` share."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--stream", type=not_empty, metavar="STREAM", help="jobs of this stream, such as sf:jobs:low")
    which.add_argument("--task-type", type=not_empty, metavar="TYPE", help="jobs of this task type")
    which.add_argument("--all", action="store_true", help="all jobs of the group")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def order_of(settings: Settings, arguments: argparse.Namespace) -> str:
    """Return the name of the order that is meant. Raises SettingsError for a stream that the workers do not read."""
    from sfworker.broker.keys import Keys
    from sfworker.broker.orders import PAUSE_ALL, PAUSE_STREAM, PAUSE_TYPE

    if arguments.all:
        return PAUSE_ALL
    if arguments.task_type:
        return f"{PAUSE_TYPE}{arguments.task_type}"
    keys = Keys(settings.prefix)
    streams = [stream for area in (keys, *keys.of_tenants(settings.tenants)) for stream in area.job_streams()]
    if arguments.stream not in streams:
        raise SettingsError(f"--stream: workers read no {arguments.stream}, only {', '.join(streams)}")
    return f"{PAUSE_STREAM}{arguments.stream}"


async def _pause(settings: Settings, arguments: argparse.Namespace) -> int:
    from msgspec import to_builtins

    from sfworker.broker.orders import standing_orders
    from sfworker.cli.console import say
    from sfworker.cli.known import command_line

    name, group = order_of(settings, arguments), arguments.group
    async with connected_to_group(settings, group) as (redis, broker):
        await broker.give_order(name)
        orders = await standing_orders(redis, broker.keys, group)
    order, warning = next(order for order in orders if order.name == name), strange_type(settings, arguments.task_type)
    options = {"--stream": arguments.stream, "--task-type": arguments.task_type}
    target = [word for option, value in options.items() if value for word in (option, value)] or ["--all"]
    remedy = f"{command_line(arguments, 'resume', *target)} takes that back"
    sentences = [order.sentence, *([warning] if warning else []), remedy]
    say({"order": to_builtins(order), "warning": warning}, *sentences, as_json=arguments.json)
    return 0


def strange_type(settings: Settings, name: str | None) -> str | None:
    """Return a sentence where `name` is no task type that is known here; workers may know it all the same."""
    from sfworker.catalog.installed import installed_task_types

    if name is None or name in {task_type.name for task_type in installed_task_types(settings.jobs)}:
        return None
    return f"{name} is no task type that is known here; is it spelled right?"
