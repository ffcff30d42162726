"""Reads and writes a party's own tables, CSV, Parquet or ORC by the file's ending. Runs in the party process.

Functions take a checked path and the field of the envelope that named it. Errors name that field, and where it helps a
column and a row (counted from 1 after the header), never a value or a path.
"""

from __future__ import annotations

import csv
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv
from pyarrow import orc, parquet

from sfworker.errors import InputDataError
from sfworker.party.data_roots import saving

Matrix: TypeAlias = npt.NDArray[np.float64]
PARQUET, ORC = ".parquet", ".orc"
ESCAPE = "\x1b"
"""Character with which `plain_keys` begins the text for a key that has special characters."""
SEPARATOR = "\x1f"
"""Character by which keys of `plain_keys` can be joined, as none of them holds it."""
_BOM = b"\xef\xbb\xbf"
_MISSING_SPELLINGS = ["", "NULL", "null", "NA", "N/A", "NaN", "nan"]

TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
"""Names of column types in an envelope, with the type that `typed` returns for each."""
_LEADING_ZERO = r"^[+-]?0[0-9]"

__all__ = [
    "ESCAPE",
    "SEPARATOR",
    "TYPES",
    "Matrix",
    "has_duplicates",
    "header",
    "is_columnar",
    "is_plain",
    "numbers",
    "plain_keys",
    "require_columns",
    "rows_of_plain_csv",
    "saving",
    "text",
    "typed",
    "whole",
    "write",
]


def is_columnar(path: Path) -> bool:
    """Return whether the file's ending is that of a format which stores its columns' types."""
    return path.suffix in {PARQUET, ORC}


def header(field: str, path: Path) -> list[str]:
    """Return the column names of a file with at least one row, by reading its beginning.

    Raises InputDataError.
    """
    if path.suffix == PARQUET:
        with _format_errors(field, "a Parquet"):
            file = parquet.ParquetFile(path)
        names, rows = list(file.schema_arrow.names), file.metadata.num_rows
    elif path.suffix == ORC:
        with _format_errors(field, "an ORC"):
            stripes = orc.ORCFile(path)
        names, rows = list(stripes.schema.names), stripes.nrows
    else:
        names, rows = _csv_header(field, path)
    if rows == 0:
        raise InputDataError(f"{field}: the file has a header and no rows; check what was delivered")
    if len(set(names)) != len(names):
        raise InputDataError(f"{field}: the header names a column twice; rename one")
    return names


