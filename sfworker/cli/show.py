"""`sfworker show`: all that is known of one execution, whatever its state."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_redis, settings_from
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Show all that is known of a job: envelope, attempts, stages, result"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("execution_id", type=not_empty, metavar="ID", help="the execution_id of the envelope")
    parser.add_argument("--paths", action="store_true", help="show the paths of data in envelope and result, too")
    parser.add_argument(
        "--bundle", metavar="FILE", help="write all of it to a zip file, to be sent to somebody who helps"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    about = asyncio.run(_about(arguments, settings_from(arguments)))
    from sfworker.cli.console import print_json, say

    if arguments.bundle:
        _write_bundle(arguments.bundle, about)
        sentence = (
            f"{arguments.bundle} is written; it holds no data beyond the job's result, read it before you send it"
        )
        say({"file": arguments.bundle}, sentence, as_json=arguments.json)
    elif arguments.json:
        print_json(about)
    else:
        _print(about)
    return 0


async def _about(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    from sfworker.broker.keys import Keys
    from sfworker.cli.known import unknown
    from sfworker.report.execution import about

    execution_id, keys = arguments.execution_id, Keys(settings.prefix)
    async with connected_redis(settings) as redis:
        found = await about(redis, keys, arguments.group, execution_id, paths=arguments.paths)
    if found is None:
        raise SecretFlowTaskError(unknown(execution_id))
    return found


def _write_bundle(file: str, about: dict[str, Any]) -> None:
    """Write the parts of it as files of a zip archive. Raises SecretFlowTaskError where that cannot be."""
    import os
    from zipfile import ZIP_DEFLATED, ZipFile

    from sfworker import __version__

    about = {"sfworker": __version__, **about}
    parts = {name: about.pop(name) for name in ("envelope", "events", "result")}
    try:
        with (
            open(file, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as target,
            ZipFile(target, "w", ZIP_DEFLATED) as archive,
        ):
            for name, part in {"execution": about, **parts}.items():
                archive.writestr(f"{name}.json", msgspec.json.format(msgspec.json.encode(part), indent=2))
    except OSError as error:
        raise SecretFlowTaskError(f"{file}: cannot be written ({error.strerror})") from None


def _print(about: dict[str, Any]) -> None:
    from sfworker.cli.console import console, print_json
    from sfworker.cli.dead import print_attempts
    from sfworker.cli.results import print_result

    out = console()
    where = f", on {about['worker']}" if about["worker"] and about["state"] == "running" else ""
    held_by = about["held_by"] or ""
    held = ", as a limit holds it up" if held_by.startswith("limit") else ", as jobs like it are paused"
    print(f"{about['execution_id']}: {about['state']}{where}{held if held_by else ''}")
    print_attempts(out, about["attempts"])
    _print_events(about["events"])
    worker = about["worker"] or ((about["result"] or {}).get("task_metadata") or {}).get("worker_id")
    if worker:
        print(f"The log of {worker} is on its host; there, `sfworker logs {about['execution_id']}` prints this job's.")
    if about["result"] is not None:
        print_result(about["result"])
    elif about["state"] in ("success", "failure", "cancelled"):
        print("The result is kept no longer.")
    if about["envelope"] is None:
        print("The envelope is kept no longer.")
        return
    print("envelope:")
    print_json(about["envelope"])


def _print_events(events: list[dict[str, Any]]) -> None:
    """Print the stages with their lengths; of the progress within one stage, the last that was said."""
    from sfworker.cli.console import console, table
    from sfworker.cli.progress import sentence
    from sfworker.report.execution import steps

    stages = table("time", "attempt >", "stage", "after >", "")
    for event, seconds in steps(events):
        after = "" if seconds is None else f"{seconds:.2f} s"
        done = f"{event['progress']:.0%} " if isinstance(event.get("progress"), float) else ""
        shown = (str(event.get("timestamp", ""))[:19], str(event.get("attempt") or ""), str(event.get("stage", "")))
        stages.add_row(*shown, after, done + sentence(event))
    if events:
        console().print(stages)
