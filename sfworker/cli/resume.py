"""`sfworker resume`: let workers begin what was paused."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.connection import connected_broker, connected_redis, settings_from
from sfworker.cli.pause import add_order_arguments, order_of
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Let jobs begin again that were paused"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_order_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_resume(settings_from(arguments), arguments))


async def _resume(settings: Settings, arguments: argparse.Namespace) -> int:
    from msgspec import to_builtins

    from sfworker.broker.orders import standing_orders
    from sfworker.cli.console import say

    name = order_of(settings, arguments)
    async with connected_redis(settings) as redis, connected_broker(settings, arguments.group) as broker:
        lifted = await broker.lift_order(name)
        left = await standing_orders(redis, broker.keys, arguments.group)
    sentences = [order.sentence for order in left]
    if not lifted:
        raise SecretFlowTaskError("; ".join(["that was not paused", *sentences]))
    say({"resumed": name, "orders": to_builtins(left)}, *sentences, "resumed", as_json=arguments.json)
    return 0
