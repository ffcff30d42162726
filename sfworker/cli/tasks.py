"""`sfworker tasks`: the installed task types, and all about one of them."""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import json
import textwrap
from typing import TYPE_CHECKING, Any

from sfworker.errors import TaskTypeNotFoundError

if TYPE_CHECKING:
    from msgspec import Struct

    from sfworker.catalog.base import TaskType

SUMMARY = "List the task types, or describe one: parameters, results, what it reveals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="a task type")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON with JSON Schema, for programs")
    form.add_argument("--markdown", action="store_true", help="print a page of Markdown")


def run(arguments: argparse.Namespace) -> int:
    from sfworker.cli.console import console, print_json, table

    if arguments.json or arguments.markdown:
        from sfworker.cli.catalogue import described, page

        asked = _catalog() if arguments.name is None else [installed(arguments.name)]
        if arguments.json:
            print_json([described(task_type) for task_type in asked])
        else:
            print(page(asked), end="")
        return 0
    out = console()
    if arguments.name is None:
        listed = table("task type", "what it does")
        for task_type in _catalog():
            listed.add_row(task_type.name, task_type.summary)
        out.print(listed)
        return 0
    task_type = installed(arguments.name)
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


def installed(name: str) -> TaskType:
    """The task type `name`. Raises TaskTypeNotFoundError, with the nearest names."""
    from sfworker.catalog.base import find

    _catalog()
    try:
        return find(name)
    except TaskTypeNotFoundError as error:
        # On a command line there is no envelope whose field could be named.
        raise TaskTypeNotFoundError(str(error).removeprefix("task_config.task_type: ")) from None


def described_fields(struct: type[Struct]) -> list[dict[str, str]]:
    """Each field's name, type with bounds, default (`required` where there is none) and description."""
    import msgspec

    [schema], components = msgspec.json.schema_components([struct], ref_template="{name}")
    schema = components[schema["$ref"]] if "$ref" in schema else schema
    required = set(schema.get("required", ()))
    noted = _docstrings_of_fields(struct)
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


def _docstrings_of_fields(struct: type[Struct]) -> dict[str, str]:
    """The string below each field's line, which is how results are described; nothing keeps it at run time."""
    found = {}
    for base in reversed(struct.__mro__):
        if not base.__module__.startswith("msgspec") and base is not object:
            [declared] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            lines = getattr(declared, "body", [])
            for line, below in itertools.pairwise(lines):
                if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found[ast.unparse(line.target)] = inspect.cleandoc(ast.literal_eval(below.value))
    return found


def _catalog() -> list[TaskType]:
    from sfworker.catalog.base import all_task_types, load_modules
    from sfworker.settings import load

    load_modules(load().jobs)
    return all_task_types()


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
