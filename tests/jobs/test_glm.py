"""`ss_glm` and `ss_glm_predict` on real SecretFlow, compared with a direct IRLS on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_diabetes

from tests.running_worker import RunningWorker, envelope

Vector = npt.NDArray[np.float64]
PREDICTION_TOLERANCE = 1e-4
"""Of a prediction, relative to the largest one."""


def spu(**runtime_config: Any) -> dict[str, Any]:
    """Field, fraction bits and precision of the exponential are the task type's own defaults."""
    return {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", **runtime_config}}}


def train(data: Path, *, spu_config: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "ss_glm",
        "input_paths": {party: str(data / f"{party}.csv") for party in ("alice", "bob")},
        "keys": {"alice": ["id"], "bob": ["id"]},
        "label": {"party": "alice", "column": "y"},
        "model_path": {party: str(data / f"model-{party}") for party in ("alice", "bob")},
        "epochs": 8,
        **parameters,
    }
    return envelope(task, spu_config=spu_config or spu())


def predict(data: Path, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "ss_glm_predict",
        "input_paths": {party: str(data / f"{party}.csv") for party in ("alice", "bob")},
        "keys": {"alice": ["id"], "bob": ["id"]},
        "model_path": {party: str(data / f"model-{party}") for party in ("alice", "bob")},
        "receiver": "bob",
        "output_paths": {"bob": str(data / "predicted.csv")},
        **parameters,
    }
    return envelope(task, spu_config=spu())


def write(data: Path, x: Any, y: Any, **beside: Any) -> None:
    names = [f"f{number}" for number in range(x.shape[1])]
    frame = pd.DataFrame(x, columns=names)
    middle, ids = x.shape[1] // 2, [f"{number:05d}" for number in range(len(y))]
    frame[names[:middle]].assign(id=ids, y=y, **beside).to_csv(data / "alice.csv", index=False)
    frame[names[middle:]].assign(id=ids).to_csv(data / "bob.csv", index=False)


def succeed(worker: RunningWorker, job: dict[str, Any]) -> Any:
    result = worker.run(job)
    assert result["status"] == "success", result["error"]
    return result["result"]


def trained_and_predicted(worker: RunningWorker, data: Path, **parameters: Any) -> Vector:
    answer = succeed(worker, train(data, reveal_weights=True, **parameters))
    assert answer["distribution"] == parameters["distribution"]
    offset = {"offset": parameters["offset"]} if "offset" in parameters else {}
    succeed(worker, predict(data, **offset))
    predicted: Vector = pd.read_csv(data / "predicted.csv")["pred"].to_numpy()
    assert close(means_of(data, answer, **offset), predicted)
    return predicted


def means_of(data: Path, answer: Any, offset: dict[str, str] | None = None) -> Vector:
    """Means by the weights that a result tells, which are of standardized columns."""
    tables = {party: pd.read_csv(data / f"{party}.csv") for party in ("alice", "bob")}
    predictor: Any = answer["intercept"]
    if offset is not None:
        predictor += tables[offset["party"]][offset["column"]].to_numpy()
    for party, weights in answer["weights"].items():
        for name, weight in weights.items():
            values = tables[party][name].to_numpy()
            predictor = predictor + weight * (values - values.mean()) / values.std()
    return np.asarray(
        {"Logit": expit, "Log": np.exp, "Reciprocal": np.reciprocal}.get(answer["link"], np.positive)(predictor)
    )


def irls(x: Any, y: Any, variance: Any, offset: Any = 0.0, weight: Any = 1.0, epochs: int = 25) -> Vector:
    """Fitted means of a model with link Log, by the textbook's steps."""
    design = np.column_stack([x, np.ones(len(y))])
    mu = (y + y.mean()) / 2
    for _ in range(epochs):
        eta = np.log(mu)
        w, z = weight * mu**2 / variance(mu), eta + (y - mu) / mu - offset
        beta = np.linalg.solve(design.T @ (w[:, None] * design), design.T @ (w * z))
        mu = np.exp(design @ beta + offset)
    return np.asarray(mu)


def counts() -> tuple[Any, Any]:
    """400 rows of four features and a label that grows with them, up to some hundred."""
    chance = np.random.default_rng(3)
    x = chance.normal(size=(400, 4)) * [1, 10, 0.1, 1] + [0, 50, 0, 3]
    mean = np.exp(1.5 + 0.4 * x[:, 0] + 0.03 * (x[:, 1] - 50) - 2 * x[:, 2] + 0.2 * x[:, 3])
    return x, mean


def close(found: Vector, expected: Vector) -> bool:
    return bool(np.abs(found - expected).max() < PREDICTION_TOLERANCE * np.abs(expected).max())


def test_poisson(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    y = np.random.default_rng(4).poisson(mean)
    write(data, x, y)
    assert close(trained_and_predicted(worker, data, distribution="Poisson"), irls(x, y, lambda mu: mu))


def test_poisson_with_an_offset_and_weights(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    chance = np.random.default_rng(5)
    exposure, weight = chance.uniform(0.5, 2, len(x)), chance.uniform(0.2, 3, len(x))
    y = chance.poisson(mean * exposure)
    write(data, x, y, log_exposure=np.log(exposure), w=weight)
    found = trained_and_predicted(
        worker,
        data,
        distribution="Poisson",
        offset={"party": "alice", "column": "log_exposure"},
        weight={"party": "alice", "column": "w"},
    )
    assert close(found, irls(x, y, lambda mu: mu, np.log(exposure), weight))


@pytest.mark.parametrize(
    ("parameters", "power"),
    [({"distribution": "Gamma"}, 2), ({"distribution": "Tweedie", "tweedie_power": 1.5}, 1.5)],
)
def test_gamma_and_tweedie(worker: RunningWorker, data: Path, parameters: dict[str, Any], power: float) -> None:
    x, mean = counts()
    y = np.random.default_rng(6).gamma(2, mean / 2)
    write(data, x, y)
    assert close(trained_and_predicted(worker, data, **parameters), irls(x, y, lambda mu: mu**power))


def test_bernoulli(worker: RunningWorker, data: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :4]
    write(data, x, y)
    design = np.column_stack([x, np.ones(len(y))])
    beta = np.zeros(5)
    for _ in range(25):
        mu = expit(design @ beta)
        beta += np.linalg.solve(design.T @ ((mu * (1 - mu))[:, None] * design), design.T @ (y - mu))
    found = trained_and_predicted(worker, data, distribution="Bernoulli")
    assert close(found, expit(design @ beta))


def test_normal_is_least_squares(worker: RunningWorker, data: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    write(data, x, y)
    design = np.column_stack([x, np.ones(len(y))])
    expected = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    found = trained_and_predicted(worker, data, distribution="Tweedie", tweedie_power=0, link="Identity", epochs=2)
    assert close(found, expected)


@pytest.mark.parametrize(("distribution", "link", "power"), [("Gamma", "Reciprocal", 2), ("Poisson", "Identity", 1)])
def test_links_but_log(worker: RunningWorker, data: Path, distribution: str, link: str, power: float) -> None:
    chance = np.random.default_rng(9)
    x = chance.uniform(-1, 1, (300, 4))
    line = x @ [0.5, -0.3, 0.2, 0.1] + 2
    of_line = np.reciprocal if link == "Reciprocal" else np.positive
    y = chance.gamma(5, of_line(line) / 5) if distribution == "Gamma" else chance.poisson(line)
    write(data, x, y)
    design = np.column_stack([x, np.ones(len(y))])
    beta = np.array([0, 0, 0, 0, of_line(y.mean())])
    for _ in range(25):
        mu = of_line(design @ beta)
        slope = -(mu**2) if link == "Reciprocal" else np.ones(len(y))
        weights = slope**2 / mu**power
        beta = np.linalg.solve((design.T * weights) @ design, (design.T * weights) @ (design @ beta + (y - mu) / slope))
    assert close(trained_and_predicted(worker, data, distribution=distribution, link=link), of_line(design @ beta))


@pytest.mark.slow
def test_gradient_descent_finds_the_same(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    y = np.random.default_rng(4).poisson(mean)
    write(data, x, y)
    found = trained_and_predicted(
        worker, data, distribution="Poisson", optimizer="SGD", epochs=40, learning_rate=0.3, batch_size=100
    )
    assert np.corrcoef(found, irls(x, y, lambda mu: mu))[0, 1] > 0.999


def test_gradient_descent_uses_every_row(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    order = np.argsort(mean)
    x, y = x[order], np.random.default_rng(4).poisson(mean)[order]
    write(data, x, y)
    rows = len(y)
    settings: dict[str, Any] = {"optimizer": "SGD", "epochs": 3, "learning_rate": 0.3, "batch_size": rows - 1}
    answer = succeed(worker, train(data, distribution="Poisson", **settings))
    assert (answer["batch_size"], answer["converged"]) == (rows - 1, False)
    found = trained_and_predicted(worker, data, distribution="Poisson", **settings)
    design = np.column_stack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones(rows)])
    scale, weights = 2.0 ** np.floor(np.log2(y.max())), np.zeros(design.shape[1])
    for batch in np.array_split(np.arange(rows), 2) * 3:
        error = np.exp(design[batch] @ weights) - y[batch] / scale
        weights -= 0.3 * design[batch].T @ error / len(batch)
    assert close(found, scale * np.exp(design @ weights))


def test_it_says_whether_it_has_converged(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    write(data, x, np.random.default_rng(4).poisson(mean))
    assert succeed(worker, train(data, distribution="Poisson", epochs=1))["converged"] is False
    answer = succeed(worker, train(data, distribution="Poisson"))
    assert (answer["converged"], answer["batch_size"], answer["warnings"]) == (True, None, [])


def test_training_stops_early_where_it_is_told_to(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    write(data, x, np.random.default_rng(4).poisson(mean))
    assert succeed(worker, train(data, distribution="Poisson", epochs=50, eps=0.001))["epochs"] < 10


def test_three_parties(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    y = np.random.default_rng(4).poisson(mean)
    write(data, x, y)
    bob = pd.read_csv(data / "bob.csv", dtype={"id": str})
    bob[["id", "f3"]].to_csv(data / "carol.csv", index=False)
    bob[["id", "f2"]].to_csv(data / "bob.csv", index=False)
    parties = ["alice", "bob", "carol"]
    three: dict[str, Any] = {
        "input_paths": {party: str(data / f"{party}.csv") for party in parties},
        "keys": {party: ["id"] for party in parties},
        "model_path": {party: str(data / f"model-{party}") for party in parties},
    }
    for job in (train(data, distribution="Poisson", **three), predict(data, **three)):
        job["sf_init_config"] = {**job["sf_init_config"], "parties": parties}
        job["spu_config"] = spu(protocol="ABY3")
        succeed(worker, job)
    assert close(pd.read_csv(data / "predicted.csv")["pred"].to_numpy(), irls(x, y, lambda mu: mu))


# --- what cannot be trained


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"distribution": "Poisson", "link": "Logit"}, "task_config.link"),
        ({"distribution": "Bernoulli", "link": "Log"}, "task_config.link"),
        ({"distribution": "Tweedie", "tweedie_power": 0.5}, "task_config.tweedie_power"),
        ({"distribution": "Poisson", "link": "Identity", "optimizer": "SGD"}, "task_config.optimizer: SGD finds"),
        ({"distribution": "Gamma", "link": "Reciprocal", "optimizer": "SGD"}, "task_config.optimizer: SGD finds"),
        (
            {"distribution": "Gamma", "link": "Identity", "offset": {"party": "bob", "column": "f2"}},
            "task_config.offset",
        ),
        (
            {"distribution": "Poisson", "offset": {"party": "bob", "column": "f2"}, "features": {"bob": ["f2"]}},
            "task_config.features.bob: column 'f2'",
        ),
        ({"distribution": "Poisson", "weight": {"party": "carol", "column": "w"}}, "task_config.weight.party"),
        ({"distribution": "Poisson", "spu_config": spu(field="FM64", fxp_fraction_bits=18)}, "fxp_fraction_bits"),
    ],
)
def test_parameters_that_do_not_go_together(
    worker: RunningWorker, data: Path, parameters: dict[str, Any], said: str
) -> None:
    x, mean = counts()
    write(data, x, mean)
    result = worker.run(train(data, **parameters))
    assert result["error_type"] == "ParameterValidationError"
    assert said in result["error"]


@pytest.mark.parametrize(
    ("distribution", "value", "said"),
    [("Poisson", -1.0, "0 or above"), ("Gamma", 0.0, "above 0"), ("Bernoulli", 2.0, "0 and 1")],
)
def test_labels_that_a_distribution_does_not_have(
    worker: RunningWorker, data: Path, distribution: str, value: float, said: str
) -> None:
    x, mean = counts()
    mean[3] = value
    write(data, x, mean)
    result = worker.run(train(data, distribution=distribution))
    assert result["error_type"] == "InputDataError"
    assert said in result["error"]


def test_a_singular_matrix(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    write(data, np.column_stack([x, x[:, 0] * 2]), np.random.default_rng(4).poisson(mean))
    result = worker.run(train(data, distribution="Poisson"))
    assert (result["status"], result["error_type"]) == ("failure", "InputDataError"), result
    assert "task_config.features" in result["error"]


def test_an_offset_that_the_model_lacks_or_wants(worker: RunningWorker, data: Path) -> None:
    x, mean = counts()
    write(data, x, np.random.default_rng(4).poisson(mean), log_exposure=0.0)
    keys = {"alice": ["id", "log_exposure"], "bob": ["id"]}
    succeed(worker, train(data, distribution="Poisson", keys=keys, epochs=1))
    result = worker.run(predict(data, offset={"party": "alice", "column": "log_exposure"}))
    assert result["error_type"] == "ParameterValidationError"
    assert "has no offset" in result["error"]
