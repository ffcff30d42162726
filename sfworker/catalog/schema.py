"""JSON Schema (draft 2020-12) of envelopes, events, results and task types, for forms, validators and generated types.

What msgspec says of the structs is rewritten so that Ajv in strict mode, react-jsonschema-form and
json-schema-to-typescript take it as it is. Rules across fields stay in `check`; these schemas only ever accept more,
but for unknown parameters that are null, which a worker overlooks and no type could describe.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from sfworker import __version__
from sfworker.catalog.base import TaskType
from sfworker.errors import published_error_types
from sfworker.wire.envelope import Envelope
from sfworker.wire.events import JobResult, Notice, StatusEvent

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_JSON_TYPES: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
# json-schema-to-typescript writes a bounded array of up to 20 items as a union of that many tuples.
_LONGEST_TUPLES = 20


def envelope_schema(task_types: Iterable[TaskType]) -> dict[str, Any]:
    """Describes what a job stream takes; `task_config` is one of `task_types`, told apart by `task_type`."""
    offered = list(task_types)
    schema, references = _document("envelope", Envelope, [task_type.params for task_type in offered])
    for reference, task_type in zip(references, offered, strict=True):
        schema["$defs"][_name(reference)]["title"] = task_type.name
    config = schema["properties"]["task_config"]
    config["oneOf"] = references
    config["discriminator"] = {"propertyName": "task_type"}
    schema["$comment"] = "Ajv reads `discriminator` with its option of that name."
    schema["allOf"] = [
        _needs_device(device, names)
        for device in ("heu", "spu")
        if (names := [task_type.name for task_type in offered if device in task_type.devices])
    ]
    return schema


def event_schema() -> dict[str, Any]:
    """Describes what is published on each change of an execution."""
    return _with_error_types(_document("event", StatusEvent, output=True)[0])


def job_result_schema() -> dict[str, Any]:
    """Describes the final answer of an execution; its `result` is open, as the task type decides what it holds."""
    return _with_error_types(_document("result", JobResult, output=True)[0])


def notice_schema() -> dict[str, Any]:
    """Describes what is said of an execution that was sent again."""
    return _document("notice", Notice, output=True)[0]


def parameters_schema(task_type: TaskType) -> dict[str, Any]:
    """Describes the `task_config` of a task type."""
    schema, _ = _document(task_type.name, task_type.params)
    return schema | {"title": task_type.name}


def result_schema(task_type: TaskType) -> dict[str, Any]:
    """Describes the `result` of a successful execution of a task type."""
    schema, _ = _document(f"{task_type.name}:result", task_type.result, output=True)
    return schema | {"title": f"{task_type.name} result"}


def docstrings_of_fields(struct: type) -> dict[str, str]:
    """Finds the string below each field's line, which describes it; nothing keeps that at run time."""
    found = {}
    for base in reversed(struct.__mro__):
        if base.__module__.startswith("msgspec") or base is object:
            continue
        try:
            [declared] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except OSError:  # made by a program, so it has no lines to read
            continue
        for line, below in itertools.pairwise(getattr(declared, "body", [])):
            if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(line.target)] = inspect.cleandoc(ast.literal_eval(below.value))
    return found


