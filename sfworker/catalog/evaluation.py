"""Evaluates predictions and makes scores of them, each from one party's own columns.

Runs in the daemon and in party processes.
"""

from __future__ import annotations

import posixpath
from typing import Annotated, Literal

from msgspec import Meta, Struct

from sfworker.catalog.base import (
    FLOOR,
    ColumnName,
    ColumnRef,
    PartyPaths,
    TaskParams,
    TaskType,
    register,
    require_parties,
)
from sfworker.errors import ParameterValidationError


class _EvaluationParams(TaskParams, frozen=True, kw_only=True):
    """Label and prediction stand in the same file of one party; nothing leaves that party but the result."""

    input_paths: Annotated[PartyPaths, Meta(description="File of the party that holds label and prediction.")]
    label: Annotated[ColumnRef, Meta(description="What was true.")]
    prediction: Annotated[ColumnRef, Meta(description="What was predicted.")]

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if self.label.party != self.prediction.party:
            raise ParameterValidationError(
                "task_config.prediction.party: has to be the party that holds the label; predict with it as receiver"
            )
        if self.label == self.prediction:
            raise ParameterValidationError("task_config.prediction.column: is the label itself; name the predictions")
        require_parties("input_paths", self.input_paths, [self.label.party])


class BiclassificationEvalParams(_EvaluationParams, tag="biclassification_eval", frozen=True, kw_only=True):
    """Compares scores with labels of 0 and 1 that the same party holds; nothing leaves that party but the result."""

    label: Annotated[ColumnRef, Meta(description="What was true: 0 or 1.")]
    prediction: Annotated[ColumnRef, Meta(description="The scores; a larger one means more likely 1.")]
    bucket_count: Annotated[int, Meta(ge=1, le=100, description="Buckets of equally many rows in the report.")] = 10
    min_item_cnt_per_bucket: Annotated[
        int, Meta(ge=1, le=1_000_000, description="There are fewer buckets where they would hold fewer rows than this.")
    ] = 5
    threshold: Annotated[float, Meta(description="Scores from here on count as 1.")] = 0.5


class Bucket(Struct, frozen=True, kw_only=True):
    """Rows with neighbouring scores, the highest scores first."""

    rows: int
    positives: int
    lowest_score: float
    highest_score: float
    mean_score: float
    cumulative_true_positive_rate: float
    cumulative_false_positive_rate: float
    ks: float
    """Distance of the two rates."""
    lift: float
    """Share of positives here and in the buckets before, over their share in all rows."""


class Head(Struct, frozen=True, kw_only=True):
    """The most rows, of those with the highest scores, whose false positive rate is within a bound."""

    max_false_positive_rate: float
    false_positive_rate: float
    threshold: float | None
    """The lowest of their scores; null where there are none."""
    precision: float
    recall: float


class BiclassificationEvalResult(Struct, frozen=True, kw_only=True):
    """The result of `biclassification_eval`. Rates are 0 to 1; those at a threshold without any row are 0."""

    rows: int
    positives: int
    auc: float
    ks: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    buckets: list[Bucket]
    head_report: list[Head]


class RegressionEvalParams(_EvaluationParams, tag="regression_eval", frozen=True, kw_only=True):
    """Compares predicted numbers with true ones that the same party holds; nothing leaves it but the result."""

    bucket_count: Annotated[int, Meta(ge=1, le=100, description="Buckets of equal width in the histogram.")] = 10


class ResidualBucket(Struct, frozen=True, kw_only=True):
    """Rows whose residue, label minus prediction, is from `left` to below `right`; the last with `right`."""

    left: float
    right: float
    rows: int


class RegressionEvalResult(Struct, frozen=True, kw_only=True):
    """The result of `regression_eval`. Percentages are shares: 0.1 is ten percent."""

    rows: int
    r2: float | None
    """Null where every row has the same label."""
    mse: float
    rmse: float
    mae: float
    mape: float | None
    """Mean absolute percentage error; null where a label is 0."""
    smape: float
    """Symmetric: 2 |prediction - label| / (|prediction| + |label|)."""
    sse: float
    """Sum of the squared errors."""
    bias: float
    """Mean prediction minus mean label."""
    label_mean: float
    prediction_mean: float
    residual_quantiles: dict[str, float]
    """By share of the rows, from 0.01 to 0.99."""
    residual_histogram: list[ResidualBucket]


class PredictionBiasEvalParams(_EvaluationParams, tag="prediction_bias_eval", frozen=True, kw_only=True):
    """Compares the mean prediction with the mean label, in buckets of neighbouring predictions."""

    bucket_count: Annotated[int, Meta(ge=1, le=100, description="Buckets in the report, at most.")] = 10
    bucket_method: Annotated[
        Literal["equal_width", "equal_frequency"],
        Meta(description="Whether buckets have equally wide ranges of predictions, or equally many rows."),
    ] = "equal_width"
    min_item_cnt_per_bucket: Annotated[
        int,
        Meta(ge=2, le=1_000_000, description="A bucket with fewer rows, but some, is joined with its neighbours."),
    ] = 2


