"""Implements `ss_lr`, `ss_glm` and their predictions by SecretFlow's SSRegression and SSGLM. Runs in party processes.

Parties prepare their columns alone, and rows of the parties belong together by their position.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import secretflow.distributed as sfd
from scipy.special import expit
from secretflow.data import FedNdarray
from secretflow.ml.linear import SSGLM, LinearModel, RegType, SSRegression
from secretflow.ml.linear.ss_glm import model as glm_model
from secretflow.utils.sigmoid import SigType

from sfworker.catalog import ColumnRef
from sfworker.catalog.linear import (
    Link,
    SsGlmParams,
    SsGlmPredictParams,
    SsGlmResult,
    SsLrParams,
    SsLrPredictParams,
    SsLrResult,
)
from sfworker.catalog.training import PredictResult
from sfworker.errors import InputDataError, ParameterValidationError
from sfworker.models import models
from sfworker.models.checkpoints import Checkpoints
from sfworker.models.predictions import PREDICTED_CELLS, Inputs, in_blocks, predict, require_offset, require_room
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.secure.gradient_descent import MOST_CELLS, Glm, Regression, Schedule, settled
from sfworker.secure.irls import link_of
from sfworker.session.arithmetic import arithmetic_of, largest_product, require_fraction_bits, require_whole_bits
from sfworker.tables import aligned, labels
from sfworker.tables.files import Matrix

IRLS_EPOCHS = 10
LEAST_FRACTION_BITS = 16
"""Fraction bits without which the steps of `ss_lr` are rounding."""

SPARE_BITS = 8
"""Bits that the variance of the least mean of `ss_glm` needs at least."""

GREATEST_MEAN = 1024
"""Times the largest label, above which no mean is that `ss_glm` fitted to it."""

WORST_CONDITION = 1e8
"""Highest condition number of a matrix that `ss_glm` inverts. Beyond it the last of 40 fraction bits decides."""

UNSCALED = 10
"""Mean, deviation or its inverse above which a column counts as one that should have been standardized."""

_UNSCALED = (
    "standardize is false, and columns of {parties} are far from mean 0 and deviation 1, which a training needs: "
    "standardize, or use scaler before"
)
_NOT_CONVERGED = (
    "the training has not converged: as many epochs again would change a weight by more than a tenth of the largest; "
    "set more epochs, or another learning_rate or batch_size"
)


@TaskDispatcher.register_task("ss_lr")
def ss_lr(context: JobContext[SsLrParams]) -> SsLrResult | None:
    """Train a regression. Every party learns the shapes and, with `eps`, when it converged. Weights stay shared."""
    params = context.params
    require_fraction_bits(context.spu, LEAST_FRACTION_BITS)
    prepared = _Prepared(context, params)
    label = scale = None
    unit = 1.0
    if (values := prepared.others.get("label")) is not None:
        label, scale, exponent = _label(params, values, largest_product(context.spu))
        unit = math.ldexp(scale[0], exponent)
        prepared.set_label_exponent(params.label.party, exponent)
    x, shape = prepared.columns(np.float32)
    prepared.require_room(lambda matrix: np.sqrt(np.mean(np.square(matrix), axis=0)))
    prepared.forget_features()
    y = aligned.column(context, params.label.party, label)
    schedule = Schedule.of(shape.rows, params.batch_size, params.epochs)
    epochs = _Epochs(context, params, schedule)
    model = Regression(context.spu)
    if params.reveal_rmse:
        model.path = []
    model.fit(
        x,
        y,
        epochs=schedule.epochs,
        learning_rate=params.learning_rate,
        batch_size=schedule.batch_size,
        sig_type=params.sig_type,
        reg_type=params.regression,
        penalty="None" if params.penalty == "none" else params.penalty,
        l2_norm=params.l2_norm,
        eps=params.eps,
        epoch_callback=epochs.ended,
        recovery_checkpoint=epochs.resumed,
    )
    converged = settled(context.spu, model.before, model.spu_w, epochs.run)
    weights = model.spu_w
    if params.regression == "linear":
        sfd.get(weights.meta)  # waits until the training's programs are compiled, which are not of this precision
        with aligned.double_precision(context, params.label.party):
            scaling = aligned.held(context, params.label.party, scale, np.float64).to(context.spu)
            weights = context.spu(_in_units_of_the_label)(weights, scaling)
            sfd.get(weights.meta)
    identity = models.save(
        context,
        [weights],
        task_type="ss_lr",
        paths=params.model_path,
        own=prepared.own,
        label=params.label,
        options={"regression": params.regression, "sig_type": params.sig_type},
    )
    linear = params.regression == "linear"
    told = _revealed(context, prepared, weights, "Identity" if linear else "Logit") if params.reveal_weights else {}
    if params.reveal_rmse:
        told["rmse"] = _rmse(context, model, shape.rows, unit, epochs.run)
    if not context.is_speaker:
        return None
    return SsLrResult(
        model_id=identity,
        model_path=params.model_path,
        regression=params.regression,
        rows=shape.rows,
        features=shape.features,
        arithmetic=arithmetic_of(context.spu),
        epochs=epochs.run,
        batch_size=schedule.batch_size,
        converged=converged,
        **told,
        warnings=prepared.warnings + ([] if converged else [_NOT_CONVERGED]),
    )


@TaskDispatcher.register_task("ss_lr_predict")
def ss_lr_predict(context: JobContext[SsLrPredictParams]) -> PredictResult | None:
    """Predict. Only the receiver learns predictions."""

    def apply(inputs: Inputs) -> FedNdarray:
        [weights] = inputs.objects
        require_room(context, inputs, weights)
        model, receiver = SSRegression(context.spu), context.pyu(context.params.receiver)
        # Whatever the model is, the SPU computes the linear scores alone; what follows from them is the receiver's.
        model.load_model(LinearModel(weights, RegType.Linear, SigType.REAL))

        def score(columns: FedNdarray, offset: FedNdarray | None) -> Any:
            batch_size = min(context.params.batch_size, columns.shape[0])
            scores = model.predict(columns, batch_size, to_pyu=receiver).partitions[receiver]
            if inputs.options["regression"] == "linear":
                return scores
            return receiver(_probabilities)(scores, inputs.options["sig_type"])

        return in_blocks(context, inputs, _block_of(inputs), score)

    return predict(context, "ss_lr", apply)


@TaskDispatcher.register_task("ss_glm")
def ss_glm(context: JobContext[SsGlmParams]) -> SsGlmResult | None:
    """Train a GLM. With IRLS the label's party learns the features' weighted cross products. Weights stay shared."""
    params = context.params
    is_irls = params.optimizer == "IRLS"
    _require_exact_arithmetic(context)
    prepared = _Prepared(context, params, offset=params.offset, weight=params.weight)
    label = None
    if (values := prepared.others.get("label")) is not None:
        label, exponent = _glm_label(params, values)
        prepared.set_label_exponent(params.label.party, exponent)
    if (weight := prepared.others.get("weight")) is not None:
        _require_weights(params, weight)
    if (offset := prepared.others.get("offset")) is not None:
        require_offset(offset)
    if _any_weights_will_do(params):
        prepared.bring_weights_near_1()
    x, shape = prepared.columns(np.float64)
    schedule = Schedule.of(shape.rows, params.batch_size, params.epochs or (IRLS_EPOCHS if is_irls else None))
    prepared.require_room(lambda matrix: 16 * np.mean(np.square(matrix), axis=0))
    if weight is not None:
        _require_weight_beside(weight, shape.columns + 1)
    settings: dict[str, Any] = {
        "x": x,
        "y": aligned.column(context, params.label.party, label, np.float64),
        "offset": prepared.column(params.offset, "offset"),
        "weight": prepared.column(params.weight, "weight"),
        "epochs": schedule.epochs,
        "link": params.resolved_link,
        "dist": params.distribution,
        "tweedie_power": params.tweedie_power,
        "l2_lambda": params.l2_lambda or None,
        "infeed_batch_size_limit": MOST_CELLS,
        # Any other metric would tell the label's party predictions, and all parties a figure of them.
        "stopping_metric": "weight",
        "stopping_tolerance": params.eps,
    }
    epochs = _Epochs(context, params, schedule)
    settings |= {"epoch_callback": epochs.ended, "recovery_checkpoint": epochs.resumed}
    model = _Glm(context.spu)
    if is_irls:
        model.fit_irls(**settings)
    else:
        model.fit_sgd(learning_rate=params.learning_rate, batch_size=schedule.batch_size, **settings)
    converged = settled(context.spu, model.old_w, model.spu_w, epochs.run)
    _require_means_near_the_label(context, model.spu_w, x, settings["offset"])
    identity = models.save(
        context,
        [model.spu_w],
        task_type="ss_glm",
        paths=params.model_path,
        own=prepared.own,
        label=params.label,
        options={"link": params.resolved_link, "offset": params.offset is not None},
    )
    told = _revealed(context, prepared, model.spu_w, params.resolved_link) if params.reveal_weights else {}
    if not context.is_speaker:
        return None
    return SsGlmResult(
        model_id=identity,
        model_path=params.model_path,
        distribution=params.distribution,
        link=params.resolved_link,
        rows=shape.rows,
        features=shape.features,
        arithmetic=arithmetic_of(context.spu),
        epochs=epochs.run,
        batch_size=None if is_irls else schedule.batch_size,
        converged=converged,
        **told,
        warnings=prepared.warnings + ([] if converged else [_NOT_CONVERGED]),
    )


@TaskDispatcher.register_task("ss_glm_predict")
def ss_glm_predict(context: JobContext[SsGlmPredictParams]) -> PredictResult | None:
    """Predict the label's mean. Only the receiver learns predictions."""
    offset = context.params.offset

    def apply(inputs: Inputs) -> FedNdarray:
        weights, *scale = inputs.objects
        if inputs.options["offset"] != (offset is not None):
            asks = "was trained with an offset; name the column" if inputs.options["offset"] else "has no offset"
            raise ParameterValidationError(f"task_config.offset: the model {asks}")
        require_room(context, inputs, weights)
        model, receiver = SSGLM(context.spu), context.pyu(context.params.receiver)
        # The SPU computes the linear predictor alone, and the receiver the mean from it, exactly. A model of an earlier
        # version has a shared scale, which would be told by both, so its means are computed on the SPU.
        link = inputs.options["link"]
        model.spu_w, model.link, model.y_scale = weights, link_of(link if scale else "Identity"), 1.0

        def score(columns: FedNdarray, offset: FedNdarray | None) -> Any:
            predicted = model.predict(columns, o=offset)
            if scale:
                return context.spu(jnp.multiply)(predicted, *scale).to(receiver)
            return receiver(_means)(predicted.to(receiver), link)

        return in_blocks(context, inputs, _block_of(inputs), score)

    return predict(context, "ss_glm", apply, offset)


