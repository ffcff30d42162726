"""Lets a party change its own table, from its input file to its output file. Runs in party processes.

Columns that change are read with types; the others are passed on as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from sfworker.errors import InputDataError
from sfworker.party.context import JobContext
from sfworker.tables import aligned, files

MOST_NAMED = 50
"""Most columns that an error names."""
Change: TypeAlias = Callable[[int, pa.Table], Mapping[str, Mapping[str, Any]]]
_T = TypeVar("_T")


def _to_nobody(fraction: float, message: str) -> None:
    pass


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
    tell: Callable[[float, str], None] = _to_nobody
    """Told how far the job is, from 0 to 1."""

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
        return pa.table(dict(self.each_column(columns, types)))

    def each_column(
        self, columns: list[str], types: Mapping[str, str] | None = None
    ) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """Yield what `typed` reads a column at a time, as a large file's columns do not fit into memory together."""
        read = files.each_column(self.field, self.path, columns, {**self.types, **(types or {})})
        for number, (name, column) in enumerate(read, 1):
            self._require_finite(name, column)
            yield name, column
            self.tell(number / len(columns) / 2, "columns read")

    def each(
        self, columns: Iterable[tuple[str, pa.ChunkedArray]], fit: Callable[[str, pa.ChunkedArray], _T]
    ) -> list[_T]:
        """Return what `fit` makes of each of `columns`.

        Raises InputDataError that names all the columns for which `fit` raises UnfitColumn.
        """
        found, unfit = [], dict[str, list[str]]()
        for name, column in columns:
            try:
                found.append(fit(name, column))
            except UnfitColumn as reason:
                unfit.setdefault(str(reason), []).append(name)
        if unfit:
            said = ". ".join(f"{_columns(names)} {reason}" for reason, names in unfit.items())
            raise InputDataError(f"{self.field}: {said}")
        return found

    def untouched(self, columns: list[str], *outputs: Path) -> files.Tables:
        """Return `columns` as they are written.

        They get types where the envelope gives them one, or where a file of `outputs` keeps types and the input does
        not, except for keys. Raises InputDataError.
        """
        types = files.types_passed_on(self.field, self.path, columns, outputs, self.types, self.keys)
        return files.held(self.field, self.path, columns, types)

    def followed(self, tables: files.Tables, begin: float, end: float) -> files.Tables:
        """Return tables of this file, of which reading is told as progress from `begin` to `end`."""

        def read() -> Iterator[pa.Table]:
            rows = seen = 0
            for table in tables():
                if seen:
                    rows = rows or files.about_rows(self.path)
                    self.tell(begin + (end - begin) * min(1.0, seen / rows), "rows written")
                seen += table.num_rows
                yield table

        return read

    def write(self, output: Path, types: Mapping[str, str], change: Change) -> None:
        """Write the table, some rows at a time, with columns replaced in their places by those that `change` makes.

        It gets the number of the first row, counted from 0, and the rows, of which the columns in `types` are read with
        these types. For a column that is replaced it returns the new ones by name, where None is the column as it is.
        Raises InputDataError where a new column's name is taken, or ResultSaveError.
        """
        rest = [name for name in self.names if name not in types]
        passed_on = files.types_passed_on(self.field, self.path, rest, [output], self.types, self.keys)
        tables = files.held(self.field, self.path, self.names, {**passed_on, **types})

        def changed() -> Iterator[pa.Table]:
            first = 0
            for table in self.followed(tables, 0.5, 1.0)():
                for name in types:
                    self._require_finite(name, table.column(name), first)
                yield self._replaced(table, change(first, table))
                first += table.num_rows

        files.write_all(f"task_config.output_paths.{self.party}", output, changed)

    def _replaced(self, table: pa.Table, changed: Mapping[str, Mapping[str, Any]]) -> pa.Table:
        columns: dict[str, Any] = {}
        for name in self.names:
            for new, values in changed.get(name, {name: None}).items():
                if new in columns:
                    raise InputDataError(f"{self.field}: two columns would be named {new!r}; rename one")
                columns[new] = table.column(name) if values is None else values
        return pa.table(columns)

    def _require_finite(self, name: str, column: pa.ChunkedArray, first: int = 0) -> None:
        if not pa.types.is_floating(column.type):
            return
        infinite = pc.is_inf(column)
        if pc.any(infinite).as_py():
            row = first + pc.index(infinite, True).as_py() + 1
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
    found = dict[str, OwnTable]()
    for party in filter(context.is_local, with_input(context)):
        field = f"task_config.input_paths.{party}"
        path = context.input_file(party, "input_paths", context.params.input_paths[party])
        names = files.header(field, path)
        types = context.params.column_types.get(party, {})
        files.require_columns(f"task_config.column_types.{party}", names, list(types))
        keys = getattr(context.params, "keys", {}).get(party, [])
        tell = _forward(context) if context.is_speaker and not found else _to_nobody
        found[party] = OwnTable(party, field, path, names, types, keys, tell)
    return found


def _forward(context: JobContext[Any]) -> Callable[[float, str], None]:
    """Return a function that publishes progress, which never goes back where a file is read again."""
    furthest = 0.0

    def tell(fraction: float, message: str) -> None:
        nonlocal furthest
        if fraction > furthest:
            furthest = fraction
            context.progress(fraction, message)

    return tell


def with_input(context: JobContext[Any]) -> list[str]:
    """Return the parties that have an input, in the order that all processes share."""
    return [party for party in context.parties if party in context.params.input_paths]
