"""Implements `ss_xgb`, `sgb` and their predictions, with SecretFlow's Xgb and Sgb. Runs in party processes.

Each party reads its columns alone, and rows of the parties belong together by their position. A label that is not 0 or
1 is brought to mean 0 and deviation 1 (for `tweedie`, to mean 1) at its party, so that fixed-point arithmetic and the
start of the boosting fit any label. Its scale goes with the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import secretflow.distributed as sfd
from secretflow.data import FedNdarray
from secretflow.ml.boost.sgb_v import Sgb
from secretflow.ml.boost.sgb_v.checkpoint import SGBCheckpointData, SGBSnapshot, build_sgb_model
from secretflow.ml.boost.ss_xgb_v.checkpoint import SSXGBCheckpointData, build_ss_xgb_model
from secretflow.ml.boost.ss_xgb_v.core.node_split import RegType
from secretflow.ml.boost.ss_xgb_v.core.xgb_tree import XgbTree
from secretflow.ml.boost.ss_xgb_v.model import XgbModel

from sfworker.catalog.boosting import (
    BoostingParams,
    BoostingResult,
    Importance,
    SgbParams,
    SgbPredictParams,
    SsXgbParams,
    SsXgbPredictParams,
)
from sfworker.catalog.training import PredictResult
from sfworker.errors import InputDataError, ParameterValidationError
from sfworker.models import models
from sfworker.models.checkpoints import Checkpoints
from sfworker.models.predictions import PREDICTED_CELLS, Inputs, in_blocks, predict
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.secure.boosted_trees import Booster
from sfworker.secure.sgb import use_ours
from sfworker.secure.sigmoid import sigmoid
from sfworker.session import codec
from sfworker.session.arithmetic import arithmetic_of, largest_product, require_fraction_bits, require_whole_bits
from sfworker.tables import aligned, labels
from sfworker.tables.files import Matrix

LEAST_FRACTION_BITS = 16
"""Fraction bits without which the gains that `ss_xgb` compares are rounding."""

PREDICTED_ROWS = 1 << 16
"""Rows that `sgb_predict` computes at a time, at most."""

codec.record(XgbTree, split_features=list, split_values=list)
use_ours()


@TaskDispatcher.register_task("ss_xgb")
def ss_xgb(context: JobContext[SsXgbParams]) -> BoostingResult | None:
    """Train trees. Every party learns which party's bins split the nodes, while weights of leaves stay shared."""
    params = context.params
    require_fraction_bits(context.spu, LEAST_FRACTION_BITS)
    prepared = _Prepared(context)
    require_whole_bits(context.spu, 4 * prepared.shape.rows <= largest_product(context.spu))
    checkpoints = Checkpoints(context, params.model_path)
    found = checkpoints.latest()
    resumed = None if found is None else SSXGBCheckpointData(found[2], found[1])
    booster = Booster(context.spu, resumed)

    def after_tree(trained: Booster, tree: int, _: Any) -> None:
        if tree + 1 < params.num_boost_round:  # after the last tree, the model itself is saved
            checkpoints.keep(tree, _xgb_state(trained.model), _xgb_objects(trained.model))
        _report(context, tree)

    model = booster.train(
        _xgb_params(params),
        prepared.x,
        prepared.y,
        dump_function=after_tree,
        checkpoint_data=resumed,
    )
    sfd.get(model.weights[-1].meta)  # waits until the training's programs are compiled, which are not of this precision
    with aligned.double_precision(context, params.label.party):
        scale = aligned.held(context, params.label.party, prepared.scale, np.float64).to(context.spu)
        sfd.get(scale.meta)
    objects = [scale, *_xgb_objects(model)]
    told = {"rmse": _rmse(context, prepared, context.spu, _xgb_scores(model, prepared.x))} if params.reveal_rmse else {}
    return _save(context, "ss_xgb", prepared, objects, _xgb_state(model), {"trees": len(model.trees), **told})


