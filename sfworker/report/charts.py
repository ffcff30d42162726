"""Decides which charts a result has, by its task type, and says each in words.

A chart shows what the result holds, or what follows from it by arithmetic, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from sfworker.catalog.base import ColumnRef
from sfworker.catalog.basic import HealthCheckResult
from sfworker.catalog.binning import BinningResult
from sfworker.catalog.component import ComponentResult, ReportTable
from sfworker.catalog.evaluation import (
    BiclassificationEvalResult,
    Bucket,
    PredictionBiasEvalResult,
    RegressionEvalResult,
)
from sfworker.catalog.psi import JoinResult
from sfworker.catalog.rows import ConditionFilterResult, TrainTestSplitResult
from sfworker.catalog.statistics import (
    GroupbyStatisticsResult,
    PearsonCorrelationResult,
    PopulationStabilityResult,
    PValueResult,
    StabilityBin,
    TableStatisticsResult,
    VifResult,
)
from sfworker.catalog.training import TrainResult
from sfworker.report import drawing
from sfworker.report.drawing import MOST_BARS, Number, as_percent
from sfworker.report.tables import Table, cell
from sfworker.wire.events import PerformanceMetrics

MOST_DISTRIBUTIONS = 6
LARGEST = 1e100
"""From here on, differences of figures may be more than any number."""
_R = TypeVar("_R")


@dataclass(frozen=True)
class Chart:
    """A picture, what it shows in words, and its figures."""

    title: str
    description: str
    svg: str
    table: Table


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
    steps = {
        "queue": metrics.queue_seconds,
        "cluster": metrics.cluster_init_seconds,
        "devices": metrics.device_init_seconds,
        "execution": metrics.execution_seconds,
    }
    found = []
    if any(steps.values()):
        ends = [f"{seconds:.3g} s" for seconds in steps.values()]
        found.append(
            Chart(
                "Time",
                f"Seconds by step; {metrics.total_seconds:.3g} s in all, without the queue.",
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


# --- evaluation


def _biclassification(result: BiclassificationEvalResult) -> list[Chart]:
    buckets, negatives = result.buckets, result.rows - result.positives
    if not buckets or not result.positives or not negatives:
        return []
    rows = list(accumulate(each.rows for each in buckets))
    positives = list(accumulate(each.positives for each in buckets))
    share = [0.0, *(each / rows[-1] for each in rows)]
    true_rate = [0.0, *(each.cumulative_true_positive_rate for each in buckets)]
    false_rate = [0.0, *(each.cumulative_false_positive_rate for each in buckets)]
    precision = [some / all_ for some, all_ in zip(positives, rows, strict=True)]
    ends = "at the ends of the buckets, highest scores first"
    heads = [(each.false_positive_rate, each.recall) for each in result.head_report]
    roc = {"buckets": list(zip(false_rate, true_rate, strict=True)), **({"head report": heads} if heads else {})}
    best = max(range(len(share)), key=lambda n: true_rate[n] - false_rate[n])
    lift = list(zip(share[1:], (each.lift for each in buckets), strict=True))
    true_positives = round(result.recall * result.positives)
    true_negatives = round(result.accuracy * result.rows) - true_positives
    counts = [
        [true_positives, result.positives - true_positives],
        [negatives - true_negatives, true_negatives],
    ]
    return [
        Chart(
            "ROC",
            f"True by false positive rate, {ends}. AUC of all scores: {cell(result.auc)}; the dashed line is chance.",
            drawing.lines(
                roc,
                "false positive rate",
                "true positive rate",
                diagonal=True,
                points_only=["head report"],
                percent="xy",
            ),
            Table(
                ["points", "false_positive_rate", "true_positive_rate"],
                [[name, *point] for name, points in roc.items() for point in points],
            ),
        ),
        Chart(
            "Precision and recall",
            f"Precision by recall, {ends}. At the job's threshold precision is {as_percent(result.precision)} and "
            f"recall {as_percent(result.recall)}; the dashed line is the share of positives.",
            drawing.lines(
                {"buckets": list(zip(true_rate[1:], precision, strict=True))},
                "recall",
                "precision",
                level=(result.positives / result.rows, "all rows"),
                percent="xy",
            ),
            Table(["recall", "precision"], [[*each] for each in zip(true_rate[1:], precision, strict=True)]),
        ),
        Chart(
            "KS",
            f"Share of the positives and of the negatives, {ends}. KS of all scores is {cell(result.ks)}; the dotted "
            f"line is the largest distance at a bucket's end, {cell(true_rate[best] - false_rate[best])}.",
            drawing.lines(
                {
                    "positives": list(zip(share, true_rate, strict=True)),
                    "negatives": list(zip(share, false_rate, strict=True)),
                },
                "share of rows",
                "share of each",
                marks=[((share[best], true_rate[best]), (share[best], false_rate[best]))],
                percent="xy",
            ),
            Table(
                ["rows", "positives", "negatives", "distance"],
                [[s, t, f, t - f] for s, t, f in zip(share, true_rate, false_rate, strict=True)],
            ),
        ),
        Chart(
            "Gain",
            f"Share of the positives among the rows with the highest scores, {ends}; the dashed line is chance.",
            drawing.lines(
                {"positives": list(zip(share, true_rate, strict=True))},
                "share of rows",
                "share of positives",
                diagonal=True,
                percent="xy",
            ),
            Table(["rows", "positives"], [[*each] for each in zip(share, true_rate, strict=True)]),
        ),
        Chart(
            "Lift",
            f"How many times as many positives as in all rows, {ends}. The first bucket has {cell(lift[0][1])} times "
            f"as many.",
            drawing.lines({"lift": lift}, "share of rows", "lift", level=(1.0, "all rows"), percent="x"),
            Table(["rows", "lift"], [[*each] for each in lift]),
        ),
        Chart(
            "Confusion matrix",
            f"Rows by label and by prediction at the job's threshold, from accuracy {as_percent(result.accuracy)} and "
            f"recall {as_percent(result.recall)}.",
            drawing.squares(["label 1", "label 0"], ["predicted 1", "predicted 0"], counts),
            Table(["label", "predicted 1", "predicted 0"], [[1, *counts[0]], [0, *counts[1]]]),
        ),
        *_scores(buckets),
    ]


def _scores(buckets: Sequence[Bucket]) -> list[Chart]:
    ascending = buckets[::-1]
    ranges = [(each.lowest_score, each.highest_score) for each in ascending]
    positives = [float(each.positives) for each in ascending]
    negatives = [float(each.rows - each.positives) for each in ascending]
    found = [
        Chart(
            "Scores",
            f"Positive and negative rows by score, from {cell(ranges[0][0])} to {cell(ranges[-1][1])}, in buckets of "
            f"about as many rows.",
            drawing.columns(ranges, {"positives": positives, "negatives": negatives}, "score", "rows", even=True),
            Table(
                ["lowest_score", "highest_score", "positives", "negatives"],
                [[*each, int(p), int(n)] for each, p, n in zip(ranges, positives, negatives, strict=True)],
            ),
        )
    ]
    if ranges[0][0] >= 0 and ranges[-1][1] <= 1:  # else they are no probabilities
        points = [(each.mean_score, each.positives / each.rows) for each in ascending if each.rows]
        farthest = max(abs(mean - rate) for mean, rate in points)
        found.append(
            Chart(
                "Calibration",
                f"Share of positives by mean score of each bucket; on the dashed line both are equal. They differ by "
                f"{cell(farthest)} at most.",
                drawing.lines({"buckets": points}, "mean score", "share of positives", diagonal=True, percent="xy"),
                Table(["mean_score", "positives"], [[*each] for each in points]),
            )
        )
    return found


def _regression(result: RegressionEvalResult) -> list[Chart]:
    found = []
    if buckets := result.residual_histogram:
        ranges = [(each.left, each.right) for each in buckets]
        widths = [right - left for left, right in ranges]
        # Buckets that were joined are wider; as high as their rows they would look like more.
        dense = min(widths) > 0 and max(widths) > 1.01 * min(widths)
        rows = [float(each.rows) for each in buckets]
        heights = [count / width for count, width in zip(rows, widths, strict=True)] if dense else rows
        found.append(
            Chart(
                "Residues",
                f"Rows by label minus prediction, from {cell(ranges[0][0])} to {cell(ranges[-1][1])}; mean absolute "
                f"error {cell(result.mae)}, RMSE {cell(result.rmse)}"
                + ("; buckets differ in width, so areas are rows." if dense else "."),
                drawing.columns(
                    ranges,
                    {"rows": heights},
                    "label minus prediction",
                    "rows per unit" if dense else "rows",
                    even=min(widths) <= 0,
                ),
                Table(["left", "right", "rows"], [[each.left, each.right, each.rows] for each in buckets]),
            )
        )
    quantiles = [
        (share, value) for name, value in result.residual_quantiles.items() if (share := _figure(name)) is not None
    ]
    if quantiles := sorted(quantiles):
        found.append(
            Chart(
                "Quantiles of residues",
                "Label minus prediction by share of the rows that have less; the dashed line is no residue.",
                drawing.lines(
                    {"residue": quantiles}, "share of rows", "label minus prediction", level=(0.0, "0"), percent="x"
                ),
                Table(["share", "residue"], [[*each] for each in quantiles]),
            )
        )
    return found


def _bias(result: PredictionBiasEvalResult) -> list[Chart]:
    filled = [
        (each, each.mean_prediction, each.mean_label)
        for each in result.buckets
        if each.mean_prediction is not None and each.mean_label is not None
    ]
    if not filled:
        return []
    labels = [f"{cell(each.left)} - {cell(each.right)}" for each, _, _ in filled]
    return [
        Chart(
            "Means by prediction",
            f"Mean label by mean prediction of each bucket; on the dashed line both are equal. Bias of all rows: "
            f"{cell(result.bias)}.",
            drawing.lines(
                {"buckets": [(prediction, label) for _, prediction, label in filled]},
                "mean prediction",
                "mean label",
                diagonal=True,
            ),
            Table(
                ["left", "right", "rows", "mean_prediction", "mean_label"],
                [[each.left, each.right, each.rows, prediction, label] for each, prediction, label in filled],
            ),
        ),
        Chart(
            "Bias",
            "Mean prediction minus mean label of each bucket.",
            drawing.bars(labels[:MOST_BARS], {"bias": [p - y for _, p, y in filled][:MOST_BARS]}, "bias"),
            Table(["left", "right", "bias"], [[each.left, each.right, p - y] for each, p, y in filled]),
        ),
    ]


# --- columns of parties


def _by_column(
    title: str,
    sentence: str,
    figures: dict[str, dict[str, Any]],
    guides: Sequence[float] = (),
    *,
    ascending: bool = False,
    name: str,
) -> list[Chart]:
    """Return a bar for each column, the ones to look at first: the largest, or the smallest where `ascending`."""
    found = [(party, column, value) for party, columns in figures.items() for column, value in columns.items()]
    if not found:
        return []
    known = sorted((each for each in found if each[2] is not None), key=lambda each: each[2], reverse=not ascending)
    ordered = [*known, *(each for each in found if each[2] is None)]
    most = f" The {MOST_BARS} to look at first of {len(found)} are drawn." if len(found) > MOST_BARS else ""
    missing = len(found) - len(known)
    without = f" {missing} of {len(found)} columns have no figure." if missing else ""
    said = f" {known[0][0]}.{known[0][1]} comes first with {cell(known[0][2])}." if known else ""
    drawn = ordered[:MOST_BARS]
    return [
        Chart(
            title,
            f"{sentence}{said}{without}{most}",
            drawing.bars(
                [f"{party}.{column}" for party, column, _ in drawn],
                {name: [value for _, _, value in drawn]},
                name,
                guides=_within(guides, [value for _, _, value in known[:MOST_BARS]]),
            ),
            Table(["party", "column", name], [[*each] for each in ordered]),
        )
    ]


def _within(guides: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return the guides up to the first one above all values, as farther ones would only take room."""
    most = max(values, default=0.0)
    below = [guide for guide in guides if guide <= most]
    return [*below, *guides[len(below) : len(below) + 1]]