class _Glm(Glm):
    """SecretFlow's GLM with our link, and with an early end that works."""

    def _pre_check(self, *arguments: Any) -> None:
        super()._pre_check(*arguments)
        self.link: Any = link_of(self.link.link_type())

    def _check_early_stop(self, *args: Any) -> bool:
        self.best_spu_w = self.spu_w  # upstream would end with the best weights of a metric that we do not use
        return self.old_w is not None and super()._check_early_stop(*args)


def _inverse(matrix: Any, l2_lambda: float | None) -> Any:
    """Invert the features' weighted cross products at the label's party. Raises InputDataError if they are singular."""
    matrix = np.asarray(matrix, dtype=np.float64)
    penalty = np.full(len(matrix), l2_lambda or 0.0)
    penalty[-1] = 0.0  # the intercept
    matrix = matrix + np.diag(penalty)
    if not np.isfinite(matrix).all() or np.linalg.cond(matrix) > WORST_CONDITION:
        raise InputDataError(
            "task_config.features: the model's matrix is singular, as some columns follow from others, or are of far "
            "different sizes without standardize, or most labels are tiny beside the largest label; leave columns out "
            "(vif finds them), set l2_lambda or standardize, or split the rows"
        )
    return np.linalg.inv(matrix)


glm_model.J_inv = _inverse  # SecretFlow's own answers a singular matrix with a traceback, or with a senseless model


