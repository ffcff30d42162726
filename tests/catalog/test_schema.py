"""JSON Schemas in the hands of those who use them: a validator, a code generator, a form; and beside the worker."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from sfworker.catalog import TaskParams, TaskType, all_task_types, load_modules
from sfworker.catalog.job import accept
from sfworker.catalog.schema import (
    envelope_schema,
    event_schema,
    job_result_schema,
    parameters_schema,
    result_schema,
)
from sfworker.errors import SecretFlowTaskError
from sfworker.settings import Settings
from sfworker.wire import tolerance
from tests.catalog.examples import SPU, TASKS, job
from tests.node.packages import Node
from tests.running_worker import RunningWorker, envelope

HERE = Path(__file__).parent
NO = object()
"""Leave the key out."""


@pytest.fixture(scope="module")
def task_types() -> list[TaskType]:
    load_modules([])
    return [task_type for task_type in all_task_types() if task_type.params.__module__.startswith("sfworker.")]


@pytest.fixture(scope="module")
def schemas(task_types: list[TaskType]) -> dict[str, dict[str, Any]]:
    """Every schema by a name."""
    common = {"envelope": envelope_schema(task_types), "event": event_schema(), "result": job_result_schema()}
    parameters = {task_type.name: parameters_schema(task_type) for task_type in task_types}
    results = {f"{task_type.name}_result": result_schema(task_type) for task_type in task_types}
    return common | parameters | results


def subschemas(schema: Any) -> list[dict[str, Any]]:
    """All objects in a schema; some are maps of names to schemas."""
    if isinstance(schema, list):
        return [found for each in schema for found in subschemas(each)]
    if isinstance(schema, dict):
        return [schema, *(found for each in schema.values() for found in subschemas(each))]
    return []


def worker_takes(sent: dict[str, Any]) -> bool:
    settings = Settings(data_roots="/data", allow_insecure_protocols=True)
    try:
        accept(json.dumps(sent).encode(), settings, now=0.0)
    except SecretFlowTaskError:
        return False
    return True


def ajv(node: Node, schema: dict[str, Any], values: list[Any]) -> list[bool]:
    """Which of the values a schema takes."""
    answer = node.run(HERE / "validate.cjs", {"it": {"schema": schema, "values": values}})["it"]
    assert answer["error"] is None
    valid: list[bool] = answer["valid"]
    return valid


# --- what is in them


def test_every_schema_has_an_id_of_its_own_a_title_and_flowing_text(schemas: dict[str, dict[str, Any]]) -> None:
    assert len({schema["$id"] for schema in schemas.values()}) == len(schemas)
    for name, schema in schemas.items():
        assert schema["$id"].startswith("urn:sfworker:schema:"), name
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["title"], name
        for each in subschemas(schema):
            assert "\n" not in str(each.get("description", "")), name


def test_errors_stages_and_times_are_told(schemas: dict[str, dict[str, Any]]) -> None:
    event, result = schemas["event"]["properties"], schemas["result"]["properties"]
    assert {"ParameterValidationError", "PeerFailedError", None} < set(event["error_type"]["enum"])
    assert not {"SettingsError", "BrokerError", "FlowError", "JobCancelledError"} & set(event["error_type"]["enum"])
    assert result["error_type"]["enum"] == event["error_type"]["enum"]
    assert "task_failed_final" in event["stage"]["enum"]
    assert "RETRY" in event["status"]["enum"]
    times = schemas["result"]["$defs"]["TaskMetadata"]["properties"]
    assert {event["timestamp"]["format"], times["started_at"]["format"], times["completed_at"]["format"]} == {
        "date-time"
    }


def test_every_result_field_that_has_a_docstring_is_described(schemas: dict[str, dict[str, Any]]) -> None:
    assert schemas["psi_result"]["properties"]["intersection_count"]["description"] == "Rows of the inner join."
    assert "row_count" not in schemas["psi_result"]["required"]
    assert "aggregations" in schemas["groupby_statistics"]["properties"]


def own_task_type(name: str) -> TaskType:
    """As somebody's module would bring it; two of them call their structs the same."""

    class Params(TaskParams, tag=name, frozen=True, kw_only=True):
        """How often."""

        times: Annotated[int, Meta(ge=1, description="At least once.")] = 1

    Params.__qualname__ = f"{name}.Params"
    made = msgspec.defstruct("Made", [("count", int)])  # without source, where docstrings of fields would be
    return TaskType(name=name, summary="Ours", params=Params, result=made)


def test_own_task_types_are_part_of_the_envelope(node: Node, task_types: list[TaskType]) -> None:
    own = [own_task_type("own/first"), own_task_type("own/second")]
    envelopes = envelope_schema([*task_types, *own])
    tasks = [
        {"task_type": "own/first", "times": 2},
        {"task_type": "own/second"},
        {"task_type": "own/first", "times": 0},
    ]
    assert ajv(node, envelopes, [job(task) for task in tasks]) == [True, True, False]
    assert ajv(node, result_schema(own[0]), [{"count": 1}, {}]) == [True, False]


