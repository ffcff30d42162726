"""Reads and writes a party's own tables, CSV or Parquet by the file's ending. Runs in the party process.

In comes a checked path and the field of the envelope that named it; errors name that field, and where it helps a column
and a row (counted from 1 after the header), never a value or a path.
"""

from __future__ import annotations

import csv
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv
from pyarrow import parquet

from sfworker.errors import InputDataError
from sfworker.runtime.data_roots import saving

Matrix: TypeAlias = npt.NDArray[np.float64]
PARQUET = ".parquet"
ESCAPE = "\x1b"
SEPARATOR = "\x1f"
"""Stands in no key of `plain_keys`, so several of them can be joined by it."""
_BOM = b"\xef\xbb\xbf"
_MISSING_SPELLINGS = ["", "NULL", "null", "NA", "N/A", "NaN", "nan"]

__all__ = [
    "ESCAPE",
    "PARQUET",
    "SEPARATOR",
    "Matrix",
    "has_duplicates",
    "header",
    "is_plain",
    "numbers",
    "plain_keys",
    "require_columns",
    "rows_of_plain_csv",
    "saving",
    "text",
    "whole",
    "write",
]


def header(field: str, path: Path) -> list[str]:
    """Column names of a file that has at least one row, at the cost of reading its beginning.

    Raises InputDataError.
    """
    if path.suffix == PARQUET:
        with _parquet_errors(field):
            file = parquet.ParquetFile(path)
        names, rows = list(file.schema_arrow.names), file.metadata.num_rows
    else:
        names, rows = _csv_header(field, path)
    if rows == 0:
        raise InputDataError(f"{field}: the file has a header and no rows; check what was delivered")
    if len(set(names)) != len(names):
        raise InputDataError(f"{field}: the header names a column twice; rename one")
    return names