def _vif(result: VifResult) -> list[Chart]:
    sentence = "Variance inflation factor of each column; the dashed lines are 5 and 10."
    return _by_column("Variance inflation", sentence, result.vif, (5, 10), name="vif")


def _p_values(result: PValueResult) -> list[Chart]:
    sentence = "p value of each coefficient, the smallest first; the dashed line is 0.05."
    return _by_column("p values", sentence, result.p_values, (0.05,), ascending=True, name="p value")


def _binning(result: BinningResult) -> list[Chart]:
    sentence = "Information value of each feature; the dashed lines are 0.02, 0.1 and 0.3."
    return _by_column("Information value", sentence, result.iv or {}, (0.02, 0.1, 0.3), name="iv")


def _stability(result: PopulationStabilityResult) -> list[Chart]:
    psi = {party: {column: each.psi for column, each in columns.items()} for party, columns in result.stability.items()}
    sentence = "Population stability index of each column; the dashed lines are 0.1 and 0.25."
    found = _by_column("Population stability", sentence, psi, (0.1, 0.25), name="psi")
    every = [(party, column, each) for party, columns in result.stability.items() for column, each in columns.items()]
    for party, column, each in sorted(every, key=lambda one: -one[2].psi)[:MOST_DISTRIBUTIONS]:
        bins = [_range(one) for one in each.bins]
        base, test = [one.base_ratio for one in each.bins], [one.test_ratio for one in each.bins]
        found.append(
            Chart(
                f"Distribution of {party}.{column}",
                f"Share of the rows by bin, before and now; PSI {cell(each.psi)}.",
                drawing.bars(
                    bins[:MOST_BARS], {"base": base[:MOST_BARS], "test": test[:MOST_BARS]}, "share of rows", beside=True
                ),
                Table(
                    ["bin", "base", "test", "psi"],
                    [[b, one.base_ratio, one.test_ratio, one.psi] for b, one in zip(bins, each.bins, strict=True)],
                ),
            )
        )
    return found


