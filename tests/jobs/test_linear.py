"""`ss_lr` and `ss_lr_predict` on real SecretFlow (SEMI2K, CHEETAH), compared with scikit-learn on the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from tests.running_worker import RunningWorker, envelope

SEMI2K = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}
AUC_TOLERANCE = 0.01
R2_TOLERANCE = 0.01
PREDICTION_TOLERANCE = 1e-3


def spu(**runtime_config: Any) -> dict[str, Any]:
    return {"cluster_def": {"runtime_config": {**SEMI2K, **runtime_config}}}


def write_halves(data: Path, x: Any, y: Any) -> None:
    """The first half of the columns and the label at alice, the rest at bob; each with ids."""
    names = [f"f{number}" for number in range(x.shape[1])]
    frame = pd.DataFrame(x, columns=names)
    middle, ids = x.shape[1] // 2, [f"{number:05d}" for number in range(len(y))]
    frame[names[:middle]].assign(id=ids, y=y).to_csv(data / "alice.csv", index=False)
    frame[names[middle:]].assign(id=ids).to_csv(data / "bob.csv", index=False)


def train(data: Path, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "ss_lr",
        "input_paths": {party: str(data / f"{party}.csv") for party in ("alice", "bob")},
        "keys": {"alice": ["id"], "bob": ["id"]},
        "label": {"party": "alice", "column": "y"},
        "model_path": {party: str(data / f"model-{party}") for party in ("alice", "bob")},
        "epochs": 10,
        "learning_rate": 0.3,
        "batch_size": 64,
        **parameters,
    }
    return envelope(task, spu_config=spu())


def predict(data: Path, runtime_config: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "ss_lr_predict",
        "input_paths": {party: str(data / f"{party}.csv") for party in ("alice", "bob")},
        "keys": {"alice": ["id"], "bob": ["id"]},
        "model_path": {party: str(data / f"model-{party}") for party in ("alice", "bob")},
        "receiver": "alice",
        "output_paths": {"alice": str(data / "predicted.csv")},
        **parameters,
    }
    return envelope(task, spu_config=spu(**(runtime_config or {})))


def succeed(worker: RunningWorker, job: dict[str, Any]) -> Any:
    result = worker.run(job)
    assert result["status"] == "success", result["error"]
    return result["result"]


def linear_scores(x: Any, answer: Any) -> Any:
    """Linear scores of the weights that a result tells."""
    weights = [weight for party in ("alice", "bob") for weight in answer["weights"][party].values()]
    return StandardScaler().fit_transform(x) @ weights + answer["intercept"]


def require_rmse(answer: Any, predicted: Any, y: Any) -> None:
    """The last epoch's error is that of the predictions, and the first one has a larger one."""
    assert len(answer["rmse"]) == answer["epochs"]
    assert answer["rmse"][-1] == pytest.approx(np.sqrt(np.mean((predicted - y) ** 2)), rel=1e-4)
    assert answer["rmse"][0] > answer["rmse"][-1]


@pytest.fixture
def breast_cancer(data: Path) -> tuple[Any, Any]:
    x, y = load_breast_cancer(return_X_y=True)
    write_halves(data, x, y)
    return x, y


def test_a_logistic_regression_is_as_good_as_scikit_learns(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]
) -> None:
    x, y = breast_cancer
    job = train(data, reveal_rmse=True)
    answer = succeed(worker, job)
    assert "weights" not in answer
    assert "intercept" not in answer
    assert answer["rows"] == len(y)
    assert answer["features"] == {"alice": 15, "bob": 15}
    assert answer["epochs"] == 10
    progress = [event for event in worker.said(job["execution_id"]) if event["stage"] == "progress"]
    assert progress[-1]["message"].endswith("of 10")
    assert succeed(worker, predict(data, saved_columns=["y"]))["rows"] == len(y)
    predicted = pd.read_csv(data / "predicted.csv", dtype={"id": str})
    assert list(predicted.columns) == ["id", "y", "pred"]
    assert list(predicted["id"]) == [f"{number:05d}" for number in range(len(y))]
    require_rmse(answer, predicted["pred"], y)
    scaled = StandardScaler().fit_transform(x)
    plain = LogisticRegression(max_iter=1000).fit(scaled, y).predict_proba(scaled)[:, 1]
    assert abs(roc_auc_score(y, predicted["pred"]) - roc_auc_score(y, plain)) < AUC_TOLERANCE


def test_predictions_of_a_saved_model_are_the_same_whoever_receives_them(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]
) -> None:
    succeed(worker, train(data, epochs=2))
    once = predict(data)
    succeed(worker, once)
    first = pd.read_csv(data / "predicted.csv")["pred"]
    succeed(worker, predict(data, receiver="bob", output_paths={"bob": str(data / "at-bob.parquet")}))
    again = pd.read_parquet(data / "at-bob.parquet")["pred"]
    assert np.abs(first - again).max() < PREDICTION_TOLERANCE
    assert first.between(0, 1, inclusive="neither").all()