def require_columns(field: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raises InputDataError where `columns`, which `field` asks for, are not all among the file's `names`."""
    for column in columns:
        if column not in names:
            raise InputDataError(f"{field}: the party's input file has no column {column!r}; check the header")


def numbers(field: str, path: Path, columns: Sequence[str]) -> Matrix:
    """`columns` as finite numbers, shape (rows, columns).

    Raises InputDataError naming column and row of what is none.
    """
    table = _read(field, path, list(columns), pa.float64())
    matrix = np.empty((table.num_rows, len(columns)), dtype=np.float64)
    for index, column in enumerate(columns):
        try:
            values = table.column(column).cast(pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise InputDataError(_no_number(field, column, _first_text(table.column(column)))) from None
        if values.null_count:
            row = _first(values.is_null())
            raise InputDataError(
                f"{field}: column {column!r} has no value in row {row}; fill or remove rows with missing values"
            )
        matrix[:, index] = values.to_numpy()
        if not np.isfinite(matrix[:, index]).all():
            row = int(np.argmin(np.isfinite(matrix[:, index]))) + 1
            raise InputDataError(f"{field}: column {column!r} holds no finite number in row {row}; correct the file")
    return matrix


def text(field: str, path: Path, columns: Sequence[str]) -> pa.Table:
    """`columns` as they are written in a CSV file (ids keep leading zeros), or with a Parquet file's own types."""
    return _read(field, path, list(columns), pa.string())


def has_duplicates(field: str, path: Path, columns: Sequence[str]) -> bool:
    """Whether two rows agree in all of `columns`."""
    table = text(field, path, columns)
    return bool(table.group_by(list(columns)).aggregate([]).num_rows < table.num_rows)


def whole(field: str, path: Path) -> pa.Table:
    """Every column, as `text` reads it."""
    return text(field, path, header(field, path))


def is_plain(path: Path) -> bool:
    """Whether a CSV file has one row on each line and cells that a shell tool can split at commas."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        first_line = content[: content.find(b"\n") + 1]
        if not first_line.strip() or first_line.startswith(_BOM) or first_line.count(b'"') % 2:
            return False
        quoted = content.find(b'"', len(first_line)) >= 0
        marks = (b"\r", b"\n\n", ESCAPE.encode(), SEPARATOR.encode())
        return not quoted and all(content.find(mark) < 0 for mark in marks)


def rows_of_plain_csv(path: Path) -> int:
    """How many rows follow the header of a file that `is_plain`."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1


def plain_keys(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Key columns as text without SEPARATOR or what has a meaning in CSV; equal where the keys are equal.

    A key of a file that `is_plain` stays as it is, so the two can be compared.
    """
    return pa.table({f"key{n}": _plain_text(table.column(column)) for n, column in enumerate(columns)})


def write(field: str, path: Path, table: pa.Table) -> None:
    """Write a table, CSV or Parquet by the ending of `path`. Raises ResultSaveError."""
    with saving(field):
        if path.suffix == PARQUET:
            parquet.write_table(table, path)
        elif not _write_unquoted(path, table):
            pa_csv.write_csv(table, path, pa_csv.WriteOptions(quoting_style="needed"))


def _csv_header(field: str, path: Path) -> tuple[list[str], int]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = (row for row in csv.reader(file) if row)
            names, first = next(rows, None), next(rows, None)
    except (UnicodeDecodeError, csv.Error):
        raise InputDataError(f"{field}: not a CSV file in UTF-8; convert it") from None
    if names is None:
        raise InputDataError(f"{field}: the file is empty; it needs a header line and rows")
    if first is not None and len(first) != len(names):
        raise InputDataError(f"{field}: row 1 has not as many cells as the header; correct the file")
    return names, 0 if first is None else 1


def _read(field: str, path: Path, columns: list[str], csv_type: pa.DataType) -> pa.Table:
    """`columns` only; those of a CSV file come as `csv_type`, or as text where that fails."""
    if path.suffix == PARQUET:
        with _parquet_errors(field):
            return parquet.read_table(path, columns=columns)
    types = [csv_type, pa.string()] if csv_type != pa.string() else [csv_type]
    for type_ in types:
        convert = pa_csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, type_),
            null_values=_MISSING_SPELLINGS,
            strings_can_be_null=csv_type != pa.string(),
        )
        try:
            return pa_csv.read_csv(path, convert_options=convert)
        except pa.ArrowInvalid:
            continue
    raise InputDataError(f"{field}: {_ragged_row(path)}")


def _write_unquoted(path: Path, table: pa.Table) -> bool:
    """Write cells as they are, which the next reader is faster with; False where some need quotes."""
    if table.num_columns == 1:  # an empty cell alone in its line would be no row
        return False
    try:
        pa_csv.write_csv(table, path, pa_csv.WriteOptions(quoting_style="none"))
    except pa.ArrowInvalid:
        return False
    return True


def _plain_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    values = pc.fill_null(column.cast(pa.string()), "")
    special = pc.match_substring_regex(values, f'[,"\r\n{ESCAPE}{SEPARATOR}]')
    if not pc.any(special).as_py():
        return values
    return pa.chunked_array(
        [
            [
                ESCAPE + value.encode().hex() if odd else value
                for value, odd in zip(values.to_pylist(), special.to_pylist(), strict=True)
            ]
        ]
    )


def _ragged_row(path: Path) -> str:
    """A sentence about the first row that breaks the table's shape; only looked for once reading has failed."""
    found: list[Any] = []

    def keep(row: Any) -> str:
        found.append(row)
        return "skip"

    with suppress(pa.ArrowInvalid):
        pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(use_threads=False),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=keep),
            convert_options=pa_csv.ConvertOptions(check_utf8=False),
        )
    if not found:
        return "not a CSV file in UTF-8; convert it"
    row = found[0]
    return (
        f"row {row.number - 1} has {row.actual_columns} cells where the header has {row.expected_columns}; "
        f"correct the file"
    )


def _first_text(column: pa.ChunkedArray) -> int | None:
    """Row of the first cell that does not read as a number, or None where the whole column is of another type."""
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return None
    for row, cell in enumerate(column.to_pylist(), 1):
        try:
            float(cell or 0)
        except ValueError:
            return row
    return None


def _no_number(field: str, column: str, row: int | None) -> str:
    where = f" in row {row}" if row else ""
    return f"{field}: column {column!r} holds no number{where}; correct the file or leave the column out"


def _first(mask: pa.ChunkedArray) -> int:
    return int(pc.index(mask, True).as_py()) + 1


@contextmanager
def _parquet_errors(field: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
        raise InputDataError(f"{field}: cannot be read as a Parquet file; check what was delivered") from None
