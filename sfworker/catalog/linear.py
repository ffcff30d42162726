"""`ss_lr` and `ss_lr_predict`: linear models on secret shares. Runs in the daemon and in party processes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from sfworker.catalog.base import (
    ColumnName,
    ColumnRef,
    PartyColumns,
    PartyPaths,
    TaskParams,
    TaskType,
    register,
    require_parties,
)
from sfworker.errors import ParameterValidationError
from sfworker.wire.envelope import PartyName

Regression = Literal["logistic", "linear"]
Sigmoid = Literal["real", "t1", "t3", "t5", "df", "sr"]


class SsLrParams(TaskParams, tag="ss_lr", frozen=True, kw_only=True):
    """Trains a logistic or linear regression by mini-batch gradient descent on secret shares.

    Row n of every party's file is about the same case, as after `psi`. Within an epoch, rows beyond the last full batch
    are not used.
    """

    input_paths: Annotated[PartyPaths, Meta(description="CSV or Parquet file of each party, with a header.")]
    label: Annotated[ColumnRef, Meta(description="What to predict; for `logistic` it holds 0 and 1.")]
    model_path: Annotated[
        PartyPaths, Meta(description="Directory of each party for its share of the model; replaced if it holds one.")
    ]
    keys: Annotated[PartyColumns, Meta(description="Columns that are neither feature nor label, such as ids.")] = field(
        default_factory=dict
    )
    features: Annotated[
        PartyColumns | None,
        Meta(description="Feature columns by party. Default: every column that is neither key nor label."),
    ] = None
    regression: Annotated[Regression, Meta(description="Kind of model.")] = "logistic"
    epochs: Annotated[int, Meta(ge=1, le=10_000, description="Passes over the data.")] = 10
    learning_rate: Annotated[float, Meta(gt=0, le=100, description="Step of the gradient descent.")] = 0.1
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000, description="Rows per step; at most as many as there are.")] = (
        1024
    )
    penalty: Annotated[Literal["none", "l2"], Meta(description="Regularisation.")] = "none"
    l2_norm: Annotated[float, Meta(ge=0, le=1000, description="Weight of the l2 penalty.")] = 0.5
    sig_type: Annotated[
        Sigmoid, Meta(description="Approximation of the sigmoid; t1 is the fastest, its scores are not calibrated.")
    ] = "t1"
    eps: Annotated[
        float, Meta(ge=0, lt=1, description="Stops when weights change by less than this share; 0: never.")
    ] = 0.0
    standardize: Annotated[
        bool, Meta(description="Whether each party brings its own columns to mean 0 and deviation 1 first.")
    ] = True

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        require_parties("input_paths", self.input_paths, parties)
        require_parties("model_path", self.model_path, parties)
        for party, columns in (self.features or {}).items():
            taken = [*self.keys.get(party, []), *([self.label.column] if party == self.label.party else [])]
            for column in columns:
                if column in taken:
                    raise ParameterValidationError(
                        f"task_config.features.{party}: column {column!r} is a key or the label; leave it out"
                    )
            if len(set(columns)) != len(columns):
                raise ParameterValidationError(f"task_config.features.{party}: names a column twice")


class SsLrResult(Struct, frozen=True, kw_only=True):
    """What `ss_lr` answers."""

    model_id: str
    """The same in every party's part of the model."""
    model_path: dict[str, str]
    regression: Regression
    rows: int
    features: dict[str, int]
    """Number of feature columns by party."""
    epochs: int
    """Epochs that were run: fewer than asked for where `eps` ended the training."""


class SsLrPredictParams(TaskParams, tag="ss_lr_predict", frozen=True, kw_only=True):
    """Applies a model of `ss_lr` to new rows, aligned as in training; only the receiver sees the predictions."""

    input_paths: Annotated[PartyPaths, Meta(description="CSV or Parquet file of each party, with a header.")]
    model_path: Annotated[PartyPaths, Meta(description="Directory of each party that `ss_lr` has written.")]
    receiver: Annotated[PartyName, Meta(description="The party that gets the predictions.")]
    output_paths: Annotated[PartyPaths, Meta(description="File to write at the receiver, CSV or Parquet.")]
    keys: Annotated[PartyColumns, Meta(description="Key columns; the receiver's are written before predictions.")] = (
        field(default_factory=dict)
    )
    saved_columns: Annotated[
        list[ColumnName], Meta(description="Further columns of the receiver to write beside the predictions.")
    ] = field(default_factory=list)
    pred_name: Annotated[ColumnName, Meta(description="Name of the column of predictions.")] = "pred"
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000, description="Rows that are computed at a time.")] = 16_384

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        require_parties("input_paths", self.input_paths, parties)
        require_parties("model_path", self.model_path, parties)
        require_parties("output_paths", self.output_paths, [self.receiver])
        written = [*self.keys.get(self.receiver, []), *self.saved_columns, self.pred_name]
        if len(set(written)) != len(written):
            raise ParameterValidationError("task_config.saved_columns: would be written twice; name each column once")


class SsLrPredictResult(Struct, frozen=True, kw_only=True):
    """What `ss_lr_predict` answers."""

    rows: int
    output_paths: dict[str, str]


SHAPES = "every party learns the number of rows and how many features each party has"
SS_LR = register(
    TaskType(
        name="ss_lr",
        summary="Trains a logistic or linear regression on secret shares",
        params=SsLrParams,
        result=SsLrResult,
        devices=frozenset({"spu"}),
        disclosures=(
            SHAPES,
            "every party learns the model's id, which is random",
            "with eps > 0 every party learns after each epoch whether the training has converged",
            "the model stays shared: no party learns weights, labels or another party's columns",
        ),
    )
)
SS_LR_PREDICT = register(
    TaskType(
        name="ss_lr_predict",
        summary="Applies a model of ss_lr",
        params=SsLrPredictParams,
        result=SsLrPredictResult,
        devices=frozenset({"spu"}),
        disclosures=(SHAPES, "every party learns the model's id", "the receiver learns the predictions"),
    )
)
