"""Describes task types in words, for `sfworker tasks` and the page in this directory."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from sfworker.catalog.base import TaskType
from sfworker.catalog.schema import docstrings_of_fields, parameters_schema, result_schema

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
        "parameters": parameters_schema(task_type),
        "result": result_schema(task_type),
        "disclosures": list(task_type.disclosures),
    }


def page(task_types: Iterable[TaskType]) -> str:
    """The catalogue as Markdown: a table of contents by family, then an entry for each task type."""
    families = {
        family: sorted(members, key=lambda member: member.name)
        for family, members in itertools.groupby(sorted(task_types, key=_family), key=_family)
    }
    contents = [
        f"| {family} | {', '.join(f'[`{each.name}`](#{each.name})' for each in members)} |"
        for family, members in families.items()
    ]
    parts = [_HEAD, "\n".join(["| family | task types |", "|---|---|", *contents]) + "\n"]
    parts += [_entry(task_type) for members in families.values() for task_type in members]
    return "\n".join(parts)


def described_fields(struct: type[Struct]) -> list[dict[str, str]]:
    """Each field's name, type with bounds, default (`required` where there is none) and description."""
    [schema], components = msgspec.json.schema_components([struct], ref_template="{name}")
    schema = components[schema["$ref"]] if "$ref" in schema else schema
    required = set(schema.get("required", ()))
    noted = docstrings_of_fields(struct)
    described = []
    for name, field in schema["properties"].items():
        if name == "task_type":  # the tag
            continue
        default = "" if "default" not in field else json.dumps(field["default"], ensure_ascii=False)
        described.append(
            {
                "name": name,
                "type": _type_in_words(field, components),
                "default": "required" if name in required else default,
                "description": field.get("description", noted.get(name, "")),
            }
        )
    return described


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


def _type_in_words(schema: dict[str, Any], components: dict[str, Any]) -> str:
    """A JSON Schema type on one line, such as `integer 1..100` or `{party: [string]}`."""
    if "$ref" in schema:
        schema = components[schema["$ref"]]
    if "anyOf" in schema:
        return " or ".join(_type_in_words(option, components) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        inner = _type_in_words(schema["items"], components) if isinstance(schema.get("items"), dict) else "any"
        return f"[{inner}]{_bounds(schema)}"
    if kind == "object" and "properties" in schema:
        fields = (f"{name}: {_type_in_words(field, components)}" for name, field in schema["properties"].items())
        return "{" + ", ".join(fields) + "}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return "{name: " + (_type_in_words(values, components) if isinstance(values, dict) else "any") + "}"
    return f"{kind}{_bounds(schema)}"


def _bounds(schema: dict[str, Any]) -> str:
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    words = []
    if lowest is not None and highest is not None:
        words.append(f"{lowest}..{highest}")
    else:
        words += [f">= {lowest}"] if lowest is not None else []
        words += [f"<= {highest}"] if highest is not None else []
    words += [f"> {schema['exclusiveMinimum']}"] if "exclusiveMinimum" in schema else []
    words += [f"< {schema['exclusiveMaximum']}"] if "exclusiveMaximum" in schema else []
    # That a name is not empty goes without saying; the rest of a text's bounds is in `sfworker schema`.
    words += [f"at least {schema['minItems']}"] if schema.get("minItems", 0) > 1 else []
    return " " + ", ".join(words) if words else ""