@TaskDispatcher.register_task("ss_xgb_predict")
def ss_xgb_predict(context: JobContext[SsXgbPredictParams]) -> PredictResult | None:
    """Predict. Only the receiver learns predictions."""

    def apply(inputs: Inputs) -> FedNdarray:
        scale, *objects = inputs.objects
        # As "linear" SecretFlow returns plain scores. Its sigmoid would be an approximation, ours follows below.
        model = build_ss_xgb_model(SSXGBCheckpointData(objects, {**inputs.options, "objective": "linear"}), context.spu)
        to_predictions = _PREDICTIONS[inputs.options["objective"]]
        receiver = context.pyu(context.params.receiver)

        def score(columns: FedNdarray, _: FedNdarray | None) -> Any:
            return context.spu(to_predictions)(model.predict(columns), scale).to(receiver)

        # For each row the SPU has a cell of each leaf, in some four copies. Few rows are computed at once, which takes
        # a seventh less time, and others in blocks of one size, as programs are compiled for each.
        cells = inputs.shape.rows * max(sfd.get(each.meta).shape[0] for each in model.weights)
        blocks = math.ceil(4 * cells / PREDICTED_CELLS) if cells > PREDICTED_CELLS else 1
        return in_blocks(context, inputs, math.ceil(inputs.shape.rows / blocks), score)

    return predict(context, "ss_xgb", apply)


@TaskDispatcher.register_task("sgb")
def sgb(context: JobContext[SgbParams]) -> BoostingResult | None:
    """Train trees. The label's party learns sums of gradients by bins of the others' features, see the catalogue."""
    params = context.params
    prepared = _Prepared(context)
    checkpoints = Checkpoints(context, params.model_path)
    found = checkpoints.latest()
    resumed = None if found is None else SGBCheckpointData(found[2], {"model_meta": found[1], "train_state": {}})

    def after_tree(trained: Any, tree: int, _: Any) -> None:
        if tree + 1 < params.num_boost_round:
            objects, state = _sgb_parts(trained.get_model())
            checkpoints.keep(tree, state, objects)
        _report(context, tree)

    # The HEU comes last: all parties read their files at the same time, and not one of them while a key is drawn.
    model = Sgb(_heu(context)).train(
        _sgb_params(params),
        prepared.x,
        prepared.y,
        dump_function=after_tree,
        checkpoint_data=resumed,
    )
    objects, state = _sgb_parts(model)
    scale = aligned.held(context, params.label.party, prepared.scale, np.float64)
    told: dict[str, Any] = {"trees": len(model.trees)}
    if params.reveal_rmse:
        told["rmse"] = _rmse(context, prepared, model.label_holder, _sgb_scores(model, prepared.x))
    if params.reveal_importances:
        told["importances"] = _importances(context, prepared, model)
    return _save(context, "sgb", prepared, [scale, *objects], state, told)


@TaskDispatcher.register_task("sgb_predict")
def sgb_predict(context: JobContext[SgbPredictParams]) -> PredictResult | None:
    """Predict. The party of the label in training computes, and so learns predictions as the receiver does."""

    def apply(inputs: Inputs) -> FedNdarray:
        scale, *objects = inputs.objects
        model = build_sgb_model(SGBSnapshot(objects, inputs.options))
        to_predictions = _PREDICTIONS[inputs.options["common"]["objective"]]
        receiver = context.pyu(context.params.receiver)

        def score(columns: FedNdarray, _: FedNdarray | None) -> Any:
            scores = scale.device(to_predictions)(model.predict_with_trees(columns), scale)
            # A value is sent when the receiver computes with it.
            return receiver(np.asarray)(scores.to(receiver))

        # Parties have a cell of each leaf for each row, and the label's party those of all trees and parties at once.
        blocks = math.ceil(inputs.shape.rows / PREDICTED_ROWS)
        return in_blocks(context, inputs, math.ceil(inputs.shape.rows / blocks), score)

    return predict(context, "sgb", apply)


class _Prepared:
    """Reads the features and the label of all parties, as both kinds of training take them."""

    def __init__(self, context: JobContext[Any]) -> None:
        """Read local parties' files. Reveals the shapes to every party. Raises InputDataError."""
        params: SsXgbParams | SgbParams = context.params
        self.own: dict[str, models.Own] = {}
        self.scale: Matrix | None = None
        """Mean and deviation that were taken out of the label, at its party."""
        self.unit = 1.0
        """Deviation in the label's own units, at its party."""
        matrices: dict[str, Matrix] = {}
        label = None
        for party in filter(context.is_local, context.parties):
            part = aligned.read(context, party, label=params.label)
            count = len(part.features)
            self.own[party] = models.Own(part.features, [0.0] * count, [1.0] * count)
            matrices[party] = part.matrix
            if "label" in part.others:
                label, self.scale, exponent = _label(params.objective, part.others["label"])
                self.own[party] = replace(self.own[party], label_exponent=exponent)
                self.unit = math.ldexp(self.scale[1], exponent)
        self.shape = aligned.shape(context, matrices)
        # All bits, because bins are cut at the party, and neighbours far from 0 may differ in the last bits alone.
        self.x = aligned.columns(context, matrices, self.shape, np.float64)
        self.y = aligned.column(context, params.label.party, label)


