"""The parameters that all trainings and all predictions have in common. Runs in the daemon and in parties."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from sfworker.catalog.base import (
    FLOOR,
    Arithmetic,
    ColumnName,
    ColumnRef,
    PartyColumnsIfAny,
    PartyPaths,
    TaskParams,
    check_features,
    require_parties,
)
from sfworker.errors import ParameterValidationError
from sfworker.wire.envelope import PartyName


class TrainParams(TaskParams, frozen=True, kw_only=True):
    """Row n of every party's file is about the same case, as after `psi`."""

    input_paths: Annotated[PartyPaths, Meta(description="CSV, Parquet or ORC file of each party, with a header.")]
    label: Annotated[ColumnRef, Meta(description="What to predict.")]
    model_path: Annotated[
        PartyPaths, Meta(description="Directory of each party for its part of the model; replaced if it holds one.")
    ]
    keys: Annotated[PartyColumnsIfAny, Meta(description="Columns that are neither feature nor label, such as ids.")] = (
        field(default_factory=dict)
    )
    features: Annotated[
        PartyColumnsIfAny | None,
        Meta(
            description="Feature columns by party; a party left out has none. "
            "Default: every column that is nothing else here."
        ),
    ] = None

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        require_parties("input_paths", self.input_paths, parties)
        require_parties("model_path", self.model_path, parties)
        others = [value for value in map(self.__getattribute__, self.__struct_fields__) if isinstance(value, ColumnRef)]
        check_features(self.features, self.keys, others)


class TrainResult(Struct, frozen=True, kw_only=True):
    """The result of a training."""

    model_id: str
    """The same in every party's part of the model."""
    model_path: dict[str, str]
    rows: int
    features: dict[str, int]
    """Number of feature columns by party."""
    arithmetic: Arithmetic | None
    """Null where the training uses no SPU."""


class PredictParams(TaskParams, frozen=True, kw_only=True):
    """Applies a model to new rows, aligned as in training; only the receiver sees the predictions."""

    input_paths: Annotated[PartyPaths, Meta(description="CSV, Parquet or ORC file of each party, with a header.")]
    model_path: Annotated[PartyPaths, Meta(description="Directory of each party that the training has written.")]
    receiver: Annotated[PartyName, Meta(description="The party that gets the predictions.")]
    output_paths: Annotated[PartyPaths, Meta(description="File to write at the receiver, CSV, Parquet or ORC.")]
    keys: Annotated[
        PartyColumnsIfAny, Meta(description="Key columns; the receiver's are written before predictions.")
    ] = field(default_factory=dict)
    saved_columns: Annotated[
        list[ColumnName], Meta(description="Further columns of the receiver to write beside the predictions.")
    ] = field(default_factory=list)
    pred_name: Annotated[ColumnName, Meta(description="Name of the column of predictions.")] = "pred"

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        require_parties("input_paths", self.input_paths, parties)
        require_parties("model_path", self.model_path, parties)
        require_parties("output_paths", self.output_paths, [self.receiver])
        written = [*self.keys.get(self.receiver, []), *self.saved_columns, self.pred_name]
        if len(set(written)) != len(written):
            raise ParameterValidationError("task_config.saved_columns: would be written twice; name each column once")


class PredictResult(Struct, frozen=True, kw_only=True):
    """The result of a prediction."""

    rows: int
    output_paths: dict[str, str]


SHAPES = f"every party learns the number of rows and how many features each party has; {FLOOR}"
MODEL_ID = "every party learns the model's id, which is random"
RESUMED = "where an earlier attempt was cut off, every party learns up to which step it had come"
PREDICTIONS = "the receiver learns the predictions"
UNIT = "the receiver learns the power of two next to the size of the training's labels where they are not 0 and 1"
TOO_FAR = "where the SPU's field cannot hold a prediction, every party learns by which columns"