def _range(one: StabilityBin) -> str:
    if one.missing:
        return "missing"
    if one.left is None:
        return "all" if one.right is None else f"up to {cell(one.right)}"
    return f"above {cell(one.left)}" if one.right is None else f"{cell(one.left)} - {cell(one.right)}"


def _correlation(result: PearsonCorrelationResult) -> list[Chart]:
    return _square("Correlation", [_column(each) for each in result.columns], result.correlation)


def _column(reference: ColumnRef) -> str:
    return f"{reference.party}.{reference.column}"


def _square(title: str, names: Sequence[str], matrix: Sequence[Sequence[Number]]) -> list[Chart]:
    """Return a heat map, with each pair of columns in its table, the strongest first."""
    if not names or any(len(row) != len(names) for row in (matrix, *matrix)):
        return []
    pairs: list[list[Any]] = [
        [names[row], names[column], matrix[row][column]] for row in range(len(names)) for column in range(row)
    ]
    known = sorted((pair for pair in pairs if pair[2] is not None), key=lambda pair: -abs(pair[2]))
    strongest = f" The strongest is {cell(known[0][2])}, of {known[0][1]} and {known[0][0]}." if known else ""
    return [
        Chart(
            title,
            f"Correlation of each two of {len(names)} columns, from -1 to 1; without a figure, grey.{strongest}",
            drawing.heat(names, matrix),
            Table(["column", "and", "correlation"], [*known, *(pair for pair in pairs if pair[2] is None)]),
        )
    ]


