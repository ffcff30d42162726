"""`groupby_statistics` on real SecretFlow (SEMI2K, ABY3) against pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.jobs.test_statistics_correlation import job, succeed
from tests.running_worker import RunningWorker

RELATIVE = 1e-9
EVERYTHING = ["sum", "mean", "var", "min", "max"]


def grouped(data: Path, parties: tuple[str, ...] = ("alice", "bob"), **parameters: Any) -> dict[str, Any]:
    protocol = "ABY3" if len(parties) == 3 else "SEMI2K"
    parameters = {"by": {"alice": ["city"]}, "values": {"bob": ["spent"]}, **parameters}
    return job("groupby_statistics", data, parties, {"protocol": protocol}, **parameters)


@pytest.fixture
def customers(data: Path) -> pd.DataFrame:
    """Where customers live, at alice with her own figure; what they spend, at bob."""
    chance = np.random.default_rng(8)
    cities = chance.choice(["北京", "上海", "深圳", "00123"], 400, p=[0.5, 0.3, 0.19, 0.01])
    frame = pd.DataFrame(
        {
            "city": cities,
            "grade": chance.integers(1, 4, 400),
            "age": chance.normal(40, 10, 400),
            "spent": chance.exponential(1e5, 400),
            "visits": chance.integers(0, 9, 400),
        }
    )
    frame.loc[5, "city"] = None
    frame[["city", "grade", "age"]].to_csv(data / "alice.csv", index=False)
    frame[["spent", "visits"]].to_csv(data / "bob.csv", index=False)
    return frame


def check(found: Any, frame: pd.DataFrame, by: list[str], values: dict[str, list[str]], least: int) -> None:
    sizes = frame.groupby(by).size()
    kept = sizes[sizes >= least]
    assert [tuple(group["keys"]) for group in found["groups"]] == [
        key if isinstance(key, tuple) else (key,) for key in kept.index
    ]
    assert [group["count"] for group in found["groups"]] == kept.tolist()
    assert found["suppressed_groups"] == len(sizes) - len(kept)
    for party, columns in values.items():
        for column in columns:
            expected = frame.groupby(by)[column].agg(EVERYTHING).loc[kept.index]
            for name in EVERYTHING:
                told = [group["values"][party][column][name] for group in found["groups"]]
                exact = name in ("min", "max")
                assert told == pytest.approx(expected[name].tolist(), rel=0 if exact else RELATIVE), (column, name)


@pytest.mark.parametrize("parties", [("alice", "bob"), ("alice", "bob", "carol")])
def test_figures_are_those_of_pandas(
    worker: RunningWorker, data: Path, customers: pd.DataFrame, parties: tuple[str, ...]
) -> None:
    values = {"alice": ["age"], "bob": ["spent", "visits"]}
    made = grouped(data, parties, values=values, aggregations=EVERYTHING)
    made["task_config"]["input_paths"].pop("carol", None)
    found = succeed(worker, made)
    check(found, customers, ["city"], values, 5)
    assert found["by"] == ["city"]
    assert found["suppressed_groups"] == 1


@pytest.mark.parametrize(
    ("protocol", "field"),
    [
        ("SEMI2K", "FM64"),
        pytest.param("SEMI2K", "FM128", marks=pytest.mark.slow),
        pytest.param("CHEETAH", "FM64", marks=pytest.mark.slow),
        ("ABY3", "FM64"),
    ],
)
def test_groups_of_any_magnitude_in_one_column(worker: RunningWorker, data: Path, protocol: str, field: str) -> None:
    chance = np.random.default_rng(5)
    places = chance.integers(0, 22, 1500)
    frame = pd.DataFrame(
        {
            "scale": places,
            "spent": 10.0 ** (places - 9) * chance.normal(1, 0.3, 1500),
            "debt": np.where(places == 3, -9_999_999_999.0, chance.normal(5, 1, 1500)),
            "nothing": 0.0,
        }
    )
    frame.to_csv(data / "alice.csv", columns=["scale", "debt"], index=False)
    frame.to_csv(data / "bob.csv", columns=["spent", "nothing"], index=False)
    parties = ("alice", "bob", "carol") if protocol == "ABY3" else ("alice", "bob")
    values = {"alice": ["debt"], "bob": ["spent", "nothing"]}
    figures = ["sum", "mean", "var"]
    made = grouped(data, parties, by={"alice": ["scale"]}, values=values, aggregations=figures)
    made["task_config"]["input_paths"].pop("carol", None)
    made["spu_config"]["cluster_def"]["runtime_config"] = {"protocol": protocol, "field": field}
    found = succeed(worker, made)
    assert found["warnings"] == []
    for party, columns in values.items():
        for column in columns:
            expected = frame.groupby("scale")[column].agg(figures)
            for name in figures:
                told = [group["values"][party][column][name] for group in found["groups"]]
                assert told == pytest.approx(expected[name].tolist(), rel=1e-12, abs=0), (column, name)


@pytest.mark.parametrize(
    ("protocol", "field"), [("SEMI2K", "FM64"), ("SEMI2K", "FM128"), ("CHEETAH", "FM64"), ("ABY3", "FM64")]
)
def test_extremes_in_every_field(worker: RunningWorker, data: Path, protocol: str, field: str) -> None:
    spent = np.random.default_rng(6).normal(-5, 1e9, 60)
    frame = pd.DataFrame({"city": np.resize(["a", "b", "c"], 60), "spent": spent})
    frame.to_csv(data / "alice.csv", columns=["city"], index=False)
    frame.to_csv(data / "bob.csv", columns=["spent"], index=False)
    parties = ("alice", "bob", "carol") if protocol == "ABY3" else ("alice", "bob")
    made = grouped(data, parties, aggregations=["min", "max"])
    made["task_config"]["input_paths"].pop("carol", None)
    made["spu_config"]["cluster_def"]["runtime_config"] = {"protocol": protocol, "field": field}
    told = [group["values"]["bob"]["spent"] for group in succeed(worker, made)["groups"]]
    expected = frame.groupby("city").spent.agg(["min", "max"])
    assert [[each["min"], each["max"]] for each in told] == expected.to_numpy().tolist()


def test_numbers_too_far_apart_are_told(worker: RunningWorker, data: Path) -> None:
    frame = pd.DataFrame({"city": ["a", "b"] * 10, "spent": [3e-200, 1e200] * 10})
    frame.to_csv(data / "alice.csv", columns=["city"], index=False)
    frame.to_csv(data / "bob.csv", columns=["spent"], index=False)
    found = succeed(worker, grouped(data, aggregations=["sum", "var"]))
    [small, large] = [group["values"]["bob"]["spent"] for group in found["groups"]]
    assert (small["sum"], large["var"]) == (0, 0)
    assert large["sum"] == pytest.approx(1e201)
    assert found["warnings"] == [
        "column 'spent' of bob holds numbers more than 1e22 times apart; figures of groups of small ones are rounded"
    ]


def test_a_field_without_room_is_refused(worker: RunningWorker, data: Path, customers: pd.DataFrame) -> None:
    made = grouped(data)
    made["spu_config"]["cluster_def"]["runtime_config"] = {"protocol": "SEMI2K", "field": "FM32"}
    result = worker.run(made)
    assert result["error_type"] == "ParameterValidationError"
    assert "use FM64 or FM128" in result["error"]


def test_groups_of_two_columns_and_of_any_size(worker: RunningWorker, data: Path, customers: pd.DataFrame) -> None:
    made = grouped(
        data, by={"alice": ["city", "grade"]}, aggregations=EVERYTHING, min_group_size=2, values={"bob": ["visits"]}
    )
    found = succeed(worker, made)
    check(found, customers, ["city", "grade"], {"bob": ["visits"]}, 2)
    assert isinstance(found["groups"][0]["keys"][1], int)


def test_more_rows_than_are_computed_at_a_time(worker: RunningWorker, data: Path) -> None:
    chance = np.random.default_rng(2)
    frame = pd.DataFrame({"city": chance.choice(["a", "b"], 30_000), "spent": chance.normal(1, 2, 30_000)})
    frame[["city"]].to_csv(data / "alice.csv", index=False)
    frame[["spent"]].to_csv(data / "bob.csv", index=False)
    made = grouped(data, aggregations=EVERYTHING)
    found = succeed(worker, made)
    check(found, frame, ["city"], {"bob": ["spent"]}, 5)
    progress = [event for event in worker.said(made["execution_id"]) if event["stage"] == "progress"]
    assert progress[-1]["message"].endswith("of 2")


def test_only_what_is_asked_for_is_told(worker: RunningWorker, data: Path, customers: pd.DataFrame) -> None:
    found = succeed(worker, grouped(data, aggregations=["mean"]))
    assert {name for name, value in found["groups"][0]["values"]["bob"]["spent"].items() if value is not None} == {
        "mean"
    }


def test_no_group_is_large_enough(worker: RunningWorker, data: Path, customers: pd.DataFrame) -> None:
    found = succeed(worker, grouped(data, min_group_size=300))
    assert (found["groups"], found["suppressed_groups"]) == ([], 4)


@pytest.mark.parametrize(
    ("parameters", "error_type", "said"),
    [
        ({"by": {"alice": ["town"]}}, "InputDataError", "task_config.by.alice"),
        ({"values": {"bob": ["income"]}}, "InputDataError", "task_config.values.bob"),
        ({"max_groups": 2}, "InputDataError", "more groups than max_groups"),
        ({"values": {"alice": ["city"]}}, "ParameterValidationError", "task_config.values.alice"),
        ({"by": {"alice": ["city"], "bob": ["visits"]}}, "ParameterValidationError", "task_config.by: "),
        ({"column_types": {"alice": {"city": "int"}}}, "InputDataError", "column 'city' holds no int in row"),
    ],
)
def test_groups_that_cannot_be_made(
    worker: RunningWorker,
    data: Path,
    customers: pd.DataFrame,
    parameters: dict[str, Any],
    error_type: str,
    said: str,
) -> None:
    result = worker.run(grouped(data, **parameters))
    assert (result["error_type"], said in result["error"]) == (error_type, True), result


def test_values_that_cannot_be_aggregated(worker: RunningWorker, data: Path, customers: pd.DataFrame) -> None:
    customers[["spent"]].assign(spent="much").to_csv(data / "bob.csv", index=False)
    result = worker.run(grouped(data))
    assert "column 'spent' holds no number in row 1" in result["error"]
    customers[["spent"]].head(10).to_csv(data / "bob.csv", index=False)
    result = worker.run(grouped(data))
    assert "different numbers of rows" in result["error"]
