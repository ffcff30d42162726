"""`sfworker schema`: JSON Schema of what goes in and what comes out, and AsyncAPI of the streams and channels."""

from __future__ import annotations

import argparse
from typing import Any

from sfworker.cli.run import add_jobs_argument

SUMMARY = "Print JSON Schema: of the envelope, an event, a result, or a task type's parameters or result; or AsyncAPI"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        default="envelope",
        help="envelope (default), event, result, a task type, whose parameters go flat into task_config, or asyncapi, "
        "an AsyncAPI document of streams and channels",
    )
    parser.add_argument("--result", action="store_true", help="of what the task type NAME answers as `result`")
    parser.add_argument("--json", action="store_true", help="changes nothing, as a schema is JSON")
    add_jobs_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from sfworker.cli.console import print_json

    print_json(schema(arguments.name, arguments.jobs, of_result=arguments.result))
    return 0


def schema(name: str, jobs: list[str] | None = None, *, of_result: bool = False) -> dict[str, Any]:
    """Return the JSON Schema called `name`. Raises TaskTypeNotFoundError where there is none."""
    from sfworker.catalog import schema
    from sfworker.catalog.installed import installed, installed_task_types

    if of_result:
        return schema.result_schema(installed(name, jobs))
    task_types = installed_task_types(jobs)
    if name == "envelope":
        return schema.envelope_schema(task_types)
    if name == "asyncapi":
        from sfworker.cli import asyncapi

        return asyncapi.document(task_types)
    if name == "event":
        return schema.event_schema()
    if name == "result":
        return schema.job_result_schema()
    return schema.parameters_schema(installed(name, jobs))
