"""`sfworker watch`: follow an execution to its end and print its result."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from sfworker.cli.arguments import seconds
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_client, settings_from
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.cli.progress import EventDisplay
    from sfworker.client import Client, Known, Submission
    from sfworker.settings import Settings

SUMMARY = "Follow a job to its end and print its result; exit code 0 only on success"
LOOK_FOR_WORKERS_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("execution_id", metavar="ID", help="the execution_id of the envelope")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="give up after this long")
    parser.add_argument("--json", action="store_true", help="print each event, then the result, as a line of JSON")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_watch(arguments, settings_from(arguments)))


async def _watch(arguments: argparse.Namespace, settings: Settings) -> int:
    from sfworker.cli.known import unknown
    from sfworker.cli.results import print_result

    execution_id = arguments.execution_id
    async with connected_client(settings) as client:
        known = await client.find(execution_id)
        if known is None:
            raise SecretFlowTaskError(unknown(execution_id))
        result = await follow(client, execution_id, arguments, known, as_json=arguments.json)
    if arguments.json:
        _print_line(result)
    else:
        print_result(result)
    return 0 if result.get("status") == "success" else 1


async def follow(
    client: Client,
    execution: Submission | str,
    arguments: argparse.Namespace,
    known: Known | None,
    *,
    as_json: bool = False,
) -> dict[str, Any]:
    """Show an execution's events until it ends, and return its result.

    Events go to stderr, so that stdout is the caller's; `as_json` prints them as JSON lines to stdout instead.
    `known` is what was known before. Raises SecretFlowTaskError when `arguments.timeout` seconds have passed, or where
    nothing is kept of an execution that ended long ago.
    """
    from sfworker.cli.console import console
    from sfworker.cli.known import command_line, sentence
    from sfworker.cli.progress import EventDisplay

    execution_id = execution if isinstance(execution, str) else execution.execution_id
    ended = known is not None and known.state == "answered"
    if known is not None and ended and known.result is None and known.event is None:
        raise SecretFlowTaskError(f"{sentence(execution_id, known)}; its result and events are not kept any more")
    try:
        event: dict[str, Any] = {}
        with anyio.fail_after(arguments.timeout), EventDisplay(console(stderr=True)) as display:
            if not as_json:
                display.expect(execution_id)
            group = (known and known.group) or arguments.group
            looking = None if ended else asyncio.create_task(_tell_of_missing_workers(client, group, display))
            try:
                async with aclosing(client.events(execution)) as events:
                    async for event in events:
                        if as_json:
                            _print_line(event)
                        else:
                            display.show(event)
            finally:
                if looking is not None:
                    looking.cancel()
        # Written in the same step as the final event, so it is there, or so old that it has expired.
        return await client.result(execution_id) or {**event, "status": str(event.get("status", "unknown")).lower()}
    except TimeoutError:
        watch = command_line(arguments, "watch", execution_id)
        raise SecretFlowTaskError(
            f"{execution_id} has not ended after {arguments.timeout:g} s; nothing is changed, `{watch}` waits on"
        ) from None
    except (KeyboardInterrupt, asyncio.CancelledError):  # Ctrl-C, as asyncio hands it on
        cancel = command_line(arguments, "cancel", execution_id)
        print(f"{execution_id} goes on without this command; `{cancel}` cancels it", file=sys.stderr)
        raise


async def _tell_of_missing_workers(client: Client, group: str, display: EventDisplay) -> None:
    """Say it whenever the last worker of the group is gone, until cancelled."""
    from redis.exceptions import RedisError

    missing = False
    while True:
        try:
            served = await client.served(group)
        except (RedisError, OSError):
            served = True  # Redis is away, and `events` waits for it
        if served is None:
            return  # this user may not know
        if not served and not missing:
            display.note(f"no worker serves group {group} now; the job waits for one, which `sfworker run` starts")
        missing = not served
        await asyncio.sleep(LOOK_FOR_WORKERS_SECONDS)


def _print_line(value: dict[str, Any]) -> None:
    import msgspec

    print(msgspec.json.encode(value).decode(), flush=True)
