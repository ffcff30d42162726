"""`pearson_correlation` and `vif` on real SecretFlow (SEMI2K, CHEETAH, ABY3) against pandas and the formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from tests.running_worker import PARTIES, RunningWorker, envelope

CORRELATION_TOLERANCE = 1e-9
COARSE = {"field": "FM64", "fxp_fraction_bits": 18}
COARSE_TOLERANCE = 1e-3
VIF_TOLERANCE = 1e-6


def job(
    task_type: str,
    data: Path,
    parties: tuple[str, ...] = ("alice", "bob"),
    runtime_config: dict[str, Any] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    config = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40, **(runtime_config or {})}
    task = {
        "task_type": task_type,
        "input_paths": {party: str(data / f"{party}.csv") for party in parties},
        **parameters,
    }
    made = envelope(task, spu_config={"cluster_def": {"runtime_config": config}})
    made["sf_init_config"] = {"parties": list(parties), "address": "local"}
    return made


def succeed(worker: RunningWorker, made: dict[str, Any]) -> Any:
    result = worker.run(made)
    assert result["status"] == "success", result["error"]
    return result["result"]


def write(data: Path, frame: pd.DataFrame, parties: tuple[str, ...] = ("alice", "bob")) -> None:
    for party, names in zip(parties, np.array_split(np.array(frame.columns), len(parties)), strict=True):
        frame[list(names)].to_csv(data / f"{party}.csv", index=False)


@pytest.fixture
def measured() -> pd.DataFrame:
    """Columns of very different sizes, some of them nearly the same."""
    x = load_breast_cancer(return_X_y=True)[0][:, :12]
    return pd.DataFrame(x, columns=[f"f{number}" for number in range(12)]) * np.logspace(-3, 5, 12)


@pytest.mark.parametrize(
    ("parties", "runtime_config", "tolerance"),
    [
        (("alice", "bob"), {}, CORRELATION_TOLERANCE),
        (("alice", "bob"), {"protocol": "CHEETAH", **COARSE}, COARSE_TOLERANCE),
        (("alice", "bob", "carol"), {"protocol": "ABY3"}, CORRELATION_TOLERANCE),
    ],
)
def test_correlations_are_those_of_pandas(
    worker: RunningWorker,
    data: Path,
    measured: pd.DataFrame,
    parties: tuple[str, ...],
    runtime_config: dict[str, Any],
    tolerance: float,
) -> None:
    write(data, measured, parties)
    found = succeed(worker, job("pearson_correlation", data, parties, runtime_config))
    assert [column["column"] for column in found["columns"]] == list(measured.columns)
    assert {column["party"] for column in found["columns"]} == set(parties)
    assert (found["rows"], found["warnings"]) == (len(measured), [])
    assert np.abs(np.array(found["correlation"]) - measured.corr()).to_numpy().max() < tolerance


@pytest.mark.parametrize("parties", [("alice", "bob"), ("alice", "bob", "carol")])
def test_inflation_is_that_of_the_formula(
    worker: RunningWorker, data: Path, measured: pd.DataFrame, parties: tuple[str, ...]
) -> None:
    write(data, measured, parties)
    protocol = "SEMI2K" if len(parties) == 2 else "ABY3"
    found = succeed(worker, job("vif", data, parties, {"protocol": protocol}))
    told = [factor for party in parties for factor in found["vif"][party].values()]
    expected = np.diag(np.linalg.inv(measured.corr()))
    assert expected.max() > 1000
    assert told == pytest.approx(expected, rel=VIF_TOLERANCE)
    assert found["warnings"] == []


def test_many_columns_are_inverted_by_blocks_with_progress(worker: RunningWorker, data: Path) -> None:
    """Neither a constant column nor one that follows from others in other blocks spoils a figure."""
    chance = np.random.default_rng(6)
    x = chance.normal(size=(300, 83)) @ (np.eye(83) + 0.05 * chance.normal(size=(83, 83)))
    x[:, 30] = x[:, 2] - x[:, 70]
    x[:, 60] = 7.0
    frame = pd.DataFrame(x).add_prefix("x")
    paths = {party: str(data / f"{party}.csv") for party in PARTIES}
    frame.iloc[:, :40].to_csv(paths["alice"], index=False)
    frame.iloc[:, 40:].to_csv(paths["bob"], index=False)
    runtime_config = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}
    job = envelope(
        {"task_type": "vif", "input_paths": paths}, spu_config={"cluster_def": {"runtime_config": runtime_config}}
    )
    found = worker.run(job)["result"]["vif"]
    factors = found["alice"] | found["bob"]
    without = ["x2", "x30", "x60", "x70"]
    assert [name for name, factor in factors.items() if factor is None] == without
    told = frame.drop(columns=["x30", "x60"])
    exact = pd.Series(np.diag(np.linalg.inv(np.corrcoef(told.to_numpy().T))), told.columns).drop(["x2", "x70"])
    assert [factors[name] for name in exact.index] == pytest.approx(exact.to_list(), rel=1e-8)
    said = [event["message"] for event in worker.said(job["execution_id"]) if event["stage"] == "progress"]
    assert any(message.endswith(" of 4 of a matrix inversion") for message in said)


def test_columns_without_a_figure_are_told_and_spoil_no_other(worker: RunningWorker, data: Path) -> None:
    chance = np.random.default_rng(3)
    columns = chance.normal(size=(200, 4))
    frame = pd.DataFrame(columns, columns=["甲", "b", "c", "d"])
    frame["c"] = frame["c"] + 0.5 * frame["甲"]
    alice = frame[["甲", "b"]].assign(常数=0.1)
    bob = frame[["c"]].assign(sum=frame["b"] * 3 - 1 + 2 * frame["d"], d=frame["d"])
    alice.to_csv(data / "alice.csv", index=False)
    bob.to_csv(data / "bob.csv", index=False)
    found = succeed(worker, job("vif", data))
    sound = pd.concat([frame[["甲", "b", "c"]], bob[["d"]]], axis=1)
    expected = np.diag(np.linalg.inv(sound.corr()))
    assert [found["vif"]["alice"]["甲"], found["vif"]["bob"]["c"]] == pytest.approx(
        [expected[0], expected[2]], rel=1e-3
    )
    assert found["vif"]["alice"]["常数"] is None
    assert {name for party in found["vif"].values() for name, factor in party.items() if factor is None} == {
        "常数",
        "b",
        "sum",
        "d",
    }
    assert len(found["warnings"]) == 4
    assert found["warnings"][0] == "column '常数' of alice is constant"
    correlated = succeed(worker, job("pearson_correlation", data))
    assert correlated["correlation"][2] == [None] * 6
    assert correlated["warnings"] == ["column '常数' of alice is constant"]


def test_keys_are_no_features_and_a_party_may_have_none(worker: RunningWorker, data: Path) -> None:
    chance = np.random.default_rng(4)
    columns = chance.normal(size=(50, 3))
    ids = [f"id{number}" for number in range(50)]
    pd.DataFrame({"id": ids}).to_csv(data / "alice.csv", index=False)
    frame = pd.DataFrame(columns, columns=["int", "class", "None"])
    frame.assign(id=ids).to_csv(data / "bob.csv", index=False)
    keys = {"alice": ["id"], "bob": ["id"]}
    found = succeed(worker, job("pearson_correlation", data, keys=keys))
    assert np.abs(np.array(found["correlation"]) - frame.corr()).to_numpy().max() < CORRELATION_TOLERANCE
    inflated = succeed(worker, job("vif", data, keys=keys))["vif"]["bob"]
    assert list(inflated.values()) == pytest.approx(np.diag(np.linalg.inv(frame.corr())), rel=VIF_TOLERANCE)


@pytest.mark.parametrize("task_type", ["pearson_correlation", "vif"])
@pytest.mark.parametrize(
    ("alice", "bob", "said"),
    [
        ("a\n1\n2\n5\n9\n", "b\n1\n2\n3\n", "different numbers of rows"),
        ("a\n1\n2\n5\n", "b\n1\n2\n3\n", "not more rows than features"),
        ("a\n1\n2\n5\n9\n", "b,c\n1,1\n2,\n3,3\n4,4\n", "column 'c' has no value in row 2"),
        ("a\n1\ninf\n5\n9\n", "b\n1\n2\n3\n4\n", "column 'a' holds no finite number in row 2"),
        ("a\n1\n张三\n5\n9\n", "b\n1\n2\n3\n4\n", "column 'a' holds no number in row 2"),
    ],
)
def test_columns_that_cannot_be_correlated(
    worker: RunningWorker, data: Path, task_type: str, alice: str, bob: str, said: str
) -> None:
    (data / "alice.csv").write_text(alice)
    (data / "bob.csv").write_text(bob)
    result = worker.run(job(task_type, data))
    assert (result["error_type"], said in result["error"]) == ("InputDataError", True), result


@pytest.mark.parametrize(("field", "bits", "tolerance"), [("FM64", 18, 1e-3), ("FM128", 40, 1e-8)])
def test_fraction_bits_that_are_left_out_are_the_fields_own_or_the_task_types(
    worker: RunningWorker, data: Path, measured: pd.DataFrame, field: str, bits: int, tolerance: float
) -> None:
    few = measured[["f1", "f4", "f5", "f8"]]
    write(data, few)
    made = job("vif", data)
    made["spu_config"]["cluster_def"]["runtime_config"] = {"protocol": "SEMI2K", "field": field}
    found = succeed(worker, made)
    told = [factor for party in ("alice", "bob") for factor in found["vif"][party].values()]
    assert told == pytest.approx(np.diag(np.linalg.inv(few.corr())), rel=tolerance)
    assert found["arithmetic"] == {"protocol": "SEMI2K", "field": field, "fxp_fraction_bits": bits}
    assert found["warnings"] == []
