"""Implements `p_value`, which tests a model's coefficients against chance. Runs in party processes.

SecretFlow's own shows the features' cross products to the label's party, which inverts them. Here they are inverted on
the SPU, and nothing but each coefficient's squared statistic is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

from sfworker.catalog import ColumnRef
from sfworker.catalog.statistics import PValueParams, PValueResult
from sfworker.errors import InputDataError, ModelMismatchError
from sfworker.models import models
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.secure.secret_matrices import (
    blocks,
    inverse,
    inverse_limit,
    product,
    summed,
    unit_columns,
)
from sfworker.session.arithmetic import arithmetic_of, largest_product, require_fraction_bits
from sfworker.tables import aligned, files, labels
from sfworker.tables.files import Matrix

_HALVINGS = 8
"""Halvings of an exponent, so that a short series is right to eight digits. As many squarings follow."""
LEAST_FRACTION_BITS = 16
_LEAST_RESIDUE = 2.0**-30
"""Least share of a label's variance that a model has to leave unexplained, as less is rounding."""


@dataclass(frozen=True)
class _Own:
    """One local party's part of the model's input."""

    features: list[str]
    units: Matrix
    scaling: Matrix
    """Three numbers per feature, shape (features, 3).

    They are the factor from the model's coefficient to that of a column with deviation 1, the difference of the means
    in the model's deviations, and the column's contribution to the intercept of a model in the columns' own units.
    """
    label: Matrix | None
    label_scaling: Matrix | None
    """The model's unit of the label over the one used here, and the label's mean in the latter."""
    far: list[bool]
    """True where a feature's mean is so many times its deviation that the SPU cannot divide by the quotient."""


@TaskDispatcher.register_task("p_value")
def p_value(context: JobContext[PValueParams]) -> PValueResult | None:
    """Compute p values, which only the first party learns. The coefficients stay shared."""
    params, first = context.params, context.parties[0]
    require_fraction_bits(context.spu, LEAST_FRACTION_BITS)
    found = models.find(context, params.model_path, params.trained_by)
    manifest = next(iter(found.values())).manifest
    linear = _is_linear(manifest.options)
    with aligned.double_precision(context, first):
        own = {party: _own(context, party, each.manifest, linear) for party, each in found.items()}
        (weights, *_), _ = models.load(context, found)
        shape = aligned.shape(context, {party: each.units for party, each in own.items()})
        aligned.require_more_rows_than_features(shape)
        columns, far = _columns(context, own)
        parties = [party for party, count in shape.features.items() if count]

        def shared(name: str, among: list[str], rows: slice = slice(None)) -> list[Any]:
            """Bring the parties' attribute `name` of `_Own` to the SPU."""
            held = [aligned.held(context, p, getattr(own.get(p), name, None), np.float64, rows) for p in among]
            return [each.to(context.spu) for each in held]

        of_label = [manifest.label.party] if linear else []
        label_scaling = shared("label_scaling", of_label)
        coefficients = context.spu(_coefficients)(weights, shared("scaling", parties), label_scaling)
        sums = summed(
            context,
            blocks(shape.rows, shape.columns + 1),
            lambda rows: context.spu(_sums, static_argnames=("count",))(
                shared("units", parties, rows), shared("label", of_label, rows), coefficients, count=shape.rows
            ),
        )
        limit = inverse_limit(context, shape.columns + 1)
        information = context.spu(_information)(sums)
        opened = context.spu(_squares, static_argnames=("count", "limit", "most"))(
            inverse(context, information, shape.columns + 1, limit),
            sums,
            coefficients,
            label_scaling,
            count=shape.rows,
            limit=limit,
            most=(largest_product(context.spu) / (4 * shape.rows)) ** 0.5,
        ).to(context.pyu(first))
        if not context.is_local(first):
            return None
        squares, sound = np.asarray(context.value_at(first, opened)).T
    sound = sound > 0.5
    # The intercept in the columns' own units depends on all coefficients.
    sound[-1] = sound.all() and not any(far)
    statistic = np.sqrt(np.maximum(squares, 0))
    # Degrees of freedom, less one for the intercept.
    spare = shape.rows - shape.columns - 1
    chances = 2 * (stats.t(spare).sf(statistic) if linear else stats.norm.sf(statistic))
    told = [chance if each else None for chance, each in zip(chances.tolist(), sound, strict=True)]
    found_values: dict[str, dict[str, float | None]] = {party: {} for party in parties}
    for ref, chance in zip(columns, told, strict=False):
        found_values[ref.party][ref.column] = chance
    return PValueResult(
        rows=shape.rows,
        regression="linear" if linear else "logistic",
        p_values=found_values,
        intercept=told[-1],
        arithmetic=arithmetic_of(context.spu),
        warnings=_warnings(list(compress(columns, ~sound)), list(compress(columns, far)), bool(sound[-1])),
    )


def _is_linear(options: dict[str, Any]) -> bool:
    """Return whether the model is linear. Raises ModelMismatchError where it is no logistic regression either."""
    if "regression" in options:
        return bool(options["regression"] == "linear")
    if options["link"] != "Logit" or options["offset"]:
        raise ModelMismatchError(
            "task_config.model_path: of the models of ss_glm, only Bernoulli without offset has p values here"
        )
    return False


