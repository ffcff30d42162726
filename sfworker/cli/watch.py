"""`sfworker watch`: follow an execution to its end and print its result."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import anyio

from sfworker.cli.arguments import not_empty, seconds
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_client, settings_from
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.cli.progress import EventDisplay
    from sfworker.client import Client, Known, Submission
    from sfworker.settings import Settings

SUMMARY = "Follow a job to its end and print its result; exit code 0 only on success"
LOOK_FOR_WORKERS_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("execution_id", type=not_empty, metavar="ID", help="the execution_id of the envelope")
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
    event: dict[str, Any] = {}
    group = (known and known.group) or arguments.group
    # redis-py may take the one CancelledError that a task gets for a time-out of its own; a scope insists.
    scope = anyio.CancelScope()
    with _ctrl_c_calls(scope.cancel), scope:
        try:
            with anyio.fail_after(arguments.timeout), EventDisplay(console(stderr=True)) as display:
                if not as_json:
                    display.expect(execution_id)
                with nullcontext() if ended else _missing_workers_told(client, group, display):
                    async with aclosing(client.events(execution)) as events:
                        async for event in events:
                            if as_json:
                                _print_line(event)
                            else:
                                display.show(event)
            # Written in the same step as the final event, so it is there, or so old that it has expired.
            result = await client.result(execution_id)
            return result or {**event, "status": str(event.get("status", "unknown")).lower()}
        except TimeoutError:
            watch = command_line(arguments, "watch", execution_id)
            raise SecretFlowTaskError(
                f"{execution_id} has not ended after {arguments.timeout:g} s; nothing is changed, `{watch}` waits on"
            ) from None
    cancel = command_line(arguments, "cancel", execution_id)
    print(f"{execution_id} goes on without this command; `{cancel}` cancels it", file=sys.stderr)
    raise KeyboardInterrupt


@contextmanager
def _ctrl_c_calls(cancel: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call `cancel` instead of raising KeyboardInterrupt, maybe where Python can only ignore it."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def _missing_workers_told(client: Client, group: str, display: EventDisplay) -> Iterator[None]:
    """Say in the meantime where no worker serves the group."""
    scope = anyio.CancelScope()
    looking = asyncio.create_task(_tell_of_missing_workers(client, group, display, scope))
    try:
        yield
    finally:
        scope.cancel()
        del looking  # asyncio itself would keep no task alive


async def _tell_of_missing_workers(client: Client, group: str, display: EventDisplay, scope: anyio.CancelScope) -> None:
    """Say it whenever the last worker of the group is gone, until `scope` is cancelled."""
    from redis.exceptions import RedisError

    missing = False
    with scope:
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
