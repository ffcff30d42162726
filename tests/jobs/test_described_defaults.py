"""What the catalogue says of `features` holds for every method: left out, for one party, and where it is needed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sfworker import catalog
from sfworker.catalog.schema import parameters_schema
from tests.running_worker import PARTIES, RunningWorker, envelope

_CHOICES = {
    "scaler": ["method"],
    "encoder": ["method"],
    "fillna": ["strategy"],
    "binning": ["method", "substitution"],
}
"""Parameters of the task types that change features, whose values are methods."""


def every_method() -> list[dict[str, Any]]:
    catalog.load_modules([])
    found = []
    for task_type, names in _CHOICES.items():
        fields = parameters_schema(catalog.find(task_type))["properties"]
        for values in itertools.product(*(fields[name]["enum"] for name in names)):
            more = {"fill_value": 3} if values == ("constant",) else {}
            found.append({"task_type": task_type, **dict(zip(names, values, strict=True)), **more})
    return found


def by_label(task: dict[str, Any]) -> bool:
    return "chimerge" in task.values() or "woe" in task.values()


@pytest.fixture
def tables(data: Path) -> dict[str, pd.DataFrame]:
    """Keys, a label at alice, and features whose every cell any method changes, at least where one is missing."""
    numbers = [10, 20, 30, 40] * 25
    features = pd.DataFrame({"x": [None, *numbers[1:]], "z": [*numbers[:-1], None]}).astype("Int64")
    common = features.assign(id=[f"{number:03d}" for number in range(100)])
    written = {"alice": common.assign(y=[0, 1, 1, 0, 0] * 20), "bob": common}
    for party, table in written.items():
        table.to_csv(data / f"{party}.csv", index=False)
    return written


def job(data: Path, task: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    common = {
        "input_paths": {party: str(data / f"{party}.csv") for party in PARTIES},
        "output_paths": {party: str(data / f"{party}-out.csv") for party in PARTIES},
        "keys": {party: ["id"] for party in PARTIES},
        "label": {"party": "alice", "column": "y"},
    }
    spu = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}
    return envelope({**common, **task, **parameters}, spu_config=spu)


def changed(data: Path, tables: dict[str, pd.DataFrame], party: str) -> set[str]:
    """The columns that are not there any more as they were."""
    after = pd.read_csv(data / f"{party}-out.csv", dtype=str)
    before = pd.read_csv(data / f"{party}.csv", dtype=str)
    return {name for name in tables[party] if name not in after or not after[name].equals(before[name])}


@pytest.mark.parametrize("task", every_method(), ids=lambda task: "-".join(map(str, task.values())))
def test_features_are_what_the_catalogue_says(
    worker: RunningWorker, data: Path, tables: dict[str, pd.DataFrame], task: dict[str, Any]
) -> None:
    result = worker.run(job(data, task))
    if by_label(task):
        assert result["error"].startswith("task_config.features: required by method chimerge and by substitution woe")
    else:
        assert result["status"] == "success", result
        assert [changed(data, tables, party) for party in PARTIES] == [{"x", "z"}, {"x", "z"}]
    of_one = {"features": {"bob": ["z"]}, **({"min_bin_rows": 1} if by_label(task) else {})}
    result = worker.run(job(data, task, **of_one))
    assert result["status"] == "success", result
    assert [changed(data, tables, party) for party in PARTIES] == [set(), {"z"}]


def test_a_type_changes_no_number_that_is_computed_with(
    worker: RunningWorker, data: Path, tables: dict[str, pd.DataFrame]
) -> None:
    for task in ({"task_type": "scaler"}, {"task_type": "fillna", "strategy": "mean"}):
        assert worker.run(job(data, task))["status"] == "success"
        plain = (data / "bob-out.csv").read_text()
        assert worker.run(job(data, task, column_types={"bob": {"x": "str"}}))["status"] == "success"
        assert (data / "bob-out.csv").read_text() == plain
