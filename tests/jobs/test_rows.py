"""`feature_filter`, `condition_filter`, `sample` and `train_test_split` against pandas and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import model_selection

from sfworker import catalog
from sfworker.errors import ParameterValidationError
from tests.running_worker import PARTIES, RunningWorker, envelope

ROWS = 300
CHANCE = np.random.default_rng(5)
ALICE = pd.DataFrame(
    {
        "编号": [f"{number:04d}" for number in range(ROWS)],
        "age": CHANCE.integers(18, 90, ROWS),
        "score": np.where(CHANCE.random(ROWS) < 0.2, np.nan, np.round(CHANCE.normal(0, 1, ROWS), 1)),
    }
)
BOB = pd.DataFrame(
    {
        "row": np.arange(ROWS),
        "城市": CHANCE.choice(["上海", "北京", 'a,"b'], ROWS, p=[0.7, 0.2, 0.1]),
        "day": [f"2024-{1 + number % 12:02d}-15" for number in range(ROWS)],
        "member": CHANCE.random(ROWS) < 0.3,
    }
)


@pytest.fixture
def tables(data: Path) -> Path:
    for party, table in (("alice", ALICE), ("bob", BOB)):
        table.to_csv(data / f"{party}-in.csv", index=False)
        table.to_parquet(data / f"{party}-in.parquet")
    return data


def paths(data: Path, name: str) -> dict[str, str]:
    return {party: str(data / f"{party}-{name}") for party in PARTIES}


def job(data: Path, task_type: str, ending: str = "csv", **parameters: Any) -> dict[str, Any]:
    outputs = {"output_paths": paths(data, f"out.{ending}")}
    if task_type == "train_test_split":
        outputs = {name: paths(data, f"{name}.{ending}") for name in ("train_paths", "test_paths")}
    return envelope({"task_type": task_type, "input_paths": paths(data, f"in.{ending}"), **outputs, **parameters})


def succeed(worker: RunningWorker, sent: dict[str, Any]) -> Any:
    result = worker.run(sent)
    assert result["status"] == "success", result
    return result["result"]


def refused(worker: RunningWorker, sent: dict[str, Any], *said: str) -> None:
    result = worker.run(sent)
    assert (result["status"], result["error_type"]) == ("failure", "InputDataError"), result
    assert [part for part in said if part not in result["error"]] == []


def read(path: str | Path) -> pd.DataFrame:
    if Path(path).suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, dtype={"编号": str}, float_precision="round_trip")


def chosen(outputs: dict[str, str]) -> list[int]:
    """Row numbers in the outputs, which hold the same rows of both parties and every column of them."""
    alice, bob = (read(outputs[party]) for party in PARTIES)
    rows = bob["row"].tolist()
    pd.testing.assert_frame_equal(alice, ALICE.iloc[rows].reset_index(drop=True))
    pd.testing.assert_frame_equal(bob, BOB.iloc[rows].reset_index(drop=True))
    return [int(row) for row in rows]


def test_columns_are_kept_and_dropped(worker: RunningWorker, tables: Path) -> None:
    sent = job(tables, "feature_filter", keep={"alice": ["score", "编号"]}, drop={"bob": ["城市", "row"]})
    outputs = succeed(worker, sent)["output_paths"]
    pd.testing.assert_frame_equal(read(outputs["alice"]), ALICE[["score", "编号"]])
    pd.testing.assert_frame_equal(read(outputs["bob"]), BOB.drop(columns=["城市", "row"]))
    refused(worker, job(tables, "feature_filter", keep={"bob": ["age"]}), "task_config.keep.bob", "'age'")
    refused(worker, job(tables, "feature_filter", drop={"alice": list(ALICE)}), "task_config.drop.alice", "no column")


CONDITIONS: list[tuple[str, str, str, Any, Any]] = [
    ("alice", "age", ">=", 40, ALICE["age"] >= 40),
    ("alice", "score", "<", 0.3, ALICE["score"] < 0.3),
    ("alice", "score", "!=", 0.3, ALICE["score"] != 0.3),
    ("alice", "score", "between", [-0.5, 0.5], ALICE["score"].between(-0.5, 0.5)),
    ("alice", "score", "is_null", None, ALICE["score"].isna()),
    ("alice", "编号", "==", "0007", ALICE["编号"] == "0007"),
    ("bob", "城市", "in", ["北京", 'a,"b', "广州"], BOB["城市"] != "上海"),
    ("bob", "day", "<=", "2024-03-15", BOB["day"] <= "2024-03-15"),
    ("bob", "member", "==", True, BOB["member"]),
]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_conditions_are_pandas(worker: RunningWorker, tables: Path, ending: str) -> None:
    for number, (party, column, comparator, value, expected) in enumerate(CONDITIONS):
        if ending == "parquet" and number % 3:
            continue
        condition = {"party": party, "column": column, "comparator": comparator, "value": value}
        answer = succeed(worker, job(tables, "condition_filter", ending, condition=condition))
        rows = np.flatnonzero(expected).tolist()
        assert chosen(answer["output_paths"]) == rows, condition
        assert (answer["rows"], answer["input_rows"]) == (len(rows), ROWS)


def test_conditions_that_cannot_be_decided(worker: RunningWorker, tables: Path) -> None:
    def refuses(column: str, comparator: str, value: Any, *said: str, **more: Any) -> None:
        condition = {"party": "bob", "column": column, "comparator": comparator, "value": value}
        refused(worker, job(tables, "condition_filter", condition=condition, **more), *said)

    refuses("城市", ">", 5, "task_config.condition.value", "'城市'", "another type")
    refuses("member", "==", "yes", "task_config.input_paths.bob", "'member'", column_types={"bob": {"member": "int"}})
    refuses("nowhere", "==", 1, "task_config.condition.column", "'nowhere'")
    refuses("row", "<", 0, "task_config.condition", "no row")
    BOB.iloc[1:].to_csv(tables / "bob-in.csv", index=False)
    refuses("row", ">", 5, "task_config.input_paths", "different numbers of rows")


@pytest.mark.parametrize(
    "how", [{"n": 40}, {"frac": 0.333}, {"frac": 1.5, "replace": True}, {"n": 500, "replace": True}]
)
def test_samples_are_pandas(worker: RunningWorker, tables: Path, how: dict[str, Any]) -> None:
    answer = succeed(worker, job(tables, "sample", random_state=7, **how))
    expected = BOB.sample(**how, random_state=7).index
    assert chosen(answer["output_paths"]) == sorted(expected)
    assert answer["rows"] == len(expected)


@pytest.mark.parametrize("how", [{"frac": 0.3}, {"n": 20}])
@pytest.mark.parametrize("column", ["城市", "member"])
def test_stratified_samples_are_pandas(worker: RunningWorker, tables: Path, how: dict[str, Any], column: str) -> None:
    stratify = {"party": "bob", "column": column}
    answer = succeed(worker, job(tables, "sample", "parquet", random_state=7, stratify=stratify, **how))
    assert chosen(answer["output_paths"]) == sorted(BOB.groupby(column).sample(**how, random_state=7).index)


def test_without_a_seed_every_sample_is_another(worker: RunningWorker, tables: Path) -> None:
    first, second = (chosen(succeed(worker, job(tables, "sample", n=40))["output_paths"]) for _ in range(2))
    assert len(set(first)) == len(set(second)) == 40
    assert first != second


def test_samples_that_cannot_be_drawn(worker: RunningWorker, tables: Path) -> None:
    refused(worker, job(tables, "sample", n=ROWS + 1), "task_config.n")
    refused(worker, job(tables, "sample", frac=0.001), "task_config.frac")
    refused(worker, job(tables, "sample", n=100, stratify={"party": "bob", "column": "城市"}), "task_config.n")
    missing = {"party": "alice", "column": "score"}
    row = int(np.argmax(ALICE["score"].isna())) + 1
    refused(worker, job(tables, "sample", n=1, stratify=missing), "task_config.input_paths.alice", f"row {row};")


@pytest.mark.parametrize(
    ("how", "stratify"),
    [
        ({"train_size": 0.7, "random_state": 3}, None),
        ({"train_size": 0.61, "test_size": 0.22, "random_state": 3}, None),
        ({"train_size": 0.777, "shuffle": False}, None),
        ({"random_state": 3}, "城市"),
        ({"train_size": 0.5, "test_size": 0.3, "random_state": 3}, "member"),
    ],
)
def test_splits_are_scikit_learns(
    worker: RunningWorker, tables: Path, how: dict[str, Any], stratify: str | None
) -> None:
    by: dict[str, Any] = {} if stratify is None else {"stratify": {"party": "bob", "column": stratify}}
    answer = succeed(worker, job(tables, "train_test_split", **how, **by))
    given = {"train_size": 0.75, **how, "stratify": None if stratify is None else BOB[stratify]}
    train, test = model_selection.train_test_split(BOB, **given)
    assert chosen(answer["train_paths"]) == train["row"].tolist()
    assert chosen(answer["test_paths"]) == test["row"].tolist()
    assert (answer["train_rows"], answer["test_rows"]) == (len(train), len(test))


def test_splits_that_cannot_be_made(worker: RunningWorker, tables: Path) -> None:
    refused(worker, job(tables, "train_test_split", train_size=0.001), "task_config.train_size", "too few rows")
    each = {"party": "bob", "column": "row"}
    refused(worker, job(tables, "train_test_split", stratify=each), "task_config.train_size", "too few rows")


FILES: dict[str, Any] = {"input_paths": {"alice": "a.csv", "bob": "b.csv"}, "output_paths": {"alice": "x", "bob": "y"}}
SPLIT: dict[str, Any] = {
    "input_paths": FILES["input_paths"],
    "train_paths": FILES["output_paths"],
    "test_paths": {"alice": "v", "bob": "w"},
}


def condition(comparator: str, *value: Any, party: str = "bob") -> dict[str, Any]:
    given = {"value": value[0]} if value else {}
    return {"condition": {"party": party, "column": "x", "comparator": comparator, **given}}


@pytest.mark.parametrize(
    ("task_type", "parameters", "said"),
    [
        (
            "feature_filter",
            {"keep": {"alice": ["x"]}, "drop": {"alice": ["y"]}},
            "task_config.drop.alice: goes",
        ),
        ("feature_filter", {"keep": {"alice": ["x", "x"]}}, "task_config.keep.alice: names a column twice"),
        ("condition_filter", condition("=>", 1), "task_config.condition.comparator"),
        ("condition_filter", condition(">"), "task_config.condition.value: > compares with one value"),
        ("condition_filter", condition(">", [1]), "task_config.condition.value: > compares with one value"),
        ("condition_filter", condition("in", 1), "task_config.condition.value: in compares with a list"),
        ("condition_filter", condition("in", [1, "a"]), "task_config.condition.value: mixes"),
        ("condition_filter", condition("between", [1]), "task_config.condition.value: between compares"),
        ("condition_filter", condition("is_null", 1), "task_config.condition.value: is_null compares with nothing"),
        ("condition_filter", condition("<", True), "task_config.condition.value: true and false"),
        ("condition_filter", condition("<", 2**64), "task_config.condition.value"),
        ("condition_filter", condition("<", 1, party="carol"), "task_config.condition.party: names a party"),
        ("sample", {}, "task_config.frac: required"),
        ("sample", {"n": 1, "frac": 0.5}, "task_config.frac: "),
        ("sample", {"frac": 1.5}, "task_config.frac: more rows"),
        ("train_test_split", {"test_paths": {"alice": "v"}}, "task_config.test_paths.bob: required"),
        ("train_test_split", {"train_paths": {"alice": "a.csv", "bob": "y"}}, "task_config.train_paths.alice: is the"),
        ("train_test_split", {"train_size": 0.8, "test_size": 0.3}, "task_config.test_size: "),
        ("train_test_split", {"shuffle": False, "stratify": {"party": "bob", "column": "y"}}, "task_config.shuffle: "),
    ],
)
def test_parameters_that_cannot_work(task_type: str, parameters: dict[str, Any], said: str) -> None:
    catalog.load_modules([])
    files = SPLIT if task_type == "train_test_split" else FILES
    with pytest.raises(ParameterValidationError) as caught:
        catalog.validate({"task_type": task_type, **files, **parameters}, PARTIES)
    assert str(caught.value).startswith(said)
