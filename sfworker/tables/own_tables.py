"""Lets a party change its own table, from its input file to its output file. Runs in party processes.

Columns that change are read with types; the others are passed on as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.tables import aligned, files

MOST_NAMED = 50
"""Most columns that an error names."""
_T = TypeVar("_T")


class UnfitColumn(Exception):  # noqa: N818 - a reason that `OwnTable.each` makes an error of
    """Says what is wrong with a column, in words that follow its name."""


@dataclass(frozen=True)
class OwnTable:
    """A local party's input file, checked and not yet read."""

    party: str
    field: str
    path: Path
    names: list[str]
    """Columns, in order."""
    types: Mapping[str, str]
    """Types that the envelope gives some of them."""
    keys: Sequence[str] = ()
    """Those that are keys, which stay text."""

    def features(self, context: JobContext[Any]) -> list[str]:
        """Return the columns that `features` names, or all but `keys` and `label`. Raises InputDataError."""
        ref = context.params.label
        label = [ref.column] if ref is not None and ref.party == self.party else []
        files.require_columns("task_config.label.column", self.names, label)
        return aligned.features(context, self.party, self.names, *label)

    def typed(self, columns: list[str], types: Mapping[str, str] | None = None) -> pa.Table:
        """Read `columns` with their types, or those that `types` names.

        Raises InputDataError naming column and row of a cell that is of another type, or infinite.
        """
        table = files.typed(self.field, self.path, columns, {**self.types, **(types or {})})
        for name in columns:
            self._require_finite(name, table.column(name))
        return table

    def each(self, typed: pa.Table, fit: Callable[[str, pa.ChunkedArray], _T]) -> list[_T]:
        """Return what `fit` makes of each column of `typed`.

        Raises InputDataError that names all the columns for which `fit` raises UnfitColumn.
        """
        found, unfit = [], dict[str, list[str]]()
        for name, column in zip(typed.column_names, typed.columns, strict=True):
            try:
                found.append(fit(name, column))
            except UnfitColumn as reason:
                unfit.setdefault(str(reason), []).append(name)
        if unfit:
            said = ". ".join(f"{_columns(names)} {reason}" for reason, names in unfit.items())
            raise InputDataError(f"{self.field}: {said}")
        return found

    def untouched(self, columns: list[str], *outputs: Path) -> pa.Table:
        """Read `columns` as they are written.

        They get types where the envelope gives them one, or where a file of `outputs` keeps types and the input does
        not, except for keys. Raises InputDataError.
        """
        if not columns:
            return pa.table({})
        return files.passed_on(self.field, self.path, columns, outputs, self.types, self.keys)

    def write(self, output: Path, changed: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the table with each column in `changed` replaced, in its place, by the columns that it maps to.

        Raises InputDataError where a new column's name is taken, or ResultSaveError.
        """
        rest = self.untouched([name for name in self.names if name not in changed], output)
        columns: dict[str, Any] = {}
        for name in self.names:
            for new, values in changed.get(name, {name: None}).items():
                if new in columns:
                    raise InputDataError(f"{self.field}: two columns would be named {new!r}; rename one")
                columns[new] = rest.column(name) if values is None else values
        files.write(f"task_config.output_paths.{self.party}", output, pa.table(columns))

    def _require_finite(self, name: str, column: pa.ChunkedArray) -> None:
        if not pa.types.is_floating(column.type):
            return
        infinite = pc.is_inf(column)
        if pc.any(infinite).as_py():
            row = pc.index(infinite, True).as_py() + 1
            raise InputDataError(f"{self.field}: column {name!r} holds an infinite number in row {row}; correct it")


def require_values(column: pa.ChunkedArray) -> None:
    """Raise UnfitColumn where every cell of a column is missing."""
    if column.null_count == len(column):
        raise UnfitColumn("has no value in any row; leave it out")


def _columns(names: list[str]) -> str:
    if len(names) == 1:
        return f"column {names[0]!r}"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"each of the columns {', '.join(map(repr, names[:MOST_NAMED]))}{more}"


def local_tables(context: JobContext[Any]) -> dict[str, OwnTable]:
    """Return the table of each party of this process that has an input. Raises InputDataError."""
    found = {}
    for party in filter(context.is_local, with_input(context)):
        field = f"task_config.input_paths.{party}"
        path = context.input_file(party, "input_paths", context.params.input_paths[party])
        names = files.header(field, path)
        types = context.params.column_types.get(party, {})
        files.require_columns(f"task_config.column_types.{party}", names, list(types))
        keys = getattr(context.params, "keys", {}).get(party, [])
        found[party] = OwnTable(party, field, path, names, types, keys)
    return found


def with_input(context: JobContext[Any]) -> list[str]:
    """Return the parties that have an input, in the order that all processes share."""
    return [party for party in context.parties if party in context.params.input_paths]
