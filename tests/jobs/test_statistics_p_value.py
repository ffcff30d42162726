"""`p_value` against the formulas that statsmodels uses, on the model's own coefficients and on the exact ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes

from tests.jobs.test_statistics_correlation import job, succeed
from tests.running_worker import RunningWorker

LINEAR_TOLERANCE = 1e-6
LOGISTIC_TOLERANCE = 1e-4
"""Of the statistic, relative: the model itself is right to five digits."""


def write(data: Path, x: Any, y: Any, places: tuple[str, str] = ("alice", "bob")) -> None:
    """The first half of the columns at alice, the rest with the label at bob."""
    middle = x.shape[1] // 2
    for party, columns in zip(places, (range(middle), range(middle, x.shape[1])), strict=True):
        frame = pd.DataFrame({f"f{number}": x[:, number] for number in columns})
        if party == places[1]:
            frame["标签"] = y
        frame.to_csv(data / f"{party}.csv", index=False)


def trained(worker: RunningWorker, data: Path, task_type: str, **parameters: Any) -> None:
    paths = {party: str(data / f"model-{party}") for party in ("alice", "bob")}
    label = {"party": "bob", "column": "标签"}
    succeed(worker, job(task_type, data, label=label, model_path=paths, **parameters))


def told(worker: RunningWorker, data: Path, trained_by: str = "ss_lr", **parameters: Any) -> Any:
    paths = {party: str(data / f"model-{party}") for party in ("alice", "bob")}
    return succeed(worker, job("p_value", data, model_path=paths, trained_by=trained_by, **parameters))


def flat(found: Any) -> list[float]:
    return [*found["p_values"]["alice"].values(), *found["p_values"]["bob"].values(), found["intercept"]]


def linear_p_values(x: Any, y: Any) -> Any:
    """Of ordinary least squares; the intercept last."""
    x = np.column_stack([x, np.ones(len(x))])
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    spare = len(x) - x.shape[1]
    variance = np.square(y - x @ weights).sum() / spare * np.diag(np.linalg.inv(x.T @ x))
    return 2 * stats.t(spare).sf(np.abs(weights) / np.sqrt(variance))


def logistic_p_values(x: Any, y: Any) -> Any:
    """Of the maximum of the likelihood; the intercept last."""
    x = np.column_stack([x, np.ones(len(x))])
    weights = np.zeros(x.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-x @ weights))
        inverse = np.linalg.inv((x.T * (chance * (1 - chance))) @ x)
        weights += inverse @ x.T @ (y - chance)
    return 2 * stats.norm.sf(np.abs(weights) / np.sqrt(np.diag(inverse)))


def test_a_linear_models_are_those_of_least_squares(worker: RunningWorker, data: Path) -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x = x[:, [0, 1, 2, 3, 8]]
    write(data, x, y)
    trained(worker, data, "ss_lr", regression="linear", epochs=150, learning_rate=0.5, batch_size=len(y))
    found = told(worker, data)
    assert (found["rows"], found["regression"], found["warnings"]) == (len(y), "linear", [])
    expected = linear_p_values(x, y)
    assert flat(found) == pytest.approx(expected, abs=LINEAR_TOLERANCE)


def test_a_logistic_models_are_those_of_the_greatest_likelihood(worker: RunningWorker, data: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, [1, 4, 9, 11]]
    write(data, x, y)
    trained(worker, data, "ss_glm", distribution="Bernoulli", epochs=8)
    found = told(worker, data, "ss_glm")
    expected = logistic_p_values(x, y)
    statistics = stats.norm.isf(np.array([flat(found), expected]) / 2)
    assert found["regression"] == "logistic"
    assert statistics[0] == pytest.approx(statistics[1], rel=LOGISTIC_TOLERANCE)


def test_coefficients_without_p_value_are_told_and_spoil_no_other(worker: RunningWorker, data: Path) -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x = np.column_stack([x[:, 2], np.full(len(x), 7.0), x[:, 8], x[:, 4], 2 * x[:, 4] - 3])
    write(data, x, y)
    trained(worker, data, "ss_lr", regression="linear", epochs=150, learning_rate=0.3, batch_size=len(y))
    found = told(worker, data)
    sound = linear_p_values(x[:, [0, 2, 3]], y)
    assert found["p_values"]["alice"]["f1"] is None
    assert [found["p_values"]["bob"][name] for name in ("f3", "f4")] == [None, None]
    told_p_values = [found["p_values"]["alice"]["f0"], found["p_values"]["bob"]["f2"]]
    # One column more takes a degree of freedom.
    assert told_p_values == pytest.approx(sound[:2], abs=LINEAR_TOLERANCE)
    assert found["intercept"] is None
    assert [warning.split(" is ")[0] for warning in found["warnings"]] == [
        "column 'f1' of alice",
        "column 'f3' of bob",
        "column 'f4' of bob",
        "the intercept depends on a coefficient without p value",
    ]


def test_a_model_and_rows_that_do_not_go_together(worker: RunningWorker, data: Path) -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    write(data, x[:, :2], y)
    trained(worker, data, "ss_lr", regression="linear", epochs=1)
    paths = {party: str(data / f"model-{party}") for party in ("alice", "bob")}
    bob = pd.read_csv(data / "bob.csv")
    for content, said in [
        (bob.drop(columns="f1"), "no column 'f1'"),
        (bob.drop(columns="标签"), "no column '标签'"),
        (bob.head(50), "different numbers of rows"),
        (bob.assign(f1="word"), "column 'f1' holds no number in row 1"),
    ]:
        content.to_csv(data / "bob.csv", index=False)
        result = worker.run(job("p_value", data, model_path=paths))
        assert result["error_type"] == "InputDataError"
        assert said in result["error"]
    for party in ("alice", "bob"):
        pd.read_csv(data / f"{party}.csv").head(3).assign(f1=[1, 2, 3]).to_csv(data / f"{party}.csv", index=False)
    assert "not more rows than features" in worker.run(job("p_value", data, model_path=paths))["error"]
    result = worker.run(job("p_value", data, model_path=paths, trained_by="ss_glm"))
    assert result["error_type"] == "ModelMismatchError"


def test_a_model_of_another_kind(worker: RunningWorker, data: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    write(data, x[:, :2], y)
    trained(worker, data, "ss_glm", distribution="Poisson", epochs=1)
    paths = {party: str(data / f"model-{party}") for party in ("alice", "bob")}
    result = worker.run(job("p_value", data, model_path=paths, trained_by="ss_glm"))
    assert (result["error_type"], "only Bernoulli" in result["error"]) == ("ModelMismatchError", True)


def test_a_model_of_the_fields_own_fraction_bits(worker: RunningWorker, data: Path) -> None:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x = x[:, [2, 3, 8]]
    write(data, x, y)
    paths = {party: str(data / f"model-{party}") for party in ("alice", "bob")}
    label = {"party": "bob", "column": "标签"}
    training = job("ss_lr", data, label=label, model_path=paths, regression="linear", epochs=150, batch_size=len(y))
    testing, named = job("p_value", data, model_path=paths), job("p_value", data, model_path=paths)
    for made in (training, testing):
        del made["spu_config"]["cluster_def"]["runtime_config"]["fxp_fraction_bits"]
    named["spu_config"]["cluster_def"]["runtime_config"]["fxp_fraction_bits"] = 26
    assert succeed(worker, training)["arithmetic"]["fxp_fraction_bits"] == 26
    for made in (testing, named):
        found = succeed(worker, made)
        assert flat(found) == pytest.approx(linear_p_values(x, y), abs=1e-4)
        assert found["arithmetic"]["fxp_fraction_bits"] == 26
    named["execution_id"] += "-again"
    named["spu_config"]["cluster_def"]["runtime_config"]["fxp_fraction_bits"] = 40
    result = worker.run(named)
    assert result["error_type"] == "ModelMismatchError"
    assert "fxp_fraction_bits is 26, this job's is 40" in result["error"]
