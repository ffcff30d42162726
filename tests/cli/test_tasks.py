"""The catalogue as a page and as data: both say what the structs say."""

from __future__ import annotations

import json
from pathlib import Path

import sfworker.catalog
from sfworker.catalog import TaskType, all_task_types, load_modules
from sfworker.catalog.description import described_fields, page
from tests.cli.conftest import Command

PAGE = Path(sfworker.catalog.__file__).with_name("README.md")


def built_in() -> list[TaskType]:
    load_modules([])
    return [task_type for task_type in all_task_types() if task_type.params.__module__.startswith("sfworker.")]


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text() == page(built_in()), "write it anew with `make catalogue`"


def test_every_parameter_is_described_and_every_disclosure_listed() -> None:
    for task_type in built_in():
        bare = [field["name"] for field in described_fields(task_type.params) if not field["description"]]
        assert not bare, task_type.name
        for disclosure in task_type.disclosures:
            assert f"\n- {disclosure}\n" in PAGE.read_text(), task_type.name


def test_as_data_it_holds_schemas(sfworker: Command) -> None:
    listed = json.loads(sfworker("tasks", "--json").out)
    assert {entry["name"] for entry in listed} >= {task_type.name for task_type in built_in()}
    [one] = json.loads(sfworker("tasks", "--json", "ss_glm").out)
    assert one["parameters"]["properties"]["epochs"]["maximum"] == 10_000
    assert one["devices"] == ["spu"]
    assert one["disclosures"]


def test_as_a_page_of_one(sfworker: Command) -> None:
    assert "## psi\n" in sfworker("tasks", "psi", "--markdown").out


def test_schemas_of_a_task_type(sfworker: Command) -> None:
    [listed] = json.loads(sfworker("tasks", "--json", "psi").out)
    assert json.loads(sfworker("schema", "psi").out) == listed["parameters"]
    assert json.loads(sfworker("schema", "psi", "--result").out) == listed["result"]
    assert listed["parameters"]["$id"] != listed["result"]["$id"]
    for words in (("schema", "ps"), ("schema", "ps", "--result"), ("schema", "--result")):
        outcome = sfworker(*words)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("sfworker: no task type of this name is installed")
