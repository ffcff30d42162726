"""Implements `table_statistics` and `population_stability`, at each party on its own columns, in party processes."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import convert, to_builtins

from sfworker.catalog.statistics import (
    ColumnStatistics,
    PopulationStabilityParams,
    PopulationStabilityResult,
    Stability,
    StabilityBin,
    TableStatisticsParams,
    TableStatisticsResult,
)
from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.tables import aligned, files, own_tables
from sfworker.tables.own_tables import OwnTable, UnfitColumn, require_values

Vector = npt.NDArray[np.float64]
_LEAST_SHARE = 1e-3
"""Smallest share of a bin in the logarithm, as an empty bin would make the index infinite."""


@TaskDispatcher.register_task("table_statistics")
def table_statistics(context: JobContext[TableStatisticsParams]) -> TableStatisticsResult | None:
    """Describe columns. Only the first party learns other parties' figures, which are the result."""
    described = {party: _described(context, table) for party, table in own_tables.local_tables(context).items()}
    told = aligned.gather(context, context.parties[0], own_tables.with_input(context), described)
    return convert({"statistics": told}, TableStatisticsResult) if told else None


@TaskDispatcher.register_task("population_stability")
def population_stability(context: JobContext[PopulationStabilityParams]) -> PopulationStabilityResult | None:
    """Compare two files' columns. Only the first party learns other parties' figures, which are the result."""
    compared = {
        party: {name: to_builtins(each) for name, each in _compared(context, party).items()}
        for party in own_tables.with_input(context)
        if context.is_local(party)
    }
    told = aligned.gather(context, context.parties[0], own_tables.with_input(context), compared)
    return convert({"stability": told}, PopulationStabilityResult) if told else None


def statistics(values: Vector) -> dict[str, float]:
    """Return figures of a column without missing values as pandas defines them, without those it has no value for."""
    count = len(values)
    if not count:
        return {}
    # Rounding would give a constant column a deviation.
    mean = float(values.mean() if values.min() < values.max() else values[0])
    centred = values - mean
    q1, q2, q3 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    found = {"min": float(values.min()), "max": float(values.max()), "mean": mean, "sum": float(values.sum())}
    found |= {"q1": q1, "q2": q2, "q3": q3}
    with np.errstate(over="ignore"):  # a power that overflows is null in the result
        for power in (2, 3, 4):
            found[f"sum_{power}"] = float(np.sum(values**power))
            found[f"moment_{power}"] = found[f"sum_{power}"] / count
            found[f"central_moment_{power}"] = float(np.mean(centred**power))
    if count > 1:
        found["var"] = found["central_moment_2"] * count / (count - 1)
        found["std"] = found["var"] ** 0.5
        found["sem"] = found["std"] / count**0.5
        if mean:
            found["cv"] = found["std"] / mean
    return found | _shape(centred)


def _shape(centred: Vector) -> dict[str, float]:
    """Return skewness and kurtosis without bias, 0 for a constant column, as in pandas."""
    # Divided by the largest value first, so that no power overflows.
    count, reach = len(centred), float(np.abs(centred).max())
    scaled = centred / (reach or 1.0)
    second, third, fourth = (float(np.mean(scaled**power)) for power in (2, 3, 4))
    found = {}
    if count > 2:
        bias = (count * (count - 1)) ** 0.5 / (count - 2)
        found["skew"] = bias * third / second**1.5 if reach else 0.0
    if count > 3:
        excess = (count + 1) * fourth / second**2 - 3 * (count - 1) if reach else 0.0
        found["kurtosis"] = excess * (count - 1) / ((count - 2) * (count - 3))
    return found


def stability(base: Vector, test: Vector, inner_edges: Vector) -> Stability:
    """Compute the stability index of `test` against `base`, where NaN is a missing cell."""
    edges = [None, *inner_edges.tolist(), None]
    shares = [_shares(values, inner_edges) for values in (base, test)]
    floored = [np.maximum(share, _LEAST_SHARE) for share in shares]
    index = (shares[1] - shares[0]) * np.log(floored[1] / floored[0])
    ends = [*pairwise(edges), (None, None)]
    bins = [
        StabilityBin(
            left=left, right=right, missing=number == len(ends) - 1, base_ratio=here, test_ratio=there, psi=psi
        )
        for number, ((left, right), here, there, psi) in enumerate(
            zip(ends, shares[0].tolist(), shares[1].tolist(), index.tolist(), strict=True)
        )
    ]
    return Stability(psi=float(index.sum()), bins=bins)


