"""`biclassification_eval`, `regression_eval`, `prediction_bias_eval`, `scorecard`: scikit-learn and the formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from tests.running_worker import RunningWorker, envelope


def evaluation(data: Path, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "biclassification_eval",
        "input_paths": {"bob": str(data / "scores.csv")},
        "label": {"party": "bob", "column": "y"},
        "prediction": {"party": "bob", "column": "score"},
        **parameters,
    }
    return envelope(task)


@pytest.fixture
def scores(data: Path) -> pd.DataFrame:
    """A thousand scores with many ties, better than chance."""
    chance = np.random.default_rng(7)
    label = chance.integers(0, 2, 1000)
    score = np.round(np.clip(chance.normal(0.35 + 0.3 * label, 0.2), 0, 1), 2)
    frame = pd.DataFrame({"y": label, "score": score})
    frame.to_csv(data / "scores.csv", index=False)
    return frame


def test_figures_are_scikit_learns(worker: RunningWorker, data: Path, scores: pd.DataFrame) -> None:
    result = worker.run(evaluation(data, threshold=0.45))["result"]
    label, score = scores["y"], scores["score"]
    chosen = score >= 0.45
    fpr, tpr, _ = metrics.roc_curve(label, score)
    expected = {
        "rows": 1000,
        "positives": int(label.sum()),
        "auc": metrics.roc_auc_score(label, score),
        "ks": max(tpr - fpr),
        "accuracy": metrics.accuracy_score(label, chosen),
        "precision": metrics.precision_score(label, chosen),
        "recall": metrics.recall_score(label, chosen),
        "f1": metrics.f1_score(label, chosen),
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_buckets_hold_every_row_once_the_highest_scores_first(
    worker: RunningWorker, data: Path, scores: pd.DataFrame
) -> None:
    buckets = worker.run(evaluation(data, bucket_count=4))["result"]["buckets"]
    assert [bucket["rows"] for bucket in buckets] == [250] * 4
    assert sum(bucket["positives"] for bucket in buckets) == scores["y"].sum()
    edges = [edge for bucket in buckets for edge in (bucket["highest_score"], bucket["lowest_score"])]
    assert edges == sorted(edges, reverse=True)
    assert buckets[-1]["cumulative_true_positive_rate"] == buckets[-1]["cumulative_false_positive_rate"] == 1.0
    assert buckets[-1]["lift"] == pytest.approx(1.0)


def test_buckets_are_never_smaller_than_asked_for(worker: RunningWorker, data: Path, scores: pd.DataFrame) -> None:
    buckets = worker.run(evaluation(data, bucket_count=50, min_item_cnt_per_bucket=300))["result"]["buckets"]
    assert [bucket["rows"] for bucket in buckets] == [334, 333, 333]
    ordered = scores.sort_values("score", ascending=False)
    assert buckets[0]["mean_score"] == pytest.approx(ordered["score"].head(334).mean())
    assert buckets[0]["ks"] == pytest.approx(
        buckets[0]["cumulative_true_positive_rate"] - buckets[0]["cumulative_false_positive_rate"]
    )


def test_the_head_is_within_its_false_positive_rate(worker: RunningWorker, data: Path, scores: pd.DataFrame) -> None:
    heads = worker.run(evaluation(data))["result"]["head_report"]
    fpr, tpr, thresholds = metrics.roc_curve(scores["y"], scores["score"], drop_intermediate=False)
    for head in heads:
        best = int(np.flatnonzero(fpr <= head["max_false_positive_rate"])[-1])
        assert (head["false_positive_rate"], head["recall"]) == pytest.approx((fpr[best], tpr[best]))
        assert head["threshold"] == (thresholds[best] if best else None)
        if best:
            chosen = scores["score"] >= head["threshold"]
            assert head["precision"] == pytest.approx(metrics.precision_score(scores["y"], chosen))


@pytest.mark.parametrize(
    ("content", "error_type", "said"),
    [
        ("y,score\n1,0.5\n1,0.4\n", "InputDataError", ["task_config.label", "same label"]),
        ("y,score\n1,0.5\n2,0.4\n", "InputDataError", ["task_config.label", "0 and 1"]),
        ("y,score\n1,0.5\n0,high\n", "InputDataError", ["task_config.input_paths.bob", "score", "row 2"]),
        ("y,score\n1,0.5\n0,\n", "InputDataError", ["task_config.input_paths.bob", "score", "row 2"]),
        ("y,score\n1,0.5\n0,inf\n", "InputDataError", ["task_config.input_paths.bob", "score", "row 2"]),
        ("y,scores\n1,0.5\n0,0.1\n", "InputDataError", ["task_config.prediction.column", "score"]),
    ],
)
def test_files_that_cannot_be_evaluated(
    worker: RunningWorker, data: Path, content: str, error_type: str, said: list[str]
) -> None:
    (data / "scores.csv").write_text(content)
    result = worker.run(evaluation(data))
    assert result["error_type"] == error_type
    assert [part for part in said if part not in result["error"]] == []


def test_label_and_prediction_at_different_parties(worker: RunningWorker, data: Path) -> None:
    result = worker.run(evaluation(data, prediction={"party": "alice", "column": "score"}))
    assert result["error_type"] == "ParameterValidationError"
    assert "task_config.prediction.party" in result["error"]


def test_label_and_prediction_are_the_same_column(worker: RunningWorker, data: Path) -> None:
    result = worker.run(evaluation(data, prediction={"party": "bob", "column": "y"}))
    assert "task_config.prediction.column" in result["error"]


# --- regression


@pytest.fixture
def predictions(data: Path) -> pd.DataFrame:
    chance = np.random.default_rng(9)
    label = chance.normal(100, 30, 500)
    frame = pd.DataFrame({"真值": label, "预测": label + chance.normal(2, 10, 500)})
    frame.to_csv(data / "predicted.csv", index=False)
    return frame


def regression(data: Path, task_type: str = "regression_eval", **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": task_type,
        "input_paths": {"alice": str(data / "predicted.csv")},
        "label": {"party": "alice", "column": "真值"},
        "prediction": {"party": "alice", "column": "预测"},
        **parameters,
    }
    return envelope(task)


def test_errors_of_a_regression_are_scikit_learns(worker: RunningWorker, data: Path, predictions: pd.DataFrame) -> None:
    found = worker.run(regression(data, bucket_count=7))["result"]
    label, prediction = predictions["真值"], predictions["预测"]
    mse = metrics.mean_squared_error(label, prediction)
    expected = {
        "rows": 500,
        "r2": metrics.r2_score(label, prediction),
        "mse": mse,
        "rmse": mse**0.5,
        "mae": metrics.mean_absolute_error(label, prediction),
        "mape": metrics.mean_absolute_percentage_error(label, prediction),
        "smape": np.mean(2 * np.abs(label - prediction) / (np.abs(label) + np.abs(prediction))),
        "sse": mse * 500,
        "bias": (prediction - label).mean(),
        "label_mean": label.mean(),
        "prediction_mean": prediction.mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-10)
    residual = label - prediction
    assert found["residual_quantiles"] == pytest.approx(
        {str(each): residual.quantile(each) for each in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)}
    )
    counts, edges = np.histogram(residual, 7)
    assert [each["rows"] for each in found["residual_histogram"]] == counts.tolist()
    assert [each["left"] for each in found["residual_histogram"]] == pytest.approx(edges[:-1])


def test_figures_that_there_are_not(worker: RunningWorker, data: Path) -> None:
    (data / "predicted.csv").write_text("真值,预测\n0,1\n0,0\n")
    found = worker.run(regression(data))["result"]
    assert (found["r2"], found["mape"], found["smape"], found["mse"]) == (None, None, 1.0, 0.5)
    (data / "predicted.csv").write_text("真值,预测\n" + "3.3,1\n" * 1000)  # their mean is rounded
    assert worker.run(regression(data))["result"]["r2"] is None


def test_a_label_too_far_from_the_prediction(worker: RunningWorker, data: Path) -> None:
    (data / "predicted.csv").write_text("真值,预测\n1e308,-1e308\n1,1\n")
    assert "task_config.prediction: is too far from the label" in worker.run(regression(data))["error"]


@pytest.mark.parametrize("method", ["equal_width", "equal_frequency"])
def test_bias_is_that_of_each_bucket(worker: RunningWorker, data: Path, predictions: pd.DataFrame, method: str) -> None:
    found = worker.run(regression(data, "prediction_bias_eval", bucket_count=5, bucket_method=method))["result"]
    label, prediction = predictions["真值"], predictions["预测"]
    bins = pd.cut(prediction, 5) if method == "equal_width" else pd.qcut(prediction, 5)
    means = predictions.groupby(bins.cat.codes).mean()
    assert [each["rows"] for each in found["buckets"]] == bins.value_counts(sort=False).tolist()
    assert [each["bias"] for each in found["buckets"]] == pytest.approx((means["预测"] - means["真值"]).tolist())
    assert [each["mean_label"] for each in found["buckets"]] == pytest.approx(means["真值"].tolist())
    assert found["buckets"][0]["left"] == pytest.approx(prediction.min())
    assert found["buckets"][-1]["right"] == pytest.approx(prediction.max())
    assert found["bias"] == pytest.approx(prediction.mean() - label.mean())


def test_buckets_of_skewed_predictions_are_joined(worker: RunningWorker, data: Path) -> None:
    """Wide buckets of most real scores hold one row or two, which an error said, and whose label a bucket would."""
    chance = np.random.default_rng(3)
    prediction = np.append(chance.beta(1, 60, 1000), [0.31, 0.5, 0.98])
    frame = pd.DataFrame({"真值": chance.random(1003) < prediction, "预测": prediction})
    frame.astype(float).to_csv(data / "predicted.csv", index=False)
    for settings in ({}, {"min_item_cnt_per_bucket": 40}, {"min_item_cnt_per_bucket": 1003}):
        found = worker.run(regression(data, "prediction_bias_eval", **settings))["result"]["buckets"]
        assert sum(each["rows"] for each in found) == 1003
        assert [each for each in found if 0 < each["rows"] < settings.get("min_item_cnt_per_bucket", 2)] == []
        assert [each["left"] for each in found[1:]] == [each["right"] for each in found[:-1]]
        for each in found:
            inside = frame[(prediction >= each["left"]) & (prediction < each["right"] + (each is found[-1]))]
            assert len(inside) == each["rows"]
            assert each["mean_label"] == (pytest.approx(inside["真值"].mean()) if len(inside) else None)


def test_buckets_may_be_empty_but_not_small(worker: RunningWorker, data: Path) -> None:
    (data / "predicted.csv").write_text("真值,预测\n1,0\n0,0\n5,10\n5,10\n")
    found = worker.run(regression(data, "prediction_bias_eval", bucket_count=3))["result"]["buckets"]
    assert [(each["rows"], each["bias"]) for each in found] == [(2, -0.5), (0, None), (2, 5.0)]
    found = worker.run(regression(data, "prediction_bias_eval", bucket_count=3, min_item_cnt_per_bucket=3))["result"]
    assert [(each["rows"], each["bias"]) for each in found["buckets"]] == [(4, 2.25)]
    result = worker.run(regression(data, "prediction_bias_eval", min_item_cnt_per_bucket=5))
    assert (result["error_type"], "min_item_cnt_per_bucket" in result["error"]) == ("InputDataError", True)


@pytest.mark.parametrize("task_type", ["regression_eval", "prediction_bias_eval"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("真值,预测\n1,\n", "column '预测' has no value in row 1"),
        ("真值,预测\n1,1\n高,1\n", "column '真值' holds no number in row 2"),
        ("真值,预测\n1,inf\n", "column '预测' holds no finite number in row 1"),
        ("真值,x\n1,1\n", "task_config.prediction.column: the party's input file has no column '预测'"),
    ],
)
def test_predictions_that_cannot_be_evaluated(
    worker: RunningWorker, data: Path, task_type: str, content: str, said: str
) -> None:
    (data / "predicted.csv").write_text(content)
    result = worker.run(regression(data, task_type))
    assert (result["error_type"], said in result["error"]) == ("InputDataError", True), result


# --- scorecard


def scorecard(data: Path, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "scorecard",
        "input_paths": {"bob": str(data / "pred.csv")},
        "output_paths": {"bob": str(data / "scored.csv")},
        "prediction": {"party": "bob", "column": "pred"},
        **parameters,
    }
    return envelope(task)


@pytest.mark.parametrize("positive", [1, 0])
def test_scores_are_those_of_the_formula(worker: RunningWorker, data: Path, positive: int) -> None:
    pred = np.array([0.0, 1e-6, 0.2, 0.5, 20 / 21, 1.0, 1.0000001])
    ids = [f"00{number}" for number in range(7)]
    pd.DataFrame({"id": ids, "pred": pred, "备注": "x,y"}).to_csv(data / "pred.csv", index=False)
    result = worker.run(scorecard(data, positive=positive, scaled_value=600, odd_base=20, pdo=20, max_score=700))
    [warning] = result["result"].pop("warnings")
    assert warning.startswith("3 of 7 rows (42.9%) have a probability of 0 or 1, so their score is min_score or ")
    assert result["result"] == {"rows": 7, "output_paths": {"bob": str(data / "scored.csv")}}
    written = pd.read_csv(data / "scored.csv", dtype={"id": str})
    assert list(written.columns) == ["id", "pred", "predict_score", "备注"]
    assert list(written["id"]) == ids
    factor = 20 / np.log(2)
    log_odds = np.log(pred[1:5] / (1 - pred[1:5]))
    plain = 600 - factor * np.log(20) + (-1 if positive else 1) * factor * log_odds
    lowest, highest = (700.0, 0.0) if positive else (0.0, 700.0)
    expected = [lowest, *np.clip(plain, 0, 700), highest, highest]
    assert written["predict_score"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("content", "parameters", "error_type", "said"),
    [
        ("pred\n0.5\n1.5\n", {}, "InputDataError", "column 'pred' holds no probability (0 to 1) in row 2"),
        ("pred\n0.5\n-0.2\n", {}, "InputDataError", "column 'pred' holds no probability (0 to 1) in row 2"),
        ('pred\n0.5\n""\n', {}, "InputDataError", "column 'pred' has no value in row 2"),
        ("p\n0.5\n", {}, "InputDataError", "task_config.prediction.column"),
        ("pred,predict_score\n0.5,1\n", {}, "InputDataError", "two columns would be named 'predict_score'"),
        ("pred\n0.5\n", {"max_score": 500}, "ParameterValidationError", "task_config.scaled_value"),
        ("pred\n0.5\n", {"pdo": 0}, "ParameterValidationError", "task_config.pdo"),
        ("pred\n0.5\n", {"predict_score_name": "pred"}, "ParameterValidationError", "task_config.predict_score_name"),
    ],
)
def test_scores_that_cannot_be_made(
    worker: RunningWorker, data: Path, content: str, parameters: dict[str, Any], error_type: str, said: str
) -> None:
    (data / "pred.csv").write_text(content)
    result = worker.run(scorecard(data, **parameters))
    assert (result["error_type"], said in result["error"]) == (error_type, True), result
    assert not (data / "scored.csv").exists()
