"""`sfworker tasks`: the installed task types, and all about one of them."""

from __future__ import annotations

import argparse
import inspect

from sfworker.cli.run import add_jobs_argument

SUMMARY = "List the task types, or describe one: parameters, results, what it reveals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a task type")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON with JSON Schema, for programs")
    form.add_argument("--markdown", action="store_true", help="print a page of Markdown")
    add_jobs_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from sfworker.catalog.description import described, described_fields, page
    from sfworker.catalog.installed import installed, installed_task_types
    from sfworker.cli.console import console, print_json, table

    jobs = arguments.jobs
    if arguments.json or arguments.markdown:
        named = arguments.name is not None
        asked = [installed(arguments.name, jobs)] if named else installed_task_types(jobs)
        if arguments.json:
            print_json([described(task_type) for task_type in asked])
        else:
            print(page(asked), end="")
        return 0
    out = console()
    if arguments.name is None:
        listed = table("task type", "what it does")
        for task_type in installed_task_types(jobs):
            listed.add_row(task_type.name, task_type.summary)
        out.print(listed)
        return 0
    task_type = installed(arguments.name, jobs)
    out.print(f"{task_type.name}: {task_type.summary}")
    out.print(inspect.getdoc(task_type.params) or "")
    if task_type.devices:
        out.print(f"Needs in the envelope: {', '.join(f'{device}_config' for device in sorted(task_type.devices))}")
    parameters = table("parameter", "type", "default", "what it is", title="task_config")
    for field in described_fields(task_type.params):
        parameters.add_row(field["name"], field["type"], field["default"], field["description"])
    out.print(parameters if parameters.row_count else "It has no parameters.")
    results = table("field", "type", "what it is", title="result")
    for field in described_fields(task_type.result):
        results.add_row(field["name"], field["type"], field["description"])
    out.print(results)
    if task_type.disclosures:
        out.print("What it reveals:")
    for disclosure in task_type.disclosures:
        out.print(f"  - {disclosure}")
    return 0
