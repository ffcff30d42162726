"""Implements `groupby_statistics`, figures of one party's columns by another party's groups. Runs in party processes.

The party of the keys gives the SPU one column of zeros and ones per group, and the owner of the values gives it those,
as whole numbers in several digits, whose sums are exact whatever the magnitudes in a column are. Only figures of whole
groups are opened, to that owner, which brings them to their units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pandas as pd
from msgspec import convert

from sfworker.catalog.statistics import GroupbyStatisticsParams, GroupbyStatisticsResult
from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.secure.secret_matrices import blocks, product, summed
from sfworker.session.arithmetic import require_wide_field
from sfworker.tables import aligned, files
from sfworker.tables.files import Matrix
from sfworker.tables.own_tables import OwnTable

COMPARED_CELLS = 100_000
"""Cells (rows x groups x columns) that are compared at a time, which takes far more memory than multiplying."""

DIGITS, DIGIT_BITS = 4, 32
"""Digits of a value, relative to the largest of its column. Sums of 2**31 rows' digits fit into 64 bits."""
SPREAD = 2.0 ** (53 - DIGITS * DIGIT_BITS)
"""Smallest share of a column's largest value that keeps all bits it has."""

Whole = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class _Groups:
    """The groups that are not too small, at the party of the keys."""

    codes: Whole
    """Number of each row's group, -1 for none."""
    keys: list[list[Any]]
    counts: Whole
    suppressed: int


class _Values:
    """An owner's columns of values, and the digits and ranks that are computed with. Exists at that owner only."""

    def __init__(self, names: Sequence[str], columns: Matrix, aggregations: Sequence[str]) -> None:
        self.columns, self._aggregations = columns, aggregations
        largest = np.maximum(columns.max(axis=0), -columns.min(axis=0))
        self._exponents = np.frexp(largest)[1]
        smallest = [np.min(np.abs(column), where=column != 0, initial=np.inf) for column in columns.T]
        self.wide = [name for name, each in zip(names, smallest < largest * SPREAD, strict=True) if each]
        """Columns with values so far apart that the smallest ones are rounded."""
        self._directions = [name for name in ("max", "min") if name in aggregations]
        # The different values of a column are not kept beside it, as they may be as many.
        self._places = np.empty(columns.shape, dtype=np.int32)
        self._different: list[int] = []
        for index in range(columns.shape[1] if self._directions else 0):
            different, self._places[:, index] = np.unique(columns[:, index], return_inverse=True)
            self._different.append(len(different))

    def ranks(self, rows: slice) -> Whole:
        """Return the ranks of some rows' values by direction and column.

        They begin with 1 and are exact. A group's highest tells its maximum and, counted backwards, its minimum.
        """
        places = self._places[rows].astype(np.int64)
        return np.concatenate(
            [places + 1 if name == "max" else self._different - places for name in self._directions], axis=1
        )

    def digits(self, rows: slice) -> Whole:
        """Return the digits of each value and, if needed, of its square, beside each other, the highest first."""
        rest = np.ldexp(np.abs(self.columns[rows]), -self._exponents)
        digits = np.empty((*rest.shape, DIGITS), dtype=np.int64)
        for place in range(DIGITS):
            rest, whole = np.modf(np.ldexp(rest, DIGIT_BITS))
            digits[:, :, place] = whole
        signed = digits * np.where(self.columns[rows] < 0, -1, 1)[:, :, np.newaxis]
        parts = [signed, _squared(digits)] if "var" in self._aggregations else [signed]
        return np.concatenate([part.reshape(len(rest), -1) for part in parts], axis=1)

    def figures(self, counts: Whole, sums: Whole | None, highest: Whole | None) -> dict[str, Any]:
        """Return each aggregation by group and column, from the sums of `digits` and the highest of `ranks`."""
        found: dict[str, Any] = {}
        if sums is not None:
            columns = self.columns.shape[1]
            firsts = _whole_numbers(sums[:, : columns * DIGITS], columns)
            seconds = _whole_numbers(sums[:, columns * DIGITS :], columns)
            wanted = [name for name in ("sum", "mean", "var") if name in self._aggregations]
            found = {name: self._from_sums(name, counts.tolist(), firsts, seconds) for name in wanted}
        if highest is not None:
            found |= self._extremes(highest)
        return {name: found[name] for name in self._aggregations}

    def _extremes(self, highest: Whole) -> dict[str, Any]:
        ranks = highest.reshape(len(highest), len(self._directions), -1)
        extremes = np.empty((len(self._directions), *ranks[:, 0].shape))
        for index, count in enumerate(self._different):
            values = np.empty(count)
            values[self._places[:, index]] = self.columns[:, index]
            for place, name in enumerate(self._directions):
                each = ranks[:, place, index]
                extremes[place, :, index] = values[each - 1 if name == "max" else count - each]
        return dict(zip(self._directions, extremes.tolist(), strict=True))

    def _from_sums(
        self, name: str, counts: list[int], firsts: list[list[int]], seconds: list[list[int]]
    ) -> list[list[float | None]]:
        """Return one aggregation by group and column from the exact sums of the values and of their squares."""
        units = [exponent - DIGITS * DIGIT_BITS for exponent in self._exponents.tolist()]
        if name == "sum":
            rows = [[(first, 1) for first in row] for row in firsts]
        elif name == "mean":
            rows = [[(first, count) for first in row] for count, row in zip(counts, firsts, strict=True)]
        else:
            units = [2 * unit for unit in units]
            rows = [
                [
                    (count * second - first * first, count * (count - 1))
                    for first, second in zip(first_row, second_row, strict=True)
                ]
                for count, first_row, second_row in zip(counts, firsts, seconds, strict=True)
            ]
        return [[_ratio(*each, unit) for each, unit in zip(row, units, strict=True)] for row in rows]