class Tree(msgspec.Struct):
    """A result that holds others of its kind."""

    branches: list[Tree] = []


def test_a_result_may_hold_itself(node: Node) -> None:
    own = TaskType(name="grow", summary="Ours", params=TaskParams, result=Tree)
    trees = [{"branches": [{"branches": []}]}, {"branches": [{}]}]
    assert ajv(node, result_schema(own), trees) == [True, False]


# --- Ajv in strict mode


def test_ajv_takes_every_schema_in_strict_mode(node: Node, schemas: dict[str, dict[str, Any]]) -> None:
    answered = node.run(
        HERE / "validate.cjs", {name: {"schema": schema, "values": []} for name, schema in schemas.items()}
    )
    assert {name: answer["error"] for name, answer in answered.items() if answer["error"]} == {}


def test_ajv_takes_what_the_worker_takes(node: Node, schemas: dict[str, dict[str, Any]]) -> None:
    assert set(TASKS) == {name for name in schemas if f"{name}_result" in schemas}
    jobs = [job(task) for task in TASKS.values()]
    plain = [job(task, spu_config=None, heu_config=None) for task in TASKS.values()]
    bare = envelope(TASKS["hello"])
    more = [
        bare,
        {**bare, "created_by": "web", "options": {"expires_at": "2100-01-31T18:00:00Z", "threads": None}},
        {**bare, "options": {"expires_at": 4e9, "priority": "high"}},
        job(TASKS["psi"], sf_init_config={"parties": ["alice", "bob"], "logging_level": "info"}),
        job(TASKS["vif"], sf_init_config={"cluster_config": {"parties": {"alice": {"address": "h:1"}}}}),
    ]
    assert [worker_takes(sent) for sent in jobs] == [True] * len(jobs)
    every = [*jobs, *plain, *more]
    assert ajv(node, schemas["envelope"], every) == [worker_takes(sent) for sent in every]


_PSI = TASKS["psi"]
REFUSED = [
    job({"task_type": "psi"}),
    job({"task_type": "sip"}),
    job({"receiver": "alice"}),
    job({}),
    {**job(_PSI), "task_config": []},
    job(_PSI | {"task_type": "unbalanced_psi"}),
    job(_PSI | {"receivers": ["alice"]}),
    job(_PSI | {"receiver": ["alice"]}),
    job(_PSI | {"receiver": "a/b"}),
    job(_PSI | {"receiver": "a\n"}),
    job(_PSI | {"receiver": ".."}),
    job(_PSI | {"keys": {"alice": [], "bob": ["id"]}}),
    job(_PSI | {"keys": {"": ["id"], **_PSI["keys"]}}),
    job(TASKS["ss_lr"] | {"epochs": 0}),
    job(TASKS["ss_lr"] | {"epochs": 10_001}),
    job(TASKS["ss_lr"] | {"learning_rate": 0}),
    job(TASKS["ss_lr"] | {"label": {"party": "alice"}}),
    job(_PSI, sf_init_config=NO),
    job(_PSI, sf_init_config={"parties": []}),
    job(_PSI, sf_init_config={"parties": [f"p{number}" for number in range(17)]}),
    job(_PSI, execution_id=NO),
    job(_PSI, execution_id=""),
    job(_PSI, execution_id="a\nb"),
    job(_PSI, execution_id="x" * 257),
    job(_PSI, spu_config=NO),
    job(_PSI, spu_config=None),
    job(_PSI, spu_config={"cluster_def": {"runtime_config": {}}}),
    job(_PSI, spu_config={"cluster_def": {"runtime_config": {"protocol": "SEMI3K"}}}),
    job(_PSI, spu_config={"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": 128}}}),
    job(_PSI, options={"priority": "urgent"}),
    job(_PSI, options={"max_retry": 3}),
    job(_PSI, options={"time_limit": 0}),
    job(_PSI, options={"threads": 0}),
    job(_PSI, options={"expires_at": "tomorrow"}),
]


def test_ajv_refuses_what_the_worker_refuses(node: Node, schemas: dict[str, dict[str, Any]]) -> None:
    refused = [{key: value for key, value in sent.items() if value is not NO} for sent in REFUSED]
    for sent, valid in zip(refused, ajv(node, schemas["envelope"], refused), strict=True):
        assert (valid, worker_takes(sent)) == (False, False), sent


def fits(task: dict[str, Any], task_type: TaskType) -> bool:
    """Whether each parameter by itself is as the worker takes it."""
    try:
        tolerance.convert(task, task_type.params)
    except msgspec.ValidationError:
        return False
    return task.get("task_type") is not None  # by which the worker has found the task type


