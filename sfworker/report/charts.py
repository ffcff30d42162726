"""Decides which charts a result has, by its task type, and says each in words.

A chart shows what the result holds, or what follows from it by arithmetic, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from sfworker.catalog.basic import HealthCheckResult
from sfworker.catalog.binning import BinningResult
from sfworker.catalog.boosting import BoostingResult
from sfworker.catalog.component import ComponentResult
from sfworker.catalog.evaluation import (
    BiclassificationEvalResult,
    PredictionBiasEvalResult,
    RegressionEvalResult,
)
from sfworker.catalog.linear import LinearResult, SsLrResult
from sfworker.catalog.psi import JoinResult, PsiResult
from sfworker.catalog.rows import ConditionFilterResult, TrainTestSplitResult
from sfworker.catalog.statistics import (
    GroupbyStatisticsResult,
    PearsonCorrelationResult,
    PopulationStabilityResult,
    PValueResult,
    TableStatisticsResult,
    VifResult,
)
from sfworker.catalog.training import TrainResult
from sfworker.report import columns, components, drawing, evaluations
from sfworker.report.chart import LARGEST, Chart
from sfworker.report.tables import Table, cell
from sfworker.wire.events import PerformanceMetrics

_R = TypeVar("_R")


def charts(task_type: str | None, answer: Any) -> list[Chart]:
    """Return the charts of what a task type has answered; none where it has none, or another version's shape."""
    if task_type not in _CHARTS or _largest(answer) > LARGEST:
        return []
    try:
        return _CHARTS[task_type](answer)
    except msgspec.ValidationError:
        return []


def _largest(answer: Any) -> float:
    """Return how far from 0 figures are, at most."""
    if isinstance(answer, (dict, list)):
        return max(map(_largest, answer.values() if isinstance(answer, dict) else answer), default=0.0)
    return abs(answer) if isinstance(answer, (int, float)) else 0.0


def performance(metrics: PerformanceMetrics) -> list[Chart]:
    """Return where the time went and how much memory each party took."""
    if _largest(msgspec.to_builtins(metrics)) > LARGEST:
        return []
    steps = {
        "queue": metrics.queue_seconds,
        "cluster": metrics.cluster_init_seconds,
        "devices": metrics.device_init_seconds,
        "execution": metrics.execution_seconds,
    }
    found = []
    if any(steps.values()):
        ends = [_seconds(each) for each in steps.values()]
        found.append(
            Chart(
                "Time",
                f"Seconds by step; {_seconds(metrics.total_seconds)} in all, without the queue.",
                drawing.bars(list(steps), {"seconds": list(steps.values())}, "seconds", ends=ends),
                Table(["step", "seconds"], [[*each] for each in (*steps.items(), ("total", metrics.total_seconds))]),
            )
        )
    if peaks := metrics.peak_rss_bytes:
        mebibytes = [value / 2**20 for value in peaks.values()]
        found.append(
            Chart(
                "Memory",
                f"Largest resident memory of each party; the most is {max(mebibytes):.0f} MiB.",
                drawing.bars(list(peaks), {"MiB": list(mebibytes)}, "MiB", ends=[f"{each:.0f}" for each in mebibytes]),
                Table(["party", "bytes"], [[*each] for each in peaks.items()]),
            )
        )
    return found


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 100 else f"{value:.3g} s"


# --- rows


def _join(result: JoinResult) -> list[Chart]:
    if len(result.parties) not in {2, 3}:
        return []
    counts = [["in common", result.intersection_count]]
    said = ""
    if isinstance(result.row_count, int):
        counts.append(["in each output file", result.row_count])
        said = f" By the job's join_type each output file has {result.row_count}."
    files = result.input_rows if isinstance(result, PsiResult) and result.input_rows else {}
    counts += [[f"in the file of {party}", rows] for party, rows in files.items()]
    sizes = (
        "Circles are not to scale."
        if files
        else "Circles are not to scale: the result does not tell how many rows each party has."
    )
    names = [f"{party}: {files[party]} rows" if party in files else party for party in result.parties]
    return [
        Chart(
            "Intersection",
            f"{' and '.join(result.parties)} have {result.intersection_count} rows in common.{said} {sizes}",
            drawing.overlap(names, str(result.intersection_count)),
            Table(["rows", "count"], counts),
        )
    ]


