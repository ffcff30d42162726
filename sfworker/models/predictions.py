"""Applies saved models to new rows and writes the predictions. Runs in party processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from secretflow.data import FedNdarray, PartitionWay

from sfworker.catalog import ColumnRef
from sfworker.catalog.training import PredictParams, PredictResult
from sfworker.errors import InputDataError, ModelMismatchError
from sfworker.models import models
from sfworker.party import memory
from sfworker.party.context import JobContext
from sfworker.session.arithmetic import largest_product
from sfworker.tables import aligned, files
from sfworker.tables.files import Matrix

PREDICTED_CELLS = 1_000_000
"""Cells on the SPU that predictions compute with at a time, as SecretFlow's programs grow with them."""
MOST_OFFSET = 700.0


@dataclass(frozen=True)
class Own:
    """A local party's columns that a model is applied to, scaled as in training."""

    field: str
    features: list[str]
    matrix: Matrix


@dataclass(frozen=True)
class Inputs:
    """The model's objects and options, and the columns that it is applied to."""

    objects: list[Any]
    options: dict[str, Any]
    columns: FedNdarray
    own: dict[str, Own]
    """Names and scaled cells of the local parties' columns."""
    shape: aligned.Shape
    offset: FedNdarray | None


def predict(
    context: JobContext[Any],
    trained_by: str,
    apply: Callable[[Inputs], FedNdarray],
    offset: ColumnRef | None = None,
) -> PredictResult | None:
    """Apply a model that the task type `trained_by` has saved, and write the predictions at the receiver.

    `apply` returns the predictions there, in the model's unit of the label. `offset` is a column that goes in beside
    the features.

    Only the receiver learns predictions and that unit; every party learns the shapes and the model's id. Raises
    ModelMismatchError or InputDataError.
    """
    params: PredictParams = context.params
    receiver = params.receiver
    found = models.find(context, params.model_path, trained_by)
    own = {party: _features(context, party, each.manifest) for party, each in found.items()}
    prepared = {party: each.matrix for party, each in own.items()}
    beside = output = None
    if context.is_local(receiver):
        output = context.output(receiver, "output_paths", params.output_paths[receiver])
        beside = _beside(context, output)
    _progress(context, 0.1, "inputs read")
    objects, options = models.load(context, found)
    shape = aligned.shape(context, prepared)
    of_label = next(iter(found.values())).manifest.label.party
    exponents = {party: each.manifest.label_exponent for party, each in found.items()}
    exponent = aligned.gather(context, receiver, [of_label], exponents)
    with aligned.double_precision(context, receiver):
        columns = aligned.columns(context, prepared, shape, np.float64)
        predicted = apply(Inputs(objects, options, columns, own, shape, _offset(context, offset)))
        scores = context.value_at(receiver, predicted.partitions[context.pyu(receiver)])
    del own, prepared, columns  # the largest that there is, before it is written
    _progress(context, 0.9, "predicted")
    if beside is None or output is None:
        return None
    with np.errstate(over="ignore"):
        predictions = np.ldexp(np.asarray(scores, dtype=np.float64).ravel(), exponent[of_label])
    if not np.isfinite(predictions).all():
        row = int(np.argmin(np.isfinite(predictions))) + 1
        raise InputDataError(
            f"task_config.input_paths: the prediction of row {row} is beyond the largest number there is, as its "
            f"features are too far from those of the training; correct or leave out such rows"
        )
    files.write_all(f"task_config.output_paths.{receiver}", output, lambda: beside(pa.array(predictions)))
    return PredictResult(rows=shape.rows, output_paths={receiver: params.output_paths[receiver]})


def in_blocks(
    context: JobContext[Any], inputs: Inputs, rows: int, score: Callable[[FedNdarray, FedNdarray | None], Any]
) -> FedNdarray:
    """Return what `score` gives at the receiver for some rows of columns and offset, of so many `rows` at a time.

    Shares of a block take many times its memory, so that one is on the SPU at a time.
    """
    import secretflow

    receiver = context.pyu(context.params.receiver)
    blocks = []
    for begin in range(0, inputs.shape.rows, rows):
        end = min(begin + rows, inputs.shape.rows)
        offset = inputs.offset[begin:end] if inputs.offset is not None else None
        blocks.append(score(inputs.columns[begin:end], offset))
        secretflow.wait(blocks[-1])
        memory.give_back()
        _progress(context, 0.1 + 0.8 * end / inputs.shape.rows, "predicting")
    joined = receiver(_joined)(*blocks) if len(blocks) > 1 else blocks[0]
    return FedNdarray({receiver: joined}, PartitionWay.VERTICAL)


