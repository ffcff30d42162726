"""Implements `feature_filter`, `condition_filter`, `sample` and `train_test_split`. Runs in party processes.

One party, the one with the column where there is one, chooses rows by their number and tells the others. So all take
the same rows, whatever their versions of NumPy draw.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn import model_selection

from sfworker import limits
from sfworker.catalog import ColumnRef
from sfworker.catalog.preprocessing import Value
from sfworker.catalog.rows import (
    Condition,
    ConditionFilterParams,
    ConditionFilterResult,
    FeatureFilterParams,
    FeatureFilterResult,
    SampleParams,
    SampleResult,
    TrainTestSplitParams,
    TrainTestSplitResult,
)
from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.tables import aligned, files, own_tables
from sfworker.tables.own_tables import OwnTable
from sfworker.tables.taking import RowNumbers, taken

_COMPARE: dict[str, Callable[[pa.ChunkedArray, pa.Scalar], pa.ChunkedArray]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@TaskDispatcher.register_task("feature_filter")
def feature_filter(context: JobContext[FeatureFilterParams]) -> FeatureFilterResult | None:
    """Filter columns. No party learns anything of another's."""
    params = context.params
    for party, table in own_tables.local_tables(context).items():
        dropped = params.drop.get(party, [])
        kept = params.keep.get(party) or [name for name in table.names if name not in dropped]
        files.require_columns(f"task_config.keep.{party}", table.names, kept)
        files.require_columns(f"task_config.drop.{party}", table.names, dropped)
        if not kept:
            raise InputDataError(f"task_config.drop.{party}: leaves no column; drop fewer")
        output = context.output(party, "output_paths", params.output_paths[party])
        tables = table.followed(table.untouched(kept, output), 0.0, 1.0)
        files.write_all(f"task_config.output_paths.{party}", output, tables)
    return FeatureFilterResult(output_paths=params.output_paths) if context.is_speaker else None


@TaskDispatcher.register_task("condition_filter")
def condition_filter(context: JobContext[ConditionFilterParams]) -> ConditionFilterResult | None:
    """Filter rows. Every party learns the numbers of those that satisfy the condition."""
    params, condition = context.params, context.params.condition

    def choose(table: OwnTable, rows: int) -> list[RowNumbers]:
        chosen = np.flatnonzero(_satisfied(table, condition))
        least = max(1, context.floors.group_rows)
        if len(chosen) < least:
            few = "" if least == 1 else f", or fewer than {least} (SFWORKER_MIN_GROUP_ROWS) do"
            raise InputDataError(f"task_config.condition: no row satisfies it{few}; choose another value")
        if 0 < rows - len(chosen) < least:  # the others learn which do not, too
            raise InputDataError(
                f"task_config.condition: fewer than {least} rows do not satisfy it (SFWORKER_MIN_GROUP_ROWS); choose "
                f"another value"
            )
        return [chosen]

    rows, [kept] = _write_chosen(context, condition, choose, {"output_paths": params.output_paths})
    if not context.is_speaker:
        return None
    return ConditionFilterResult(rows=kept, input_rows=rows, output_paths=params.output_paths)


@TaskDispatcher.register_task("sample")
def sample(context: JobContext[SampleParams]) -> SampleResult | None:
    """Choose rows. Every party learns the numbers of the chosen ones."""
    params = context.params

    def choose(table: OwnTable, rows: int) -> list[RowNumbers]:
        strata = _strata(context, table, params.stratify)
        smallest = rows if strata is None else int(np.bincount(strata).min())
        if params.n is not None and params.n > smallest and not params.replace:
            raise InputDataError("task_config.n: is more than there are rows, or rows of each value; choose fewer")
        _require_room(params, rows, 1 if strata is None else int(strata.max()) + 1)
        numbers = pd.Series(np.arange(rows))
        among = numbers if strata is None else numbers.groupby(strata)
        chosen = among.sample(n=params.n, frac=params.frac, replace=params.replace, random_state=_chance(params))
        if not len(chosen):
            raise InputDataError("task_config.frac: is less than one row; choose more")
        # Sorted, because the order of the values of `stratify` would tell the others more than which rows they are.
        return [np.sort(chosen.to_numpy())]

    rows, [kept] = _write_chosen(context, params.stratify, choose, {"output_paths": params.output_paths})
    if not context.is_speaker:
        return None
    return SampleResult(rows=kept, input_rows=rows, output_paths=params.output_paths)


@TaskDispatcher.register_task("train_test_split")
def train_test_split(context: JobContext[TrainTestSplitParams]) -> TrainTestSplitResult | None:
    """Split rows. Every party learns the numbers of those in each part."""
    params = context.params

    def choose(table: OwnTable, rows: int) -> list[RowNumbers]:
        strata = _strata(context, table, params.stratify)
        try:
            parts: list[RowNumbers] = model_selection.train_test_split(
                np.arange(rows),
                train_size=params.train_size,
                test_size=params.test_size,
                shuffle=params.shuffle,
                random_state=_chance(params) if params.shuffle else None,
                stratify=strata,
            )
        except ValueError:
            raise InputDataError(
                "task_config.train_size: there are too few rows: each part needs one, "
                "with stratify one of each value; choose another share, or another column"
            ) from None
        return parts

    paths = {"train_paths": params.train_paths, "test_paths": params.test_paths}
    _, [train, test] = _write_chosen(context, params.stratify, choose, paths)
    if not context.is_speaker:
        return None
    return TrainTestSplitResult(train_rows=train, test_rows=test, **paths)