def _label(objective: Literal["logistic", "linear", "tweedie"], values: Matrix) -> tuple[Matrix, Matrix, int]:
    """Return the label as the training needs it, and the mean and deviation that predictions get back.

    The two are in a unit that is a power of two, whose exponent comes last. Raises InputDataError.
    """
    if objective == "logistic":
        return labels.binary(values, "objective logistic"), np.array([0.0, 1.0]), 0
    if values.min() == values.max():
        raise InputDataError("task_config.label: every row has the same label; a model needs different ones")
    if objective == "linear":
        mean, deviation, exponent = labels.scale(values)
        return labels.standardized(values), np.array([mean, deviation]), exponent
    if values.min() < 0:
        raise InputDataError("task_config.label: objective tweedie needs labels of 0 or above; choose another one")
    mean, exponent = math.frexp(values.mean())
    return values / values.mean(), np.array([0.0, mean]), exponent


def _xgb_params(params: SsXgbParams) -> dict[str, Any]:
    return {**_common_params(params), "subsample": params.subsample}


def _sgb_params(params: SgbParams) -> dict[str, Any]:
    return {
        **_common_params(params),
        "rowsample_by_tree": params.subsample,
        "gamma": params.gamma,
        "tree_growing_method": params.tree_growing_method,
        "max_leaf": params.max_leaf,
        "tweedie_variance_power": params.tweedie_variance_power,
        # Otherwise the first tree would be grown from the features of the label's party alone, and be a worse one.
        "first_tree_with_label_holder_feature": False,
    }


def _common_params(params: SsXgbParams | SgbParams) -> dict[str, Any]:
    names = (
        "num_boost_round",
        "max_depth",
        "learning_rate",
        "objective",
        "reg_lambda",
        "colsample_by_tree",
        "sketch_eps",
        "seed",
    )
    # Other labels are scaled so that boosting starts at 0.
    base_score = params.base_score if params.objective == "logistic" else 0.0
    return {name: getattr(params, name) for name in names} | {"base_score": base_score}


def _xgb_objects(model: Any) -> list[Any]:
    """Return the trees' weights, then each party's side of the trees, as SecretFlow orders them."""
    return [*model.weights, *(tree[party] for party in model.trees[0] for tree in model.trees)]


def _xgb_state(model: Any) -> dict[str, Any]:
    return {"objective": model.objective.value, "base": model.base, "tree_num": len(model.trees)}


