"""`ss_xgb`, `sgb` and their predictions on real SecretFlow, compared with xgboost on the same rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import r2_score, roc_auc_score

from tests.running_worker import RunningWorker, envelope

Vector = npt.NDArray[np.float64]
AUC_TOLERANCE = 0.01
R2_TOLERANCE = 0.02
PREDICTION_TOLERANCE = 1e-3
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}}}
HEU = {
    "sk_keeper": {"party": "alice"},
    "evaluators": [{"party": "bob"}],
    "mode": "PHEU",
    "he_parameters": {"schema": "ou", "key_pair": {"generate": {"bit_size": 2048}}},
}
DEVICES: dict[str, dict[str, Any]] = {"ss_xgb": {"spu_config": SPU}, "sgb": {"heu_config": HEU}}
SMALL = {"num_boost_round": 3, "max_depth": 3}


def job(data: Path, task_type: str, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": task_type,
        "input_paths": {party: str(data / f"{party}.csv") for party in ("alice", "bob")},
        "keys": {"alice": ["id"], "bob": ["id"]},
        "model_path": {party: str(data / f"model-{party}") for party in ("alice", "bob")},
        **parameters,
    }
    return envelope(task, **DEVICES[task_type.removesuffix("_predict")])


def train(data: Path, task_type: str, **parameters: Any) -> dict[str, Any]:
    return job(data, task_type, **{"label": {"party": "alice", "column": "y"}, **SMALL, **parameters})


def predict(data: Path, task_type: str, receiver: str = "bob", **parameters: Any) -> dict[str, Any]:
    output = {receiver: str(data / f"at-{receiver}.csv")}
    return job(data, f"{task_type}_predict", receiver=receiver, output_paths=output, **parameters)


def write(data: Path, x: Any, y: Any) -> None:
    names = [f"f{number}" for number in range(x.shape[1])]
    frame = pd.DataFrame(x, columns=names)
    middle, ids = x.shape[1] // 2, [f"{number:05d}" for number in range(len(y))]
    frame[names[:middle]].assign(id=ids, y=y).to_csv(data / "alice.csv", index=False)
    frame[names[middle:]].assign(id=ids).to_csv(data / "bob.csv", index=False)


def succeed(worker: RunningWorker, job: dict[str, Any]) -> Any:
    result = worker.run(job)
    assert result["status"] == "success", result["error"]
    return result["result"]


def predictions(worker: RunningWorker, data: Path, task_type: str, receiver: str = "bob") -> Vector:
    succeed(worker, predict(data, task_type, receiver))
    found: Vector = pd.read_csv(data / f"at-{receiver}.csv")["pred"].to_numpy()
    return found


def plain(x: Any, y: Any, objective: str, **parameters: Any) -> Vector:
    booster = xgboost.train(
        {"objective": objective, "max_depth": 3, "eta": 0.3, "lambda": 1.0, "tree_method": "hist", "max_bin": 10}
        | {"base_score": 0.5 if objective == "binary:logistic" else float(np.mean(y)), **parameters},
        xgboost.DMatrix(x, y),
        num_boost_round=3,
    )
    return np.asarray(booster.predict(xgboost.DMatrix(x)), dtype=np.float64)


def require_rmse(answer: Any, found: Vector, y: Any, tolerance: float = 1e-4) -> None:
    """The last tree's error is that of the model's predictions, and fewer trees have a larger one."""
    assert len(answer["rmse"]) == answer["trees"] == 3
    assert answer["rmse"] == sorted(answer["rmse"], reverse=True)
    assert answer["rmse"][-1] == pytest.approx(np.sqrt(np.mean((found - y) ** 2)), rel=tolerance)


@pytest.fixture
def breast_cancer(data: Path) -> tuple[Any, Any]:
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :8]
    write(data, x, y)
    return x, y


@pytest.mark.parametrize("task_type", ["ss_xgb", "sgb"])
def test_a_classifier_is_as_good_as_xgboosts(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any], task_type: str
) -> None:
    x, y = breast_cancer
    reveal: dict[str, bool] = {"reveal_rmse": True} | ({"reveal_importances": True} if task_type == "sgb" else {})
    training = train(data, task_type, **reveal)
    answer = succeed(worker, training)
    assert (answer["rows"], answer["features"], answer["trees"]) == (len(y), {"alice": 4, "bob": 4}, 3)
    messages = [event["message"] for event in worker.said(training["execution_id"]) if event["stage"] == "progress"]
    assert messages[0] == "tree 1 of 3"
    found, expected = predictions(worker, data, task_type), plain(x, y, "binary:logistic")
    assert abs(roc_auc_score(y, found) - roc_auc_score(y, expected)) < AUC_TOLERANCE
    assert found.min() > 0
    assert found.max() < 1
    again = predictions(worker, data, task_type, "alice")
    assert np.abs(found - again).max() < PREDICTION_TOLERANCE
    require_rmse(answer, found, y)
    if task_type == "sgb":
        importances = {name: each for columns in answer["importances"].values() for name, each in columns.items()}
        assert list(importances) == [f"f{number}" for number in range(8)]
        assert 3 <= sum(each["splits"] for each in importances.values()) <= 3 * 7
        assert all((each["gain"] > 0) == (each["splits"] > 0) for each in importances.values())
        # f7 (mean concave points) and f6 (mean concavity) tell most of the label.
        assert max(importances, key=lambda name: importances[name]["gain"]) in ("f6", "f7")
    else:
        assert "importances" not in answer


@pytest.mark.parametrize("task_type", ["ss_xgb", "sgb"])
def test_a_regression_is_as_good_as_xgboosts_in_units_of_the_label(
    worker: RunningWorker, data: Path, task_type: str
) -> None:
    x, y = load_diabetes(return_X_y=True)
    write(data, x, y)
    answer = succeed(worker, train(data, task_type, objective="linear", reveal_rmse=True))
    found, expected = predictions(worker, data, task_type), plain(x, y, "reg:squarederror")
    assert abs(r2_score(y, found) - r2_score(y, expected)) < R2_TOLERANCE
    assert abs(found.mean() - y.mean()) < 1
    require_rmse(answer, found, y)


def test_tweedie(worker: RunningWorker, data: Path) -> None:
    chance = np.random.default_rng(3)
    x = chance.normal(size=(500, 4))
    y = chance.gamma(2, np.exp(3 + x[:, 0] - x[:, 2]) / 2) * (chance.random(500) > 0.2)
    write(data, x, y)
    answer = succeed(worker, train(data, "sgb", objective="tweedie", reveal_rmse=True))
    found = predictions(worker, data, "sgb")
    require_rmse(answer, found, y)
    expected = plain(x, y, "reg:tweedie", tweedie_variance_power=1.5)
    assert np.corrcoef(found, expected)[0, 1] > 0.98


@pytest.mark.parametrize("task_type", ["ss_xgb", "sgb"])
def test_a_party_whose_features_say_nothing(worker: RunningWorker, data: Path, task_type: str) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :4]
    x[:, :2] = 1.0
    write(data, x, y)
    assert succeed(worker, train(data, task_type))["trees"] == 3
    found, expected = predictions(worker, data, task_type), plain(x, y, "binary:logistic")
    # Two features have splits of nearly the same gain, and rounding may choose a better one than XGBoost does.
    assert roc_auc_score(y, found) > roc_auc_score(y, expected) - AUC_TOLERANCE


@pytest.mark.parametrize("task_type", ["ss_xgb", "sgb"])
def test_rows_and_columns_can_be_drawn(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any], task_type: str
) -> None:
    succeed(worker, train(data, task_type, subsample=0.5, colsample_by_tree=0.5))
    assert roc_auc_score(breast_cancer[1], predictions(worker, data, task_type)) > 0.95


def test_trees_can_grow_by_leaf(worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]) -> None:
    succeed(worker, train(data, "sgb", tree_growing_method="leaf", max_leaf=6))
    assert roc_auc_score(breast_cancer[1], predictions(worker, data, "sgb")) > 0.97


@pytest.mark.parametrize("task_type", ["ss_xgb", "sgb"])
def test_three_parties_of_which_the_labels_has_no_feature(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any], task_type: str
) -> None:
    x, y = breast_cancer
    pd.read_csv(data / "alice.csv", dtype={"id": str})[["id", "y"]].to_csv(data / "carol.csv", index=False)
    pd.read_csv(data / "alice.csv", dtype={"id": str}).drop(columns="y").to_csv(data / "alice.csv", index=False)
    parties = ["alice", "bob", "carol"]
    three: dict[str, Any] = {
        "input_paths": {party: str(data / f"{party}.csv") for party in parties},
        "keys": {party: ["id"] for party in parties},
        "model_path": {party: str(data / f"model-{party}") for party in parties},
    }
    heu = {**HEU, "sk_keeper": {"party": "carol"}, "evaluators": [{"party": "alice"}, {"party": "bob"}]}
    aby3 = {"cluster_def": {"runtime_config": {"protocol": "ABY3", "field": "FM64"}}}
    devices = {"spu_config": aby3} if task_type == "ss_xgb" else {"heu_config": heu}
    label = {"party": "carol", "column": "y"}
    training = train(data, task_type, **three, label=label, reveal_rmse=True)
    answers = []
    for each in (training, predict(data, task_type, **three)):
        each["sf_init_config"] = {**each["sf_init_config"], "parties": parties}
        answers.append(succeed(worker, {**each, **devices}))
    found, expected = pd.read_csv(data / "at-bob.csv")["pred"].to_numpy(), plain(x, y, "binary:logistic")
    require_rmse(answers[0], found, y, tolerance=1e-2)  # of ABY3 with FM64
    assert abs(roc_auc_score(y, found) - roc_auc_score(y, expected)) < AUC_TOLERANCE


@pytest.fixture(scope="module")
def trained(outlasting_worker: RunningWorker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and a model of `sgb`, trained with the flat form of the HEU's configuration."""
    directory = outlasting_worker.log_file.parent / tmp_path_factory.mktemp("trained").name
    directory.mkdir()
    x, y = load_breast_cancer(return_X_y=True)
    write(directory, x[:, :8], y)
    flat = {"mode": "PHEU", "schema": "ou", "key_size": 2048}
    succeed(outlasting_worker, train(directory, "sgb", num_boost_round=1) | {"heu_config": flat})
    return directory