def _require_room(params: SampleParams, rows: int, strata: int) -> None:
    """Raise InputDataError where more rows would be chosen than an output may have."""
    asked = params.n * strata if params.n is not None else rows * (params.frac or 0.0)
    if asked > max(rows, limits.used().output_rows):
        name = "frac" if params.n is None else "n"
        raise limits.refusal(f"task_config.{name}", "the sample", "output_rows", "choose fewer rows")


def _write_chosen(
    context: JobContext[Any],
    column: ColumnRef | None,
    choose: Callable[[OwnTable, int], list[RowNumbers]],
    paths: dict[str, dict[str, str]],
) -> tuple[int, list[int]]:
    """Write the rows that `choose` names at every party, one output of `paths` (by field, by party) for each part.

    The party of `column` chooses, or the first that has an input. Reveals its number of rows and the chosen ones to
    every party. Returns the number of rows in the input and in each part. Raises InputDataError.
    """
    own = own_tables.local_tables(context)
    chooser = own_tables.with_input(context)[0] if column is None else column.party
    outputs = {
        party: {field: context.output(party, field, by_party[party]) for field, by_party in paths.items()}
        for party in own
    }
    whole = {party: table.untouched(table.names, *outputs[party].values()) for party, table in own.items()}
    counts = {party: sum(table.num_rows for table in tables()) for party, tables in whole.items()}

    def chosen() -> list[Any]:
        rows = counts[chooser]
        context.require_rows(own[chooser].field, rows)
        return [rows, *(part.astype(np.uint32) for part in choose(own[chooser], rows))]

    rows, *parts = context.reveal(context.at(chooser, chosen))
    for party, tables in whole.items():
        aligned.require_same_rows([rows, counts[party]])
        for number, ((field, output), part) in enumerate(zip(outputs[party].items(), parts, strict=True)):
            source = own[party].followed(tables, number / len(parts), (number + 1) / len(parts))
            found = taken(own[party].field, own[party].path, source, part, context.scratch)
            files.write_all(f"task_config.{field}.{party}", output, found)
    return rows, [len(part) for part in parts]


def _satisfied(table: OwnTable, condition: Condition) -> npt.NDArray[np.bool_]:
    """Return a mask of the rows that satisfy the condition. Raises InputDataError."""
    name, comparator, values = condition.column, condition.comparator, condition.values()
    files.require_columns("task_config.condition.column", table.names, [name])
    read_as = {str: "str", bool: "bool"}.get(type(values[0])) if values and name not in table.types else None
    column = table.typed([name], {name: read_as} if read_as else {}).column(name)
    if values and not _comparable(column, values):
        raise InputDataError(
            f"task_config.condition.value: is of another type than column {name!r}; "
            f"name a value of its type, or another type in column_types"
        )
    if any(isinstance(value, float) for value in values):
        column = column.cast(pa.float64(), safe=False)
    satisfied = _compare(column, comparator, [pa.scalar(value, column.type) for value in values])
    # A missing cell differs from every value and satisfies no other comparison.
    found: npt.NDArray[np.bool_] = pc.fill_null(satisfied, comparator == "!=").to_numpy()
    return found


def _compare(column: pa.ChunkedArray, comparator: str, values: list[pa.Scalar]) -> pa.ChunkedArray:
    """Compare each cell. A missing cell gives null, except for `is_null` and `not_null`."""
    if comparator == "is_null":
        return column.is_null()
    if comparator == "not_null":
        return column.is_valid()
    if comparator == "in":
        return pc.is_in(column, value_set=pa.array([value.as_py() for value in values], column.type))
    if comparator == "between":
        return pc.and_(pc.greater_equal(column, values[0]), pc.less_equal(column, values[1]))
    return _COMPARE[comparator](column, values[0])


def _comparable(column: pa.ChunkedArray, values: list[Value]) -> bool:
    if pa.types.is_string(column.type):
        return isinstance(values[0], str)
    if pa.types.is_boolean(column.type):
        return isinstance(values[0], bool)
    return isinstance(values[0], int | float) and not isinstance(values[0], bool)


def _strata(context: JobContext[Any], table: OwnTable, stratify: ColumnRef | None) -> npt.NDArray[np.int64] | None:
    """Return the number of each row's value among the sorted values of a column, None where there is no column.

    Raises InputDataError, also where a value is in fewer rows than a group may have: how often rows are chosen may tell
    which they are.
    """
    if stratify is None:
        return None
    files.require_columns("task_config.stratify.column", table.names, [stratify.column])
    column = table.typed([stratify.column]).column(0)
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py() + 1
        raise InputDataError(
            f"{table.field}: column {stratify.column!r} has no value in row {row}; fill it or remove the row"
        )
    encoded = column.combine_chunks().dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    strata: npt.NDArray[np.int64] = rank[encoded.indices.to_numpy()]
    least = context.floors.group_rows
    if least and np.bincount(strata).min(initial=least) < least:
        raise InputDataError(
            f"task_config.stratify: column {stratify.column!r} has a value in fewer than {least} rows, of which the "
            f"operator lets nothing be revealed (SFWORKER_MIN_GROUP_ROWS); group its values, or leave stratify out"
        )
    return strata


def _chance(params: SampleParams | TrainTestSplitParams) -> np.random.RandomState:
    """Return a generator with the job's seed, or with one that nobody can guess."""
    if params.random_state is not None:
        return np.random.RandomState(params.random_state)
    # NumPy's own state came with the fork, and processes that other jobs run in have it, too.
    return np.random.RandomState([secrets.randbits(32) for _ in range(8)])
