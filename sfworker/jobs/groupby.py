"""Implements `groupby_statistics`, figures of one party's columns by another party's groups. Runs in party processes.

The party of the keys gives the SPU one column of zeros and ones per group, and the owner of the values gives it those.
Only figures of whole groups are opened, to that owner, which brings them to their units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from msgspec import convert

from sfworker.catalog.statistics import GroupbyStatisticsParams, GroupbyStatisticsResult
from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.secure.secret_matrices import blocks, double_precision, product, summed
from sfworker.tables import aligned, files
from sfworker.tables.files import Matrix
from sfworker.tables.own_tables import OwnTable

COMPARED_CELLS = 100_000
"""Cells (rows x groups x columns) that are compared at a time, which takes far more memory than multiplying."""

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Groups:
    """The groups that are not too small, at the party of the keys."""

    codes: Whole
    """Number of each row's group, -1 for none."""
    keys: list[list[Any]]
    counts: Whole
    suppressed: int


class _Values:
    """An owner's columns of values, and the addends and ranks that are computed with. Exists at that owner only."""

    def __init__(self, columns: Matrix, aggregations: Sequence[str]) -> None:
        self.columns, self._aggregations = columns, aggregations
        self._mean, self._root = columns.mean(axis=0), len(columns) ** 0.5
        deviation = columns.std(axis=0)
        self._deviation = np.where(deviation > 0, deviation, 1.0)
        # Divided by the root of the number of rows, sums stay far below what the SPU's field can hold.
        standard = (columns - self._mean) / self._deviation / self._root
        powers = [standard, np.square(standard) * self._root] if "var" in aggregations else [standard]
        self.addends = np.concatenate(powers, axis=1)
        """Columns to be added up per group, which are the values and, if needed, their squares."""
        self._directions = [name for name in ("max", "min") if name in aggregations]
        found = [np.unique(column, return_inverse=True) for column in columns.T] if self._directions else []
        self._distinct = [values for values, _ in found]
        ranks = [
            places + 1 if name == "max" else len(distinct) - places
            for name in self._directions
            for distinct, places in found
        ]
        self.ranks = np.array(ranks, dtype=np.int64).reshape(len(ranks), len(columns)).T
        """Ranks from 1 on, which are exact. A group's highest tells its maximum and, counted backwards, its minimum."""

    def figures(self, counts: Whole, sums: Matrix | None, highest: Whole | None) -> dict[str, Any]:
        """Return each aggregation by group and column, from the sums of `addends` and the highest of `ranks`."""
        size = counts[:, np.newaxis].astype(np.float64)
        found: dict[str, Matrix] = {}
        if sums is not None:
            first, *second = np.split(sums * self._root, sums.shape[1] // self.columns.shape[1], axis=1)
            found["sum"] = self._mean * size + self._deviation * first
            found["mean"] = self._mean + self._deviation * first / size
            for each in second:
                # Rounding may bring the difference below 0.
                spread = np.maximum(each - np.square(first) / size, 0.0)
                found["var"] = np.square(self._deviation) * spread / np.where(size > 1, size - 1, np.nan)
        if highest is not None:
            for name, ranks in zip(self._directions, np.split(highest, len(self._directions), axis=1), strict=True):
                pairs = zip(self._distinct, ranks.T, strict=True)
                extremes = [of[each - 1] if name == "max" else of[len(of) - each] for of, each in pairs]
                found[name] = np.stack(extremes, axis=1)
        return {
            name: [[None if np.isnan(each) else each for each in row] for row in found[name].tolist()]
            for name in self._aggregations
        }


@TaskDispatcher.register_task("groupby_statistics")
def groupby_statistics(context: JobContext[GroupbyStatisticsParams]) -> GroupbyStatisticsResult | None:
    """Aggregate values. Owners learn their own figures and the groups' sizes, and the keys' party all figures."""
    params = context.params
    [(owner, columns)] = params.by.items()
    groups = _groups(context, owner) if context.is_local(owner) else None
    values = {party: _values(context, party) for party in params.values if context.is_local(party)}
    held: dict[str, Any] = {party: each.columns for party, each in values.items()}
    if groups is not None and owner not in params.values:
        held[owner] = groups.codes[:, np.newaxis]  # only to compare the numbers of rows
    involved = [party for party in context.parties if party in params.values or party == owner]
    rows = aligned.shape(context, held, involved).rows
    group_count: int = context.reveal(context.at(owner, _count, groups))
    told: dict[str, Any] = {}
    for party in params.values if group_count else ():
        figures = _of_party(context, owner, party, groups, values.get(party), rows, group_count)
        told |= aligned.gather(context, owner, [party], {party: figures})
    if groups is None:
        return None
    found = [
        {
            "keys": keys,
            "count": count,
            "values": {
                party: {
                    column: {name: figures[name][number][index] for name in params.aggregations}
                    for index, column in enumerate(params.values[party])
                }
                for party, figures in told.items()
            },
        }
        for number, (keys, count) in enumerate(zip(groups.keys, groups.counts.tolist(), strict=True))
    ]
    return convert({"by": columns, "groups": found, "suppressed_groups": groups.suppressed}, GroupbyStatisticsResult)


def _groups(context: JobContext[GroupbyStatisticsParams], party: str) -> _Groups:
    """Read the key columns of a local party and number their groups. Raises InputDataError."""
    params, field = context.params, f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", params.input_paths[party])
    names, columns, types = files.header(field, path), params.by[party], params.column_types.get(party, {})
    files.require_columns(f"task_config.by.{party}", names, columns)
    files.require_columns(f"task_config.column_types.{party}", columns, list(types))
    table = OwnTable(party, field, path, names, types).typed(columns)
    codes = np.zeros(table.num_rows, dtype=np.int64)
    missing = np.zeros(table.num_rows, dtype=bool)
    for name in columns:
        encoded = table.column(name).combine_chunks().dictionary_encode()
        order = np.argsort(encoded.dictionary.to_numpy(zero_copy_only=False), kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        missing |= encoded.is_null().to_numpy(zero_copy_only=False)
        combined = codes * max(1, len(order)) + (place[indices] if len(order) else 0)
        codes = np.unique(combined, return_inverse=True)[1]  # renumbered, so that the next product stays small
    codes[missing] = -1
    found, first, counts = np.unique(codes, return_index=True, return_counts=True)
    large = (found >= 0) & (counts >= params.min_group_size)
    if large.sum() > params.max_groups:
        raise InputDataError(
            f"task_config.by.{party}: makes more groups than max_groups; name coarser columns or raise max_groups"
        )
    renumbered = np.full(len(codes) + 1, -1)  # the last one stands for -1, too
    renumbered[found[large]] = np.arange(large.sum())
    keys = [list(row.values()) for row in table.take(first[large]).to_pylist()]
    return _Groups(renumbered[codes], keys, counts[large], int(((found >= 0) & ~large).sum()))


def _values(context: JobContext[GroupbyStatisticsParams], party: str) -> _Values:
    """Read the value columns of a local party. Raises InputDataError."""
    field, columns = f"task_config.input_paths.{party}", context.params.values[party]
    path = context.input_file(party, "input_paths", context.params.input_paths[party])
    files.require_columns(f"task_config.values.{party}", files.header(field, path), columns)
    return _Values(files.numbers(field, path, columns), context.params.aggregations)


def _of_party(
    context: JobContext[GroupbyStatisticsParams],
    owner: str,
    party: str,
    groups: _Groups | None,
    values: _Values | None,
    rows: int,
    group_count: int,
) -> dict[str, Any] | None:
    """Return one party's figures in its own process, None in others."""
    aggregations = set(context.params.aggregations)
    wants_sums, wants_extremes = bool(aggregations & {"sum", "mean", "var"}), bool(aggregations & {"min", "max"})
    if party == owner:
        if groups is None or values is None:
            return None
        sums = _summed(groups, values.addends) if wants_sums else None
        return values.figures(groups.counts, sums, _highest(groups, values.ranks) if wants_extremes else None)
    counts = aligned.gather(context, party, [owner], {owner: groups and groups.counts})
    columns, there = 2 * len(context.params.values[party]), context.pyu(party)
    sums = highest = None

    def block(rows: slice, name: str, dtype: npt.DTypeLike) -> list[Any]:
        members = context.at(owner, _members, groups, rows, dtype)
        joined = aligned.held(context, party, getattr(values, name, None), dtype, rows)
        return [members.to(context.spu), joined.to(context.spu)]

    with double_precision(context, party):
        if wants_sums:
            sums = context.value_at(
                party,
                summed(
                    context,
                    blocks(rows, max(group_count, columns)),
                    lambda each: context.spu(product)(*block(each, "addends", np.float64)),
                ).to(there),
            )
        if wants_extremes:
            highest = context.value_at(
                party,
                summed(
                    context,
                    blocks(rows, group_count * columns, COMPARED_CELLS),
                    lambda each: context.spu(_compared)(*block(each, "ranks", np.int64)),
                    jnp.maximum,
                ).to(there),
            )
    return None if values is None else values.figures(counts[owner], sums, highest)


def _count(groups: _Groups | None) -> int | None:
    return None if groups is None else len(groups.counts)


def _members(groups: _Groups | None, rows: slice, dtype: npt.DTypeLike) -> Any:
    """Return a column of zeros and ones for each group. Some rows at a time, as all are far larger than the file."""
    return None if groups is None else np.equal.outer(groups.codes[rows], np.arange(len(groups.counts))).astype(dtype)


def _compared(members: Any, ranks: Any) -> Any:
    return jnp.max(members[:, :, jnp.newaxis] * ranks[:, jnp.newaxis, :], axis=0)


def _summed(groups: _Groups, addends: Matrix) -> Matrix:
    """Add up per group as `product` does, where groups and values are of the same party."""
    inside = groups.codes >= 0
    codes, count = groups.codes[inside], len(groups.counts)
    return np.stack([np.bincount(codes, column[inside], count) for column in addends.T], axis=1)


def _highest(groups: _Groups, ranks: Whole) -> Whole:
    """Find the highest ranks as `_compared` does, where groups and values are of the same party."""
    inside = groups.codes >= 0
    found = np.zeros((len(groups.counts), ranks.shape[1]), dtype=np.int64)
    np.maximum.at(found, groups.codes[inside], ranks[inside])
    return found