def _chosen(result: ConditionFilterResult) -> list[Chart]:
    return _rows({"in each input": result.input_rows, "in each output": result.rows})


def _split(result: TrainTestSplitResult) -> list[Chart]:
    return _rows({"to train with": result.train_rows, "to test with": result.test_rows})


def _rows(counts: dict[str, int]) -> list[Chart]:
    return [
        Chart(
            "Rows",
            f"Rows {' and '.join(f'{name}: {count}' for name, count in counts.items())}.",
            drawing.bars(list(counts), {"rows": [float(each) for each in counts.values()]}, "rows"),
            Table(["rows", "count"], [[*each] for each in counts.items()]),
        )
    ]


def _training(result: TrainResult) -> list[Chart]:
    said = ", ".join(f"{party} {count}" for party, count in result.features.items())
    return [
        Chart(
            "Features",
            f"Columns that the model was trained with, by party: {said}.",
            drawing.bars(
                list(result.features), {"features": [float(each) for each in result.features.values()]}, "features"
            ),
            Table(["party", "features"], [[*each] for each in result.features.items()]),
        )
    ]


def _linear(result: LinearResult) -> list[Chart]:
    return [*columns.weights(result), *_training(result)]


def _regression(result: SsLrResult) -> list[Chart]:
    return [*_curve(result.rmse or [], "epoch"), *_linear(result)]


def _boosting(result: BoostingResult) -> list[Chart]:
    return [*_curve(result.rmse or [], "tree"), *columns.importances(result), *_training(result)]


def _curve(rmse: Sequence[float | None], step: str) -> list[Chart]:
    points = [(number, each) for number, each in enumerate(rmse, 1) if each is not None]
    if not points:
        return []
    return [
        Chart(
            "Training",
            f"Root mean squared error of the training's rows after each {step}, from {cell(points[0][1])} to "
            f"{cell(points[-1][1])}.",
            drawing.lines({"rmse": points}, step, "rmse"),
            Table([step, "rmse"], [[*each] for each in points]),
        )
    ]


def _health(result: HealthCheckResult) -> list[Chart]:
    if not result.devices:
        return []
    return [
        Chart(
            "First computation",
            "Seconds that a first small computation took on each device.",
            drawing.bars(list(result.devices), {"seconds": list(result.devices.values())}, "seconds"),
            Table(["device", "seconds"], [[*each] for each in result.devices.items()]),
        )
    ]


def _of(kind: type[_R], draw: Callable[[_R], list[Chart]]) -> Callable[[Any], list[Chart]]:
    return lambda answer: draw(msgspec.convert(answer, kind))


_CHARTS: dict[str, Callable[[Any], list[Chart]]] = {
    "biclassification_eval": _of(BiclassificationEvalResult, evaluations.biclassification),
    "regression_eval": _of(RegressionEvalResult, evaluations.regression),
    "prediction_bias_eval": _of(PredictionBiasEvalResult, evaluations.bias),
    "binning": _of(BinningResult, columns.binning),
    "vif": _of(VifResult, columns.vif),
    "p_value": _of(PValueResult, columns.p_values),
    "population_stability": _of(PopulationStabilityResult, columns.stability),
    "pearson_correlation": _of(PearsonCorrelationResult, columns.correlation),
    "table_statistics": _of(TableStatisticsResult, columns.statistics),
    "groupby_statistics": _of(GroupbyStatisticsResult, columns.groups),
    "psi": _of(PsiResult, _join),
    "unbalanced_psi": _of(JoinResult, _join),
    "condition_filter": _of(ConditionFilterResult, _chosen),
    "sample": _of(ConditionFilterResult, _chosen),
    "train_test_split": _of(TrainTestSplitResult, _split),
    "ss_lr": _of(SsLrResult, _regression),
    "ss_glm": _of(LinearResult, _linear),
    **dict.fromkeys(("ss_xgb", "sgb"), _of(BoostingResult, _boosting)),
    "health_check": _of(HealthCheckResult, _health),
    "component": _of(ComponentResult, components.component),
}
