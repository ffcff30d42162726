"""Brings numeric columns of several parties to devices, rows aligned by position. Runs in party processes.

Each party reads and checks its own file. The others learn its shape, and what a device computes from the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from secretflow.data import FedNdarray, PartitionWay

from sfworker.catalog import ColumnRef
from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.tables import files
from sfworker.tables.files import Matrix

_COPIED_CELLS = 10_000_000
"""Cells of which deviations are computed at a time, as that takes a copy."""


@dataclass(frozen=True)
class Part:
    """One local party's columns."""

    features: list[str]
    matrix: Matrix
    """The features, shape (rows, features)."""
    others: dict[str, Matrix]
    """This party's columns among those asked for by name (label, weight), each of shape (rows, 1)."""


@dataclass(frozen=True)
class Shape:
    """Numbers of rows and columns, which every party knows."""

    rows: int
    features: dict[str, int]
    """Number of feature columns by party, in the order of the parties."""

    @property
    def columns(self) -> int:
        return sum(self.features.values())


def read(context: JobContext[Any], party: str, **others: ColumnRef | None) -> Part:
    """Read a local party's columns as `input_paths`, `keys` and `features` of the parameters say.

    `others` are columns that are no features, by the parameter that names them, as in `label=params.label`.
    Raises InputDataError naming field, column and row, or where there are too few rows.
    """
    field = f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", context.params.input_paths[party])
    names = files.header(field, path)
    own = {name: ref.column for name, ref in others.items() if ref is not None and ref.party == party}
    for name, column in own.items():
        files.require_columns(f"task_config.{name}.column", names, [column])
    chosen = features(context, party, names, *own.values())
    table = files.numbers(field, path, [*chosen, *own.values()])
    context.require_rows(field, len(table))
    beside = {name: table[:, [len(chosen) + index]] for index, name in enumerate(own)}
    return Part(chosen, table[:, : len(chosen)], beside)


def features(context: JobContext[Any], party: str, names: list[str], *others: str) -> list[str]:
    """Return the features among the columns `names` of a local party's file, without its keys and `others`.

    Raises InputDataError where `keys` or `features` of the parameters name one that is not there.
    """
    params = context.params
    keys = params.keys.get(party, [])
    files.require_columns(f"task_config.keys.{party}", names, keys)
    if params.features is None:
        return [name for name in names if name not in {*keys, *others}]
    chosen: list[str] = params.features.get(party, [])
    files.require_columns(f"task_config.features.{party}", names, chosen)
    return chosen


def shape(context: JobContext[Any], matrices: Mapping[str, npt.NDArray[Any]], among: Iterable[str] = ()) -> Shape:
    """Return the rows and columns of the parties, or of those `among` them. Reveals each one's shape to all.

    Raises InputDataError where the files do not fit together or no party has a feature.
    """
    parties = list(among) or context.parties
    held = [context.at(party, np.shape, matrices.get(party)) for party in parties]
    known = context.reveal(held)
    require_same_rows(rows for rows, _ in known)
    found = Shape(known[0][0], {party: columns for party, (_, columns) in zip(parties, known, strict=True)})
    if found.columns == 0:
        raise InputDataError("task_config.features: no party has a feature column; name some")
    return found


def require_same_rows(counts: Iterable[int]) -> None:
    """Raise InputDataError where parties' files, whose rows belong together, have different numbers of rows."""
    if len(set(counts)) > 1:
        raise InputDataError(
            "task_config.input_paths: the parties' files have different numbers of rows; align them with psi first"
        )


def require_more_rows_than_features(found: Shape) -> None:
    """Raise InputDataError where there are not more rows than features, the intercept counted as one.

    A model would then fit every single row, and its figures would tell the rows.
    """
    if found.rows <= found.columns + 1:
        raise InputDataError(
            "task_config.input_paths: there are not more rows than features; add rows or name fewer features"
        )


def columns(
    context: JobContext[Any], matrices: dict[str, Matrix], found: Shape, dtype: npt.DTypeLike = np.float32
) -> FedNdarray:
    """Return the parties' features beside each other, without parties that have none.

    Training computes with float32, as the SPU encodes fewer bits than that anyway.
    """
    return FedNdarray(
        {
            context.pyu(party): held(context, party, matrices.get(party), dtype)
            for party in context.parties
            if found.features[party]
        },
        PartitionWay.VERTICAL,
    )


def means_and_deviations(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return the mean and the deviation of each column, 0 for constant ones, of numbers of any size."""
    constant = matrix.min(axis=0) == matrix.max(axis=0)
    # Rounding would give a constant column a deviation.
    means = np.where(constant, matrix[0], matrix.mean(axis=0))
    deviations = np.empty(matrix.shape[1])
    at_once = max(1, _COPIED_CELLS // len(matrix))
    for start in range(0, matrix.shape[1], at_once):
        some = slice(start, start + at_once)
        centred = matrix[:, some] - means[some]
        reach = np.maximum(centred.max(axis=0), -centred.min(axis=0))
        # Divided by the largest first, because squares of extreme numbers overflow or vanish.
        centred /= np.where(constant[some], 1.0, reach)
        centred -= centred.mean(axis=0)
        np.square(centred, out=centred)
        deviations[some] = np.sqrt(centred.mean(axis=0)) * reach
    return means, deviations


def column(
    context: JobContext[Any], party: str, values: Matrix | None, dtype: npt.DTypeLike = np.float32
) -> FedNdarray:
    """Return one party's column, such as the label."""
    return FedNdarray({context.pyu(party): held(context, party, values, dtype)}, PartitionWay.VERTICAL)


def held(
    context: JobContext[Any],
    party: str,
    values: npt.NDArray[Any] | None,
    dtype: npt.DTypeLike = np.float32,
    rows: slice = slice(None),
) -> Any:
    """Hold `rows` of `values` at `party` as a device object. Other parties pass None."""
    return context.at(party, _as, None if values is None else values[rows], dtype)


@contextmanager
def double_precision(context: JobContext[Any], receiver: str) -> Iterator[None]:
    """Move numbers to the SPU and back with 53 bits instead of 24, of which it keeps as many as its field has.

    Every party waits at the end until `receiver` has the result, as others' work in the background needs this setting.
    """
    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
    try:
        yield
        context.reveal(context.at(receiver, bool))
    finally:
        jax.config.update("jax_enable_x64", False)  # type: ignore[no-untyped-call]


def gather(
    context: JobContext[Any], receiver: str, parties: Iterable[str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Send the entry of each of `parties` in `values` to `receiver`, which alone learns it. Empty elsewhere."""
    there = context.pyu(receiver)
    # A value is sent only when the receiver computes with it.
    moved = {party: there(_same)(context.at(party, values.get, party).to(there)) for party in parties}
    if not context.is_local(receiver):
        return {}
    return {party: context.value_at(receiver, value) for party, value in moved.items()}


def _same(value: Any) -> Any:
    return value


def _as(values: npt.NDArray[Any] | None, dtype: npt.DTypeLike) -> Any:
    return None if values is None else values.astype(dtype, copy=False)
