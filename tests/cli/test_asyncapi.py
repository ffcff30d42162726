"""The AsyncAPI document: what AsyncAPI's own tool says of it, and whether a worker says what it describes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sfworker.catalog import TaskType, all_task_types, load_modules
from sfworker.cli.asyncapi import document
from tests.catalog.examples import TASKS, job
from tests.node.packages import Node, install
from tests.running_worker import RunningWorker, envelope

HERE = Path(__file__).parent
WIRE = HERE.parents[1] / "sfworker" / "wire" / "README.md"
_WARNING = 1


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    load_modules([])
    ours: list[TaskType] = [each for each in all_task_types() if each.params.__module__.startswith("sfworker.")]
    return document(ours)


@pytest.mark.slow  # for it is of 168 packages
def test_asyncapis_own_tool_finds_nothing_wrong(described: dict[str, Any], tmp_path: Path) -> None:
    packages = install(HERE.parent / "node" / "asyncapi", tmp_path)
    found = packages.run(HERE / "asyncapi.cjs", described)
    assert [each for each in found["diagnostics"] if each["severity"] <= _WARNING] == []
    assert found["channels"] == {
        **{stream: {"job": "Envelope"} for stream in ("sf:jobs:high", "sf:jobs", "sf:jobs:low")},
        "sf:results": {"event": "StatusEvent", "result": "JobResult"},
        "sf:notices": {"notice": "Notice"},
        **{channel: {"published": "StatusEvent"} for channel in ("task_status", "task_status:{executionId}")},
        "sf:control": {"cancellation": None},
    }


def test_it_has_the_streams_and_channels_of_the_contract(described: dict[str, Any]) -> None:
    rows = re.findall(r"^\| (`.*`) \| (?:stream|channel) \|", WIRE.read_text(), re.MULTILINE)
    named = {name.replace("<execution_id>", "{executionId}") for row in rows for name in re.findall("`(.*?)`", row)}
    assert {channel["address"] for channel in described["channels"].values()} == named


def test_the_command_prints_the_same_in_another_process(described: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "sfworker", "schema", "asyncapi"]
    printed = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True
    )
    assert json.dumps(json.loads(printed.stdout)) == json.dumps(described)


def schema_of(described: dict[str, Any], message: str, part: str) -> dict[str, Any]:
    """The schema of a message's payload or headers, with what it refers to."""
    found = {**described["components"]["messages"][message][part], "$defs": described["components"]["schemas"]}
    config = found["$defs"]["envelope"]["properties"]["task_config"]
    config = {**config, "discriminator": {"propertyName": config["discriminator"]}}  # as Ajv wants it
    properties = {**found["$defs"]["envelope"]["properties"], "task_config": config}
    found["$defs"] = {**found["$defs"], "envelope": {**found["$defs"]["envelope"], "properties": properties}}
    moved: dict[str, Any] = json.loads(json.dumps(found).replace("#/components/schemas/", "#/$defs/"))
    return moved


def test_a_worker_takes_and_says_what_it_describes(
    node: Node, worker: RunningWorker, described: dict[str, Any]
) -> None:
    good, bad, broken = envelope(TASKS["hello"]), envelope({"task_type": "hello", "name": 1}), b"{}"
    for sent in (good, bad):
        worker.run(sent)
    nameless = worker.send(broken)
    worker.until_ended(nameless)
    channel = worker.redis.pubsub(ignore_subscribe_messages=True)
    channel.psubscribe("task_status*")
    worker.send({**good, "task_id": "another"})
    last = envelope(TASKS["hello"])
    worker.run(last)
    ids = {good["execution_id"], bad["execution_id"], last["execution_id"], nameless}
    said: dict[str, list[Any]] = {"event": [], "result": [], "notice": [], "published": []}
    for stream in ("sf:results", "sf:notices"):
        for _, fields in worker.redis.xrange(stream):
            entry = {name.decode(): value.decode() for name, value in fields.items()}
            payload = json.loads(entry.pop("payload"))
            if (entry.get("execution_id") or entry.get("message_id")) in ids:
                kind = {"status": "event", None: "notice"}.get(entry.get("kind"), "result")
                said[kind].append((entry, payload))
    while (heard := channel.get_message(timeout=0.1)) is not None or not said["published"]:
        said["published"] += [({}, json.loads(heard["data"]))] if heard and heard["type"] == "pmessage" else []
    channel.close()
    assert [payload["differs"] for _, payload in said["notice"]] == [True]
    assert len(said["result"]) == 4
    asked: dict[str, Any] = {
        f"{name} {part}": {"schema": schema_of(described, name, part), "values": [each[place] for each in pairs]}
        for name, pairs in said.items()
        for place, part in enumerate(("headers", "payload"))
        if part in described["components"]["messages"][name]
    }
    jobs = [job(task) for task in TASKS.values()]
    asked["job payload"] = {"schema": schema_of(described, "job", "payload"), "values": [*jobs, good, bad]}
    answered = node.run(HERE.parent / "catalog" / "validate.cjs", asked)
    assert {name: answer["error"] for name, answer in answered.items() if answer["error"]} == {}
    assert answered["job payload"].pop("valid") == [True] * len(jobs) + [True, False]
    for name, answer in answered.items():
        assert all(answer.get("valid", [])), name