def _sgb_parts(model: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the trees' weights, then each party's side of the trees, as SecretFlow orders them, and the rest."""
    state = model.to_dict()
    sides = state.pop("split_trees").values()
    objects = [*state.pop("leaf_weights"), *(tree for side in sides for tree in side)]
    return objects, {**state, "label_holder": state["label_holder"].party}


def _heu(context: JobContext[SgbParams]) -> Any:
    """Return the envelope's HEU, or one for these parties where it names none.

    Raises ParameterValidationError where another party has the key, as it could read the gradients, and so the labels.
    """
    label_party = context.params.label.party
    others = [party for party in context.parties if party != label_party]
    if "heu" not in context.devices:
        return context.device_manager.heu(label_party, others, "FM128", 0)
    if context.heu.sk_keeper_name() != label_party:
        raise ParameterValidationError("heu_config.sk_keeper: has to be the label's party")
    if set(context.heu.evaluator_names()) != set(others):
        raise ParameterValidationError("heu_config.evaluators: have to be all parties but the label's")
    return context.heu


def _report(context: JobContext[Any], tree: int) -> None:
    params: BoostingParams = context.params
    if context.is_speaker:
        count = params.num_boost_round
        context.progress((tree + 1) / count, f"tree {tree + 1} of {count}")


def _save(
    context: JobContext[Any],
    task_type: str,
    prepared: _Prepared,
    objects: list[Any],
    state: dict[str, Any],
    told: dict[str, Any],
) -> BoostingResult | None:
    params: SsXgbParams | SgbParams = context.params
    identity = models.save(
        context,
        objects,
        task_type=task_type,
        paths=params.model_path,
        own=prepared.own,
        label=params.label,
        options=state,
    )
    if not context.is_speaker:
        return None
    return BoostingResult(
        model_id=identity,
        model_path=params.model_path,
        rows=prepared.shape.rows,
        features=prepared.shape.features,
        arithmetic=arithmetic_of(context.spu) if task_type == "ss_xgb" else None,
        **told,
    )


def _rmse(context: JobContext[Any], prepared: _Prepared, device: Any, scores: Iterator[Any]) -> list[float]:
    """Return the root mean squared error after each tree, whose `scores` are on `device`. Every party learns it."""
    party = context.params.label.party
    there = context.pyu(party)
    label = prepared.y.partitions[there].to(device)
    squared, total = device(_squared_error(_PREDICTIONS[context.params.objective])), None
    found = []
    for each in scores:
        total = each if total is None else device(_added)(total, each)
        found.append(squared(total, label).to(there))
    # The label's deviation is its party's own.
    roots: list[float] = context.reveal(there(_roots)(found, context.at(party, float, prepared.unit)))
    return roots


def _xgb_scores(model: Any, x: FedNdarray) -> Iterator[Any]:
    """Yield what each tree adds to the scores."""
    alone = XgbModel(model.spu, RegType.Linear, model.base)
    for tree, weight in zip(model.trees, model.weights, strict=True):
        alone.trees, alone.weights = [tree], [weight]
        yield alone.predict(x)
        alone.base = 0.0


def _sgb_scores(model: Any, x: FedNdarray) -> Iterator[Any]:
    """Yield what each tree adds to the scores."""
    base = model.base
    for tree in model.trees:
        yield model.label_holder(_added)(tree.predict(x.partitions), base)
        base = 0.0


def _importances(context: JobContext[Any], prepared: _Prepared, model: Any) -> dict[str, dict[str, Importance]]:
    """Return how the features were used. Every party learns it."""
    names = {party: each.features for party, each in prepared.own.items()}
    parties = [party for party, count in prepared.shape.features.items() if count]
    used = []
    for party in parties:
        there = context.pyu(party)
        used.append(
            there(_used)([tree.split_tree_dict[there] for tree in model.trees], context.at(party, names.get, party))
        )
    told = context.reveal(used)
    return {
        party: {name: Importance(splits=splits, gain=gain) for name, splits, gain in features}
        for party, features in zip(parties, told, strict=True)
    }


def _used(trees: list[Any], names: list[str]) -> list[tuple[str, int, float | None]]:
    """Return each of a party's features with its splits and their mean gain, None where a tree has kept none."""
    splits, gains = [0] * len(names), [0.0] * len(names)
    for tree in trees:
        for node, feature in enumerate(tree.split_features):
            if feature != -1:  # another party's
                splits[feature] += 1
                gains[feature] += tree.split_gains[node] if node < len(tree.split_gains) else math.nan
    means = [gain / max(count, 1) for gain, count in zip(gains, splits, strict=True)]
    known = [None if math.isnan(mean) else float(mean) for mean in means]
    return [*zip(names, splits, known, strict=True)]


def _added(some: Any, more: Any) -> Any:
    return some + more


def _roots(squares: list[Any], unit: float) -> list[float]:
    return [math.sqrt(max(0.0, float(each))) * unit for each in squares]


def _probabilities(scores: Any, scale: Any) -> Any:
    return sigmoid(scores)


def _exponentials(scores: Any, scale: Any) -> Any:
    return jnp.exp(scores) * scale[1]


def _scaled(scores: Any, scale: Any) -> Any:
    return scores * scale[1] + scale[0]


_PREDICTIONS = {"logistic": _probabilities, "linear": _scaled, "tweedie": _exponentials}
"""Functions that make predictions of the trees' scores and the label's scale, on whatever device."""


def _squared_error(to_predictions: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return the function that makes the mean squared error of scores, before the label gets its scale back."""

    def squared_error(scores: Any, label: Any) -> Any:
        difference = to_predictions(jnp.reshape(scores, (-1,)), (0.0, 1.0)) - jnp.reshape(label, (-1,))
        return jnp.mean(jnp.square(difference))

    return squared_error