class _Prepared:
    """Reads and scales the local parties' columns."""

    def __init__(self, context: JobContext[Any], params: SsLrParams | SsGlmParams, **others: ColumnRef | None) -> None:
        """Read the columns. Raises InputDataError."""
        self._context = context
        self.own: dict[str, models.Own] = {}
        self.others: dict[str, Matrix] = {}
        self._matrices: dict[str, Matrix] = {}
        for party in filter(context.is_local, context.parties):
            part = aligned.read(context, party, label=params.label, **others)
            means, deviations = np.zeros(len(part.features)), np.ones(len(part.features))
            if params.standardize:
                means, deviations = aligned.means_and_deviations(part.matrix)
                deviations[deviations == 0] = 1.0  # a constant column says nothing and must not divide by zero
            self.own[party] = models.Own(part.features, means.tolist(), deviations.tolist())
            self.others |= part.others
            self._matrices[party] = part.matrix  # scaled in place, as it may be most of what a party holds
            self._matrices[party] -= means
            self._matrices[party] /= deviations
        self.warnings = [] if params.standardize else self._unscaled()

    def _unscaled(self) -> list[str]:
        """Warn of columns that no training copes with. Their names are logged, as others shall learn the party only."""
        own = {party: _far_from_scale(matrix) for party, matrix in self._matrices.items()}
        for party, far in own.items():
            for column in itertools.compress(self.own[party].features, far):
                self._context.log.warning(
                    "task_config.standardize: column %r of %s is not of mean 0 and deviation 1", column, party
                )
        parties = self._context.parties
        held = [self._context.at(party, any, own.get(party)) for party in parties]
        named = ", ".join(itertools.compress(parties, self._context.reveal(held)))
        return [_UNSCALED.format(parties=named)] if named else []

    def set_label_exponent(self, party: str, exponent: int) -> None:
        """Note the unit of a local party's label, in which the model will predict."""
        self.own[party] = replace(self.own[party], label_exponent=exponent)

    def bring_weights_near_1(self) -> None:
        """Divide the rows' weights, where their party is local, by a power of two near their mean."""
        if (weights := self.others.get("weight")) is not None:
            self.others["weight"] = np.ldexp(weights, -math.frexp(weights.mean())[1])

    def columns(self, dtype: type[np.floating[Any]]) -> tuple[FedNdarray, aligned.Shape]:
        """Return all parties' features. Reveals the shapes. Raises InputDataError where they do not fit together."""
        shape = aligned.shape(self._context, self._matrices)
        aligned.require_more_rows_than_features(shape)
        return aligned.columns(self._context, self._matrices, shape, dtype), shape

    def forget_features(self) -> None:
        """Keep only what `columns` has returned, which is half as long in float32."""
        self._matrices.clear()

    def require_room(self, share: Callable[[Matrix], Matrix]) -> None:
        """Raise InputDataError at a party with a column of which a sum over the rows does not fit into the SPU's field.

        `share` returns a column's mean share in the largest sum that the training makes of it.
        """
        most = largest_product(self._context.spu)
        for party, matrix in self._matrices.items():
            with np.errstate(over="ignore"):
                shares = [share(matrix[:, [place]]).item() for place in range(matrix.shape[1])]
                beyond = np.array([*shares, 1.0]) * len(matrix) > most
            if beyond[:-1].any():
                name = self.own[party].features[int(np.argmax(beyond))]
                raise InputDataError(
                    f"task_config.input_paths.{party}: column {name!r} makes sums over the rows that do not fit "
                    f"into the SPU's numbers; set standardize, or take fewer fxp_fraction_bits or field FM128"
                )
            require_whole_bits(self._context.spu, not beyond[-1])

    def column(self, ref: ColumnRef | None, name: str) -> FedNdarray | None:
        """Return a column beside the features, None where none was named."""
        if ref is None:
            return None
        return aligned.column(self._context, ref.party, self.others.get(name), np.float64)