class BiasBucket(Struct, frozen=True, kw_only=True):
    """Rows with predictions from `left` to `right`. Means are null where there is no row."""

    left: float
    right: float
    rows: int
    mean_prediction: float | None
    mean_label: float | None
    bias: float | None
    """Mean prediction minus mean label."""


class PredictionBiasEvalResult(Struct, frozen=True, kw_only=True):
    """The result of `prediction_bias_eval`."""

    rows: int
    bias: float
    """Of all rows."""
    buckets: list[BiasBucket]
    """Of ascending predictions."""


class ScorecardParams(TaskParams, tag="scorecard", frozen=True, kw_only=True):
    """Turns predicted probabilities into scores: offset plus or minus factor times the logarithm of the odds.

    factor = pdo / ln 2; offset = scaled_value - factor * ln(odd_base). The party's whole table is written, the score
    beside the prediction. A probability of 0 or 1 has no odds: its score is `min_score` or `max_score`, and the result
    warns of such rows.
    """

    input_paths: Annotated[PartyPaths, Meta(description="File of the party that holds the prediction.")]
    output_paths: Annotated[PartyPaths, Meta(description="File to write at that party: CSV, Parquet or ORC.")]
    prediction: Annotated[ColumnRef, Meta(description="Probabilities of the label 1.")]
    predict_score_name: Annotated[ColumnName, Meta(description="Name of the new column.")] = "predict_score"
    positive: Annotated[
        Literal[0, 1],
        Meta(description="The label that stands for the positive, feared case: a high score means the other one."),
    ] = 1
    scaled_value: Annotated[float, Meta(gt=0, le=1e9, description="Score at the odds `odd_base`.")] = 600
    odd_base: Annotated[float, Meta(gt=0, le=1e9, description="Odds at which the score is `scaled_value`.")] = 20
    pdo: Annotated[float, Meta(gt=0, le=1e9, description="Points that double the odds.")] = 20
    min_score: Annotated[float, Meta(ge=0, le=1e9, description="Lower scores become this one.")] = 0
    max_score: Annotated[float, Meta(ge=0, le=1e9, description="Higher scores become this one.")] = 1000

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        party = self.prediction.party
        require_parties("input_paths", self.input_paths, [party])
        require_parties("output_paths", self.output_paths, [party])
        if posixpath.normpath(self.input_paths[party]) == posixpath.normpath(self.output_paths[party]):
            raise ParameterValidationError(f"task_config.output_paths.{party}: is the party's input; name another file")
        if not self.min_score < self.scaled_value < self.max_score:
            raise ParameterValidationError("task_config.scaled_value: has to be between min_score and max_score")
        if self.predict_score_name == self.prediction.column:
            raise ParameterValidationError("task_config.predict_score_name: is the prediction's; name another one")


class ScorecardResult(Struct, frozen=True, kw_only=True):
    """The result of `scorecard`."""

    rows: int
    output_paths: dict[str, str]
    warnings: list[str]
    """A sentence where rows have a probability of 0 or 1, with their share and what helps."""


BICLASSIFICATION_EVAL = register(
    TaskType(
        name="biclassification_eval",
        summary="Evaluates the scores of a two-class classifier: AUC, KS, F1, buckets",
        params=BiclassificationEvalParams,
        result=BiclassificationEvalResult,
        disclosures=(
            "readers of the result learn its figures, lowest and highest scores of the buckets and scores at false "
            "positive rates among them, which are those of single rows",
            "no bucket, and no point of the head report, has fewer rows than SFWORKER_MIN_BIN_ROWS; labels that fewer "
            "rows than SFWORKER_MIN_GROUP_ROWS have are refused",
            FLOOR,
        ),
    )
)
REGRESSION_EVAL = register(
    TaskType(
        name="regression_eval",
        summary="Evaluates predicted numbers: R2, mean errors, residues",
        params=RegressionEvalParams,
        result=RegressionEvalResult,
        disclosures=(
            "readers of the result learn its figures, the smallest and largest residue and quantiles of residues among "
            "them, which are those of single rows",
            "buckets of fewer rows than SFWORKER_MIN_BIN_ROWS are joined with their neighbours",
            FLOOR,
        ),
    )
)
PREDICTION_BIAS_EVAL = register(
    TaskType(
        name="prediction_bias_eval",
        summary="Compares mean predictions with mean labels in buckets",
        params=PredictionBiasEvalParams,
        result=PredictionBiasEvalResult,
        disclosures=(
            "readers of the result learn its figures: means of at least `min_item_cnt_per_bucket` rows, and the "
            "buckets' ends, which are predictions of single rows",
            "buckets of fewer rows than SFWORKER_MIN_BIN_ROWS are joined with their neighbours",
            FLOOR,
        ),
    )
)
SCORECARD = register(
    TaskType(
        name="scorecard",
        summary="Turns predicted probabilities into scores",
        params=ScorecardParams,
        result=ScorecardResult,
        disclosures=(
            "readers of the result learn the number of rows, and of those with a probability of 0 or 1; scores stay at "
            "the party of the prediction",
            FLOOR,
        ),
    )
)