def _described(context: JobContext[TableStatisticsParams], table: OwnTable) -> dict[str, dict[str, Any]]:
    """Describe each column of a local party, in plain containers: parties accept no structs from each other.

    Raises InputDataError, also where the figures of a column would be those of too few values.
    """

    def describe(name: str, column: pa.ChunkedArray) -> tuple[str, dict[str, Any]]:
        context.require_rows(table.field, len(column))
        if 0 < len(column) - column.null_count < context.floors.input_rows:
            raise UnfitColumn(
                f"has a value in fewer than {context.floors.input_rows} rows, of which the operator lets nothing be "
                f"revealed (SFWORKER_MIN_INPUT_ROWS); leave it out"
            )
        return name, to_builtins(_figures(column, context.params.statistics))

    return dict(table.each(table.each_column(aligned.features(context, table.party, table.names)), describe))


def _figures(column: pa.ChunkedArray, wanted: Collection[str] | None) -> ColumnStatistics:
    total, missing = len(column), column.null_count
    count, kind = total - missing, files.type_name(column)
    found: dict[str, float] = {"count_na": missing, "na_ratio": missing / total}
    if kind in {"int", "float"}:
        numbers = (column.drop_null() if missing else column).to_numpy()
        # In order they take a fifth of the time and memory of a table of all that are different.
        ordered = np.sort(numbers)
        found["nunique"] = min(count, 1) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
        del ordered
        found |= statistics(numbers.astype(np.float64, copy=False))
    else:
        found["nunique"] = pc.count_distinct(column).as_py()
    chosen = {key: value for key, value in found.items() if wanted is None or key in wanted}
    return convert({"datatype": kind, "total_count": total, "count": count, **chosen}, ColumnStatistics)


def _compared(context: JobContext[PopulationStabilityParams], party: str) -> dict[str, Stability]:
    params = context.params
    base, test = _file(context, party, "input_paths"), _file(context, party, "test_paths")
    columns = aligned.features(context, party, base.names)
    split_points = params.split_points.get(party, {})
    files.require_columns(f"task_config.split_points.{party}", columns, list(split_points))
    for column in columns:
        if column not in test.names:
            raise InputDataError(f"{test.field}: the file has no column {column!r}, which the base has")
    types = dict.fromkeys(columns, "float")
    tested = test.each_column(columns, types)

    def compare(name: str, column: pa.ChunkedArray) -> Stability:
        _, test_column = next(tested)
        context.require_rows(base.field, len(column))
        context.require_rows(test.field, len(test_column))
        require_values(column)
        values, test_values = column.to_numpy(), test_column.to_numpy()
        points = split_points.get(name)
        edges = np.array(points) if points else _equal_frequency(values[~np.isnan(values)], params.bin_num)
        _require_large_bins(context.floors.bin_rows, edges, values, test_values)
        return stability(values, test_values, edges)

    return dict(zip(columns, base.each(base.each_column(columns, types), compare), strict=True))


def _file(context: JobContext[PopulationStabilityParams], party: str, parameter: str) -> OwnTable:
    field = f"task_config.{parameter}.{party}"
    path = context.input_file(party, parameter, getattr(context.params, parameter)[party])
    return OwnTable(party, field, path, files.header(field, path), {})


def _equal_frequency(values: Vector, bin_num: int) -> Vector:
    """Return edges between bins of about equally many values. Equal edges become one."""
    edges: Vector = np.unique(np.quantile(values, np.arange(1, bin_num) / bin_num))
    return np.asarray(edges[edges < values.max()])  # nothing would lie beyond an edge at the maximum


def _require_large_bins(least: int, edges: Vector, *files_values: Vector) -> None:
    """Raise UnfitColumn where a bin, or the missing cells, of a file are too few rows, unless there are none."""
    counts = np.concatenate([_counts(values, edges) for values in files_values])
    if ((counts > 0) & (counts < least)).any():
        raise UnfitColumn(
            f"has a bin, or missing cells, of fewer than {least} rows, of which the operator lets nothing be revealed "
            f"(SFWORKER_MIN_BIN_ROWS); choose fewer bins or other split_points, or fill it"
        )


def _shares(values: Vector, inner_edges: Vector) -> Vector:
    """Return the share of each bin in all rows, as `_counts` counts them."""
    return _counts(values, inner_edges) / len(values)


def _counts(values: Vector, inner_edges: Vector) -> npt.NDArray[np.int64]:
    """Return the rows of each bin and, last, of missing cells. A value on an edge belongs to its left."""
    known = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(inner_edges, known, side="left"), minlength=len(inner_edges) + 1)
    return np.append(counts, len(values) - len(known))
