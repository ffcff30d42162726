"""Holds SecretFlow's components to the fewest rows of which anything may be revealed, and to the largest files.

Intersections of components are held to it where ours are, in `session/spu_runtime.py`. Runs in party processes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import secretflow
from pyarrow import orc
from secretflow.component.core import CompVDataFrameReader, VTable
from secretflow.component.preprocessing.binning.base import VertBinningBase
from secretflow.component.preprocessing.filter import condition_filter
from secretflow.component.preprocessing.filter.expr_condition_filter import ExprConditionFilter
from secretflow.component.stats import groupby_statistics, stats_psi
from secretflow_spec.v1.evaluation_pb2 import NodeEvalParam

from sfworker import limits
from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.wire.frames import Floors

_COUNT = "count"
_INPUTS = "task_config.node_eval_param.inputs"
_stock_groups = groupby_statistics.ordinal_encoded_groupby_value_agg_pairs
_stock_bins = stats_psi.get_bin_counts_one_feature
_stock_rules = VertBinningBase.do_evaluate


def hold(component: Any, floors: Floors) -> None:
    """Hold a component that is about to be evaluated, the only one of this process, to `floors`."""
    if hasattr(component, "min_item_cnt_per_bucket"):
        component.min_item_cnt_per_bucket = max(component.min_item_cnt_per_bucket, floors.bin_rows)
    groupby_statistics.ordinal_encoded_groupby_value_agg_pairs = functools.partial(_groups, floors.group_rows)
    stats_psi.get_bin_counts_one_feature = functools.partial(_bins, floors.bin_rows)

    def rules(component: Any, *arguments: Any, **named: Any) -> Any:
        return _rules(floors.bin_rows, component, *arguments, **named)

    VertBinningBase.do_evaluate = rules


@contextmanager
def held_filter(component: Any, offered: Any, floors: Floors) -> Iterator[None]:
    """Hold a component that splits a table's rows, if it is one, for the block. Every party learns which rows go where.

    All rows are looked at before, as it tells the others of one batch after the other.
    """
    stock = condition_filter.apply

    def apply(frame: Any, owner: Any, name: str, value: Any, compare: Callable[[Any, Any], Any]) -> Any:
        if not looked:
            looked.append(True)
            _require_parts(floors.group_rows, component, offered, [name], lambda table: compare(table[name], value))
        return stock(frame, owner, name, value, compare)

    looked: list[bool] = []
    if isinstance(component, ExprConditionFilter):
        expression = component.expr.strip()
        columns = component.parse_columns(expression) if expression else []
        _require_parts(floors.group_rows, component, offered, columns, functools.partial(_satisfied, expression))
    condition_filter.apply = apply
    try:
        yield
    finally:
        condition_filter.apply = stock


def require_size(context: JobContext[Any], param: NodeEvalParam, find: Callable[[str], Path]) -> None:
    """Raise InputDataError where this party's part of an input table has too few rows, or too many, or columns.

    `find` gives a uri's file.
    """
    most = limits.used()
    for ref in (ref for data in param.inputs if data.type.startswith("sf.table.") for ref in data.data_refs):
        if ref.party != context.self_party:
            continue
        rows, columns = _size(find(ref.uri), ref.format, most.rows)
        context.require_rows(_INPUTS, rows)
        if rows > most.rows:
            raise limits.refusal(_INPUTS, "a file", "rows", "split it")
        if columns > most.columns:
            raise limits.refusal(_INPUTS, "a file", "columns", "leave some out")


def _size(path: Path, form: str, most: int) -> tuple[int, int]:
    """Return the numbers of a file's rows, counted up to a few more than `most`, and of its columns."""
    if form == "orc":
        stripes = orc.ORCFile(path)
        return stripes.nrows, len(stripes.schema.names)
    with path.open("rb") as file:
        header = file.readline()
        file.seek(max(path.stat().st_size - 1, 0))
        is_unended = file.read() not in {b"\n", b""}
    return limits.lines(path, most) - 1 + is_unended, header.count(b",") + 1


