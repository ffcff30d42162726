"""`biclassification_eval` against scikit-learn."""

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
