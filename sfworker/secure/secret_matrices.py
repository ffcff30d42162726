"""Multiplies and inverts matrices on the SPU without showing them. Runs in party processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import secretflow.distributed as sfd

from sfworker.party.context import JobContext
from sfworker.session.arithmetic import largest_product, require_whole_bits
from sfworker.tables.files import Matrix

LEAST_LIMIT = 10.0
"""Number of an inverse that has to fit at least."""

MOST_ROWS = 7
"""Rows that the SPU multiplies at once. Eight take it seven times as long, as it uses another kernel then."""

SWEPT = 25
"""Rows and columns of a matrix that are swept out at a time."""

BLOCK_CELLS = 2_000_000
"""Cells of a matrix that go to the SPU at a time. A share of a cell takes up to 16 bytes, and more while used."""


def unit_columns(matrix: Matrix) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Return the columns with mean 0 and length 1, whose products are correlations, and a mask of constant columns.

    Constant columns become 0. No sum of products is above 1, whatever the number of rows, so nothing can overflow.
    """
    constant = matrix.min(axis=0) == matrix.max(axis=0)
    units = matrix - matrix.mean(axis=0)
    # Divided by the largest first, because squares of extreme numbers overflow or vanish.
    units /= np.where(constant, 1.0, np.abs(units).max(axis=0))
    units /= np.where(constant, 1.0, np.sqrt(np.square(units).sum(axis=0)))
    units[:, constant] = 0.0
    return units, constant


def blocks(rows: int, columns: int, cells: int = BLOCK_CELLS) -> list[slice]:
    """Return slices of rows that hold about `cells` cells each."""
    step = max(1, cells // max(1, columns))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def summed(
    context: JobContext[Any],
    slices: list[slice],
    compute: Callable[[slice], Any],
    combine: Callable[[Any, Any], Any] = jnp.add,
) -> Any:
    """Return the sum on the SPU (or another `combine`) of what `compute` returns per block. Publishes progress."""
    total = None
    for number, rows in enumerate(slices, 1):
        part = compute(rows)
        total = part if total is None else context.spu(combine)(total, part)
        # This waits for the sum's shape. Otherwise the main thread would put every block on its way at once.
        sfd.get(total.meta)
        if context.is_local(context.parties[0]) and len(slices) > 1:
            context.progress(number / len(slices), f"block {number} of {len(slices)}")
    return total


def product(left: Any, right: Any) -> Any:
    """Compute `left.T @ right`, traced for the SPU, in pieces of a few rows."""
    pieces = [left[:, start : start + MOST_ROWS].T @ right for start in range(0, left.shape[1], MOST_ROWS)]
    return jnp.concatenate(pieces)


def inverse_limit(context: JobContext[Any], size: int) -> float:
    """Return the largest number of an inverse of `size` that can be told from infinity with the SPU's fraction bits.

    Raises ParameterValidationError where these leave no room for the whole part of any.
    """
    # The steps that make the inverse take a singular one to 32 * size times the limit, where nothing may wrap around.
    most = largest_product(context.spu) / (128 * size)
    require_whole_bits(context.spu, most >= LEAST_LIMIT)
    return float(min(2.0 ** (context.spu.conf.fxp_fraction_bits / 2), most))


def inverse(context: JobContext[Any], matrix: Any, size: int, limit: float) -> Any:
    """Invert a positive matrix of `size` on the SPU, with no more than ones on its diagonal. Publishes progress.

    A singular matrix gives numbers above `limit`, which is that of `inverse_limit`. Some rows and columns at a time are
    swept out, as Gauss and Jordan do, by inverses of the blocks on the diagonal: Newton's iteration, which makes those,
    would go forty times through a large matrix.
    """
    widths = [min(SWEPT, size - start) for start in range(0, size, SWEPT)]
    swept = matrix
    for number, width in enumerate(widths, 1):
        swept = context.spu(_swept, static_argnames=("width", "steps"))(
            swept, width=width, steps=_inverse_steps(width, limit)
        )
        sfd.get(swept.meta)  # waits, so that progress is true
        if context.is_local(context.parties[0]):
            context.progress(number / len(widths), f"block {number} of {len(widths)} of a matrix inversion")
    return context.spu(jnp.negative)(swept)


def _inverse_steps(size: int, limit: float) -> int:
    """Return how many of Newton's steps a matrix of `size` needs. Each doubles what is too small yet."""
    return math.ceil(math.log2(limit) + 2 * math.log2(size)) + 5


def _swept(matrix: Any, *, width: int, steps: int) -> Any:
    """Sweep out the first `width` rows and columns, which become the last ones.

    After all have been, the matrix is the inverse of the first one with its sign changed, in the first order.
    """
    block, across, rest = matrix[:width, :width], matrix[width:, :width], matrix[width:, width:]
    # No eigenvalue is above the sum of the diagonal, so that Newton's iteration begins at `width` or below.
    inverted = jax.lax.fori_loop(0, steps, lambda _, found: _better_inverse(block, found), jnp.identity(width) / width)
    if not len(rest):
        return -inverted
    coefficients = across @ inverted
    return jnp.block([[rest - coefficients @ across.T, coefficients], [coefficients.T, -inverted]])


def _better_inverse(matrix: Any, found: Any) -> Any:
    return found @ (2 * jnp.identity(matrix.shape[0]) - matrix @ found)