def _far_from_scale(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """Return a mask of columns whose mean or deviation is far from 0 and 1."""
    means, deviations = aligned.means_and_deviations(matrix)
    far: npt.NDArray[np.bool_] = (np.abs(means) > UNSCALED) | (deviations > UNSCALED)
    far |= (deviations < 1 / UNSCALED) & (deviations > 0)
    return far


def _revealed(context: JobContext[Any], prepared: _Prepared, weights: Any, link: Link) -> dict[str, Any]:
    """Return the fields of `LinearResult` that hold the weights, in units of the label. Reveals them to every party."""
    own = {party: (each.features, each.label_exponent) for party, each in prepared.own.items()}
    held = [context.at(party, own.get, party) for party in context.parties]
    about, found = context.reveal([held, weights])
    exponent = sum(each for _, each in about)
    *slopes, intercept = np.asarray(found, dtype=np.float64).reshape(-1).tolist()
    if link == "Log":
        intercept += exponent * math.log(2)
    else:
        unit = 2.0 ** {"Identity": exponent, "Reciprocal": -exponent, "Logit": 0}[link]
        slopes, intercept = [each * unit for each in slopes], intercept * unit
    left = iter(slopes)
    by_party = {
        party: {name: next(left) for name in names}
        for party, (names, _) in zip(context.parties, about, strict=True)
        if names
    }
    return {"weights": by_party, "intercept": intercept}


def _rmse(
    context: JobContext[SsLrParams], model: Regression, rows: int, unit: float, epochs: int
) -> list[float | None]:
    """Return the root mean squared error after each epoch, None for those of earlier attempts. Every party learns it.

    The label's `unit` is known to its party alone.
    """
    party = context.params.label.party
    there = context.pyu(party)
    sums = [each.to(there) for each in model.squared_errors()]
    found: list[float | None] = context.reveal(there(_roots)(sums, context.at(party, float, unit / math.sqrt(rows))))
    return [None] * (epochs - len(found)) + found


def _roots(sums: list[Any], factor: float) -> list[float]:
    found: list[float] = (np.sqrt(np.maximum(np.concatenate(sums), 0.0)) * factor).tolist()
    return found


class _Epochs:
    """Publishes progress and keeps checkpoints of a training by epochs."""

    def __init__(self, context: JobContext[Any], params: SsLrParams | SsGlmParams, schedule: Schedule) -> None:
        self._context, self._epochs = context, schedule.epochs
        self._checkpoints = Checkpoints(context, params.model_path)
        found = self._checkpoints.latest()
        self._reported = 0 if found is None else found[0] + 1
        self.resumed = None if found is None else (found[1], found[2])
        """State from which SecretFlow goes on where an earlier attempt was cut off."""

    def ended(self, epoch: int, state: tuple[dict[str, Any], list[Any]]) -> None:
        self._reported = epoch + 1
        if self._reported < self._epochs:  # after the last epoch, the model itself is saved
            self._checkpoints.keep(epoch, *state)
        if self._context.is_speaker:
            self._context.progress(self._reported / self._epochs, f"epoch {self._reported} of {self._epochs}")

    @property
    def run(self) -> int:
        """Number of epochs that were run. One that ends the training early is not reported, and is added."""
        return min(self._reported + 1, self._epochs)


def _label(params: SsLrParams, values: Matrix, most: float) -> tuple[Matrix, Matrix, int]:
    """Return the label as the training needs it, its scale (deviation, mean), and the exponent of the scale's unit.

    Raises InputDataError, also where the mean in that unit is above a share of `most`.
    """
    if params.regression == "logistic":
        return labels.binary(values, "a logistic regression"), np.array([1.0, 0.0]), 0
    mean, deviation, exponent = labels.scale(values)
    if abs(mean) > most / 8:
        raise InputDataError(
            "task_config.label: its mean is too many times its deviation for the SPU's field; subtract a number near "
            "the mean from every label, or take field FM128"
        )
    return labels.standardized(values), np.array([deviation, mean]), exponent


def _block_of(inputs: Inputs) -> int:
    """Return how many rows are predicted at a time."""
    return max(1, PREDICTED_CELLS // inputs.shape.columns)


def _probabilities(scores: Matrix, sig_type: str) -> Matrix:
    """Turns linear scores into probabilities: exactly, and without the cost of a sigmoid on secret shares.

    Polynomials (t1, t3, t5) stand in for the sigmoid in training only: here they would make most rows 0 or 1. `df` and
    `sr` are steeper curves than the sigmoid, so that a model which was fitted to one predicts with it.
    """
    scores = np.asarray(scores, dtype=np.float64)
    curves = {"df": lambda x: 0.5 + 0.5 * x / (1 + np.abs(x)), "sr": lambda x: 0.5 + 0.5 * x / np.hypot(1, x)}
    probabilities: Matrix = curves.get(sig_type, expit)(scores)
    return probabilities


def _means(predictors: Any, link: Link) -> Matrix:
    """Turns linear predictors into the label's means."""
    predictors = np.asarray(predictors, dtype=np.float64)
    responses = {"Logit": expit, "Log": np.exp, "Reciprocal": np.reciprocal, "Identity": np.positive}
    with np.errstate(over="ignore", divide="ignore"):
        means: Matrix = responses[link](predictors)
    return means


def _glm_label(params: SsGlmParams, values: Matrix) -> tuple[Matrix, int]:
    """Return the label as the training needs it, and the exponent of its unit. Raises InputDataError.

    SecretFlow would divide a label above 2 by half its maximum and tell every party that, so it gets none above 2.
    """
    if params.distribution == "Bernoulli":
        return labels.binary(values, "a Bernoulli distribution"), 0
    normal = params.distribution == "Tweedie" and params.tweedie_power == 0
    positive = params.distribution == "Gamma" or (params.distribution == "Tweedie" and params.tweedie_power == 2)
    if not normal and (values.min() < 0 or (positive and values.min() == 0)):
        wanted = "above 0" if positive else "0 or above"
        raise InputDataError(f"task_config.label: this distribution needs labels {wanted}; choose another one")
    largest = float(np.abs(values).max())
    if largest == 0:
        raise InputDataError("task_config.label: every row has the same label; a model needs different ones")
    exponent = math.frexp(largest)[1] - 1
    return np.ldexp(values, -exponent), exponent


def _require_means_near_the_label(
    context: JobContext[SsGlmParams], weights: Any, x: FedNdarray, offset: FedNdarray | None
) -> None:
    """Raise InputDataError where fitted means are no model of the labels, of which the largest is 1 to 2 here.

    Means far above it are of a training that went astray. Where the distribution takes powers of a mean, these vanish
    beside the largest label if the mean is too small, so that the fit is rounding. Reveals to every party whether it is
    so.
    """
    params, bits = context.params, context.spu.conf.fxp_fraction_bits
    if params.resolved_link != "Log":
        return
    power = {"Gamma": 2.0, "Tweedie": params.tweedie_power}.get(params.distribution, 0.0)
    least = (SPARE_BITS - bits) / power if power > 1 else -math.inf
    model = SSGLM(context.spu)
    model.spu_w, model.link, model.y_scale = weights, link_of("Identity"), 1.0
    predictors = model.predict(x, o=offset, infeed_batch_size_limit=PREDICTED_CELLS)
    outside = context.spu(_any_outside, static_argnames=("least", "most"))
    if context.reveal(outside(predictors, least=least * math.log(2), most=math.log(GREATEST_MEAN))):
        little = f"less than 1/{2**-least:.0f} or " if power > 1 else ""
        raise InputDataError(
            f"task_config.label: the model's mean of some rows is {little}more than {GREATEST_MEAN} times the largest "
            "label, which is too far from it for this distribution in the SPU's numbers; take Poisson, or ss_lr on "
            "logarithms, or split the rows, or with SGD a smaller learning_rate"
        )


def _any_outside(values: Any, least: float, most: float) -> Any:
    above = jnp.any(values > most)
    return above if math.isinf(least) else above | jnp.any(values < least)


def _require_weights(params: SsGlmParams, weights: Matrix) -> None:
    """Raise InputDataError where rows' weights are none, or of a size that the SPU's numbers are not made for."""
    if (weights <= 0).any():
        raise InputDataError("task_config.weight: holds a weight that is not above 0; remove such rows")
    if not _any_weights_will_do(params) and not 1e-3 <= weights.mean() <= 1e3:
        raise InputDataError(
            "task_config.weight: the weights' mean has to be from 0.001 to 1000 with SGD or l2_lambda, where other "
            "weights make another model; multiply the column by a number, and l2_lambda as well"
        )


def _require_weight_beside(weights: Matrix, count: int) -> None:
    """Raise InputDataError where the `count` heaviest rows, which a model may fit exactly, are next to all there is."""
    ordered = np.sort(weights, axis=None)
    if ordered[:-count].sum() < 1e-3 * ordered.sum():
        raise InputDataError(
            "task_config.weight: fewer rows than there are coefficients have nearly all of the weight, so the others "
            "cannot tell in the SPU's numbers; limit the largest weights or remove such rows"
        )


def _any_weights_will_do(params: SsGlmParams) -> bool:
    """Return whether the same share of all rows' weights makes the same model."""
    return params.optimizer == "IRLS" and not params.l2_lambda


def _require_exact_arithmetic(context: JobContext[Any]) -> None:
    """Raise ParameterValidationError where the SPU has too few bits for the model's matrices.

    They would overflow or lose all precision.
    """
    runtime = context.spu.conf
    if str(runtime.field).rpartition(".")[2] != "FM128" or runtime.fxp_fraction_bits < 30:
        raise ParameterValidationError(
            "spu_config.cluster_def.runtime_config: a generalised linear model needs field FM128 and "
            "fxp_fraction_bits of 30 or more; 40 is right for most data"
        )


def _in_units_of_the_label(weights: Any, scale: Any) -> Any:
    """Turn weights for the label brought to mean 0 and deviation 1 into weights for the label itself."""
    scaled = weights * scale[0]
    return jnp.concatenate([scaled[:-1], scaled[-1:] + scale[1]])