def test_a_linear_regression_is_as_good_as_scikit_learns_in_units_of_the_label(
    worker: RunningWorker, data: Path
) -> None:
    x, y = load_diabetes(return_X_y=True)
    write_halves(data, x, y)
    answer = succeed(
        worker,
        train(
            data,
            regression="linear",
            epochs=20,
            learning_rate=0.3,
            batch_size=128,
            reveal_weights=True,
            reveal_rmse=True,
        ),
    )
    succeed(worker, predict(data))
    predicted = pd.read_csv(data / "predicted.csv")["pred"]
    assert np.abs(linear_scores(x, answer) - predicted).max() < 1e-3
    require_rmse(answer, predicted, y)
    plain = LinearRegression().fit(x, y).predict(x)
    assert abs(r2_score(y, predicted) - r2_score(y, plain)) < R2_TOLERANCE
    assert np.corrcoef(predicted, plain)[0, 1] > 0.99


def test_features_can_be_chosen_and_a_party_may_have_none(worker: RunningWorker, data: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    write_halves(data, x, y)
    answer = succeed(worker, train(data, features={"bob": ["f15", "f20"]}, epochs=2))
    assert answer["features"] == {"alice": 0, "bob": 2}
    succeed(worker, predict(data))
    assert roc_auc_score(y, pd.read_csv(data / "predicted.csv")["pred"]) > 0.9


def test_chinese_columns_parquet_and_a_constant_column(worker: RunningWorker, data: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    ids = [f"客户{number}" for number in range(len(y))]
    pd.DataFrame({"编号": ids, "半径": x[:, 0], "常数": 1.0, "标签": y}).to_parquet(data / "alice.parquet")
    pd.DataFrame({"编号": ids, "纹理": x[:, 1]}).to_parquet(data / "bob.parquet")
    inputs = {party: str(data / f"{party}.parquet") for party in ("alice", "bob")}
    keys = {"alice": ["编号"], "bob": ["编号"]}
    succeed(worker, train(data, input_paths=inputs, keys=keys, label={"party": "alice", "column": "标签"}))
    succeed(worker, predict(data, input_paths=inputs, keys=keys, saved_columns=["标签"], pred_name="预测"))
    predicted = pd.read_csv(data / "predicted.csv")
    assert list(predicted.columns) == ["编号", "标签", "预测"]
    assert list(predicted["编号"]) == ids
    assert roc_auc_score(predicted["标签"], predicted["预测"]) > 0.9


def test_a_long_training_with_the_true_sigmoid_ends(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]
) -> None:
    """Parties that remember how they shared values fall out of step sooner or later; see `use_no_cached_variables`."""
    features = {"alice": ["f1", "f4", "f9"], "bob": ["f20"]}
    job = train(data, features=features, sig_type="real", epochs=80, batch_size=569, learning_rate=1.0)
    assert succeed(worker, job)["epochs"] == 80


def fitted(x: Any, y: Any, curve: Callable[[Any], Any]) -> Any:
    """Linear scores of the same descent in plain numbers, with another curve in the sigmoid's place."""
    x = np.column_stack([StandardScaler().fit_transform(x), np.ones(len(y))])
    weights = np.zeros(x.shape[1])
    for batch in np.array_split(np.arange(len(y)), -(-len(y) // 64)) * 10:
        weights -= 0.3 * x[batch].T @ (curve(x[batch] @ weights) - y[batch]) / len(batch)
    return x @ weights


@pytest.mark.parametrize(
    ("sig_type", "in_training", "in_predictions"),
    [
        ("t1", lambda x: np.clip(0.5 + x / 4, 0, 1), expit),
        pytest.param("real", expit, expit, marks=pytest.mark.slow),
        ("sr", lambda x: 0.5 + 0.5 * x / np.sqrt(1 + x**2), lambda x: 0.5 + 0.5 * x / np.sqrt(1 + x**2)),
    ],
)
def test_predictions_are_probabilities_of_which_a_scorecard_is_made(
    worker: RunningWorker,
    data: Path,
    breast_cancer: tuple[Any, Any],
    sig_type: str,
    in_training: Callable[[Any], Any],
    in_predictions: Callable[[Any], Any],
) -> None:
    """With `t1` itself three rows in four were 0 or 1, and got the lowest or the highest score."""
    answer = succeed(worker, train(data, sig_type=sig_type, reveal_weights=True))
    succeed(worker, predict(data))
    predicted = pd.read_csv(data / "predicted.csv")["pred"]
    assert np.abs(in_predictions(linear_scores(breast_cancer[0], answer)) - predicted).max() < 1e-5
    plain = in_predictions(fitted(*breast_cancer, in_training))
    # A training with `real` has the SPU's exponential, which is right to two digits; in predictions nothing is rounded.
    assert np.abs(predicted - plain).max() < 5e-3
    odds, plain_odds = np.log(predicted / (1 - predicted)), np.log(plain / (1 - plain))
    assert (np.abs(odds - plain_odds) < 0.1 + 0.01 * np.abs(plain_odds)).all()
    scorecard = {
        "task_type": "scorecard",
        "input_paths": {"alice": str(data / "predicted.csv")},
        "output_paths": {"alice": str(data / "scored.csv")},
        "prediction": {"party": "alice", "column": "pred"},
    }
    assert succeed(worker, envelope(scorecard))["warnings"] == []
    scores = pd.read_csv(data / "scored.csv")["predict_score"]
    assert ((scores == 0) | (scores == 1000)).mean() < 0.03


def test_every_row_is_used(worker: RunningWorker, data: Path) -> None:
    """1,999 rows in batches of up to 1,024 are two of 1,000 and 999. The second one holds all the positive cases."""
    chance = np.random.default_rng(1)
    x = chance.normal(size=(1999, 4))
    y = np.sort((x.sum(axis=1) > 0.3) * 1)
    x = x[np.argsort(x.sum(axis=1))]
    write_halves(data, x, y)
    answer = succeed(worker, train(data, batch_size=1024, epochs=5, sig_type="real"))
    assert (answer["batch_size"], answer["converged"]) == (1024, False)
    assert answer["warnings"][0].startswith("the training has not converged: as many epochs again would")
    succeed(worker, predict(data))
    x = np.column_stack([StandardScaler().fit_transform(x), np.ones(len(y))])
    weights = np.zeros(5)
    for batch in [slice(0, 1000), slice(1000, 1999)] * 5:
        weights -= 0.3 * x[batch].T @ (expit(x[batch] @ weights) - y[batch]) / len(y[batch])
    assert np.abs(pd.read_csv(data / "predicted.csv")["pred"] - expit(x @ weights)).max() < 5e-3


@pytest.mark.parametrize("rows", [pytest.param(40, marks=pytest.mark.slow), 700])
def test_defaults_converge(worker: RunningWorker, data: Path, rows: int) -> None:
    chance = np.random.default_rng(2)
    x = chance.normal(size=(rows, 6)) * 10.0 ** np.arange(-3, 3)
    y = 1e5 + 300 * (StandardScaler().fit_transform(x) @ np.arange(1, 7)) + chance.normal(size=rows) * 500
    write_halves(data, x, y)
    given = {"epochs", "learning_rate", "batch_size"}
    job = train(data, regression="linear")
    job["task_config"] = {name: value for name, value in job["task_config"].items() if name not in given}
    answer = succeed(worker, job)
    assert (answer["converged"], answer["warnings"]) == (True, [])
    assert answer["epochs"] * np.ceil(rows / answer["batch_size"]) >= 500
    succeed(worker, predict(data))
    plain = r2_score(y, LinearRegression().fit(x, y).predict(x))
    assert r2_score(y, pd.read_csv(data / "predicted.csv")["pred"]) == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("runtime_config", [{}, {"field": "FM64", "fxp_fraction_bits": 18}])
def test_a_descent_without_end_is_no_model(worker: RunningWorker, data: Path, runtime_config: dict[str, Any]) -> None:
    """The weights overflow again and again, so that the last ones may look like any."""
    x, _ = load_breast_cancer(return_X_y=True)
    write_halves(data, x[:, 1:], x[:, 0])
    job = train(data, regression="linear", learning_rate=1.0)
    job["spu_config"] = spu(**runtime_config)
    result = worker.run(job)
    assert result["error_type"] == "ParameterValidationError"
    assert result["error"].startswith("task_config.learning_rate: is too large, as the model's weights grew without")


def test_columns_that_should_be_scaled_are_told(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]
) -> None:
    features = {"alice": ["f10"], "bob": ["f22"]}  # about 0.4 and about 107
    answer = succeed(worker, train(data, features=features, standardize=False, epochs=3, learning_rate=0.001))
    assert "standardize is false, and columns of bob are far from mean 0 and deviation 1" in answer["warnings"][0]
    assert "column 'f22' of bob is not of mean 0 and deviation 1" in worker.log()


def test_training_stops_early_where_it_is_told_to(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]
) -> None:
    assert succeed(worker, train(data, epochs=50, eps=0.2))["epochs"] < 50


def test_a_model_replaces_a_model_and_nothing_else(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]
) -> None:
    first = succeed(worker, train(data, epochs=1))["model_id"]
    assert succeed(worker, train(data, epochs=1))["model_id"] != first
    assert sorted(path.name for path in (data / "model-bob").iterdir()) == ["manifest.json", "part.msgpack"]
    (data / "model-bob" / "manifest.json").unlink()
    result = worker.run(train(data, epochs=1))
    assert (result["status"], result["error_type"]) == ("failure", "ResultSaveError")
    assert "task_config.model_path.bob" in result["error"]