def require_columns(field: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise InputDataError where `columns`, which `field` asks for, are not all among the file's `names`."""
    for column in columns:
        if column not in names:
            raise InputDataError(f"{field}: the party's input file has no column {column!r}; check the header")


def numbers(field: str, path: Path, columns: Sequence[str]) -> Matrix:
    """Read `columns` as finite numbers, shape (rows, columns).

    Raises InputDataError naming column and row of a cell that is none.
    """
    table = _read(field, path, list(columns), pa.float64())
    matrix = np.empty((table.num_rows, len(columns)), dtype=np.float64)
    for index, column in enumerate(columns):
        try:
            # A safe cast would refuse integers beyond 2**53, which float64 rounds.
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
    """Read `columns` as they are written in a CSV file (ids keep leading zeros), or with a columnar file's types."""
    return _read(field, path, list(columns), pa.string())


def typed(field: str, path: Path, columns: Sequence[str], types: Mapping[str, str] | None = None) -> pa.Table:
    """Read `columns` with the type of their cells or that named in `types`, as int64, double, string or bool.

    An empty cell is a missing value (null) in every type. A column of a CSV file that holds numbers with leading zeros
    is text, and so are dates. Raises InputDataError naming column and row of a cell that is not of the type asked for.
    """
    asked = dict(types or {})
    if is_columnar(path):
        table = _read_columnar(field, path, list(columns))
    else:
        table = _infer(field, path, list(columns), asked)
    return pa.table(
        {name: _as_type(field, name, table.column(name), TYPES.get(asked.get(name, ""))) for name in columns}
    )


def has_duplicates(field: str, path: Path, columns: Sequence[str]) -> bool:
    """Return whether two rows agree in all of `columns`."""
    table = text(field, path, columns)
    return bool(table.group_by(list(columns)).aggregate([]).num_rows < table.num_rows)


def whole(field: str, path: Path) -> pa.Table:
    """Read every column, as `text` does."""
    return text(field, path, header(field, path))


def is_plain(path: Path) -> bool:
    """Return whether a CSV file has one row on each line and cells that a shell tool can split at commas.

    libpsi sorts files with such tools.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        first_line = content[: content.find(b"\n") + 1]
        # With an odd number of quotes, a cell of the header goes on in the next line.
        if not first_line.strip() or first_line.startswith(_BOM) or first_line.count(b'"') % 2:
            return False
        quoted = content.find(b'"', len(first_line)) >= 0
        marks = (b"\r", b"\n\n", ESCAPE.encode(), SEPARATOR.encode())
        return not quoted and all(content.find(mark) < 0 for mark in marks)


def rows_of_plain_csv(path: Path) -> int:
    """Return how many rows follow the header of a file that `is_plain`."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1


def plain_keys(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return key columns as text without SEPARATOR or characters that have a meaning in CSV.

    Equal keys have equal texts. A key of a file that `is_plain` stays as it is, so the two can be compared.
    """
    return pa.table({f"key{n}": _plain_text(table.column(column)) for n, column in enumerate(columns)})


def write(field: str, path: Path, table: pa.Table) -> None:
    """Write a table as CSV, Parquet or ORC by the ending of `path`. Raises ResultSaveError."""
    with saving(field):
        if path.suffix == PARQUET:
            parquet.write_table(table, path)
        elif path.suffix == ORC:
            orc.write_table(table, path)
        elif not _write_unquoted(path, table):
            pa_csv.write_csv(_without_empty_lines(table), path, pa_csv.WriteOptions(quoting_style="needed"))


def _csv_header(field: str, path: Path) -> tuple[list[str], int]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = (row for row in csv.reader(file) if row)  # Arrow skips blank lines, too
            names, first = next(rows, None), next(rows, None)
    except (UnicodeDecodeError, csv.Error):
        raise InputDataError(f"{field}: not a CSV file in UTF-8; convert it") from None
    if names is None:
        raise InputDataError(f"{field}: the file is empty; it needs a header line and rows")
    if first is not None and len(first) != len(names):
        raise InputDataError(f"{field}: row 1 has not as many cells as the header; correct the file")
    return names, 0 if first is None else 1


def _read(field: str, path: Path, columns: list[str], csv_type: pa.DataType) -> pa.Table:
    """Read `columns` only, those of a CSV file as `csv_type` or, where that fails, as text."""
    if is_columnar(path):
        return _read_columnar(field, path, columns)
    types = [csv_type, pa.string()] if csv_type != pa.string() else [csv_type]
    for type_ in types:
        convert = pa_csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, type_),
            null_values=_MISSING_SPELLINGS,
            strings_can_be_null=csv_type != pa.string(),  # text stays as it is written, `NA` too
        )
        try:
            return pa_csv.read_csv(path, convert_options=convert)
        except pa.ArrowInvalid:
            continue
    raise InputDataError(f"{field}: {_ragged_row(path)}")


def _read_columnar(field: str, path: Path, columns: list[str]) -> pa.Table:
    if path.suffix == ORC:
        with _format_errors(field, "an ORC"):
            return orc.read_table(path, columns=columns)
    with _format_errors(field, "a Parquet"):
        return parquet.read_table(path, columns=columns)


def _infer(field: str, path: Path, columns: list[str], asked: Mapping[str, str]) -> pa.Table:
    """Read columns of a CSV file as Arrow infers them, but as text what it would spoil and what `asked` names."""
    convert = pa_csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(asked, pa.string()),
        null_values=_MISSING_SPELLINGS,
        strings_can_be_null=True,
    )
    try:
        table = pa_csv.read_csv(path, convert_options=convert)
    except pa.ArrowInvalid:
        raise InputDataError(f"{field}: {_ragged_row(path)}") from None
    kept = {pa.float64(), pa.string(), pa.bool_(), pa.null()}
    doubtful = [name for name in columns if table.column(name).type not in kept]
    if not doubtful:
        return table
    convert.include_columns, convert.column_types = doubtful, dict.fromkeys(doubtful, pa.string())
    spelled = pa_csv.read_csv(path, convert_options=convert)
    # Arrow would drop leading zeros of numbers and the spelling of dates, so such columns are read again as text.
    for name in doubtful:
        cells = spelled.column(name)
        is_number = pa.types.is_integer(table.column(name).type)
        if not is_number or pc.any(pc.match_substring_regex(cells, _LEADING_ZERO)).as_py():
            table = table.set_column(table.column_names.index(name), name, cells)
    return table


def _as_type(field: str, name: str, column: pa.ChunkedArray, wanted: pa.DataType | None) -> pa.ChunkedArray:
    """Cast a column to `wanted`. Raises InputDataError naming the row of the first cell that is not of that type."""
    if wanted is None:
        wanted = _plain_type(column.type)
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        row = _first_unlike(column, wanted)
        where = f" in row {row}" if row else ""
        kind = next(spelling for spelling, type_ in TYPES.items() if type_ == wanted)
        raise InputDataError(
            f"{field}: column {name!r} holds no {kind}{where}; correct the file or name another type"
        ) from None


def _plain_type(found: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(found):
        return pa.int64()
    if pa.types.is_boolean(found):
        return pa.bool_()
    if pa.types.is_floating(found) or pa.types.is_decimal(found) or pa.types.is_null(found):
        return pa.float64()
    return pa.string()


def _first_unlike(column: pa.ChunkedArray, wanted: pa.DataType) -> int | None:
    """Find the row of the first cell that cannot be cast by halving, None where no cell can be cast."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(wanted)
        except pa.ArrowInvalid:
            high = middle
        except pa.ArrowNotImplementedError:
            return None
        else:
            low = middle
    return low + 1


def _write_unquoted(path: Path, table: pa.Table) -> bool:
    """Write cells without quotes, which the next reader is faster with. Returns False where some need quotes."""
    if table.num_columns == 1:  # an empty cell alone in its line would be no row
        return False
    try:
        pa_csv.write_csv(table, path, pa_csv.WriteOptions(quoting_style="none"))
    except pa.ArrowInvalid:
        return False
    return True


def _without_empty_lines(table: pa.Table) -> pa.Table:
    """Turn missing cells that are alone in their rows into empty texts, which are quoted."""
    if table.num_columns != 1 or not table.column(0).null_count:
        return table
    return pa.table([pc.fill_null(table.column(0).cast(pa.string()), "")], names=table.column_names)


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
    """Describe the first row that breaks the table's shape. Looked for only once reading has failed."""
    found: list[Any] = []

    def keep(row: Any) -> str:
        found.append(row)
        return "skip"

    with suppress(pa.ArrowInvalid):
        pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(use_threads=False),  # with several threads, Arrow does not number rows
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
    """Find the row of the first cell that is no number, None where the whole column is of another type."""
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
def _format_errors(field: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
        raise InputDataError(f"{field}: cannot be read as {kind} file; check what was delivered") from None
