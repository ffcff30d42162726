"""Draws evaluations of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from sfworker.catalog.evaluation import (
    BiclassificationEvalResult,
    Bucket,
    PredictionBiasEvalResult,
    RegressionEvalResult,
)
from sfworker.report import drawing
from sfworker.report.chart import Chart, figure
from sfworker.report.drawing import MOST_BARS, as_percent
from sfworker.report.tables import Table, cell


def biclassification(result: BiclassificationEvalResult) -> list[Chart]:
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


def regression(result: RegressionEvalResult) -> list[Chart]:
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
        (share, value) for name, value in result.residual_quantiles.items() if (share := figure(name)) is not None
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


def bias(result: PredictionBiasEvalResult) -> list[Chart]:
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