def test_each_manifest_holds_its_own_partys_columns_only(
    worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]
) -> None:
    succeed(worker, train(data, epochs=1))
    alice, bob = [json.loads((data / f"model-{party}" / "manifest.json").read_text()) for party in ("alice", "bob")]
    assert alice["model_id"] == bob["model_id"]
    assert alice["features"] == [f"f{number}" for number in range(15)]
    assert bob["features"] == [f"f{number}" for number in range(15, 30)]
    assert not set(map(str, alice["means"])) & set(map(str, bob["means"]))


# --- models that do not fit


@pytest.mark.parametrize(
    ("runtime_config", "said"),
    [
        ({"fxp_fraction_bits": 30}, "fxp_fraction_bits is 40, this job's is 30"),
        ({"field": "FM64", "fxp_fraction_bits": 18}, "field is FM128, this job's is FM64"),
        ({"protocol": "CHEETAH"}, "protocol is SEMI2K, this job's is CHEETAH"),
    ],
)
def test_shares_of_another_arithmetic_are_refused(
    worker: RunningWorker, trained: Path, runtime_config: dict[str, Any], said: str
) -> None:
    refused(worker, predict(trained, runtime_config), said)


def test_other_models_are_refused(worker: RunningWorker, trained: Path) -> None:
    paths = {party: str(trained / f"other-{party}") for party in ("alice", "bob")}
    succeed(worker, train(trained, epochs=1, model_path=paths))
    mixed = {"alice": str(trained / "model-alice"), "bob": paths["bob"]}
    refused(worker, predict(trained, model_path=mixed), "different models")
    swapped = {"alice": str(trained / "model-bob"), "bob": str(trained / "model-alice")}
    refused(worker, predict(trained, model_path=swapped), "party is")


