"""`ss_lr` and `ss_lr_predict`: SecretFlow's SSRegression on columns that each party prepares alone.

Runs in party processes. Rows of the parties belong together by their position.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from secretflow.ml.linear import LinearModel, RegType, SSRegression
from secretflow.utils.sigmoid import SigType

from sfworker.catalog.linear import SsLrParams, SsLrPredictParams, SsLrPredictResult, SsLrResult
from sfworker.errors import ModelMismatchError
from sfworker.runtime import aligned, labels, models, tables
from sfworker.runtime.context import JobContext
from sfworker.runtime.tables import Matrix
from sfworker.runtime.task_dispatcher import TaskDispatcher


@TaskDispatcher.register_task("ss_lr")
def ss_lr(context: JobContext[SsLrParams]) -> SsLrResult | None:
    """Train. Every party learns the shapes and, with `eps`, when it converged; the weights stay shared."""
    params = context.params
    own: dict[str, models.Own] = {}
    prepared: dict[str, Matrix] = {}
    label = scale = None
    for party in filter(context.is_local, context.parties):
        own[party], prepared[party], values = _prepare(context, party)
        if values is not None:
            label, scale = _label(params, values)
    shape = aligned.shape(context, prepared)
    aligned.require_more_rows_than_features(shape)
    x = aligned.columns(context, prepared, shape)
    y = aligned.column(context, params.label.party, label)
    model = SSRegression(context.spu)
    ended = 0

    def after_epoch(epoch: int, _: Any) -> None:
        nonlocal ended
        ended = epoch + 1
        if context.is_local(context.parties[0]):
            context.progress(ended / params.epochs, f"epoch {ended} of {params.epochs}")

    model.fit(
        x,
        y,
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=min(params.batch_size, shape.rows),
        sig_type=params.sig_type,
        reg_type=params.regression,
        penalty="None" if params.penalty == "none" else params.penalty,
        l2_norm=params.l2_norm,
        eps=params.eps,
        epoch_callback=after_epoch,
    )
    weights = model.save_model().weights
    if params.regression == "linear":
        weights = context.spu(_in_units_of_the_label)(weights, aligned.held(context, params.label.party, scale))
    identity = models.save(
        context,
        weights,
        task_type="ss_lr",
        paths=params.model_path,
        own=own,
        label=params.label,
        options={"regression": params.regression, "sig_type": params.sig_type},
    )
    if not context.is_local(context.parties[0]):
        return None
    return SsLrResult(
        model_id=identity,
        model_path=params.model_path,
        regression=params.regression,
        rows=shape.rows,
        features=shape.features,
        # An epoch that ends the training early is not reported.
        epochs=ended if ended == params.epochs else ended + 1,
    )


@TaskDispatcher.register_task("ss_lr_predict")
def ss_lr_predict(context: JobContext[SsLrPredictParams]) -> SsLrPredictResult | None:
    """Predict. Only the receiver learns predictions; every party learns the shapes and the model's id."""
    params, receiver = context.params, context.params.receiver
    found: dict[str, tuple[Path, models.Manifest]] = {}
    prepared: dict[str, Matrix] = {}
    beside = output = None
    for party in context.parties:
        if context.is_local(party):
            found[party] = models.read_manifest(context, party, params.model_path[party], "ss_lr")
            prepared[party] = _apply(context, party, found[party][1])
        if party == receiver and context.is_local(party):
            beside = _beside(context)
            output = context.output(party, "output_paths", params.output_paths[party])
    weights = models.load(context, found)
    shape = aligned.shape(context, prepared)
    options = context.reveal(context.at(context.parties[0], _options, found.get(context.parties[0])))
    model = SSRegression(context.spu)
    model.load_model(LinearModel(weights, RegType(options["regression"]), SigType(options["sig_type"])))
    columns = aligned.columns(context, prepared, shape)
    predicted = model.predict(columns, min(params.batch_size, shape.rows), to_pyu=context.pyu(receiver))
    scores = context.value_at(receiver, predicted.partitions[context.pyu(receiver)])
    if beside is None or output is None:
        return None
    table = beside.append_column(params.pred_name, pa.array(np.asarray(scores, dtype=np.float64).ravel()))
    tables.write(f"task_config.output_paths.{receiver}", output, table)
    return SsLrPredictResult(rows=shape.rows, output_paths={receiver: params.output_paths[receiver]})


def _prepare(context: JobContext[SsLrParams], party: str) -> tuple[models.Own, Matrix, Matrix | None]:
    """A local party's features, scaled, and the label where it is this party's. Raises InputDataError."""
    part = aligned.read(context, party, label=context.params.label)
    means, deviations = np.zeros(len(part.features)), np.ones(len(part.features))
    if context.params.standardize:
        means, deviations = part.matrix.mean(axis=0), part.matrix.std(axis=0)
        deviations[deviations == 0] = 1.0  # a constant column says nothing and must not divide by zero
    own = models.Own(part.features, means.tolist(), deviations.tolist())
    return own, (part.matrix - means) / deviations, part.others.get("label")


def _label(params: SsLrParams, values: Matrix) -> tuple[Matrix, Matrix]:
    """The label as the training needs it, and its scale (deviation, mean). Raises InputDataError."""
    if params.regression == "linear":
        mean, deviation = float(values.mean()), float(values.std()) or 1.0
        return (values - mean) / deviation, np.array([deviation, mean])
    return labels.binary(values, "a logistic regression"), np.array([1.0, 0.0])


def _apply(context: JobContext[SsLrPredictParams], party: str, manifest: models.Manifest) -> Matrix:
    """A local party's features as in training. Raises ModelMismatchError where the file lacks one."""
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", context.params.input_paths[party])
    names = tables.header(field, path)
    for feature in manifest.features:
        if feature not in names:
            raise ModelMismatchError(f"{field}: lacks column {feature!r}, which the model was trained with")
    matrix = tables.numbers(field, path, manifest.features)
    scaled: Matrix = (matrix - np.array(manifest.means)) / np.array(manifest.deviations)
    return scaled


def _beside(context: JobContext[SsLrPredictParams]) -> pa.Table:
    """The receiver's columns that are written beside the predictions."""
    params, party = context.params, context.params.receiver
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", params.input_paths[party])
    names, keys = tables.header(field, path), params.keys.get(party, [])
    tables.require_columns(f"task_config.keys.{party}", names, keys)
    tables.require_columns("task_config.saved_columns", names, params.saved_columns)
    columns = [*keys, *params.saved_columns]
    return tables.text(field, path, columns) if columns else pa.table({})


def _options(found: tuple[Path, models.Manifest] | None) -> dict[str, str] | None:
    return None if found is None else found[1].options


def _in_units_of_the_label(weights: Any, scale: Any) -> Any:
    """Weights of a model of the label itself, from weights of the label brought to mean 0 and deviation 1."""
    scaled = weights * scale[0]
    return jnp.concatenate([scaled[:-1], scaled[-1:] + scale[1]])
