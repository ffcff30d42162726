"""An envelope's texts and a file's header against the shell that libpsi starts."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.catalog.examples import TASKS, job
from tests.jobs.components import node, table
from tests.running_worker import PARTIES, RunningWorker, envelope

pytestmark = pytest.mark.attack("shell of a library")
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM64"}}}
NASTY = "$(taken)`taken`;taken|taken&taken\ntaken #\"taken\"'$(taken)'${taken}>taken *?~!"
COLUMN = NASTY.replace("\n", " ").replace('"', "")


class Shell:
    """A worker in whose PATH is a program `taken` that leaves a mark, and its data root."""

    def __init__(self, worker: RunningWorker, data: Path, mark: Path) -> None:
        self.worker, self.data, self.mark = worker, data, mark

    def paths(self, name: str, parties: list[str] = PARTIES) -> dict[str, str]:
        return {party: str(self.data / f"{party}-{NASTY}-{name}") for party in parties}

    def run(self, task: dict[str, Any], **more: Any) -> dict[str, Any]:
        result = self.worker.run(envelope(task, spu_config=SPU, **more))
        assert not self.mark.exists(), result
        return result


@pytest.fixture(scope="module")
def shell(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    directory = tmp_path_factory.mktemp("shell")
    (directory / "bin").mkdir()
    (directory / "data").mkdir()
    mark = directory / "mark"
    (directory / "bin" / "taken").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (directory / "bin" / "taken").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{directory / 'bin'}:{os.environ['PATH']}")
        roots = {party: [str(directory / "data" / party), str(directory / "data")] for party in PARTIES}
        for first, _ in roots.values():
            Path(first).mkdir()
        with RunningWorker(redis_server.url, directory, data_roots=json.dumps(roots)) as worker:
            yield Shell(worker, directory / "data", mark)


@pytest.mark.parametrize("protocol", ["PROTOCOL_RR22", "PROTOCOL_KKRT", "PROTOCOL_ECDH", "unbalanced"])
@pytest.mark.parametrize("column", ["id", COLUMN], ids=["plain column", "nasty column"])
def test_paths_and_columns_of_an_intersection(shell: Shell, protocol: str, column: str) -> None:
    inputs, outputs = shell.paths("in.csv"), shell.paths("out.csv")
    for path in inputs.values():
        pd.DataFrame({column: range(10), f"{column} beside": range(10)}).to_csv(path, index=False)
    task: dict[str, Any] = {"input_paths": inputs, "output_paths": outputs, "receiver": "alice"}
    task["keys"] = {party: [column] for party in PARTIES}
    if protocol == "unbalanced":
        cache = shell.paths("cache")
        server = {
            "server": "bob",
            "cache_path": cache,
            "keys": {"bob": [column]},
            "input_paths": {"bob": inputs["bob"]},
        }
        assert shell.run({"task_type": "unbalanced_psi_cache", **server})["status"] == "success"
        result = shell.run({"task_type": "unbalanced_psi", **task, "server": "bob", "cache_path": cache})
    else:
        result = shell.run({"task_type": "psi", **task, "protocol": protocol})
    assert result["result"]["intersection_count"] == 10, result
    for path in outputs.values():
        assert len(pd.read_csv(path)) == 10


@pytest.mark.parametrize("component", ["psi", "unbalance_psi_cache"])
@pytest.mark.parametrize("null_strs", [[""], []], ids=["converted", "as it is"])
def test_uris_of_a_component(shell: Shell, component: str, null_strs: list[str]) -> None:
    tables = []
    name = f"{component}-{len(null_strs)}-{NASTY}-in.csv"
    for party in PARTIES:
        pd.DataFrame({"id": range(10), "v": range(10)}).to_csv(shell.data / party / name, index=False)
        made = table(party, name, {"v": "int64"}, ["id"])
        made["data_refs"][0]["null_strs"] = null_strs
        tables.append(made)
    before = [(shell.data / party / name).read_bytes() for party in PARTIES]
    uris = [f"{component}-{len(null_strs)}/{NASTY}", f"{component}-{len(null_strs)}/{NASTY} report"]
    if component == "psi":
        keys = {f"input/input_ds{number}/keys": ["id"] for number in (1, 2)}
        evaluated = node("data_prep/psi:1.0.0", tables, uris, keys)
    else:
        attributes = {"input/input_ds/keys": ["id"], "client": ["alice"]}
        evaluated = node(f"data_prep/{component}:1.0.0", tables[1:], uris[:1], attributes)
    result = shell.run({"task_type": "component", "node_eval_param": evaluated})
    assert result["status"] == "success", result
    assert before == [(shell.data / party / name).read_bytes() for party in PARTIES]
    if component == "psi":
        assert result["result"]["reports"][0]["tables"][0]["rows"] == [["alice", 10, 10], ["bob", 10, 10]]


@pytest.mark.parametrize(
    "name", ["$(taken)", "甲方", "a\n", "`taken`", "a;taken", "a|taken", "a&taken", "a taken", "-taken", "a\\taken"]
)
def test_names_of_parties(shell: Shell, name: str) -> None:
    parties = [name, "bob"]
    for party in ("x", "bob"):
        pd.DataFrame({"id": range(10)}).to_csv(shell.data / f"{party}.csv", index=False)
    paths = {name: str(shell.data / "x.csv"), "bob": str(shell.data / "bob.csv")}
    task = {"task_type": "psi", "input_paths": paths, "output_paths": shell.paths("o.csv", parties)}
    task |= {"keys": {party: ["id"] for party in parties}, "receiver": "bob"}
    result = shell.run(task, sf_init_config={"parties": parties, "address": "local"})
    assert result["error_type"] == "ParameterValidationError"
    assert result["error"].startswith(
        "sf_init_config.parties[0]: expected `str` of ASCII letters, digits, `_`, `-` and `.`"
    )


Place = tuple[Any, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where texts are in a task: values and, marked by `...` at their end, names of columns."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from places(each, (*place, name))
            if place and name not in PARTIES and place[-1] in PARTIES:
                yield (*place, name, ...)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from places(each, (*place, number))
    elif isinstance(value, str) and place != ("task_type",):
        yield place


def nasty(text: str) -> str:
    """A text with all that a shell knows: a file that is there, or a column that the files have."""
    return f"{NASTY}-{text}" if "." in text else f"{text}{COLUMN}"


def with_nasty(task: dict[str, Any], place: Place) -> dict[str, Any]:
    made = copy.deepcopy(task)
    is_name = place[-1] is ...
    *way, last = place[:-1] if is_name else place
    inside: Any = made
    for each in way:
        inside = inside[each]
    if is_name:
        inside[nasty(last)] = inside.pop(last)
    else:
        inside[last] = nasty(inside[last])
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_every_text_of_a_task(shell: Shell, name: str) -> None:
    columns: dict[str, list[float]] = {
        each: [number % 2 for number in range(40)] for each in ("x", "y", "city", "income", "exposure", "of")
    }
    columns |= {"pred": [number / 40 for number in range(40)], "id": [*range(40)]}
    frame = pd.DataFrame(
        {
            each: values
            for plain, values in columns.items()
            for each, values in ((plain, values), (nasty(plain), values))
        }
    )
    for party in PARTIES:
        for each in ("a.csv", "b.csv", nasty("a.csv"), nasty("b.csv")):
            frame.to_csv(shell.data / party / each, index=False)
    for place in [*places(TASKS[name])]:
        limited = {"time_limit": 60, "soft_time_limit": 50}
        result = shell.worker.run(job(with_nasty(TASKS[name], place), options=limited), 180)
        assert not shell.mark.exists(), (place, result)
        assert result["status"] == "success" or result["error_type"] != "TaskExecutionError", (place, result)
