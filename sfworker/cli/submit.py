"""`sfworker submit`: append an envelope to the job stream, and wait for its result if asked to."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sfworker.cli.arguments import seconds
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_client, settings_from
from sfworker.errors import EnvelopeError, SettingsError

if TYPE_CHECKING:
    from sfworker.client import Client, Known, Submission
    from sfworker.settings import Settings

SUMMARY = "Send a job, and wait for its result if asked to"
_LOOKED_THROUGH = 1000
"""Entries of a stream among which an earlier one of the same id is looked for, so that a long queue costs nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the envelope, as JSON; - reads standard input")
    parser.add_argument("--wait", action="store_true", help="wait for the result; exit code 0 only on success")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="with --wait: give up after this long")
    parser.add_argument("--new-id", action="store_true", help="send it as a new job, under another execution_id")
    parser.add_argument("--priority", choices=("high", "normal", "low"), help="default: options.priority, or normal")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.timeout and not arguments.wait:
        raise SettingsError("--timeout: is for --wait, without which nothing is waited for")
    envelope = read_envelope(arguments.file)
    if arguments.new_id:
        envelope["execution_id"] = _new_id(envelope.get("execution_id"))
    return asyncio.run(_submit(arguments, settings_from(arguments), envelope))


def read_envelope(file: str) -> dict[str, Any]:
    """Return the JSON object in `file`; the worker checks what is in it. Raises EnvelopeError where there is none."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise EnvelopeError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        name = "standard input" if file == "-" else file
        raise EnvelopeError(f"{name}: holds no JSON object; `sfworker schema` prints what an envelope is") from None


def _new_id(old: object) -> str:
    """Return an id that starts like the old one and was never used."""
    import secrets

    start = f"{old[:200]}-" if isinstance(old, str) and old else ""  # ids have 256 characters at most
    return f"{start}{secrets.token_hex(4)}"


async def _known(client: Client, execution_id: object) -> Known | None:
    """Return what an earlier job of this id has come to."""
    if not isinstance(execution_id, str) or not execution_id:
        return None
    known = await client.find(execution_id, _LOOKED_THROUGH)
    if known is not None and known.state == "unseen":
        return None  # most likely it is new
    if known is not None and known.state == "answered" and known.result is None:
        return await client.find(execution_id)  # the result has expired: its last event may be far back
    return known


async def _submit(arguments: argparse.Namespace, settings: Settings, envelope: dict[str, Any]) -> int:
    from sfworker.cli.console import print_json
    from sfworker.cli.known import sentence
    from sfworker.cli.results import print_result
    from sfworker.cli.watch import follow

    async with connected_client(settings) as client:
        known = None if arguments.new_id else await _known(client, envelope.get("execution_id"))
        if known is not None and known.state == "answered":
            # Appending it would change nothing: the worker that takes it drops it.
            execution: Submission | str = (execution_id := str(envelope["execution_id"]))
            said = f"{sentence(execution_id, known)} and is not run again; --new-id sends it as a new one"
            status = (known.result or {}).get("status")
            facts = {"execution_id": execution_id, "entry_id": None, "answered_at": known.answered_at, "status": status}
        else:
            execution = await client.submit(envelope, arguments.priority)
            said = f"{execution.execution_id} appended as entry {execution.entry_id}"
            facts = {"execution_id": execution.execution_id, "entry_id": execution.entry_id}
            if known is not None:
                said += f"; {sentence('an earlier job of this id', known)}, and only one of the two is run"
                said += "; --new-id sends it as a new one"
                execution = execution.execution_id  # what the earlier one has said is to be seen, too
        if known is not None:
            facts["already"] = known.state
        if not arguments.wait:
            if arguments.json:
                print_json(facts)
            else:
                print(said)
            return 0
        if known is not None or arguments.new_id:
            print(said, file=sys.stderr)
        result = (known and known.result) or await follow(client, execution, arguments, known)
    if arguments.json:
        print_json({**result, "already": known.state} if known else result)
    else:
        print_result(result)
    return 0 if result.get("status") == "success" else 1