def _statistics(result: TableStatisticsResult) -> list[Chart]:
    every = [
        (f"{party}.{column}", each) for party, columns in result.statistics.items() for column, each in columns.items()
    ]
    missing = {
        party: {column: 1 - each.count / each.total_count for column, each in columns.items() if each.total_count}
        for party, columns in result.statistics.items()
    }
    found = []
    if any(value for columns in missing.values() for value in columns.values()):
        found += _by_column("Missing cells", "Share of the rows without a value.", missing, name="missing")
    spread = [
        (name, (each.min, each.q1, each.q2, each.q3, each.max, each.mean))
        for name, each in every
        if None not in (each.min, each.q1, each.q2, each.q3, each.max)
    ]
    if spread:
        drawn: Any = spread[:MOST_BARS]
        most = f" The first {MOST_BARS} of {len(spread)} are drawn." if len(spread) > MOST_BARS else ""
        found.append(
            Chart(
                "Spread",
                "Where the middle half of the rows, the median and the mean lie between each column's smallest and "
                f"largest value.{most}",
                drawing.boxes([name for name, _ in drawn], [figures for _, figures in drawn]),
                Table(
                    ["column", "min", "q1", "q2", "q3", "max", "mean"], [[name, *figures] for name, figures in spread]
                ),
            )
        )
    return found


