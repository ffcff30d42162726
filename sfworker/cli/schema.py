"""`sfworker schema`: JSON Schema of what goes in and what comes out."""

from __future__ import annotations

import argparse
from typing import Any

SUMMARY = "Print JSON Schema: of the envelope, an event, a result, or a task type's parameters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        default="envelope",
        help="envelope (default), event, result, or a task type, whose parameters go flat into task_config",
    )


def run(arguments: argparse.Namespace) -> int:
    from sfworker.cli.console import print_json

    print_json(schema(arguments.name))
    return 0


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema called `name`. Raises TaskTypeNotFoundError where there is none."""
    from sfworker.catalog.description import schema_of
    from sfworker.wire.envelope import Envelope
    from sfworker.wire.events import JobResult, StatusEvent

    found = {"envelope": Envelope, "event": StatusEvent, "result": JobResult}.get(name)
    if found is None:
        from sfworker.cli.tasks import installed

        found = installed(name).params
    return schema_of(found)
