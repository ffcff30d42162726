"""Numbers of any size: what a task type answers is right, or it says which column does not fit into the SPU's field.

Labels, columns and rows go from 1e-9 to 1e12, with one huge number, small differences far from 0 and all of these
beside each other. Answers are compared with a plain computation, and with those for the same numbers near 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LinearRegression

from sfworker.tables import aligned, labels
from tests.jobs.test_statistics_p_value import linear_p_values
from tests.running_worker import RunningWorker, envelope

Vector = npt.NDArray[np.float64]
ROWS = 600
HEU = {
    "sk_keeper": {"party": "alice"},
    "evaluators": [{"party": "bob"}],
    "mode": "PHEU",
    "he_parameters": {"schema": "ou", "key_pair": {"generate": {"bit_size": 2048}}},
}
TOLERANCE = {"FM64": 1e-4, "FM128": 1e-6}
"""Of a linear model's prediction, relative to the largest distance from the label's mean."""
VIF_TOLERANCE = 0.01
SIZES = [(1e-9, 0.0), (1e12, 0.0), (1.0, 1e6)]
"""Factor and summand of a label."""
FAR_LABEL = (1.0, 1e9)
SIZES_OF = {"FM64": SIZES, "FM128": [(1e12, 0.0), FAR_LABEL]}
"""What the smaller field has room for, it has in the larger one, too."""
PLACES = {"alice": ["a", "b"], "bob": ["c", "d"]}


def standard(seed: int = 1) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(ROWS, 4)), columns=list("abcd"))


def stretched(frame: pd.DataFrame) -> pd.DataFrame:
    """The same columns in other units, which change nothing for a model that scales them."""
    return frame.assign(a=frame.a * 1e-9, b=frame.b * 1e12, c=frame.c + 1e9, d=frame.d * 1e3 - 1e7)


def label_of(frame: pd.DataFrame) -> Vector:
    found: Vector = frame.to_numpy() @ [1, -2, 0.5, 1] + np.random.default_rng(2).normal(size=len(frame))
    return found


def job(task_type: str, data: Path, frame: pd.DataFrame, runtime: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    """A job on the columns of `frame`, where each party has its own and alice all others."""
    for party, columns in PLACES.items():
        others = [name for name in frame if name not in "abcd"] if party == "alice" else []
        frame[[*columns, *others]].to_csv(data / f"{party}.csv", index=False)
    paths = {party: str(data / f"{party}.csv") for party in PLACES}
    task = {"task_type": task_type, "input_paths": paths, **parameters}
    spu = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", **runtime}}}
    return envelope(task, spu_config=spu, **({"heu_config": HEU} if task_type == "sgb" else {}))


def succeed(worker: RunningWorker, made: dict[str, Any]) -> Any:
    result = worker.run(made)
    assert result["status"] == "success", result["error"]
    return result["result"]


def training(task_type: str, data: Path, frame: pd.DataFrame, runtime: dict[str, Any], **more: Any) -> dict[str, Any]:
    paths = {party: str(data / f"model-{party}") for party in PLACES}
    about = {"label": {"party": "alice", "column": "y"}, "model_path": paths, "features": PLACES}
    return job(task_type, data, frame, runtime, **{**about, **more})


def predicting(task_type: str, data: Path, frame: pd.DataFrame, runtime: dict[str, Any], **more: Any) -> dict[str, Any]:
    paths = {party: str(data / f"model-{party}") for party in PLACES}
    outputs = {"bob": str(data / "predicted.csv")}
    about = {"model_path": paths, "receiver": "bob", "output_paths": outputs}
    return job(f"{task_type}_predict", data, frame, runtime, **about, **more)


def predicted(
    worker: RunningWorker, task_type: str, data: Path, frame: pd.DataFrame, runtime: dict[str, Any], **more: Any
) -> Vector:
    """Predictions for the rows of the training."""
    succeed(worker, training(task_type, data, frame, runtime, **more))
    succeed(worker, predicting(task_type, data, frame, runtime))
    found: Vector = pd.read_csv(data / "predicted.csv")["pred"].to_numpy()
    return found


LINEAR = {"regression": "linear", "epochs": 60, "learning_rate": 0.5, "batch_size": ROWS}


@pytest.mark.parametrize("exponent", [-250, -30, 0, 30, 250])
def test_scales_of_any_size(exponent: int) -> None:
    values = np.random.default_rng(1).normal(5, 2, (1000, 1))
    sized = values * 10.0**exponent
    assert labels.standardized(sized) == pytest.approx((values - values.mean()) / values.std(), rel=1e-9)
    mean, deviation, power = labels.scale(sized)
    assert 0.5 <= deviation < 1
    assert np.ldexp([mean, deviation], power) / 10.0**exponent == pytest.approx([values.mean(), values.std()])


@pytest.mark.parametrize("number", [0.1, 7e7, 1e12, -1e-9])
def test_a_constant_column_has_no_deviation(number: float) -> None:
    means, deviations = aligned.means_and_deviations(np.full((1000, 1), number))
    assert (means[0], deviations[0]) == (number, 0)
    assert not labels.standardized(np.full((1000, 1), number)).any()


def test_groups_of_currencies(worker: RunningWorker, data: Path) -> None:
    money = {"JPY": 12_000.0, "USD": 80.0, "VND": 2e6}
    frame = standard().assign(a=np.resize(list(money), ROWS))
    frame["c"] = frame.a.map(money) * (1 + 0.2 * frame.c)
    frame.loc[0, "d"] = 9_999_999_999
    about = {"by": {"alice": ["a"]}, "values": {"bob": ["c", "d"]}, "aggregations": ["mean", "var"]}
    for group in succeed(worker, job("groupby_statistics", data, frame, {"field": "FM64"}, **about))["groups"]:
        for column, figures in group["values"]["bob"].items():
            values = frame[column][frame.a == group["keys"][0]]
            assert [figures["mean"], figures["var"]] == pytest.approx([values.mean(), values.var()], rel=1e-12)


@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_correlations_and_factors_of_mixed_columns(worker: RunningWorker, data: Path, field: str) -> None:
    chance, frame = np.random.default_rng(3), standard()
    frame = frame.assign(c=frame.a + 0.3 * frame.c, d=frame.d + frame.b)
    frame = stretched(frame).assign(
        outlier=np.where(frame.index == 7, 1e10, frame.a), mixed=frame.d * 10.0 ** chance.integers(-9, 12, ROWS)
    )
    made = {name: job(name, data, frame, {"field": field}) for name in ("pearson_correlation", "vif")}
    exact = frame[[*"ab", "outlier", "mixed", *"cd"]].to_numpy().astype(np.longdouble)
    exact -= exact.mean(axis=0)
    exact /= np.sqrt(np.square(exact).sum(axis=0))
    expected = (exact.T @ exact).astype(float)
    found = succeed(worker, made["pearson_correlation"])
    assert np.abs(np.array(found["correlation"]) - expected).max() < {"FM64": 1e-5, "FM128": 1e-7}[field]
    told = [factor for columns in succeed(worker, made["vif"])["vif"].values() for factor in columns.values()]
    assert told == pytest.approx(np.diag(np.linalg.inv(expected)).tolist(), rel={"FM64": 1e-3, "FM128": 1e-5}[field])


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(16, 63, 2))
@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_a_factor_is_right_or_not_told(worker: RunningWorker, data: Path, field: str, bits: int) -> None:
    if bits > {"FM64": 30, "FM128": 62}[field]:
        pytest.skip("refused before")
    for apart in (1, 0.1, 0.01, 1e-4):
        frame = standard().assign(c=lambda one, apart=apart: one.a + apart * one.c)
        result = worker.run(job("vif", data, frame, {"field": field, "fxp_fraction_bits": bits}))
        if result["status"] != "success":
            assert "fxp_fraction_bits" in result["error"]
            continue
        told = [factor for columns in result["result"]["vif"].values() for factor in columns.values()]
        for factor, right in zip(told, np.diag(np.linalg.inv(np.corrcoef(frame.to_numpy().T))), strict=True):
            assert factor is None or factor == pytest.approx(right, rel=VIF_TOLERANCE)
        assert told[1] is not None


@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_a_linear_model_of_labels_and_columns_of_any_size(worker: RunningWorker, data: Path, field: str) -> None:
    frame = standard()
    y = label_of(frame)
    right = LinearRegression().fit(frame, y).predict(frame)
    for factor, summand in SIZES_OF[field]:
        sized = stretched(frame).assign(y=y * factor + summand)
        found = (predicted(worker, "ss_lr", data, sized, {"field": field}, **LINEAR) - summand) / factor
        assert np.abs(found - right).max() < TOLERANCE[field] * np.abs(right - y.mean()).max(), (factor, summand)


def test_a_label_too_far_from_0_is_told(worker: RunningWorker, data: Path) -> None:
    frame = standard()
    far = frame.assign(y=label_of(frame) + 1e9)
    result = worker.run(training("ss_lr", data, far, {"field": "FM64"}, **LINEAR))
    assert result["error_type"] == "InputDataError"
    assert "subtract a number near the mean" in result["error"]


@pytest.mark.parametrize("field", ["FM64", pytest.param("FM128", marks=pytest.mark.slow)])
def test_a_linear_model_on_rows_far_away_is_right_or_names_the_column(
    worker: RunningWorker, data: Path, field: str
) -> None:
    frame, runtime = standard(), {"field": field}
    y = label_of(frame)
    plain = LinearRegression().fit(frame, y)
    succeed(worker, training("ss_lr", data, frame.assign(y=y), runtime, **LINEAR))
    for distance in (1e3, 1e6, 1e12):
        rows = frame.assign(c=np.where(frame.index == 41, distance, frame.c))
        result = worker.run(predicting("ss_lr", data, rows, runtime))
        if field == "FM64" and distance > 1e6:
            assert result["error_type"] == "InputDataError"
            assert "bob: column 'c' is so far from the training's in row 42" in result["error"]
            continue
        assert result["status"] == "success", result["error"]
        found = pd.read_csv(data / "predicted.csv")["pred"].to_numpy()
        right = plain.predict(rows)
        assert found[41] == pytest.approx(right[41], rel=1e-4)
        assert np.abs(np.delete(found - right, 41)).max() < 1e-3


def test_a_logistic_model_on_rows_far_away_saturates(worker: RunningWorker, data: Path) -> None:
    frame, runtime = standard(), {"field": "FM64"}
    succeed(worker, training("ss_lr", data, frame.assign(y=(label_of(frame) > 0) * 1), runtime, epochs=3))
    succeed(worker, predicting("ss_lr", data, frame * 1e6, runtime))
    found = pd.read_csv(data / "predicted.csv")["pred"].to_numpy()
    assert np.mean(np.abs(found - np.round(found)) < 1e-6) > 0.99
    assert ((found >= 0) & (found <= 1)).all()
    assert np.corrcoef(found, (label_of(frame) > 0) * 1)[0, 1] > 0.6


@pytest.mark.parametrize("distribution", ["Poisson", pytest.param("Gamma", marks=pytest.mark.slow), "Tweedie"])
def test_a_glm_of_labels_and_weights_of_any_size(worker: RunningWorker, data: Path, distribution: str) -> None:
    frame, chance = standard(), np.random.default_rng(4)
    mean = np.exp(0.3 * label_of(frame))
    y = chance.poisson(mean) if distribution == "Poisson" else chance.gamma(2, mean)
    weight = chance.uniform(0.5, 2, ROWS)
    about = {"distribution": distribution, "epochs": 6, "weight": {"party": "alice", "column": "w"}}
    near = predicted(worker, "ss_glm", data, frame.assign(y=y, w=weight), {}, **about)
    for factor, weighs in ((1e-9, 1e12), (1e12, 1e-9)):
        sized = stretched(frame).assign(y=y * factor, w=weight * weighs)
        found = predicted(worker, "ss_glm", data, sized, {}, **about) / factor
        assert found == pytest.approx(near, rel=1e-3)


@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_means_far_apart_are_right_or_told(worker: RunningWorker, data: Path, spread: float) -> None:
    frame = standard()
    mean = np.exp(spread * frame.a)
    frame = frame.assign(y=mean * np.random.default_rng(8).gamma(20, 0.05, ROWS))
    about = {"distribution": "Gamma", "epochs": 12}
    if spread == 1:
        assert np.abs(predicted(worker, "ss_glm", data, frame, {}, **about) / mean - 1).max() < 0.1
        return
    for _ in range(3):  # as rounding decides how the training ends and which of three checks finds it
        result = worker.run(training("ss_glm", data, frame, {}, **about))
        assert result.get("error_type") == "InputDataError", result
        assert "the largest label" in result["error"]


def test_a_glm_on_rows_far_away(worker: RunningWorker, data: Path) -> None:
    frame = standard()
    y = np.random.default_rng(5).poisson(np.exp(0.3 * label_of(frame)))
    succeed(worker, training("ss_glm", data, frame.assign(y=y), {}, distribution="Poisson", epochs=6))
    result = worker.run(predicting("ss_glm", data, frame * 1e6, {}))
    assert result["error_type"] == "InputDataError"
    assert "is beyond the largest number there is" in result["error"]
    below = frame.assign(a=-1e6, b=1e6, c=-1e6, d=-1e6)
    succeed(worker, predicting("ss_glm", data, below, {}))
    assert not pd.read_csv(data / "predicted.csv")["pred"].any()


def test_offsets_and_weights_without_sense_are_refused(worker: RunningWorker, data: Path) -> None:
    frame = standard()
    frame = frame.assign(y=np.random.default_rng(6).poisson(np.exp(0.3 * label_of(frame))), beside=1.0)
    place = {"party": "alice", "column": "beside"}
    for values, said, about in [
        (1e6, "a number beyond 700 in row 1", {"offset": place}),
        (1e9, "from 0.001 to 1000", {"weight": place, "l2_lambda": 0.1}),
        (np.where(frame.index == 3, 1e9, 1.0), "limit the largest weights", {"weight": place}),
    ]:
        made = training("ss_glm", data, frame.assign(beside=values), {}, distribution="Poisson", **about)
        result = worker.run(made)
        assert result["error_type"] == "InputDataError"
        assert said in result["error"]


@pytest.mark.parametrize(
    ("task_type", "field"),
    [("ss_xgb", "FM64"), *(pytest.param(*each, marks=pytest.mark.slow) for each in [("ss_xgb", "FM128"), ("sgb", "")])],
)
def test_trees_of_labels_and_columns_of_any_size(worker: RunningWorker, data: Path, task_type: str, field: str) -> None:
    frame, about = standard(), {"num_boost_round": 2, "max_depth": 3, "objective": "linear"}
    runtime = {"field": field} if field else {}
    y = label_of(frame)
    near = predicted(worker, task_type, data, frame.assign(y=y), runtime, **about)
    for factor, summand in [SIZES[0], FAR_LABEL]:
        sized = stretched(frame).assign(y=y * factor + summand)
        found = (predicted(worker, task_type, data, sized, runtime, **about) - summand) / factor
        assert np.abs(found - near).max() < 1e-3, (factor, summand)


@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_p_values_of_labels_and_columns_of_any_size(worker: RunningWorker, data: Path, field: str) -> None:
    frame, runtime = standard(), {"field": field}
    y = 0.05 * label_of(frame) + np.random.default_rng(7).normal(size=ROWS)
    right = linear_p_values(frame.to_numpy(), y)[:-1]
    paths = {party: str(data / f"model-{party}") for party in PLACES}
    for factor, summand in SIZES_OF[field]:
        sized = stretched(frame).assign(y=y * factor + summand)
        succeed(worker, training("ss_lr", data, sized, runtime, **LINEAR))
        found = succeed(worker, job("p_value", data, sized, runtime, model_path=paths))
        told = [chance for columns in found["p_values"].values() for chance in columns.values()]
        assert told == pytest.approx(right.tolist(), abs={"FM64": 1e-3, "FM128": 1e-5}[field])
        assert found["intercept"] is None
        [warning] = found["warnings"]
        assert warning.startswith("column 'c' of bob is so far from 0, in its deviations, that the intercept has no")


NEEDS = {
    "groupby_statistics": {"by": {"alice": ["a"]}, "values": {"bob": ["c"]}},
    "ss_glm": {"distribution": "Poisson"},
}


@pytest.mark.parametrize("task_type", ["groupby_statistics", "pearson_correlation", "vif", "ss_lr", "ss_glm", "ss_xgb"])
def test_a_field_without_room_is_refused(worker: RunningWorker, data: Path, task_type: str) -> None:
    frame = standard()
    make = training if task_type.startswith("ss_") else job
    made = make(task_type, data, frame.assign(y=(frame.a > 0) * 1), {"field": "FM32"}, **NEEDS.get(task_type, {}))
    result = worker.run(made)
    assert result["error_type"] == "ParameterValidationError"
    assert "FM128" in result["error"]


@pytest.mark.parametrize("task_type", ["vif", "ss_lr", "ss_glm", "ss_xgb"])
def test_fraction_bits_without_room_are_refused(worker: RunningWorker, data: Path, task_type: str) -> None:
    frame = standard()
    make = training if task_type.startswith("ss_") else job
    runtime = {"field": "FM128" if task_type == "ss_glm" else "FM64"}
    runtime["fxp_fraction_bits"] = {"FM64": 30, "FM128": 62}[runtime["field"]]
    result = worker.run(make(task_type, data, frame.assign(y=(frame.a > 0) * 1), runtime, **NEEDS.get(task_type, {})))
    assert result["status"] == "failure"
    assert "fxp_fraction_bits" in result["error"]


def test_columns_that_nobody_scales_are_named(worker: RunningWorker, data: Path) -> None:
    frame = standard().assign(c=lambda one: one.c * 1e9)
    made = training("ss_lr", data, frame.assign(y=label_of(frame)), {"field": "FM64"}, **LINEAR, standardize=False)
    result = worker.run(made)
    assert result["error_type"] == "InputDataError"
    assert "bob: column 'c' makes sums over the rows that do not fit" in result["error"]


def test_a_sigmoid_of_the_receiver_is_the_true_one(worker: RunningWorker, data: Path) -> None:
    frame = standard()
    y = (label_of(frame) > 0) * 1
    found = predicted(worker, "ss_glm", data, stretched(frame).assign(y=y), {}, distribution="Bernoulli", epochs=8)
    design, weights = np.column_stack([frame, np.ones(ROWS)]), np.zeros(5)
    for _ in range(20):
        chance = expit(design @ weights)
        weights += np.linalg.solve((design.T * (chance * (1 - chance))) @ design, design.T @ (y - chance))
    assert np.abs(found - expit(design @ weights)).max() < 1e-4