def _own(context: JobContext[PValueParams], party: str, manifest: models.Manifest, linear: bool) -> _Own:
    """Read a local party's columns. Raises InputDataError."""
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", context.params.input_paths[party])
    features, names = manifest.features, files.header(field, path)
    label = [manifest.label.column] if linear and party == manifest.label.party else []
    files.require_columns(f"task_config.model_path.{party}", names, [*features, *label])
    table = files.numbers(field, path, [*features, *label])
    context.require_rows(field, len(table))
    matrix = table[:, : len(features)]
    units, constant = unit_columns(matrix)
    means, deviations = aligned.means_and_deviations(matrix)
    contrast = -means / np.where(constant, np.inf, deviations)
    far = np.abs(contrast) > 2.0 ** (context.spu.conf.fxp_fraction_bits - 2)
    moved = (means - manifest.means) / manifest.deviations
    scaling = np.stack([deviations / manifest.deviations, moved, np.where(far, 0.0, contrast)], axis=1)
    if (beyond := np.abs(scaling[:, :2]).max(axis=1, initial=0.0) > largest_product(context.spu) / 2**10).any():
        raise InputDataError(
            f"{field}: column {features[int(np.argmax(beyond))]!r} is too far from what the model was trained with; "
            f"test it with the rows of the training"
        )
    if not label:
        return _Own(features, units, scaling, None, None, far.tolist())
    values = table[:, len(features) :]
    mean, _, exponent = labels.scale(values)
    unit = 2.0 ** (manifest.label_exponent - exponent)
    return _Own(features, units, scaling, np.ldexp(values, -exponent) - mean, np.array([unit, mean]), far.tolist())


def _columns(context: JobContext[PValueParams], own: dict[str, _Own]) -> tuple[list[ColumnRef], list[bool]]:
    """Return all features and which are far from 0, at the first party."""
    about = {party: (each.features, each.far) for party, each in own.items()}
    told = aligned.gather(context, context.parties[0], context.parties, about)
    columns = [ColumnRef(party=party, column=name) for party, (names, _) in told.items() for name in names]
    return columns, [each for _, far in told.values() for each in far]


def _warnings(unsound: list[ColumnRef], far: list[ColumnRef], intercept_is_sound: bool) -> list[str]:
    reason = "is constant or, as near as can be told, a combination of others, or the model explains the label wholly"
    found = [f"column {ref.column!r} of {ref.party} {reason}" for ref in unsound]
    found += [
        f"column {ref.column!r} of {ref.party} is so far from 0, in its deviations, that the intercept has no p value; "
        f"subtract a number near its mean"
        for ref in far
    ]
    # In the columns' own units.
    return found if intercept_is_sound or far else [*found, "the intercept depends on a coefficient without p value"]


def _coefficients(weights: Any, scaling: list[Any], label_scaling: list[Any]) -> Any:
    """Return the coefficients for columns with mean 0 and deviation 1 and a label with mean 0, the intercept last.

    The second column holds the share of each in the intercept in the columns' own units.
    """
    factor, shift, contrast = jnp.concatenate(scaling).T
    weights = jnp.reshape(weights, (-1,))
    slopes, intercept = weights[:-1] * factor, weights[-1] + jnp.sum(weights[:-1] * shift)
    if label_scaling:
        unit, mean = label_scaling[0][0], label_scaling[0][1]
        slopes, intercept = slopes * unit, intercept * unit - mean
    return jnp.stack([jnp.append(slopes, intercept), jnp.append(contrast, 1.0)], axis=1)


def _sums(units: list[Any], label: list[Any], coefficients: Any, count: int) -> Any:
    """Return this block's part of the information matrix and, below it, of the squared residues, both over `count`."""
    root = count**0.5
    x = jnp.concatenate([*units, jnp.full((units[0].shape[0], 1), 1 / root)], axis=1)
    scores = (x @ coefficients[:, :1]) * root
    if label:
        information, residue = product(x, x), jnp.sum(jnp.square((label[0] - scores) / root))
    else:
        information, residue = product(x * _spread(scores), x), jnp.ones(())
    return jnp.concatenate([information, jnp.full((1, x.shape[1]), residue)])


def _information(sums: Any) -> Any:
    return sums[:-1]


def _squares(
    inverted: Any, sums: Any, coefficients: Any, label_scaling: list[Any], count: int, limit: float, most: float
) -> Any:
    """Return each coefficient's squared statistic, and beside it 1 if it is sound, the intercept in raw units last.

    Estimates beyond `most`, whose squares could wrap around, count as it: their chance is as near to 0.
    """
    residue = sums[-1, 0]
    estimates, contrast = coefficients[:, 0], coefficients[:, 1]
    # The intercept's statistic does not depend on the contrast's size, and the square of a large one would wrap around.
    contrast = contrast / jnp.max(jnp.abs(contrast))
    diagonal = jnp.diagonal(inverted)
    variances = jnp.append(diagonal[:-1], contrast @ inverted @ contrast)
    intercept = estimates @ contrast
    # A singular matrix has an "inverse" beyond the limit, which may have wrapped around.
    sound = (diagonal < limit) & (diagonal > 0)
    if label_scaling:
        intercept = intercept + label_scaling[0][1] * contrast[-1]
        freedom = count - len(estimates)
        variances = variances * residue
        sound = sound & (residue > _LEAST_RESIDUE)
    else:
        freedom = count
    roots = jnp.clip(jnp.append(estimates[:-1], intercept), -most, most) * freedom**0.5
    return jnp.stack([jnp.square(roots) / variances, jnp.where(sound, 1.0, 0.0)], axis=1)


def _spread(scores: Any) -> Any:
    """Return p * (1 - p) for the probability p with these log odds.

    The exponential is computed here, because SecretFlow's is right to three digits only.
    """
    small = -jnp.abs(scores) / 2**_HALVINGS
    power = 1 + small * (1 + small / 2 * (1 + small / 3 * (1 + small / 4)))
    for _ in range(_HALVINGS):
        power = jnp.square(power)
    return power / jnp.square(1 + power)
