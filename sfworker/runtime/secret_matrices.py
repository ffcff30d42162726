"""Matrices that parties multiply and invert on the SPU without showing them. Runs in party processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from sfworker.runtime.context import JobContext
from sfworker.runtime.tables import Matrix

BLOCK_CELLS = 2_000_000
"""Cells of a matrix that go to the SPU at a time: a share of one takes up to 16 bytes, and some more while used."""


@contextmanager
def double_precision() -> Iterator[None]:
    """Numbers go to the SPU and come back with 53 bits instead of 24, of which it keeps as many as its field has."""
    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)  # type: ignore[no-untyped-call]


def unit_columns(matrix: Matrix) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Columns with mean 0 and length 1, so that a product of two is their correlation; and which ones are constant.

    Constant columns become 0. No sum of products is above 1, whatever the number of rows: nothing can overflow.
    """
    constant = matrix.min(axis=0) == matrix.max(axis=0)
    units = matrix - matrix.mean(axis=0)
    # Divided by the largest first: squares of extreme numbers overflow or vanish.
    units /= np.where(constant, 1.0, np.abs(units).max(axis=0))
    units /= np.where(constant, 1.0, np.sqrt(np.square(units).sum(axis=0)))
    units[:, constant] = 0.0
    return units, constant


def blocks(rows: int, columns: int) -> list[slice]:
    """Slices of rows that hold about BLOCK_CELLS each."""
    step = max(1, BLOCK_CELLS // max(1, columns))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def summed(context: JobContext[Any], slices: list[slice], compute: Callable[[slice], Any]) -> Any:
    """The sum on the SPU of what `compute` returns for each block; tells the progress."""
    total = None
    for number, rows in enumerate(slices, 1):
        part = compute(rows)
        total = part if total is None else context.spu(_add)(total, part)
        if context.is_local(context.parties[0]) and len(slices) > 1:
            context.progress(number / len(slices), f"block {number} of {len(slices)}")
    return total


def inverse_limit(context: JobContext[Any]) -> float:
    """The largest number of an inverse that can be told from infinity with the SPU's fraction bits."""
    return float(2.0 ** (context.spu.conf.fxp_fraction_bits / 2))


def inverse_steps(size: int, limit: float) -> int:
    """Steps that `inverse` needs for a matrix with ones on its diagonal; each doubles what is too small yet."""
    return math.ceil(math.log2(limit) + 2 * math.log2(size)) + 5


def inverse(matrix: Any, steps: int) -> Any:
    """The inverse of a positive matrix by Newton's iteration; for a singular one, numbers above `inverse_limit`.

    To be traced for the SPU.
    """
    identity = jnp.identity(matrix.shape[0])
    start = identity / jnp.trace(matrix)
    return jax.lax.fori_loop(0, steps, lambda _, found: found @ (2 * identity - matrix @ found), start)


def _add(left: Any, right: Any) -> Any:
    return left + right
