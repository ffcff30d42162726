"""`table_statistics` and `population_stability`: plain NumPy and Arrow at each party, on its own columns."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

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
from sfworker.runtime import aligned, tables
from sfworker.runtime.context import JobContext
from sfworker.runtime.task_dispatcher import TaskDispatcher

Vector = npt.NDArray[np.float64]
_KINDS = {type_: name for name, type_ in tables.TYPES.items()}
_LEAST_SHARE = 1e-3
"""Of a bin, in the logarithm: an empty one would make the index infinite."""


@TaskDispatcher.register_task("table_statistics")
def table_statistics(context: JobContext[TableStatisticsParams]) -> TableStatisticsResult | None:
    """Describe. Only the first party learns other parties' figures, which are the result."""
    described = {
        party: {
            name: to_builtins(_described(f"task_config.input_paths.{party}", name, column, context.params.statistics))
            for name, column in _table(context, party).items()
        }
        for party in filter(context.is_local, context.params.input_paths)
    }
    told = aligned.gather(context, context.parties[0], context.params.input_paths, described)
    return convert({"statistics": told}, TableStatisticsResult) if told else None


@TaskDispatcher.register_task("population_stability")
def population_stability(context: JobContext[PopulationStabilityParams]) -> PopulationStabilityResult | None:
    """Compare. Only the first party learns other parties' figures, which are the result."""
    compared = {
        party: {name: to_builtins(stability) for name, stability in _compared(context, party).items()}
        for party in filter(context.is_local, context.params.input_paths)
    }
    told = aligned.gather(context, context.parties[0], context.params.input_paths, compared)
    return convert({"stability": told}, PopulationStabilityResult) if told else None


def statistics(values: Vector) -> dict[str, float]:
    """Figures of one column's values, none missing, as pandas defines them; without those it has no value for."""
    count = len(values)
    if not count:
        return {}
    mean = float(values.mean())
    centred = values - mean
    q1, q2, q3 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    found = {"min": float(values.min()), "max": float(values.max()), "mean": mean, "sum": float(values.sum())}
    found |= {"q1": q1, "q2": q2, "q3": q3}
    with np.errstate(over="ignore"):  # a power that is no number any more is none in the result
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
    """Skewness and kurtosis without bias; 0 of a constant column, as in pandas."""
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
    """The index of `test` against `base`; NaN is a missing cell."""
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


def _described(field: str, name: str, column: pa.ChunkedArray, wanted: Collection[str] | None) -> ColumnStatistics:
    values = column.drop_null()
    total, count = len(column), len(values)
    kind = _KINDS[column.type]
    found: dict[str, float] = {
        "count_na": total - count,
        "na_ratio": (total - count) / total,
        "nunique": pc.count_distinct(values).as_py(),
    }
    if kind in {"int", "float"}:
        numbers = values.to_numpy().astype(np.float64)
        if not np.isfinite(numbers).all():
            raise InputDataError(f"{field}: column {name!r} holds an infinite number; correct the file")
        found |= statistics(numbers)
    chosen = {key: value for key, value in found.items() if wanted is None or key in wanted}
    return convert({"datatype": kind, "total_count": total, "count": count, **chosen}, ColumnStatistics)


def _table(context: JobContext[TableStatisticsParams], party: str) -> dict[str, pa.ChunkedArray]:
    """A local party's columns by name, NaN as missing."""
    params, field = context.params, f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", params.input_paths[party])
    columns = aligned.features(context, party, tables.header(field, path))
    types = params.column_types.get(party, {})
    tables.require_columns(f"task_config.column_types.{party}", columns, list(types))
    table = tables.typed(field, path, columns, types)
    return {name: _without_nan(table.column(name)) for name in columns}


def _compared(context: JobContext[PopulationStabilityParams], party: str) -> dict[str, Stability]:
    params = context.params
    base_path = context.input_file(party, "input_paths", params.input_paths[party])
    test_path = context.input_file(party, "test_paths", params.test_paths[party])
    fields = f"task_config.input_paths.{party}", f"task_config.test_paths.{party}"
    columns = aligned.features(context, party, tables.header(fields[0], base_path))
    split_points = params.split_points.get(party, {})
    tables.require_columns(f"task_config.split_points.{party}", columns, list(split_points))
    for column in columns:
        if column not in tables.header(fields[1], test_path):
            raise InputDataError(f"{fields[1]}: the file has no column {column!r}, which the base has")
    types = dict.fromkeys(columns, "float")
    base, test = (
        tables.typed(field, path, columns, types) for field, path in zip(fields, (base_path, test_path), strict=True)
    )
    found = {}
    for name in columns:
        base_values, test_values = (
            _finite(field, name, table.column(name)) for field, table in zip(fields, (base, test), strict=True)
        )
        known = base_values[~np.isnan(base_values)]
        if not len(known):
            raise InputDataError(f"{fields[0]}: column {name!r} has no value at all; leave the column out")
        edges = np.array(split_points[name]) if name in split_points else _equal_frequency(known, params.bin_num)
        found[name] = stability(base_values, test_values, edges)
    return found


def _equal_frequency(values: Vector, bin_num: int) -> Vector:
    """Edges between bins of about equally many values; equal ones are one edge."""
    edges: Vector = np.unique(np.quantile(values, np.arange(1, bin_num) / bin_num))
    return np.asarray(edges[edges < values.max()])


def _shares(values: Vector, inner_edges: Vector) -> Vector:
    """Share of each bin and, last, of missing cells in all rows. A value on an edge is in the bin to its left."""
    known = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(inner_edges, known, side="left"), minlength=len(inner_edges) + 1)
    return np.append(counts, len(values) - len(known)) / len(values)


def _finite(field: str, name: str, column: pa.ChunkedArray) -> Vector:
    """Values as NumPy has them, NaN for a missing one. Raises InputDataError naming the row of an infinite one."""
    values: Vector = column.to_numpy()
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite)) + 1
        raise InputDataError(f"{field}: column {name!r} holds no finite number in row {row}; correct the file")
    return values


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.type != pa.float64():
        return column
    return pc.if_else(pc.fill_null(pc.is_nan(column), True), pa.scalar(None, pa.float64()), column)
