"""Makes a form of a task type's JSON Schema, and envelopes of what comes back, which the catalogue checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from sfworker.catalog.base import TaskType, decode, validate
from sfworker.catalog.schema import parameters_schema
from sfworker.errors import SecretFlowTaskError
from sfworker.flow import Job, Options
from sfworker.wire.envelope import decode_envelope

Kind = Literal["text", "number", "flag", "choice", "lines", "party_texts", "party_lines", "column", "json"]
Fields = Mapping[str, Sequence[str]]
PRIORITIES = ("normal", "high", "low")
PROTOCOLS = ("SEMI2K", "CHEETAH", "ABY3")
SPU_FIELDS = ("FM128", "FM64", "FM32")
HEU = '{"mode": "PHEU"}'
MOST_PARTIES = 16
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,30})(\.\d{1,30})?([eE][-+]?\d{1,3})?")
_PATH = re.compile(r"task_config\.(\w+)")


@dataclass(frozen=True, kw_only=True)
class Input:
    """One parameter in the form. `values` are what was put in, by party or part where there are several."""

    name: str
    kind: Kind
    description: str
    required: bool
    default: str
    schema: dict[str, Any]
    choices: list[str]
    parts: list[str]
    """Names of its fields behind the parameter's; one empty name where it has one field."""
    values: dict[str, str]
    error: str = ""


@dataclass
class Form:
    """A task type's form, with what was put in and what is wrong with it."""

    task_type: TaskType
    parties: list[str]
    inputs: list[Input]
    given: dict[str, str]
    """The fields that all task types share."""
    errors: dict[str, str] = field(default_factory=dict)
    """Sentences by the name of a shared field, or `p.` and that of an input; those of none are at `form`."""


SHARED = ("execution_id", "task_id", "subtask_id", "priority", "spu_protocol", "spu_field", "heu")


def form(task_type: TaskType, parties: list[str], fields: Fields, errors: Mapping[str, str] | None = None) -> Form:
    """Return the form, filled in with `fields`."""
    schema = parameters_schema(task_type)
    needed = set(schema.get("required", ()))
    made = Form(task_type, parties, [], {name: _one(fields, name) for name in SHARED}, dict(errors or {}))
    made.given["heu"] = made.given["heu"] or HEU
    for name, about in schema["properties"].items():
        if name == "task_type":
            continue
        bare = _bare(about, schema.get("$defs", {}))
        kind = _kind(bare, schema.get("$defs", {}))
        parts = {"party_texts": parties, "party_lines": parties, "column": ["party", "column"]}.get(kind, [""])
        default = about.get("default")
        made.inputs.append(
            Input(
                name=name,
                kind=kind,
                description=about.get("description", ""),
                required=name in needed,
                default="" if default in (None, {}, []) else _text(default),
                schema=bare,
                choices=[str(each) for each in bare.get("enum", ()) if each is not None],
                parts=parts,
                values={part: _one(fields, _field(name, part)) for part in parts},
                error=made.errors.pop(f"p.{name}", ""),
            )
        )
    return made


def envelope(made: Form) -> dict[str, Any] | None:
    """Return the envelope of what was put in, or None where something is wrong, which the form's `errors` then say."""
    config: dict[str, Any] = {"task_type": made.task_type.name}
    for each in made.inputs:
        try:
            value = _value(each)
        except (msgspec.DecodeError, RecursionError):
            made.errors[f"p.{each.name}"] = "this is not JSON"
            continue
        if value is not None:
            config[each.name] = value
    given, devices = made.given, made.task_type.devices
    try:
        heu = msgspec.json.decode(given["heu"], type=dict[str, Any]) if "heu" in devices else None
    except (msgspec.DecodeError, RecursionError):
        made.errors["heu"] = "this is no JSON object"
    runtime = {"protocol": given["spu_protocol"] or PROTOCOLS[0], "field": given["spu_field"] or SPU_FIELDS[0]}
    if runtime["protocol"] not in PROTOCOLS or runtime["field"] not in SPU_FIELDS:
        made.errors["spu_protocol"] = f"one of {', '.join(PROTOCOLS)} with one of {', '.join(SPU_FIELDS)}"
    if made.errors:
        return None
    priority = given["priority"] if given["priority"] in PRIORITIES else PRIORITIES[0]
    job = Job(
        parties=made.parties,
        spu={"cluster_def": {"runtime_config": runtime}} if "spu" in devices else None,
        heu=heu,
        options=Options(priority=priority),  # type: ignore[arg-type]
        task_id=given["task_id"] or None,
    )
    try:
        params = decode(config, made.task_type.params)
        return job.envelope(params, execution_id=given["execution_id"] or None, subtask_id=given["subtask_id"] or None)
    except SecretFlowTaskError as error:
        place, sentence = _placed(made, str(error))
        made.errors[place] = sentence
        return None


