"""Implements `pearson_correlation` and `vif` on the columns of several parties. Runs in party processes.

Each party brings its own columns to mean 0 and length 1 and multiplies them alone. Only cross products of different
parties' columns are computed on the SPU.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations, compress
from typing import Any

import jax.numpy as jnp
import numpy as np

from sfworker.catalog import ColumnRef
from sfworker.catalog.statistics import PearsonCorrelationParams, PearsonCorrelationResult, VifParams, VifResult
from sfworker.errors import InputDataError
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
from sfworker.session.opened_once import kept, opened_once
from sfworker.tables import aligned
from sfworker.tables.files import Matrix

MAX_COLUMNS = 1000
LEAST_FRACTION_BITS = 16
KEPT_CELLS = 4_000_000
"""Cells of matrices that stay until the process ends, so that the SPU masks them once. Each takes some 50 bytes."""


@TaskDispatcher.register_task("pearson_correlation")
def pearson_correlation(context: JobContext[PearsonCorrelationParams]) -> PearsonCorrelationResult | None:
    """Correlate columns. Only the first party learns the figures, which are the result."""
    first = context.parties[0]
    require_fraction_bits(context.spu, LEAST_FRACTION_BITS)
    with aligned.double_precision(context, first):
        units, shape, columns, constant = _prepared(context)
        own = aligned.gather(context, first, shape.features, {p: each.T @ each for p, each in units.items()})
        across = {
            pair: product.to(context.pyu(first)) for pair, product in _products_across(context, units, shape).items()
        }
        if not context.is_local(first):
            return None
        found = np.block(
            [[_block(context, own, across, left, right) for right in shape.features] for left in shape.features]
        )
    # Rounding must not make a correlation of more than 1.
    found = np.clip(found, -1.0, 1.0)
    found[:, constant] = found[constant, :] = np.nan
    np.fill_diagonal(found, np.where(constant, np.nan, 1.0))
    return PearsonCorrelationResult(
        rows=shape.rows,
        columns=columns,
        correlation=[[None if np.isnan(cell) else cell for cell in row] for row in found.tolist()],
        arithmetic=arithmetic_of(context.spu),
        warnings=_constant_ones(columns, constant),
    )


@TaskDispatcher.register_task("vif")
def vif(context: JobContext[VifParams]) -> VifResult | None:
    """Compute variance inflation factors, which only the first party learns. No correlation is opened."""
    first = context.parties[0]
    require_fraction_bits(context.spu, LEAST_FRACTION_BITS)
    with aligned.double_precision(context, first):
        units, shape, columns, constant = _prepared(context)
        parties = [party for party, count in shape.features.items() if count]
        own = [aligned.held(context, party, _square(units.get(party)), np.float64) for party in parties]
        across = _products_across(context, units, shape)
        limit = inverse_limit(context, shape.columns)
        correlations = context.spu(_assembled)(
            [block.to(context.spu) for block in own], [across[pair] for pair in combinations(parties, 2)]
        )
        inverted = inverse(context, correlations, shape.columns, limit)
        opened = context.spu(jnp.diagonal)(inverted).to(context.pyu(first))
        if not context.is_local(first):
            return None
        factors = context.value_at(first, opened)
    # A factor is 1 or more, up to the last bits. Values beyond the limit, or wrapped around, are no figures.
    told = (factors < limit) & (factors > 1 - 1 / limit) & ~constant
    found: dict[str, dict[str, float | None]] = {party: {} for party in parties}
    for ref, factor, known in zip(columns, factors.tolist(), told, strict=True):
        found[ref.party][ref.column] = max(factor, 1.0) if known else None
    warnings = _constant_ones(columns, constant)
    warnings += [
        f"column {ref.column!r} of {ref.party} is a combination of other columns, as near as can be told: "
        f"its factor is above {limit:.0f}"
        for ref in compress(columns, ~told & ~constant)
    ]
    return VifResult(rows=shape.rows, vif=found, arithmetic=arithmetic_of(context.spu), warnings=warnings)


def _prepared(
    context: JobContext[PearsonCorrelationParams] | JobContext[VifParams],
) -> tuple[dict[str, Matrix], aligned.Shape, list[ColumnRef], Any]:
    """Return local parties' unit columns, all shapes and, at the first party, all columns and which are constant.

    Raises InputDataError.
    """
    units, about = {}, {}
    for party in filter(context.is_local, context.parties):
        part = aligned.read(context, party)
        units[party], constant = unit_columns(part.matrix)
        about[party] = (part.features, constant.tolist())
    shape = aligned.shape(context, units)
    aligned.require_more_rows_than_features(shape)
    if not 1 < shape.columns <= MAX_COLUMNS:
        raise InputDataError(f"task_config.features: has to name 2 to {MAX_COLUMNS} columns in all")
    told = aligned.gather(context, context.parties[0], context.parties, about)
    columns = [ColumnRef(party=party, column=name) for party, (names, _) in told.items() for name in names]
    constant = np.array([each for _, flags in told.values() for each in flags], dtype=bool)
    return units, shape, columns, constant


def _products_across(
    context: JobContext[Any], units: dict[str, Matrix], shape: aligned.Shape
) -> dict[tuple[str, str], Any]:
    """Compute on the SPU the cross products for every pair of parties with features."""
    pairs = list(combinations([party for party, count in shape.features.items() if count], 2))
    # Cells of unit columns are small where rows are many, so they go in enlarged, and lose fewer bits.
    bits = min(context.spu.conf.fxp_fraction_bits, math.floor(math.log2(largest_product(context.spu))) - 1) // 2
    enlarged = {party: matrix * 2.0**bits for party, matrix in units.items()}
    is_kept = shape.rows * sum(shape.features[right] for _, right in pairs) <= KEPT_CELLS

    def multiplied(left: str, right: str, rows: slice) -> Any:
        one, other = (
            aligned.held(context, party, enlarged.get(party), np.float64, rows).to(context.spu)
            for party in (left, right)
        )
        return context.spu(_opened_once_product)(one, kept(other)) if is_kept else context.spu(product)(one, other)

    return {
        (left, right): context.spu(jnp.multiply)(
            summed(
                context,
                blocks(shape.rows, max(shape.features[left], shape.features[right])),
                partial(multiplied, left, right),
            ),
            0.25**bits,
        )
        for left, right in pairs
    }


def _opened_once_product(left: Any, right: Any) -> Any:
    """Compute `left.T @ right`, where `right` is masked and opened for all pieces of `left` at once."""
    return product(left, opened_once(right))


def _block(context: JobContext[Any], own: dict[str, Matrix], across: dict[Any, Any], left: str, right: str) -> Any:
    """Return the correlations of two parties' columns, in the first party's process."""
    if left == right:
        return own[left]
    if (left, right) in across:
        return context.value_at(context.parties[0], across[left, right])
    if (right, left) in across:
        return context.value_at(context.parties[0], across[right, left]).T
    return np.empty((own[left].shape[0], own[right].shape[0]))  # one of them has no columns


def _constant_ones(columns: list[ColumnRef], constant: Any) -> list[str]:
    return [f"column {ref.column!r} of {ref.party} is constant" for ref in compress(columns, constant)]


def _square(units: Matrix | None) -> Matrix | None:
    return None if units is None else units.T @ units


def _assembled(own: list[Any], across: list[Any]) -> Any:
    """Return the matrix of correlations. `across` holds the blocks above the diagonal, row by row."""
    size = len(own)
    above = iter(across)
    rows: list[list[Any]] = [[own[row]] * size for row in range(size)]
    for row, column in combinations(range(size), 2):
        rows[row][column] = block = next(above)
        rows[column][row] = block.T
    return jnp.block(rows)
