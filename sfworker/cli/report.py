"""`sfworker report`: a result as a page with charts, and its tables as CSV files."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import (
    add_group_argument,
    add_redis_arguments,
    connected_client,
    connected_redis,
    settings_from,
)
from sfworker.cli.submit import read_envelope
from sfworker.errors import SecretFlowTaskError, SettingsError

if TYPE_CHECKING:
    from sfworker.settings import Settings
    from sfworker.wire.events import JobResult

SUMMARY = "Draw a result as a page of HTML, or write its tables as CSV files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "execution_id", type=not_empty, metavar="ID", nargs="?", help="the execution_id of the envelope"
    )
    parser.add_argument("--file", metavar="FILE", help="a result as JSON, in place of ID; - reads standard input")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the page to write, one file that needs no other"
    )
    parser.add_argument("--csv", type=Path, metavar="DIRECTORY", help="where to write each table as a CSV file")
    parser.add_argument("--envelope", metavar="FILE", help="the job that made it; default: the one in Redis")
    parser.add_argument("--paths", action="store_true", help="show the paths of files, too")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if (arguments.execution_id is None) == (arguments.file is None):
        raise SettingsError("report: needs either the ID of an execution or --file with a result")
    if arguments.output is None and arguments.csv is None:
        raise SettingsError("report: needs -o FILE for a page, --csv DIRECTORY for tables, or both")
    envelope: object = None
    if arguments.file is not None:
        from sfworker.report.execution import decoded

        result = decoded(_read(arguments.file))
    else:
        result, envelope = asyncio.run(_fetch(arguments, settings_from(arguments)))
    if arguments.envelope is not None:
        envelope = read_envelope(arguments.envelope)
    from sfworker.cli.console import say

    files = [str(file) for file in _write(arguments, result, envelope)]
    say({"files": files}, *files, as_json=arguments.json)
    return 0


def _write(arguments: argparse.Namespace, result: object, envelope: object) -> list[Path]:
    from sfworker.report.csv_files import write_tables
    from sfworker.report.hiding import without_paths
    from sfworker.report.tables import tables

    checked = _checked(result)
    known: dict[str, Any] | None = envelope if isinstance(envelope, dict) else None
    if known is not None and known.get("execution_id") != checked.task_metadata.execution_id:
        raise SettingsError("--envelope: is another execution's; name the job that made this result, or leave it out")
    written: list[Path] = []
    try:
        if arguments.output is not None:
            from sfworker.report.page import page

            arguments.output.write_text(page(checked, known, paths=arguments.paths), encoding="utf-8")
            written.append(arguments.output)
        if arguments.csv is not None:
            answer = checked.result if arguments.paths else without_paths(checked.result)
            metrics = {"peak_rss_bytes": checked.performance_metrics.peak_rss_bytes}
            written += write_tables(tables({"result": answer, "performance_metrics": metrics}), arguments.csv)
    except OSError as error:
        raise SettingsError(f"report: cannot be written ({error.strerror}); name another place") from None
    return written


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(f"--file: cannot be read ({error.strerror})") from None


def _checked(result: object) -> JobResult:
    from sfworker.wire.events import JobResult

    try:
        return msgspec.convert(result, JobResult)
    except msgspec.ValidationError:
        raise SettingsError(
            "report: this is no result of sfworker; give what sf:result:ID holds, as `sfworker schema result` describes"
        ) from None


async def _fetch(arguments: argparse.Namespace, settings: Settings) -> tuple[dict[str, Any], object]:
    """Return a result and, where it is kept, the envelope."""
    from sfworker.cli.known import command_line, sentence, unknown

    execution_id = arguments.execution_id
    async with connected_client(settings) as client:
        known = await client.find(execution_id)
    if known is None:
        raise SecretFlowTaskError(unknown(execution_id))
    if known.state != "answered":
        watch = command_line(arguments, "watch", execution_id)
        raise SecretFlowTaskError(f"{sentence(execution_id, known)} and has no result yet; `{watch}` waits for it")
    if known.result is None:
        raise SecretFlowTaskError(
            f"{sentence(execution_id, known)}; its result is not kept any more; --file takes one kept elsewhere"
        )
    return known.result, await _envelope(execution_id, known.group or arguments.group, settings)


async def _envelope(execution_id: str, group: str, settings: Settings) -> object:
    """Return the envelope of a job; None where it is kept no longer, or may not be read."""
    from redis.exceptions import NoPermissionError

    from sfworker.broker.finding import find
    from sfworker.broker.keys import Keys
    from sfworker.report.execution import decoded

    async with connected_redis(settings) as redis:
        try:
            found = await find(redis, Keys(settings.prefix), group, execution_id)
        except NoPermissionError:
            return None
    return None if found is None else decoded(found.envelope)