def changed(task: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """A task's parameters with each one left out, and with values that are at, or beyond, what its schema says."""
    made = [{name: value for name, value in task.items() if name != left_out} for left_out in task]
    values = [None, True, 0, 1, -1, 0.5, 3.5, 10**12, 3.0, "", "x", [], ["x"], [1], {}]
    values += [{"alice": value} for value in ("", "x", 1, ["x"], [None], {"x": None, "z": "str"})]
    values += [{"alice": None, "bob": "x"}, {"alice": None, "bob": ["x"]}]
    made += [task | {name: value} for name in (*schema["properties"], "unknown") for value in values]
    made.remove(task | {"unknown": None})  # which the worker overlooks, and no schema does
    for name, field in schema["properties"].items():
        bounds = [field[at] for at in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if at in field]
        made += [task | {name: bound + step} for bound in bounds for step in (-1, -0.001, 0, 0.001, 1)]
        made += [task | {name: value} for value in field.get("enum", [])]
    return made


def is_spelled_otherwise(task: dict[str, Any], task_type: TaskType) -> bool:
    """Whether its changed parameter is one that a schema leaves to the worker: what is empty, or a flag as a number."""
    return any(each in ("", [], 0, 1) for name, each in task.items() if each != TASKS[task_type.name].get(name))


def test_ajv_and_the_worker_agree_on_every_parameter(
    node: Node, schemas: dict[str, dict[str, Any]], task_types: list[TaskType]
) -> None:
    """Of parameters by themselves; what they have to be together, as `check` says, no schema knows."""
    asked = {
        task_type.name: {
            "schema": schemas[task_type.name],
            "values": changed(TASKS[task_type.name], schemas[task_type.name]),
        }
        for task_type in task_types
    }
    answered = node.run(HERE / "validate.cjs", asked)
    for task_type in task_types:
        for value, valid in zip(asked[task_type.name]["values"], answered[task_type.name]["valid"], strict=True):
            assert valid == fits(value, task_type) or (not valid and is_spelled_otherwise(value, task_type)), value


def test_what_a_worker_says_is_as_its_schemas_say(
    node: Node, worker: RunningWorker, schemas: dict[str, dict[str, Any]]
) -> None:
    good, bad, broken = envelope(TASKS["hello"]), envelope({"task_type": "hello", "name": 1}), b"{}"
    results = [worker.run(sent) for sent in (good, bad)]
    ids = [good["execution_id"], bad["execution_id"], worker.send(broken)]
    worker.until_ended(ids[2])
    results += worker.said(ids[2], "result")
    events = [event for known_as in ids for event in worker.said(known_as)]
    assert {event["status"] for event in events} >= {"RUNNING", "SUCCESS", "FAILURE"}
    assert all(ajv(node, schemas["event"], events))
    assert all(ajv(node, schemas["result"], results))
    assert ajv(node, schemas["hello_result"], [results[0]["result"]]) == [True]
    assert not any(ajv(node, schemas["event"], [event | {"timestamp": "today"} for event in events]))


# --- TypeScript


def test_generated_types_are_checked_by_the_compiler(
    node: Node, schemas: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    node.run(HERE / "types.cjs", schemas, str(tmp_path))
    good, bad = (json.dumps(envelope(task, spu_config=SPU)) for task in (TASKS["psi"], {"task_type": "psi"}))
    (tmp_path / "use.ts").write_text(
        f"""
import {{ Envelope, Psi }} from "./envelope";
import {{ JobResult }} from "./result";
import {{ PsiResult }} from "./psi_result";
export const good: Envelope = {good};
// @ts-expect-error: parameters are missing
export const bad: Envelope = {bad};
export const psi: Psi | null = good.task_config.task_type === "psi" ? good.task_config : null;
export const count = (result: JobResult): number => (result.result as unknown as PsiResult).intersection_count;
"""
    )
    command = [node.packages / "node_modules" / ".bin" / "tsc", "--noEmit", "--strict", *tmp_path.glob("*.ts")]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    for written in tmp_path.glob("*.ts"):
        text = written.read_text()
        assert not re.search(r"interface \w+\d ", text), f"{written.name}: a type is there twice"
        assert not re.search(r"\[(\w+), \1\]", text), f"{written.name}: an array is written out as tuples"


# --- forms


def test_every_task_type_has_a_form_that_shows_every_parameter(
    node: Node, schemas: dict[str, dict[str, Any]], task_types: list[TaskType]
) -> None:
    asked = {task_type.name: schemas[task_type.name] for task_type in task_types}
    # With an `$id`, this version does not find what nested choices of a schema refer to.
    asked["envelope"] = {key: value for key, value in schemas["envelope"].items() if key != "$id"}
    rendered = node.run(HERE / "forms.cjs", asked)
    for name, form in rendered.items():
        assert form["warnings"] == [], name
        assert "Unsupported field" not in form["html"], name
        for parameter in asked[name]["properties"]:
            assert f'id="root_{parameter}' in form["html"], (name, parameter)
    for task_type in task_types:
        needed = {parameter: TASKS[task_type.name][parameter] for parameter in asked[task_type.name]["required"]}
        untouched, left_out = (
            msgspec.convert(task, task_type.params) for task in (rendered[task_type.name]["data"] | needed, needed)
        )
        assert untouched == left_out, "a form that nobody touched says other than the defaults"


def test_the_lock_names_no_registry() -> None:
    assert "resolved" not in (HERE.parent / "node" / "package-lock.json").read_text()
