"""Task types as data for programs and as the page `sfworker/catalog/README.md`, both from the structs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sfworker.cli.schema import schema_of
from sfworker.cli.tasks import described_fields

if TYPE_CHECKING:
    from sfworker.catalog.base import TaskType

_HEAD = """\
# Task types

Written by `make catalogue` from the structs in this directory; do not edit. `sfworker tasks NAME` prints an entry,
`sfworker tasks --json` all of them with JSON Schema, from which forms can be built.
"""


def described(task_type: TaskType) -> dict[str, Any]:
    """All about a task type, as plain JSON values."""
    return {
        "name": task_type.name,
        "family": _family(task_type),
        "summary": task_type.summary,
        "description": inspect.getdoc(task_type.params) or "",
        "devices": sorted(task_type.devices),
        "spu_defaults": dict(task_type.spu_defaults),
        "parameters": schema_of(task_type.params),
        "result": schema_of(task_type.result),
        "disclosures": list(task_type.disclosures),
    }


def page(task_types: Iterable[TaskType]) -> str:
    """The catalogue as Markdown: a table of contents by family, then an entry for each task type."""
    families = {
        family: sorted(members, key=lambda member: member.name)
        for family, members in groupby(sorted(task_types, key=_family), key=_family)
    }
    contents = [
        f"| {family} | {', '.join(f'[`{each.name}`](#{each.name})' for each in members)} |"
        for family, members in families.items()
    ]
    parts = [_HEAD, "\n".join(["| family | task types |", "|---|---|", *contents]) + "\n"]
    parts += [_entry(task_type) for members in families.values() for task_type in members]
    return "\n".join(parts)


def _entry(task_type: TaskType) -> str:
    needed = [f"`{device}_config`" for device in sorted(task_type.devices)]
    lines = [f"## {task_type.name}", "", f"{task_type.summary}.", "", inspect.getdoc(task_type.params) or ""]
    if needed:
        lines += ["", f"Needs in the envelope: {', '.join(needed)}."]
    if task_type.spu_defaults:
        held = ", ".join(f"`{name}` {value}" for name, value in task_type.spu_defaults.items())
        lines += ["", f"Where the envelope's `runtime_config` says nothing else: {held}."]
    parameters = described_fields(task_type.params)
    if parameters:
        lines += ["", "| parameter | type | default | what it is |", "|---|---|---|---|"]
        lines += [_row(f"`{f['name']}`", f["type"], f["default"], f["description"]) for f in parameters]
    lines += ["", "| result | type | what it is |", "|---|---|---|"]
    lines += [_row(f"`{f['name']}`", f["type"], f["description"]) for f in described_fields(task_type.result)]
    lines += ["", "Reveals:", ""] if task_type.disclosures else ["", "Reveals nothing."]
    lines += [f"- {disclosure}" for disclosure in task_type.disclosures]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _family(task_type: TaskType) -> str:
    """The module that holds the structs."""
    return task_type.params.__module__.rpartition(".")[2].replace("_", " ")