def _satisfied(expression: str, duck_input_table: pa.Table) -> pa.ChunkedArray:
    with duckdb.connect() as connection:  # which finds the table by its name
        return connection.execute(f"SELECT ({expression}) FROM duck_input_table").arrow().column(0)  # noqa: S608 - as SecretFlow


def _require_parts(
    least: int, component: Any, offered: Any, columns: list[str], satisfied: Callable[[pa.Table], pa.ChunkedArray]
) -> None:
    """Raise InputDataError where some rows, but fewer than `least`, satisfy a condition or do not."""
    table = VTable.from_distdata(component.input_ds, columns=columns) if least and columns else None
    if table is None or len(table.parties) != 1:  # the component refuses it
        return
    owner = secretflow.PYU(next(iter(table.parties)))

    def count(part: pa.Table) -> tuple[int, int]:
        kept = pc.sum(pc.fill_null(satisfied(part).cast(pa.bool_()), False)).as_py() or 0
        return kept, part.num_rows - kept

    def require(*counts: tuple[int, int]) -> None:
        if any(0 < sum(part) < least for part in zip(*counts, strict=True)):
            raise InputDataError(
                f"task_config.node_eval_param: fewer than {least} rows satisfy the condition, or do not "
                f"(SFWORKER_MIN_GROUP_ROWS); choose another one"
            )

    with CompVDataFrameReader(offered.storage, offered.tracer, table) as reader:
        counts = [owner(count)(batch.data(owner)) for batch in reader]
    secretflow.wait([owner(require)(*counts)])


def _groups(least: int, frame: Any, by: list[str], pairs: list[tuple[str, str]], *others: Any) -> dict[Any, Any]:
    """Aggregate as SecretFlow does, without groups of fewer than `least` rows.

    Raises InputDataError where no group is left.

    Every party learns the sizes of all groups, as the component shows each of its reports to all.
    """
    if not least:
        return dict(_stock_groups(frame, by, pairs, *others))
    size = (pairs[0][0], _COUNT)
    found = _stock_groups(frame, by, [*pairs, *([] if size in pairs else [size])], *others)
    counts: pd.Series[Any] = found[size].iloc[:, -1]
    large = (counts >= least).to_numpy()
    if not large.any():
        raise InputDataError(
            f"task_config.node_eval_param: `by` makes no group of {least} rows (SFWORKER_MIN_GROUP_ROWS); name columns "
            f"that make larger groups"
        )
    return {pair: found[pair][large] for pair in pairs}


def _bins(least: int, *arguments: Any) -> Any:
    """Count rows by bin as SecretFlow does. Raises InputDataError where a bin has some, but too few."""
    found = _stock_bins(*arguments)
    _require(least, [int(row[-1]) for row in found])
    return found


def _rules(least: int, component: Any, *arguments: Any, **named: Any) -> Any:
    """Let a binning go on where no bin that others learn of is too small.

    The label's party learns all of them, and everybody those of a report.
    """
    rules = arguments[5]
    if hasattr(component, "label") or getattr(component, "report_rules", False):
        secretflow.wait([pyu(_require_rule)(least, rule) for pyu, rule in rules.items()])
    return _stock_rules(component, *arguments, **named)


def _require_rule(least: int, rule: dict[str, Any]) -> None:
    for variable in rule.get("variables", []):
        _require(least, [int(count) for count in variable["total_counts"]])


def _require(least: int, counts: list[int]) -> None:
    if any(0 < count < least for count in counts):
        raise InputDataError(
            f"task_config.node_eval_param: a column has a bin, or missing values, of fewer than {least} rows, of which "
            f"the operator lets nothing be revealed (SFWORKER_MIN_BIN_ROWS); choose fewer bins, fill or group values"
        )
