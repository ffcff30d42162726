"""What charts of a result show: the figures of their tables, and what they say in words."""

from __future__ import annotations

from typing import Any

import pytest

from sfworker.report.charts import charts, performance
from sfworker.wire.events import PerformanceMetrics


def drawn(task_type: str, answer: dict[str, Any]) -> dict[str, tuple[str, list[list[Any]]]]:
    """The description and the figures of each chart, by title."""
    made = charts(task_type, answer)
    assert all(chart.svg.startswith("<svg ") and chart.svg.rstrip().endswith("</svg>") for chart in made)
    return {chart.title: (chart.description, chart.table.rows) for chart in made}


def reported(**table: Any) -> dict[str, Any]:
    tables = [{"index": [], **table}]
    return {"component": "a/b:1", "outputs": [], "reports": [{"name": "r", "tables": tables}]}


def test_stability_is_by_column_and_the_worst_are_by_bin() -> None:
    bins = [
        {"left": None, "right": 1.5, "missing": False, "base_ratio": 0.5, "test_ratio": 0.25, "psi": 0.125},
        {"left": 1.5, "right": None, "missing": False, "base_ratio": 0.5, "test_ratio": 0.5, "psi": 0.0},
        {"left": None, "right": None, "missing": True, "base_ratio": 0.0, "test_ratio": 0.25, "psi": 0.25},
    ]
    columns = {f"c{number}": {"psi": number / 8, "bins": bins} for number in range(9)}
    found = drawn("population_stability", {"stability": {"alice": columns}})
    assert list(found) == ["Population stability", *(f"Distribution of alice.c{n}" for n in (8, 7, 6, 5, 4, 3))]
    assert found["Population stability"][1][0] == ["alice", "c8", 1.0]
    assert "alice.c8 comes first with 1." in found["Population stability"][0]
    assert found["Distribution of alice.c8"][1] == [
        ["up to 1.5", 0.5, 0.25, 0.125],
        ["above 1.5", 0.5, 0.5, 0.0],
        ["missing", 0.0, 0.25, 0.25],
    ]


def test_three_parties_and_joins_of_more_than_what_they_have_in_common() -> None:
    answer = {"intersection_count": 7, "output_paths": {}, "parties": ["a", "b", "丙"], "warnings": [], "protocol": "P"}
    [said, rows] = drawn("psi", answer)["Intersection"]
    assert said.startswith("a and b and 丙 have 7 rows in common.")
    assert rows == [["in common", 7]]
    [said, rows] = drawn("unbalanced_psi", {**answer, "parties": ["a", "b"], "row_count": 12})["Intersection"]
    assert "each output file has 12." in said
    assert rows == [["in common", 7], ["in each output file", 12]]


def test_residues_in_buckets_that_differ_in_width_are_areas() -> None:
    figures = dict.fromkeys(("mse", "rmse", "mae", "smape", "sse", "bias", "label_mean", "prediction_mean"), 0.5)
    buckets = [{"left": -3.0, "right": -1.0, "rows": 5}, {"left": -1.0, "right": 0.0, "rows": 50}]
    answer = {"rows": 55, "r2": None, "mape": None, **figures, "residual_histogram": buckets}
    found = drawn("regression_eval", {**answer, "residual_quantiles": {"0.9": 0.5, "0.1": -2.0}})
    assert "so areas are rows" in found["Residues"][0]
    assert found["Residues"][1] == [[-3.0, -1.0, 5], [-1.0, 0.0, 50]]
    assert found["Quantiles of residues"][1] == [[0.1, -2.0], [0.9, 0.5]]
    alike: dict[str, Any] = {**answer, "residual_quantiles": {}, "residual_histogram": buckets[1:]}
    assert "areas" not in drawn("regression_eval", alike)["Residues"][0]


def test_scores_that_are_no_probabilities_are_not_calibrated() -> None:
    bucket = {"rows": 4, "positives": 2, "mean_score": 610.0, "lowest_score": 600.0, "highest_score": 620.0}
    rates = {"cumulative_true_positive_rate": 1.0, "cumulative_false_positive_rate": 1.0, "ks": 0.0, "lift": 1.0}
    figures = dict.fromkeys(("auc", "ks", "accuracy", "precision", "recall", "f1"), 0.5)
    answer = {"rows": 4, "positives": 2, **figures, "buckets": [{**bucket, **rates}], "head_report": []}
    found = drawn("biclassification_eval", answer)
    assert "Calibration" not in found
    assert found["Confusion matrix"][1] == [[1, 1, 1], [0, 1, 1]]
    assert drawn("biclassification_eval", {**answer, "positives": 4}) == {}


