"""`biclassification_eval`: how good are the scores of a classifier? Runs in the daemon and in party processes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from sfworker.catalog.base import ColumnRef, PartyPaths, TaskParams, TaskType, register, require_parties
from sfworker.errors import ParameterValidationError


class BiclassificationEvalParams(TaskParams, tag="biclassification_eval", frozen=True, kw_only=True):
    """Compares scores with labels of 0 and 1 that the same party holds; nothing leaves that party but the result."""

    input_paths: Annotated[PartyPaths, Meta(description="File of the party that holds label and prediction.")]
    label: Annotated[ColumnRef, Meta(description="What was true: 0 or 1.")]
    prediction: Annotated[ColumnRef, Meta(description="The scores; a larger one means more likely 1.")]
    bucket_count: Annotated[int, Meta(ge=1, le=100, description="Buckets of equally many rows in the report.")] = 10
    threshold: Annotated[float, Meta(description="Scores from here on count as 1.")] = 0.5

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if self.label.party != self.prediction.party:
            raise ParameterValidationError(
                "task_config.prediction.party: has to be the party that holds the label; predict with it as receiver"
            )
        require_parties("input_paths", self.input_paths, [self.label.party])


class Bucket(Struct, frozen=True, kw_only=True):
    """Rows with neighbouring scores, the highest scores first."""

    rows: int
    positives: int
    lowest_score: float
    highest_score: float
    cumulative_true_positive_rate: float
    cumulative_false_positive_rate: float
    lift: float
    """Share of positives here and in the buckets before, over their share in all rows."""


class BiclassificationEvalResult(Struct, frozen=True, kw_only=True):
    """What `biclassification_eval` answers. Rates are 0 to 1; those at a threshold without any row are 0."""

    rows: int
    positives: int
    auc: float
    ks: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    buckets: list[Bucket]


BICLASSIFICATION_EVAL = register(
    TaskType(
        name="biclassification_eval",
        summary="Evaluates the scores of a two-class classifier: AUC, KS, F1, buckets",
        params=BiclassificationEvalParams,
        result=BiclassificationEvalResult,
        disclosures=("readers of the result learn its figures, lowest and highest scores of the buckets among them",),
    )
)
