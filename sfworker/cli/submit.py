"""`sfworker submit`: append an envelope to the job stream, and wait for its result if asked to."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sfworker.cli.connection import add_redis_arguments, connected_client, settings_from
from sfworker.errors import EnvelopeError

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Append a job to the stream"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the envelope, as JSON; - reads standard input")
    parser.add_argument("--wait", action="store_true", help="wait for the result; exit code 0 only on success")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="with --wait: give up after this long")
    parser.add_argument("--priority", choices=("high", "normal", "low"), help="default: the envelope's own")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_submit(arguments, settings_from(arguments), read_envelope(arguments.file)))


def read_envelope(file: str) -> dict[str, Any]:
    """The JSON object in `file`. Raises EnvelopeError; what is in the object is for the worker to check."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise EnvelopeError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        name = "standard input" if file == "-" else file
        raise EnvelopeError(f"{name}: holds no JSON object; `sfworker schema` prints what an envelope is") from None


async def _submit(arguments: argparse.Namespace, settings: Settings, envelope: dict[str, Any]) -> int:
    from sfworker.cli.console import print_json
    from sfworker.cli.watch import follow

    async with connected_client(settings) as client:
        submission = await client.submit(envelope, arguments.priority)
        if arguments.wait:
            result = await follow(client, submission, arguments.timeout)
            if arguments.json:
                print_json(result)
            else:
                _print_result(result)
            return 0 if result.get("status") == "success" else 1
    if arguments.json:
        print_json({"execution_id": submission.execution_id, "entry_id": submission.entry_id})
    else:
        print(f"{submission.execution_id} appended as entry {submission.entry_id}")
    return 0


def _print_result(result: dict[str, Any]) -> None:
    if result.get("status") != "success":
        print(f"{result.get('status')}: {result.get('error')} ({result.get('error_type')})")
        return
    total = (result.get("performance_metrics") or {}).get("total_seconds")
    print("success" if total is None else f"success after {total:.2f} s")
    answer = result.get("result")
    for name, value in answer.items() if isinstance(answer, dict) else [("result", answer)]:
        print(f"  {name}: {value if isinstance(value, str) else msgspec.json.encode(value).decode()}")
