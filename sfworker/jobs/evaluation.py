"""Implements the evaluations and `scorecard`, in NumPy in the process of the party that holds the columns.

SecretFlow's own evaluation gives the same figures and spends four seconds on compiling them first.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sfworker.catalog.evaluation import (
    BiasBucket,
    BiclassificationEvalParams,
    BiclassificationEvalResult,
    Bucket,
    Head,
    PredictionBiasEvalParams,
    PredictionBiasEvalResult,
    RegressionEvalParams,
    RegressionEvalResult,
    ResidualBucket,
    ScorecardParams,
    ScorecardResult,
)
from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.tables import files, labels
from sfworker.tables.own_tables import OwnTable

Vector = npt.NDArray[np.float64]
HEAD_RATES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2)
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
NOISE = 1e-3
"""Distance by which a probability that was computed on an SPU may miss the range from 0 to 1."""


@TaskDispatcher.register_task("biclassification_eval")
def biclassification_eval(context: JobContext[BiclassificationEvalParams]) -> BiclassificationEvalResult | None:
    """Evaluate. Other parties learn nothing but what the result says."""
    params = context.params
    if not context.is_local(params.label.party):
        return None
    label, score = _label_and_prediction(context)
    # No bucket may be so small that its figures tell of single rows.
    least = max(params.min_item_cnt_per_bucket, context.floors.bin_rows)
    bucket_count = min(params.bucket_count, max(1, len(label) // least))
    label = labels.binary(label, "an evaluation", context.floors.group_rows)
    return evaluate(label, score, bucket_count, params.threshold, context.floors.bin_rows)


@TaskDispatcher.register_task("regression_eval")
def regression_eval(context: JobContext[RegressionEvalParams]) -> RegressionEvalResult | None:
    """Evaluate. Other parties learn nothing but what the result says."""
    if not context.is_local(context.params.label.party):
        return None
    label, prediction = _label_and_prediction(context)
    with np.errstate(over="ignore"):
        residual = label - prediction
    # A histogram divides the range of the residues.
    if not np.isfinite(np.ptp(residual)):
        raise InputDataError("task_config.prediction: is too far from the label for a difference; check both columns")
    squared, absolute = np.square(residual), np.abs(residual)
    # Rounding would give a constant label a spread.
    spread = float(np.square(label - label.mean()).sum()) if np.ptp(label) else 0.0
    sizes = np.abs(label) + np.abs(prediction)
    counts, edges = np.histogram(residual, context.params.bucket_count)
    starts = [0, *np.cumsum(counts).tolist()]
    histogram = list(pairwise(_joined(starts, context.floors.bin_rows)))
    return RegressionEvalResult(
        rows=len(label),
        # Figures that would divide by 0 are null.
        r2=1 - float(squared.sum()) / spread if spread else None,
        mse=float(squared.mean()),
        rmse=math.sqrt(squared.mean()),
        mae=float(absolute.mean()),
        mape=float(np.mean(absolute / np.abs(label))) if label.all() else None,
        smape=float(np.mean(2 * absolute / np.where(sizes, sizes, 1.0))),
        sse=float(squared.sum()),
        bias=float(-residual.mean()),
        label_mean=float(label.mean()),
        prediction_mean=float(prediction.mean()),
        residual_quantiles={f"{q}": value for q, value in zip(QUANTILES, _quantiles(residual), strict=True)},
        residual_histogram=[
            ResidualBucket(left=float(edges[first]), right=float(edges[last]), rows=starts[last] - starts[first])
            for first, last in histogram
        ],
    )


@TaskDispatcher.register_task("prediction_bias_eval")
def prediction_bias_eval(context: JobContext[PredictionBiasEvalParams]) -> PredictionBiasEvalResult | None:
    """Evaluate. Other parties learn nothing but what the result says."""
    params = context.params
    if not context.is_local(params.label.party):
        return None
    label, prediction = _label_and_prediction(context)
    order = np.argsort(prediction, kind="stable")
    label, prediction = label[order], prediction[order]
    if params.bucket_method == "equal_width":
        edges = np.histogram_bin_edges(prediction, params.bucket_count)
        starts = [0, *np.searchsorted(prediction, edges[1:-1], side="left").tolist(), len(label)]
    else:
        starts = [len(label) * number // params.bucket_count for number in range(params.bucket_count + 1)]
        edges = prediction[[*starts[:-1], len(label) - 1]]
    least = max(params.min_item_cnt_per_bucket, context.floors.bin_rows)
    if len(label) < least:
        raise InputDataError(
            f"task_config.input_paths.{params.label.party}: has fewer rows than one bucket needs "
            f"(min_item_cnt_per_bucket, SFWORKER_MIN_BIN_ROWS)"
        )
    buckets = [
        _bias_bucket(edges[first], edges[last], *(each[starts[first] : starts[last]] for each in (prediction, label)))
        for first, last in pairwise(_joined(starts, least))
    ]
    return PredictionBiasEvalResult(rows=len(label), bias=float((prediction - label).mean()), buckets=buckets)


@TaskDispatcher.register_task("scorecard")
def scorecard(context: JobContext[ScorecardParams]) -> ScorecardResult | None:
    """Compute scores and write them. Nothing leaves the party."""
    params, party = context.params, context.params.prediction.party
    if not context.is_local(party):
        return None
    field, name = f"task_config.input_paths.{party}", params.prediction.column
    path = context.input_file(party, "input_paths", params.input_paths[party])
    names = files.header(field, path)
    files.require_columns("task_config.prediction.column", names, [name])
    probability = files.numbers(field, path, [name])[:, 0]
    context.require_rows(field, len(probability))
    outside = (probability < -NOISE) | (probability > 1 + NOISE)
    if outside.any():
        row = int(np.argmax(outside)) + 1
        raise InputDataError(f"{field}: column {name!r} holds no probability (0 to 1) in row {row}; correct the file")
    output = context.output(party, "output_paths", params.output_paths[party])
    table = OwnTable(party, field, path, names, {})

    def scored(first: int, rows: pa.Table) -> dict[str, dict[str, Any]]:
        found = scores(params, probability[first : first + rows.num_rows])
        return {name: {name: None, params.predict_score_name: found}}

    table.write(output, {}, scored)
    return ScorecardResult(
        rows=len(probability),
        output_paths={party: params.output_paths[party]},
        warnings=_without_odds(probability),
    )


def scores(params: ScorecardParams, probability: Vector) -> Vector:
    """Return the scores of probabilities. 0 and 1 get the lowest and the highest one."""
    probability = np.clip(probability, 0.0, 1.0)
    factor = params.pdo / math.log(2)
    offset = params.scaled_value - factor * math.log(params.odd_base)
    with np.errstate(divide="ignore"):
        log_odds = np.log(probability) - np.log1p(-probability)
    sign = -1.0 if params.positive == 1 else 1.0
    found: Vector = np.clip(offset + sign * factor * log_odds, params.min_score, params.max_score)
    return found


def _without_odds(probability: Vector) -> list[str]:
    """Warns of probabilities of 0 and 1, which nothing but rounding or a cut makes."""
    count, rows = int(((probability <= 0) | (probability >= 1)).sum()), len(probability)
    if not count:
        return []
    return [
        f"{count} of {rows} rows ({count / rows:.1%}) have a probability of 0 or 1, so their score is min_score or "
        f"max_score whatever their risk; predict again if the model is of ss_lr, whose predictions earlier versions "
        f"cut, or with more fxp_fraction_bits if it is of another task type"
    ]


def evaluate(
    label: Vector, score: Vector, bucket_count: int, threshold: float, least: int = 0
) -> BiclassificationEvalResult:
    """Evaluate `score` for `label`, which holds 0 and 1, both there. Both have shape (rows,).

    The head report has points of the curve at which it counts `least` rows.
    """
    order = np.argsort(-score, kind="stable")
    label, score = label[order], score[order]
    true_positives, false_positives = np.cumsum(label), np.cumsum(1 - label)
    positives, negatives = true_positives[-1], false_positives[-1]
    # A threshold can lie only where the next score differs. Between equal scores the curve is a straight line.
    cuts = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    tpr = np.concatenate(([0.0], true_positives[cuts] / positives))
    fpr = np.concatenate(([0.0], false_positives[cuts] / negatives))
    chosen = score >= threshold
    hits = float(label[chosen].sum())
    precision = hits / chosen.sum() if chosen.any() else 0.0
    recall = hits / positives
    return BiclassificationEvalResult(
        rows=len(label),
        positives=int(positives),
        auc=float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)),
        ks=float(np.max(np.abs(tpr - fpr))),
        accuracy=float(np.mean(chosen == (label == 1))),
        precision=float(precision),
        recall=float(recall),
        f1=float(2 * precision * recall / (precision + recall)) if hits else 0.0,
        buckets=_buckets(label, score, bucket_count),
        head_report=[_head(rate, tpr, fpr, cuts, true_positives, score, least) for rate in HEAD_RATES],
    )


def _label_and_prediction(context: JobContext[Any]) -> tuple[Vector, Vector]:
    """Read two columns of a local party from its file. Raises InputDataError."""
    params, party = context.params, context.params.label.party
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", params.input_paths[party])
    names = files.header(field, path)
    files.require_columns("task_config.label.column", names, [params.label.column])
    files.require_columns("task_config.prediction.column", names, [params.prediction.column])
    label, prediction = files.numbers(field, path, [params.label.column, params.prediction.column]).T
    context.require_rows(field, len(label))
    return label, prediction


def _quantiles(values: Vector) -> list[float]:
    found: list[float] = np.quantile(values, QUANTILES).tolist()
    return found


def _joined(starts: list[int], least: int) -> list[int]:
    """Return which buckets begin a bucket of no row or of `least` rows and more, and the end. `starts` ends there."""
    kept, end = [0], len(starts) - 1
    for number in range(1, end):
        rows = starts[number] - starts[kept[-1]]
        if rows == 0 or rows >= least:
            kept.append(number)
    while 0 < starts[end] - starts[kept[-1]] < least:
        kept.pop()
    return [*kept, end]


def _bias_bucket(left: float, right: float, prediction: Vector, label: Vector) -> BiasBucket:
    means = (float(prediction.mean()), float(label.mean())) if len(label) else None
    return BiasBucket(
        left=float(left),
        right=float(right),
        rows=len(label),
        mean_prediction=means and means[0],
        mean_label=means and means[1],
        bias=float((prediction - label).mean()) if means else None,
    )


def _head(
    rate: float,
    tpr: Vector,
    fpr: Vector,
    cuts: npt.NDArray[np.int64],
    true_positives: Vector,
    score: Vector,
    least: int,
) -> Head:
    """Return the figures at the last point of the curve whose false positive rate is within `rate`.

    `tpr` and `fpr` start with those of no row. `cuts` are the last rows that each of the others counts. A point with
    fewer than `least` rows gives way to that of no row.
    """
    last = int(np.searchsorted(fpr, rate, side="right")) - 1
    if last and cuts[last - 1] + 1 < least:
        last = 0
    at = cuts[last - 1] if last else None
    return Head(
        max_false_positive_rate=rate,
        false_positive_rate=float(fpr[last]),
        threshold=None if at is None else float(score[at]),
        precision=0.0 if at is None else float(true_positives[at] / (at + 1)),
        recall=float(tpr[last]),
    )


def _buckets(label: Vector, score: Vector, count: int) -> list[Bucket]:
    """Return the figures of buckets of rows. `label` and `score` are sorted, the highest scores first."""
    buckets, positives, negatives = [], label.sum(), (1 - label).sum()
    seen_rows, seen_positives = 0, 0.0
    for rows in np.array_split(np.arange(len(label)), count):
        here = float(label[rows].sum())
        seen_rows += len(rows)
        seen_positives += here
        true_positive_rate = float(seen_positives / positives)
        false_positive_rate = float((seen_rows - seen_positives) / negatives)
        buckets.append(
            Bucket(
                rows=len(rows),
                positives=int(here),
                lowest_score=float(score[rows[-1]]),
                highest_score=float(score[rows[0]]),
                mean_score=float(score[rows].mean()),
                cumulative_true_positive_rate=true_positive_rate,
                cumulative_false_positive_rate=false_positive_rate,
                ks=abs(true_positive_rate - false_positive_rate),
                lift=float(seen_positives / seen_rows / (positives / len(label))),
            )
        )
    return buckets