def _document(
    name: str, root: type[Struct], others: Iterable[type[Struct]] = (), *, output: bool = False
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Makes the schema of `root`, and references to those of `others` in its `$defs`."""
    structs = [root, *others]
    parts = structs + [part for part in _structs(msgspec.inspect.multi_type_info(structs)) if part not in structs]
    references, components = msgspec.json.schema_components(parts)
    for part, reference in zip(parts, references, strict=True):
        _complete(components[_name(reference)], part, output=output)
    components = {key: _rewritten(component) for key, component in components.items()}
    head = {"$schema": _DIALECT, "$id": f"urn:sfworker:schema:{quote(name, safe=':')}:{__version__}"}
    schema = head | components[_name(references[0])]
    if f'"{references[0]["$ref"]}"' not in msgspec.json.encode(components).decode():
        del components[_name(references[0])]
    if components:
        schema["$defs"] = components
    return schema, list(references[1 : len(structs)])


def _structs(node: object, found: list[type[Struct]] | None = None) -> list[type[Struct]]:
    """Lists every struct in a description of types by `msgspec.inspect`."""
    found = [] if found is None else found
    if isinstance(node, msgspec.inspect.StructType):
        if node.cls in found:
            return found
        found.append(node.cls)
    if isinstance(node, (list, tuple)):
        for each in node:
            _structs(each, found)
    elif isinstance(node, (msgspec.inspect.Type, msgspec.inspect.Field)):
        _structs([getattr(node, name) for name in node.__struct_fields__], found)
    return found


def _complete(schema: dict[str, Any], struct: type[Struct], *, output: bool) -> None:
    """Adds the fields' docstrings; and requires, in what a worker writes, all that is always there."""
    noted = docstrings_of_fields(struct)
    for field in msgspec.structs.fields(struct):
        if field.name in noted:
            schema["properties"][field.encode_name].setdefault("description", noted[field.name])
    if not output:
        required = schema.get("required", ())
        for name, part in schema["properties"].items():
            schema["properties"][name] = _tolerant(part) if name in required else _or_null(_tolerant(part))
    elif not struct.__struct_config__.omit_defaults:
        schema["required"] = [
            field.encode_name for field in msgspec.structs.fields(struct) if field.default is not msgspec.UNSET
        ]


def _tolerant(schema: dict[str, Any]) -> dict[str, Any]:
    """Adds to maps what `wire.tolerance` takes there: null for no entry, and one text for a list of it."""
    schema = dict(schema)
    if isinstance(schema.get("items"), dict):
        schema["items"] = _tolerant(schema["items"])
    if "anyOf" in schema:
        schema["anyOf"] = [_tolerant(part) for part in schema["anyOf"]]
    if isinstance(schema.get("additionalProperties"), dict):
        value = _tolerant(schema["additionalProperties"])
        if value.get("type") == "array" and value["items"].get("type") == "string":
            value = {"anyOf": [value, value["items"]]}
        schema["additionalProperties"] = _or_null(value)
    return schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Adds null, which stands for a value that is left out."""
    told: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in told}
    if "$ref" in rest:
        told.pop("default", None)  # it repeats the defaults of what is referred to
    choices = rest["anyOf"] if rest.keys() == {"anyOf"} else [rest]
    if {} in choices or {"type": "null"} in choices:
        return schema
    return {**told, "anyOf": [*choices, {"type": "null"}]}


def _rewritten(schema: dict[str, Any]) -> dict[str, Any]:
    """Rewrites a schema and all its parts as the tools of the web side want them."""
    schema = _one_type(dict(schema))
    for key in ("properties", "$defs"):
        if key in schema:
            schema[key] = {name: _rewritten(part) for name, part in schema[key].items()}
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), dict):
            schema[key] = _rewritten(schema[key])
    if "anyOf" in schema:
        schema["anyOf"] = [_rewritten(part) for part in schema["anyOf"]]
    if "propertyNames" in schema:
        schema["propertyNames"].setdefault("type", "string")
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    if "$ref" in schema:
        schema.pop("default", None)  # it repeats the defaults of what is referred to
        if len(schema) > 1:  # code generators take a reference with more beside it for a type of its own
            schema["allOf"] = [{"$ref": schema.pop("$ref")}]
    if schema.get("maxItems", _LONGEST_TUPLES + 1) <= _LONGEST_TUPLES:
        schema["not"] = {"minItems": schema.pop("maxItems") + 1}
    return schema


def _one_type(schema: dict[str, Any]) -> dict[str, Any]:
    """Gives choices their type, makes a choice of one a `const`, and joins a value or null in one schema."""
    match schema:
        case {"enum": [only]}:
            del schema["enum"]
            return {"const": only, **_type_of([only])} | schema
        case {"enum": values}:
            return _type_of(values) | schema
        case {"anyOf": [dict(given), {"type": "null"}]}:
            value = _one_type(given)
            if isinstance(value.get("type"), str) and value["type"] != "array":
                del schema["anyOf"]
                value["type"] = [value["type"], "null"]
                if "enum" in value:
                    value["enum"] = [*value["enum"], None]
                return value | schema
    return schema


def _type_of(values: list[Any]) -> dict[str, str]:
    """Says which type all values have, if they have one."""
    kinds = {_JSON_TYPES.get(type(value)) for value in values}
    [kind, *others] = kinds
    return {} if kind is None or others else {"type": kind}


def _name(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _needs_device(device: str, names: list[str]) -> dict[str, Any]:
    config = {"type": "object", "properties": {"task_type": {"enum": names}}, "required": ["task_type"]}
    return {
        "if": {"properties": {"task_config": config}, "required": ["task_config"]},
        "then": {"properties": {f"{device}_config": {"type": "object"}}, "required": [f"{device}_config"]},
    }


def _with_error_types(schema: dict[str, Any]) -> dict[str, Any]:
    """Adds the names that `error_type` can have, those of own task types' errors among them."""
    error_type = schema["properties"]["error_type"]
    error_type["enum"] = [*published_error_types(), None]
    return schema
