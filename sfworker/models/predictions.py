"""Applies saved models to new rows and writes the predictions. Runs in party processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from secretflow.data import FedNdarray

from sfworker.catalog import ColumnRef
from sfworker.catalog.training import PredictParams, PredictResult
from sfworker.errors import ModelMismatchError
from sfworker.models import models
from sfworker.party.context import JobContext
from sfworker.tables import aligned, files
from sfworker.tables.files import Matrix


@dataclass(frozen=True)
class Inputs:
    """The model's objects and options, and the columns that it is applied to."""

    objects: list[Any]
    options: dict[str, Any]
    columns: FedNdarray
    shape: aligned.Shape
    offset: FedNdarray | None


def predict(
    context: JobContext[Any],
    trained_by: str,
    apply: Callable[[Inputs], FedNdarray],
    dtype: npt.DTypeLike = np.float32,
    offset: ColumnRef | None = None,
) -> PredictResult | None:
    """Apply a model that the task type `trained_by` has saved, and write the predictions at the receiver.

    `apply` returns the predictions there. `offset` is a column that goes in beside the features.

    Only the receiver learns predictions; every party learns the shapes and the model's id. Raises ModelMismatchError
    or InputDataError.
    """
    params: PredictParams = context.params
    receiver = params.receiver
    found = models.find(context, params.model_path, trained_by)
    prepared = {party: _features(context, party, each.manifest) for party, each in found.items()}
    beside = output = None
    if context.is_local(receiver):
        output = context.output(receiver, "output_paths", params.output_paths[receiver])
        beside = _beside(context, output)
    _progress(context, 0.1, "inputs read")
    objects, options = models.load(context, found)
    shape = aligned.shape(context, prepared)
    columns = aligned.columns(context, prepared, shape, dtype)
    predicted = apply(Inputs(objects, options, columns, shape, _offset(context, offset, dtype)))
    scores = context.value_at(receiver, predicted.partitions[context.pyu(receiver)])
    _progress(context, 0.9, "predicted")
    if beside is None or output is None:
        return None
    predictions = np.asarray(scores, dtype=np.float64).ravel()
    # A table without columns has no rows, so that a column could not be appended to it.
    columns = [*beside.columns, pa.array(predictions)]
    table = pa.table(columns, names=[*beside.column_names, params.pred_name])
    files.write(f"task_config.output_paths.{receiver}", output, table)
    return PredictResult(rows=shape.rows, output_paths={receiver: params.output_paths[receiver]})


def _progress(context: JobContext[Any], fraction: float, message: str) -> None:
    if context.is_local(context.params.receiver):
        context.progress(fraction, message)


def _features(context: JobContext[PredictParams], party: str, manifest: models.Manifest) -> Matrix:
    """Read a local party's features and scale them as in training. Raises ModelMismatchError if one is missing."""
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", context.params.input_paths[party])
    names = files.header(field, path)
    for feature in manifest.features:
        if feature not in names:
            raise ModelMismatchError(f"{field}: lacks column {feature!r}, which the model was trained with")
    matrix = files.numbers(field, path, manifest.features)
    scaled: Matrix = (matrix - np.array(manifest.means)) / np.array(manifest.deviations)
    return scaled


def _offset(context: JobContext[PredictParams], ref: ColumnRef | None, dtype: npt.DTypeLike) -> FedNdarray | None:
    if ref is None:
        return None
    values = None
    if context.is_local(ref.party):
        field = f"task_config.input_paths.{ref.party}"
        path = context.input_file(ref.party, "input_paths", context.params.input_paths[ref.party])
        files.require_columns("task_config.offset.column", files.header(field, path), [ref.column])
        values = files.numbers(field, path, [ref.column])
    return aligned.column(context, ref.party, values, dtype)


def _beside(context: JobContext[PredictParams], output: Path) -> pa.Table:
    """Read the receiver's columns that are written beside the predictions."""
    params, party = context.params, context.params.receiver
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", params.input_paths[party])
    names, keys = files.header(field, path), params.keys.get(party, [])
    files.require_columns(f"task_config.keys.{party}", names, keys)
    files.require_columns("task_config.saved_columns", names, params.saved_columns)
    columns = [*keys, *params.saved_columns]
    return files.passed_on(field, path, columns, [output], keys=keys) if columns else pa.table({})