@TaskDispatcher.register_task("groupby_statistics")
def groupby_statistics(context: JobContext[GroupbyStatisticsParams]) -> GroupbyStatisticsResult | None:
    """Aggregate values. Owners learn their own figures and the groups' sizes, and the keys' party all figures."""
    params = context.params
    require_wide_field(context.spu, "as exact sums take 64 bits")
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
    wide = {party: each.wide for party, each in values.items()}
    wide = aligned.gather(context, owner, params.values, wide)
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
    warnings = [
        f"column {column!r} of {party} holds numbers more than 1e22 times apart; figures of groups of small ones are "
        f"rounded"
        for party, names in wide.items()
        for column in names
    ]
    return convert(
        {"by": columns, "groups": found, "suppressed_groups": groups.suppressed, "warnings": warnings},
        GroupbyStatisticsResult,
    )


def _groups(context: JobContext[GroupbyStatisticsParams], party: str) -> _Groups:
    """Read the key columns of a local party and number their groups. Raises InputDataError."""
    params, field = context.params, f"task_config.input_paths.{party}"
    path = context.input_file(party, "input_paths", params.input_paths[party])
    names, columns, types = files.header(field, path), params.by[party], params.column_types.get(party, {})
    files.require_columns(f"task_config.by.{party}", names, columns)
    files.require_columns(f"task_config.column_types.{party}", columns, list(types))
    read = OwnTable(party, field, path, names, types).each_column(columns)
    encoded = [column.combine_chunks().dictionary_encode() for _, column in read]
    rows = len(encoded[0])
    context.require_rows(field, rows)
    codes = np.zeros(rows, dtype=np.int64)
    missing = np.zeros(rows, dtype=bool)
    for column in encoded:
        order = np.argsort(column.dictionary.to_numpy(zero_copy_only=False), kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        indices = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
        missing |= column.is_null().to_numpy(zero_copy_only=False)
        codes *= max(1, len(order))
        codes += place[indices] if len(order) else 0
        codes = pd.factorize(codes, sort=True)[0]  # renumbered, so that the next product stays small
    codes[missing] = -1
    first = np.flatnonzero(~pd.Series(codes).duplicated())
    first = first[np.argsort(codes[first])]
    found, counts = codes[first], np.bincount(codes + 1)
    counts = counts[found + 1]
    least = max(params.min_group_size, context.floors.group_rows)
    large = (found >= 0) & (counts >= least)
    if context.floors.group_rows and not large.any():
        raise InputDataError(
            f"task_config.by.{party}: makes no group of {least} rows (min_group_size and SFWORKER_MIN_GROUP_ROWS); "
            f"name columns that make larger groups"
        )
    if large.sum() > params.max_groups:
        raise InputDataError(
            f"task_config.by.{party}: makes more groups than max_groups; name coarser columns or raise max_groups"
        )
    renumbered = np.full(found[-1] + 2, -1, dtype=np.int32)  # the last one stands for -1, too
    renumbered[found[large]] = np.arange(large.sum())
    keys = [[*key] for key in zip(*(column.take(first[large]).to_pylist() for column in encoded), strict=True)]
    return _Groups(renumbered[codes], keys, counts[large], int(((found >= 0) & ~large).sum()))


def _values(context: JobContext[GroupbyStatisticsParams], party: str) -> _Values:
    """Read the value columns of a local party. Raises InputDataError."""
    field, columns = f"task_config.input_paths.{party}", context.params.values[party]
    path = context.input_file(party, "input_paths", context.params.input_paths[party])
    files.require_columns(f"task_config.values.{party}", files.header(field, path), columns)
    numbers = files.numbers(field, path, columns)
    context.require_rows(field, len(numbers))
    return _Values(columns, numbers, context.params.aggregations)


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
        sums = _summed(groups, values) if wants_sums else None
        return values.figures(groups.counts, sums, _highest(groups, values) if wants_extremes else None)
    counts = aligned.gather(context, party, [owner], {owner: groups and groups.counts})
    columns, there = len(context.params.values[party]), context.pyu(party)
    sums = highest = None

    def block(rows: slice, take: Callable[[_Values | None, slice], Whole | None]) -> list[Any]:
        members, taken = context.at(owner, _members, groups, rows), context.at(party, take, values, rows)
        return [members.to(context.spu), taken.to(context.spu)]

    with aligned.double_precision(context, party):
        if wants_sums:
            # A digit takes several times the memory of a zero or one.
            added = summed(
                context,
                blocks(rows, max(group_count, 12 * DIGITS * columns)),
                lambda each: context.spu(product)(*block(each, _digits)),
            )
            carried = context.spu(_carried, static_argnames=("columns",))(added, columns=columns)
            sums = context.value_at(party, carried.to(there))
        if wants_extremes:
            highest = context.value_at(
                party,
                summed(
                    context,
                    blocks(rows, group_count * 2 * columns, COMPARED_CELLS),
                    lambda each: context.spu(_compared)(*block(each, _ranks)),
                    jnp.maximum,
                ).to(there),
            )
    return None if values is None else values.figures(counts[owner], sums, highest)


def _count(groups: _Groups | None) -> int | None:
    return None if groups is None else len(groups.counts)


def _members(groups: _Groups | None, rows: slice) -> Whole | None:
    """Return a column of zeros and ones for each group. Some rows at a time, as all are far larger than the file."""
    if groups is None:
        return None
    return np.equal.outer(groups.codes[rows], np.arange(len(groups.counts))).astype(np.int64)


def _digits(values: _Values | None, rows: slice) -> Whole | None:
    return None if values is None else values.digits(rows)


def _ranks(values: _Values | None, rows: slice) -> Whole | None:
    return None if values is None else values.ranks(rows)


def _compared(members: Any, ranks: Any) -> Any:
    # A maximum starts at the least number of its type, whose distance from a rank has to fit into the field.
    of_groups = members[:, :, jnp.newaxis] * ranks[:, jnp.newaxis, :]
    return jnp.max(of_groups.astype(jnp.int32), axis=0)


def _carried(sums: Any, columns: int) -> Any:
    """Carry what each digit's sum has beyond a digit, so that sums of whole values are opened, not of single digits."""
    first, second = sums[:, : columns * DIGITS], sums[:, columns * DIGITS :]
    parts = []
    for part, digits in ((first, DIGITS), (second, 2 * DIGITS)):
        if not part.shape[1]:
            continue
        places = jnp.reshape(part, (-1, columns, digits))
        carried: list[Any] = []
        carry: Any = 0
        for place in range(digits - 1, 0, -1):
            here = places[:, :, place] + carry
            carry = here >> DIGIT_BITS
            carried.append(here - (carry << DIGIT_BITS))
        carried.append(places[:, :, 0] + carry)
        parts.append(jnp.reshape(jnp.stack(carried[::-1], axis=2), (-1, columns * digits)))
    return jnp.concatenate(parts, axis=1)


def _squared(digits: Whole) -> Whole:
    """Return twice as many digits, those of the squares."""
    half, mask = DIGIT_BITS // 2, (1 << DIGIT_BITS // 2) - 1
    halves = [part for place in range(DIGITS) for part in (digits[..., place] >> half, digits[..., place] & mask)]
    found: list[Whole] = []
    carry: Any = 0
    # Products of half digits fit into 64 bits. The lowest place comes first.
    for place in range(2 * len(halves) - 2, -1, -1):
        pairs = range(max(0, place - len(halves) + 1), min(place, len(halves) - 1) + 1)
        here = carry + sum(halves[left] * halves[place - left] for left in pairs)
        found.append(here & mask)
        carry = here >> half
    found.append(carry)
    return np.stack([high << half | low for low, high in zip(found[::2], found[1::2], strict=True)][::-1], axis=-1)


def _whole_numbers(sums: Whole, columns: int) -> list[list[int]]:
    """Return the whole number of each group and column from the sums of its digits."""
    digits = sums.shape[1] // columns
    places = sums.reshape(len(sums), columns, digits).astype(object)
    found: list[list[int]] = sum(
        (places[:, :, place] << DIGIT_BITS * (digits - 1 - place) for place in range(digits)),
        np.zeros(places.shape[:2], dtype=object),
    ).tolist()
    return found


def _ratio(numerator: int, denominator: int, exponent: int) -> float | None:
    """Return the number nearest to numerator / denominator * 2**exponent, None where there is none."""
    try:
        return math.ldexp(numerator / denominator, exponent)
    except (OverflowError, ZeroDivisionError):
        return None


def _summed(groups: _Groups, values: _Values) -> Whole:
    """Add up per group as `product` does, where groups and values are of the same party."""
    width = 3 * DIGITS * values.columns.shape[1]
    found = np.zeros((len(groups.counts), width), dtype=np.int64)
    for rows in blocks(len(groups.codes), width):
        codes, digits = groups.codes[rows], values.digits(rows)
        inside = codes >= 0
        np.add.at(found[:, : digits.shape[1]], codes[inside], digits[inside])
    return found


def _highest(groups: _Groups, values: _Values) -> Whole:
    """Find the highest ranks as `_compared` does, where groups and values are of the same party."""
    width = 2 * values.columns.shape[1]
    found = np.zeros((len(groups.counts), values.ranks(slice(0)).shape[1]), dtype=np.int64)
    for rows in blocks(len(groups.codes), width):
        codes, ranks = groups.codes[rows], values.ranks(rows)
        inside = codes >= 0
        np.maximum.at(found, codes[inside], ranks[inside])
    return found