def test_a_training_is_a_curve_and_what_its_features_were_good_for() -> None:
    features = {"a": {"x": {"splits": 2, "gain": 0.5}, "y": {"splits": 0, "gain": 0.0}}}
    answer = {"model_id": "m", "model_path": {}, "rows": 9, "features": {"a": 2}, "arithmetic": None, "trees": 2}
    assert list(drawn("sgb", answer)) == ["Features"]
    found = drawn("sgb", {**answer, "rmse": [0.5, 0.25], "importances": features})
    assert list(found) == ["Training", "Importance", "Features"]
    assert found["Training"][1] == [[1, 0.5], [2, 0.25]]
    assert "from 0.5 to 0.25" in found["Training"][0]
    epochs = {"epochs": 3, "batch_size": 9, "converged": True, "warnings": [], "regression": "linear"}
    resumed = drawn("ss_lr", {**answer, **epochs, "rmse": [None, 0.5, 0.25]})
    assert list(resumed) == ["Training", "Features"]
    assert resumed["Training"][1] == [[2, 0.5], [3, 0.25]]
    assert found["Importance"][1] == [["a", "x", 0.5], ["a", "y", 0.0]]


def test_columns_without_figures_come_last_and_are_counted() -> None:
    arithmetic = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}
    answer = {"rows": 9, "regression": "linear", "intercept": 0.5, "arithmetic": arithmetic, "warnings": []}
    [said, rows] = drawn("p_value", {**answer, "p_values": {"a": {"x": 0.5, "y": None}, "b": {"z": 0.01}}})["p values"]
    assert rows == [["b", "z", 0.01], ["a", "x", 0.5], ["a", "y", None]]
    assert "b.z comes first with 0.01. 1 of 3 columns have no figure." in said


def test_reports_of_components_are_drawn_by_what_their_tables_are() -> None:
    """The tables are those of vert_woe_binning, ss_glm_train and ss_pearsonr, shortened."""
    bins = [
        ["(-inf, -0.6912303743606236]", "1.3627252510282342", "144", "0.8680555555555556", "0.25"],
        ["(-0.6912303743606236, inf]", "-0.5211", "141", "0.73", "0.75"],
    ]
    columns = ["from", "to", "count", "positive_rate", "total_rate"]
    [said, rows] = drawn("component", reported(name="f4", columns=columns, rows=bins))["WOE of f4"]
    assert "2 bins" in said
    assert rows[0] == ["(-inf, -0.6912303743606236]", 1.3627252510282342, 144.0, 0.8680555555555556]
    weights = [["_intercept_", 0.627], ["f0", -0.75], ["note", "text"]]
    found = drawn("component", reported(name="weights", columns=["name", "value"], rows=weights))
    assert found["weights"][1] == [["f0", -0.75], ["_intercept_", 0.627]]
    square = [[1.0018, -0.5], [-0.5, 1.0018]]
    found = drawn("component", reported(name="", columns=["f0", "f1"], index=["0", "1"], rows=square))
    assert found["Correlation"][1] == [["f1", "f0", -0.5]]
    named = [["f0", *square[0]], ["f1", *square[1]]]
    table = {"name": "corr", "columns": ["feature", "f0", "f1"], "index": ["f0", "f1"], "rows": named}
    assert drawn("component", reported(**table))["corr"][1] == [["f1", "f0", -0.5]]
    for other in ([[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.25, 1.0]], [[1.0, 0.5]], [["a", "b"], ["b", "a"]], [[1.0]]):
        assert drawn("component", reported(name="x", columns=["f0", "f1"], rows=other)) == {}


@pytest.mark.parametrize("task_type", ["hello", "scaler", "no such task type", None])
def test_other_results_have_none(task_type: str | None) -> None:
    assert charts(task_type, {"message": "x"}) == []


def test_time_and_memory() -> None:
    metrics = PerformanceMetrics(execution_seconds=3600.4, total_seconds=3601.2, peak_rss_bytes={"alice": 3 << 20})
    time, memory = performance(metrics)
    assert time.description == "Seconds by step; 3601 s in all, without the queue."
    assert ["execution", 3600.4] in time.table.rows
    assert memory.description == "Largest resident memory of each party; the most is 3 MiB."
    assert memory.table.rows == [["alice", 3 << 20]]
    assert performance(PerformanceMetrics()) == []