@pytest.fixture
def model(trained: Path, data: Path) -> Path:
    """A copy of the files and the model, which may be changed."""
    shutil.copytree(trained, data, dirs_exist_ok=True)
    return data


def test_the_flat_form_of_the_heus_configuration(worker: RunningWorker, model: Path) -> None:
    assert roc_auc_score(load_breast_cancer(return_X_y=True)[1], predictions(worker, model, "sgb")) > 0.9


# --- what cannot be trained or applied


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ({"sk_keeper": {"party": "bob"}, "evaluators": [{"party": "alice"}]}, "heu_config.sk_keeper"),
        (None, "heu_config: required"),
    ],
)
def test_keys_that_are_not_the_labels_partys(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any], devices: dict[str, Any] | None, said: str
) -> None:
    result = worker.run({**train(data, "sgb"), "heu_config": None if devices is None else {**HEU, **devices}})
    assert result["error_type"] == "ParameterValidationError"
    assert said in result["error"]


@pytest.mark.parametrize("task_type", ["ss_xgb", pytest.param("sgb", marks=pytest.mark.slow)])  # one code for both
@pytest.mark.parametrize(
    ("labels", "objective", "said"),
    [([1, 1], "logistic", "same label"), ([1, 2], "logistic", "0 and 1"), ([5, 5], "linear", "same label")],
)
def test_labels_that_cannot_be_predicted(
    worker: RunningWorker, data: Path, task_type: str, labels: list[int], objective: str, said: str
) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    write(data, x[:, :2], np.array(labels)[y])
    result = worker.run(train(data, task_type, objective=objective))
    assert result["error_type"] == "InputDataError"
    assert said in result["error"]


@pytest.mark.parametrize("name", ["manifest.json", "part.msgpack"])
def test_a_damaged_model_is_refused(worker: RunningWorker, model: Path, name: str) -> None:
    (model / "model-bob" / name).write_bytes(b"\x80\x04c__builtin__\nexec\n")  # a pickle that would run code
    result = worker.run(predict(model, "sgb"))
    assert result["error_type"] == "ModelMismatchError"
    assert "task_config.model_path.bob" in result["error"]


def test_a_model_of_another_kind_is_refused(worker: RunningWorker, model: Path) -> None:
    result = worker.run(predict(model, "ss_xgb"))
    assert result["error_type"] == "ModelMismatchError"
    assert "task_type is sgb, this job's is ss_xgb" in result["error"]
