"""`sfworker watch`: follow an execution to its end."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from sfworker.cli.connection import add_redis_arguments, connected_client, settings_from
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.client import Client, Submission
    from sfworker.settings import Settings

SUMMARY = "Follow an execution; exit code 0 only if it succeeds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("execution_id", metavar="ID", help="the execution_id of the envelope")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after this long")
    parser.add_argument("--json", action="store_true", help="print each event as a line of JSON, for programs")
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_watch(arguments, settings_from(arguments)))


async def _watch(arguments: argparse.Namespace, settings: Settings) -> int:
    async with connected_client(settings) as client:
        await client.result(arguments.execution_id)  # says at once where Redis is away; `events` would wait for it
        result = await follow(client, arguments.execution_id, arguments.timeout, as_json=arguments.json)
    return 0 if result.get("status") == "success" else 1


async def follow(
    client: Client, execution: Submission | str, timeout: float | None = None, *, as_json: bool = False
) -> dict[str, Any]:
    """Show an execution's events until it ends, and return its result.

    Events go to stderr, so that stdout is the caller's; `as_json` prints them as JSON lines to stdout instead.
    Raises SecretFlowTaskError when `timeout` seconds have passed.
    """
    import msgspec

    from sfworker.cli.console import console
    from sfworker.cli.progress import EventDisplay

    execution_id = execution if isinstance(execution, str) else execution.execution_id
    try:
        event: dict[str, Any] = {}
        with anyio.fail_after(timeout), EventDisplay(console(stderr=True)) as display:
            if not as_json:
                display.expect(execution_id)
            async with aclosing(client.events(execution)) as events:
                async for event in events:
                    if as_json:
                        print(msgspec.json.encode(event).decode(), flush=True)
                    else:
                        display.show(event)
        # Written in the same step as the final event, so it is there, or so old that it has expired.
        return await client.result(execution_id) or {"status": str(event.get("status", "unknown")).lower(), **event}
    except TimeoutError:
        raise SecretFlowTaskError(f"{execution_id} has not ended after {timeout:g} s; it goes on") from None