def _joined(*blocks: Any) -> Any:
    return np.concatenate(blocks)


def _progress(context: JobContext[Any], fraction: float, message: str) -> None:
    if context.is_local(context.params.receiver):
        context.progress(fraction, message)


def require_room(context: JobContext[Any], inputs: Inputs, weights: Any) -> None:
    """Raise InputDataError at a party with a column whose cells, times its weight, the SPU's field cannot hold.

    Reveals to every party which columns those are.
    """
    most, shared = largest_product(context.spu), []
    for party, count in inputs.shape.features.items():
        if not count:
            continue
        reach = None
        if (own := inputs.own.get(party)) is not None:
            reach = np.maximum(own.matrix.max(axis=0), -own.matrix.min(axis=0)) / most
            _require_room(context, own, reach >= 1)
        shared.append(aligned.held(context, party, reach, np.float64).to(context.spu))
    beyond = np.split(
        context.reveal(context.spu(_beyond)(weights, shared)), np.cumsum(list(inputs.shape.features.values()))[:-1]
    )
    for party, columns in zip(inputs.shape.features, beyond, strict=True):
        if (own := inputs.own.get(party)) is not None:
            _require_room(context, own, columns)


def _require_room(context: JobContext[Any], own: Own, beyond: npt.NDArray[np.bool_]) -> None:
    if beyond.any():
        column = int(np.argmax(beyond))
        row = int(np.argmax(np.abs(own.matrix[:, column]))) + 1
        raise InputDataError(
            f"{own.field}: column {own.features[column]!r} is so far from the training's in row {row} that the "
            f"prediction does not fit into field {context.spu.conf.field.name}; correct or leave out such rows, or "
            f"train in a larger field or with fewer fxp_fraction_bits"
        )


def _beyond(weights: Any, reaches: list[Any]) -> Any:
    """Return which columns could make a sum of products that wraps around. Reaches are shares of the largest one."""
    slopes = jnp.reshape(weights, (-1,))[:-1]
    return jnp.abs(slopes) * jnp.concatenate(reaches) > 0.5 / (len(slopes) + 1)


def _features(context: JobContext[PredictParams], party: str, manifest: models.Manifest) -> Own:
    """Read a local party's features and scale them as in training. Raises ModelMismatchError if one is missing."""
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", context.params.input_paths[party])
    names = files.header(field, path)
    for feature in manifest.features:
        if feature not in names:
            raise ModelMismatchError(f"{field}: lacks column {feature!r}, which the model was trained with")
    matrix = files.numbers(field, path, manifest.features)
    context.require_rows(field, len(matrix))
    matrix -= np.array(manifest.means)
    matrix /= np.array(manifest.deviations)
    return Own(field, manifest.features, matrix)


def require_offset(values: Matrix) -> None:
    """Raise InputDataError where an offset is too large to be the logarithm of anything."""
    if (beyond := np.abs(values) > MOST_OFFSET).any():
        raise InputDataError(
            f"task_config.offset: holds a number beyond {MOST_OFFSET:.0f} in row {int(np.argmax(beyond)) + 1}, whose "
            f"exponential is none; give logarithms, such as that of an exposure"
        )


def _offset(context: JobContext[PredictParams], ref: ColumnRef | None) -> FedNdarray | None:
    if ref is None:
        return None
    values = None
    if context.is_local(ref.party):
        field = f"task_config.input_paths.{ref.party}"
        path = context.input_file(ref.party, "input_paths", context.params.input_paths[ref.party])
        files.require_columns("task_config.offset.column", files.header(field, path), [ref.column])
        values = files.numbers(field, path, [ref.column])
        require_offset(values)
    return aligned.column(context, ref.party, values, np.float64)


def _beside(context: JobContext[PredictParams], output: Path) -> Callable[[pa.Array], Iterator[pa.Table]]:
    """Return a function that puts predictions beside the receiver's columns which are written with them."""
    params, party = context.params, context.params.receiver
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", params.input_paths[party])
    names, keys = files.header(field, path), params.keys.get(party, [])
    files.require_columns(f"task_config.keys.{party}", names, keys)
    files.require_columns("task_config.saved_columns", names, params.saved_columns)
    columns = [*keys, *params.saved_columns]
    types = files.types_passed_on(field, path, columns, [output], keys=keys)

    def beside(predictions: pa.Array) -> Iterator[pa.Table]:
        first = 0
        for table in files.stream(field, path, columns, types) if columns else ():
            found = predictions[first : first + table.num_rows]
            yield pa.table([*table.columns, found], names=[*table.column_names, params.pred_name])
            first += table.num_rows
        if not columns:
            yield pa.table({params.pred_name: predictions})

    return beside