def read(text: str, parties: list[str], most_bytes: int) -> dict[str, Any]:
    """Return the envelope in a text. Raises a SecretFlowTaskError that names what is wrong, as a worker would."""
    data = text.encode(errors="replace")
    checked = decode_envelope(data, most_bytes)
    init = checked.sf_init_config
    validate(checked.task_config, list(init.cluster_config.parties) if init.cluster_config else init.parties or parties)
    found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    return found


def party_list(text: str, default: list[str]) -> list[str]:
    """Read names of parties with commas between them."""
    return list(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))[:MOST_PARTIES] or default


def _bare(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without null, and what it refers to in its place."""
    if "allOf" in schema:
        return _bare(schema["allOf"][0], defs)
    if "$ref" in schema:
        found: dict[str, Any] = defs[schema["$ref"].rpartition("/")[2]]
        return found
    if "anyOf" in schema:
        some = [each for each in schema["anyOf"] if each != {"type": "null"}]
        return _bare(some[0], defs) if len(some) == 1 else schema
    if isinstance(schema.get("type"), list):
        return schema | {"type": next(each for each in schema["type"] if each != "null")}
    return schema


def _kind(schema: dict[str, Any], defs: dict[str, Any]) -> Kind:
    """Return how a parameter is put in. What has no simpler way is JSON."""
    if "enum" in schema:
        return "choice"
    simple: dict[Any, Kind] = {"boolean": "flag", "integer": "number", "number": "number", "string": "text"}
    kind = schema.get("type")
    if kind in simple:
        return simple[kind]
    if kind == "array" and _bare(schema.get("items", {}), defs).get("type") == "string":
        return "lines"
    if kind == "object" and set(schema.get("properties", ())) == {"party", "column"}:
        return "column"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return _kind_by_party(schema["additionalProperties"], defs)
    return "json"


def _kind_by_party(each: dict[str, Any], defs: dict[str, Any]) -> Kind:
    some = [_bare(one, defs) for one in each.get("anyOf", [each]) if one != {"type": "null"}]
    kinds = {one.get("type") for one in some}
    if "array" in kinds and all(_kind(one, defs) in ("lines", "text") for one in some):
        return "party_lines"
    return "party_texts" if kinds == {"string"} and "enum" not in some[0] else "json"


def _value(given: Input) -> Any:
    """Return what was put in as the catalogue takes it, None where nothing was. Raises DecodeError for no JSON."""
    values = {part: text.strip() for part, text in given.values.items() if text.strip()}
    if not values:
        return None
    if given.kind == "party_lines":
        return {party: _lines(text) for party, text in values.items()}
    if given.kind in ("party_texts", "column"):
        return values
    [text] = values.values()
    # A number that is none stays a text, of which the catalogue then says so; as it does of a choice.
    read: dict[Kind, Callable[[str], Any]] = {
        "json": msgspec.json.decode,
        "lines": _lines,
        "flag": lambda text: {"true": True, "false": False}.get(text, text),
        "number": lambda text: msgspec.json.decode(text) if _NUMBER.fullmatch(text) else text,
    }
    return read.get(given.kind, str)(text)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _placed(made: Form, sentence: str) -> tuple[str, str]:
    """Return the input that a sentence is about, by the field that it begins with."""
    path = sentence.partition(":")[0]
    if (found := _PATH.match(path)) and any(each.name == found[1] for each in made.inputs):
        return f"p.{found[1]}", sentence
    places = {"sf_init_config": "parties", "spu_config": "spu_protocol", "heu_config": "heu", "options": "priority"}
    first = path.partition(".")[0]
    return places.get(first, first if first in SHARED else "form"), sentence


def _field(name: str, part: str) -> str:
    return f"p.{name}.{part}" if part else f"p.{name}"


def _one(fields: Fields, name: str) -> str:
    return next(iter(fields.get(name, ())), "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