def test_a_missing_feature_is_refused(worker: RunningWorker, trained: Path) -> None:
    pd.read_csv(trained / "bob.csv").drop(columns="f20").to_csv(trained / "fewer.csv", index=False)
    inputs = {"alice": str(trained / "alice.csv"), "bob": str(trained / "fewer.csv")}
    refused(worker, predict(trained, input_paths=inputs), "'f20'")


@pytest.mark.parametrize("name", ["manifest.json", "part.msgpack"])
def test_a_damaged_model_is_refused(worker: RunningWorker, trained: Path, name: str) -> None:
    (trained / "model-bob" / name).write_bytes(b"\x80\x04c__builtin__\nexec\n")  # a pickle that would run code
    refused(worker, predict(trained), "task_config.model_path.bob")


def test_a_model_of_an_earlier_format_is_to_be_trained_again(worker: RunningWorker, trained: Path) -> None:
    manifest = trained / "model-bob" / "manifest.json"
    earlier = {**json.loads(manifest.read_text()), "format": 3}
    manifest.write_text(json.dumps(earlier))
    refused(worker, predict(trained), "task_config.model_path.bob: holds no model of this version; train it again")


def test_a_model_that_is_not_there(worker: RunningWorker, trained: Path) -> None:
    paths = {"alice": str(trained / "model-alice"), "bob": str(trained / "nothing")}
    result = worker.run(predict(trained, model_path=paths))
    assert result["error_type"] == "InputDataError"
    assert "task_config.model_path.bob" in result["error"]


def refused(worker: RunningWorker, job: dict[str, Any], said: str) -> None:
    result = worker.run(job)
    assert (result["status"], result["error_type"]) == ("failure", "ModelMismatchError"), result
    assert said in result["error"]


@pytest.fixture
def trained(worker: RunningWorker, data: Path, breast_cancer: tuple[Any, Any]) -> Path:
    succeed(worker, train(data, epochs=1))
    return data


# --- labels


@pytest.mark.parametrize(("labels", "said"), [([1.0, 2.0], "0 and 1"), ([1.0, 1.0], "same label")])
def test_labels_that_no_logistic_regression_can_use(
    worker: RunningWorker, data: Path, labels: list[float], said: str
) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    write_halves(data, x, np.array([labels[number % 2] for number in range(len(y))]))
    result = worker.run(train(data))
    assert result["error_type"] == "InputDataError"
    assert said in result["error"]


def test_fewer_rows_than_features(worker: RunningWorker, data: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    write_halves(data, x[:20], y[:20])
    result = worker.run(train(data))
    assert (result["error_type"], "not more rows than features" in result["error"]) == ("InputDataError", True)