def _groups(result: GroupbyStatisticsResult) -> list[Chart]:
    if not result.groups:
        return []
    largest = sorted(result.groups, key=lambda group: -group.count)
    labels = [", ".join(map(cell, group.keys)) for group in largest]
    most = f" The {MOST_BARS} largest are drawn." if len(largest) > MOST_BARS else ""
    return [
        Chart(
            "Rows by group",
            f"{len(largest)} groups by {', '.join(result.by)}; {result.suppressed_groups} that are too small are left "
            f"out.{most}",
            drawing.bars(labels[:MOST_BARS], {"rows": [float(each.count) for each in largest[:MOST_BARS]]}, "rows"),
            Table(["group", "rows"], [[label, group.count] for label, group in zip(labels, largest, strict=True)]),
        )
    ]


# --- rows


def _join(result: JoinResult) -> list[Chart]:
    if len(result.parties) not in {2, 3}:
        return []
    counts = [["in common", result.intersection_count]]
    said = ""
    if isinstance(result.row_count, int):
        counts.append(["in each output file", result.row_count])
        said = f" Each output file has {result.row_count}, as the job asked for more than the rows in common."
    return [
        Chart(
            "Intersection",
            f"{' and '.join(result.parties)} have {result.intersection_count} rows in common.{said} Circles are not to "
            f"scale: the result does not tell how many rows each party has.",
            drawing.overlap(result.parties, str(result.intersection_count)),
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


# --- reports of SecretFlow's components


def _component(result: ComponentResult) -> list[Chart]:
    return [chart for report in result.reports for table in report.tables for chart in _component_table(table)]


def _component_table(table: ReportTable) -> list[Chart]:
    """Return a heat map of a square of correlations, or bars of named figures such as weights and importances."""
    names = set(table.index)
    if 1 < len(table.index) == len(names) == len(table.rows) and names <= set(table.columns):
        at = [table.columns.index(name) for name in table.index]
        square = [[_figure(row[number]) for number in at] for row in table.rows]
        known = [value for row in square for value in row if value is not None]
        if known and all(-1.001 <= value <= 1.001 for value in known):
            return _square(table.name, table.index, square)
    if table.columns == ["name", "value"]:
        figures = [(str(name), figure) for name, value in table.rows if (figure := _figure(value)) is not None]
        if len(figures) > 1:
            ordered = sorted(figures, key=lambda each: -abs(each[1]))
            most = f" The {MOST_BARS} that are farthest from 0 are drawn." if len(ordered) > MOST_BARS else ""
            return [
                Chart(
                    table.name,
                    f"Figures of the component's report, the one farthest from 0 first.{most}",
                    drawing.bars(
                        [name for name, _ in ordered[:MOST_BARS]],
                        {"value": [value for _, value in ordered[:MOST_BARS]]},
                        "value",
                    ),
                    Table(["name", "value"], [[*each] for each in ordered]),
                )
            ]
    return []


def _figure(value: Any) -> float | None:
    """Return a cell of a component's report as a number; some components write them as texts."""
    if isinstance(value, bool):
        return None
    try:
        figure = float(value)
    except (TypeError, ValueError):
        return None
    return figure if abs(figure) <= LARGEST else None


def _of(kind: type[_R], draw: Callable[[_R], list[Chart]]) -> Callable[[Any], list[Chart]]:
    return lambda answer: draw(msgspec.convert(answer, kind))


_CHARTS: dict[str, Callable[[Any], list[Chart]]] = {
    "biclassification_eval": _of(BiclassificationEvalResult, _biclassification),
    "regression_eval": _of(RegressionEvalResult, _regression),
    "prediction_bias_eval": _of(PredictionBiasEvalResult, _bias),
    "binning": _of(BinningResult, _binning),
    "vif": _of(VifResult, _vif),
    "p_value": _of(PValueResult, _p_values),
    "population_stability": _of(PopulationStabilityResult, _stability),
    "pearson_correlation": _of(PearsonCorrelationResult, _correlation),
    "table_statistics": _of(TableStatisticsResult, _statistics),
    "groupby_statistics": _of(GroupbyStatisticsResult, _groups),
    "psi": _of(JoinResult, _join),
    "unbalanced_psi": _of(JoinResult, _join),
    "condition_filter": _of(ConditionFilterResult, _chosen),
    "sample": _of(ConditionFilterResult, _chosen),
    "train_test_split": _of(TrainTestSplitResult, _split),
    **dict.fromkeys(("ss_lr", "ss_glm", "ss_xgb", "sgb"), _of(TrainResult, _training)),
    "health_check": _of(HealthCheckResult, _health),
    "component": _of(ComponentResult, _component),
}
