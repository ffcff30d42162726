"""Reads and writes a party's own tables, CSV, Parquet or ORC by the file's ending. Runs in the party process.

Endings are read in upper and lower case; `.csv.gz` and the like are CSV files that are compressed.

One rule says what a cell means, in all formats and for keys, labels, features and groups alike; `cells` carries it out.

- A cell is missing where it is null, NaN or empty text. In a column of numbers or booleans so are the spellings of
  missing values that pandas takes (`NA`, `null`); in one of text they are text. Blanks belong to text, not to numbers.
- A column's type is the one that a Parquet or ORC file stores. In a CSV file it is what all cells look like: whole
  numbers, numbers, booleans, and otherwise text. Text are also dates, whole numbers with leading zeros and those that
  no 64 bits hold. `column_types` of an envelope names another type. Booleans are 1 and 0 where a number is asked for.
- As a key, and written to a CSV file, a cell is text: that of a CSV file as it is written, whole numbers (also in
  columns of floating-point or decimal numbers) as digits alone, other numbers as shortly as reads back the same,
  booleans as `true` and `false`, dates as 2024-02-29, times as 2024-02-29 12:30:00 (midnight as the date alone, a time
  with a zone in UTC with a Z). A key with a missing part equals no other. Floating-point numbers too large to be exact
  are refused as keys.

Large files are read some rows (`stream`) or columns (`each_column`) at a time, and written so (`write_all`), as memory
should not grow with all that they hold.

Functions take a checked path and the field of the envelope that named it. Errors name that field, and where it helps a
column and a row (counted from 1 after the header), never a value or a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from io import SEEK_END
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv
from pyarrow import dataset, orc, parquet

from sfworker import limits
from sfworker.errors import InputDataError, ResultSaveError
from sfworker.party import compressed
from sfworker.party.data_roots import opened, saving
from sfworker.tables import cells, csv_text, orc_footer
from sfworker.tables.cells import TYPES

Matrix: TypeAlias = npt.NDArray[np.float64]
Tables: TypeAlias = Callable[[], Iterator[pa.Table]]
"""Begins to read or make tables that follow each other, of the same columns, the same ones each time. One at least."""
PARQUET, ORC = ".parquet", ".orc"
ESCAPE = "\x1b"
"""Character with which `plain_keys` begins the text for a key that has special characters."""
SEPARATOR = "\x1f"
"""Character by which keys of `plain_keys` can be joined, as none of them holds it."""
_SPECIAL = f'[,"\r\n\0{ESCAPE}{SEPARATOR}]'
_LEADING_ZERO = r"^[+-]?0[0-9xX]"
_WHOLE_OR_MISSING = rf"^(\s*[+-]?\d+\s*|{'|'.join(map(re.escape, cells.MISSING))})$"
_WITH_COMMAS = re.compile(r"\s*[+-]?[\d.]*,[\d.,]+\s*")
_BATCH_ROWS, _FEWEST, _BATCHES = 1 << 12, 16, 1 << 10
"""Rows that are read at once, and the number of batches of a file with fewer, as its few rows may be long ones."""
_SMALL = 1 << 22
_HELD_BYTES = 1 << 27
"""Bytes of a file of which whole columns are in memory at a time."""
_SMALL_BYTES = 1 << 24
"""Bytes of a file that is in memory as a whole, as reading it again takes longer than a few percent of a job."""
_READ_AS = {"int": pa.int64(), "float": pa.float64()}
"""Types that Arrow reads from a CSV file at once, as the cells' own rule would."""
_LOOSER: dict[pa.DataType | None, pa.DataType] = {
    None: pa.null(),
    pa.null(): pa.int64(),
    pa.int64(): pa.float64(),
    pa.float64(): pa.bool_(),
    pa.bool_(): pa.string(),
}
"""Types in the order in which Arrow infers them. Between them are times, which stay text."""
_GROUP_ROWS = 1 << 20
"""Rows of a group in a Parquet file, as many as Arrow makes of one table."""
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")

__all__ = [
    "ESCAPE",
    "SEPARATOR",
    "TYPES",
    "Matrix",
    "Tables",
    "about_rows",
    "each_column",
    "ends_a_line",
    "has_duplicates",
    "header",
    "held",
    "is_bare_csv",
    "is_columnar",
    "is_plain",
    "is_text",
    "lack_a_part",
    "numbers",
    "plain_keys",
    "require_columns",
    "rows_of_plain_csv",
    "saving",
    "stream",
    "text",
    "type_name",
    "typed",
    "types_passed_on",
    "whole",
    "write",
    "write_all",
]


def is_columnar(path: Path) -> bool:
    """Return whether the file's ending is that of a format which stores its columns' types."""
    return _ending(path) in {PARQUET, ORC}


def is_bare_csv(path: Path) -> bool:
    """Return whether the file's ending is that of a CSV file that is not compressed."""
    return not is_columnar(path) and not compressed.is_compressed(path)


def header(field: str, path: Path) -> list[str]:
    """Return the column names of a file with at least one row, by reading its beginning.

    Raises InputDataError.
    """
    if _ending(path) == PARQUET:
        with _format_errors(field, "a Parquet"):
            file = parquet.ParquetFile(path)
        stored, rows = file.schema_arrow.names, file.metadata.num_rows
        names = [name for name in stored if not _PANDAS_INDEX.fullmatch(name)]  # no columns to pandas
    elif _ending(path) == ORC:
        with _format_errors(field, "an ORC"):
            stripes = orc.ORCFile(path)
        names, rows = list(stripes.schema.names), stripes.nrows
    else:
        start = csv_text.beginning(field, path)
        names, rows = start.names, int(start.has_rows)
    if rows == 0:
        raise InputDataError(f"{field}: the file has a header and no rows; check what was delivered")
    if len(names) > limits.used().columns:
        raise limits.refusal(field, "the file", "columns", "leave some out")
    if len(set(names)) != len(names):
        raise InputDataError(f"{field}: the header names a column twice; rename one")
    most = limits.used().rows
    if rows > most or (not is_columnar(path) and path.stat().st_size > 2 * most and limits.lines(path, most) > most):
        raise limits.refusal(field, "the file", "rows", "split it")
    return names


def require_columns(field: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise InputDataError where `columns`, which `field` asks for, are not all among the file's `names`."""
    for column in columns:
        if column not in names:
            raise InputDataError(f"{field}: the party's input file has no column {column!r}; {_nearly(column, names)}")


def numbers(field: str, path: Path, columns: Sequence[str]) -> Matrix:
    """Read `columns` as finite numbers, shape (rows, columns).

    Raises InputDataError naming column and row of a cell that is none.
    """
    if not columns:
        return np.empty((sum(table.num_rows for table in stream(field, path, header(field, path)[:1])), 0))
    matrix: Matrix | None = None
    index = 0
    for some in _groups(field, path, columns):
        table = _read(field, path, some, dict.fromkeys(some, "float"))
        if matrix is None:
            matrix = np.empty((table.num_rows, len(columns)), dtype=np.float64)
        for name in some:
            matrix[:, index] = _finite(field, name, table.column(name))
            index += 1
    assert matrix is not None  # noqa: S101 - there are columns
    return matrix


def _finite(field: str, name: str, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    try:
        values: npt.NDArray[np.float64] = cells.cast(column, pa.float64()).to_numpy()
    except cells.UNREADABLE:
        row = _first_unlike(column, pa.float64())
        remedy = "correct the file or leave the column out"
        if row and _WITH_COMMAS.fullmatch(str(column[row - 1])):
            remedy = "its digits have commas among them; write a point before decimals, and nothing for thousands"
        raise InputDataError(f"{field}: column {name!r} holds no number{_where(row)}; {remedy}") from None
    if np.isnan(values).any():
        row = int(np.argmax(np.isnan(values))) + 1
        raise InputDataError(
            f"{field}: column {name!r} has no value in row {row}; fill or remove rows with missing values"
        )
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values))) + 1
        raise InputDataError(f"{field}: column {name!r} holds no finite number in row {row}; correct the file")
    return values


def text(field: str, path: Path, columns: Sequence[str]) -> pa.Table:
    """Read `columns` as they are written in a CSV file (ids keep leading zeros), or with a columnar file's types."""
    return pa.concat_tables(stream(field, path, columns))


def stream(
    field: str, path: Path, columns: Sequence[str], types: Mapping[str, str] | None = None
) -> Iterator[pa.Table]:
    """Read `columns` some rows at a time, as `text` does, or those in `types` as `typed` does. One table at least."""
    asked = dict(types or {})
    read_as = {name: _READ_AS.get(asked.get(name, ""), pa.string()) for name in columns}
    looked_at = set[str]()
    rows = 0

    def cast(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        if asked[name] == "float" and is_text(column.type) and name not in looked_at:
            typed(field, path, [name], asked)  # whether texts are booleans or numbers, all of them tell
            looked_at.add(name)
        try:
            return cells.cast(column, TYPES[asked[name]])
        except cells.UNREADABLE:
            typed(field, path, [name], asked)  # says in which row of the file
            raise

    while True:
        if is_columnar(path):
            tables = _columnar(field, path, list(columns))
        else:
            tables = csv_text.batches(field, path, columns, read_as, cells.MISSING, rows)
        try:
            for table in tables:
                rows += table.num_rows
                yield pa.table(
                    {name: cast(name, table.column(name)) if name in asked else table.column(name) for name in columns}
                )
        except pa.ArrowInvalid as error:
            read_as[csv_text.unreadable(field, path, error)] = pa.string()
        else:
            return


def each_column(
    field: str, path: Path, columns: Sequence[str], types: Mapping[str, str] | None = None
) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield `columns` as `typed` reads them with their names, as few in memory at a time as a large file needs."""
    asked = dict(types or {})
    for some in _groups(field, path, columns):
        table = _read(field, path, some, asked)
        for name in some:
            yield name, _as_type(field, name, table.column(name), TYPES.get(asked.get(name, "")))
        del table


def typed(field: str, path: Path, columns: Sequence[str], types: Mapping[str, str] | None = None) -> pa.Table:
    """Read `columns` with the type of their cells or that named in `types`, as int64, double, string or bool.

    A missing cell is null in every type. Raises InputDataError naming column and row of a cell that is not of the type
    asked for.
    """
    return pa.table(dict(each_column(field, path, columns, types)))


def held(field: str, path: Path, columns: Sequence[str], types: Mapping[str, str] | None = None) -> Tables:
    """Return what `stream` reads, of a small file as one table that is read once."""
    if len(columns) > 1 and _size_of_each(field, path) * len(columns) > _SMALL_BYTES:
        return lambda: stream(field, path, columns, types)
    table = pa.concat_tables(stream(field, path, columns, types))
    return lambda: iter([table])


def types_passed_on(
    field: str,
    path: Path,
    columns: Sequence[str],
    outputs: Iterable[Path],
    types: Mapping[str, str] | None = None,
    keys: Iterable[str] = (),
) -> dict[str, str]:
    """Return the types with which `stream` reads `columns` to be written to `outputs`.

    They are those that `types` names. Where an output stores types and the input does not, all but `keys` get the types
    of their cells.
    """
    asked = dict(types or {})
    if is_columnar(path) or not any(map(is_columnar, outputs)):
        return {name: asked[name] for name in columns if name in asked}
    asked = {**dict.fromkeys(filter(columns.__contains__, keys), "str"), **asked}
    return {name: type_name(column) for name, column in each_column(field, path, columns, asked)}


def type_name(column: pa.ChunkedArray) -> Any:
    """Return the name of a column's type, which is one of TYPES."""
    return next(name for name, type_ in TYPES.items() if type_ == column.type)


def has_duplicates(field: str, path: Path, columns: Sequence[str]) -> bool:
    """Return whether two rows have the same key in `columns`, with no part missing."""
    keys = plain_keys(field, text(field, path, columns), columns)
    keys = keys.filter(pc.invert(lack_a_part(keys)))
    return bool(keys.group_by(keys.column_names).aggregate([]).num_rows < keys.num_rows)


def whole(field: str, path: Path) -> pa.Table:
    """Read every column, as `text` does."""
    return text(field, path, header(field, path))


def is_plain(path: Path, columns: int, rows: int) -> bool:
    """Return whether a CSV file has its `rows` on a line each, and cells that a shell tool can split at commas.

    libpsi sorts files with such tools.
    """
    with path.open("rb") as file:
        if file.read(3) == b"\xef\xbb\xbf" or csv_text.holds_any(file, f"\r\0{ESCAPE}{SEPARATOR}".encode()):
            return False
    last_line = 0 if ends_a_line(path) else 1
    if csv_text.has_quotes(path) or rows_of_plain_csv(path) + last_line != rows:
        return False
    return _count(path, b",") == (columns - 1) * (rows + 1)


def ends_a_line(path: Path) -> bool:
    """Return whether a file's last byte ends a line, as it does where all of it was written."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, SEEK_END) - 1))
        return file.read() == b"\n"


def rows_of_plain_csv(path: Path) -> int:
    """Return how many rows follow the header of a file that `is_plain`."""
    return _count(path, b"\n") - 1


def _count(path: Path, character: bytes) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(character) for chunk in iter(lambda: file.read(1 << 18), b""))


def about_rows(path: Path) -> int:
    """Return a file's number of rows. In a CSV file each line is taken for one."""
    if _ending(path) == PARQUET:
        return int(parquet.read_metadata(path).num_rows)
    if _ending(path) == ORC:
        return int(orc.ORCFile(path).nrows)
    return max(1, _count(path, b"\n"))


def plain_keys(field: str, table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return key columns as text without SEPARATOR or characters that have a meaning in CSV, missing cells as "".

    Equal keys have equal texts. A key of a file that `is_plain` stays as it is, so the two can be compared. Raises
    InputDataError where a column cannot be a key.
    """
    return pa.table({f"key{n}": _plain_text(field, name, table.column(name)) for n, name in enumerate(columns)})


def lack_a_part(keys: pa.Table) -> pa.ChunkedArray:
    """Return a mask of the rows of `plain_keys` whose key equals no other."""
    return reduce(pc.or_, [pc.equal(column, "") for column in keys.columns])


def write(field: str, path: Path, table: pa.Table) -> None:
    """Write a table as CSV, Parquet or ORC by the ending of `path`. Raises ResultSaveError."""
    write_all(field, path, lambda: iter([table]))


def write_all(field: str, path: Path, tables: Tables) -> None:
    """Write tables below each other as `write` does. Raises ResultSaveError."""
    with saving(field), _unwritable(field):
        if _ending(path) == PARQUET:
            _write_parquet(path, tables)
        elif _ending(path) == ORC:
            _write_orc(field, path, tables)
        else:
            _write_csv(path, tables)


def _groups(field: str, path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """Yield `columns` as many at a time as may be in memory."""
    at_once = max(1, _HELD_BYTES // max(1, _size_of_each(field, path)))
    for first in range(0, len(columns), at_once):
        yield list(columns[first : first + at_once])
        pa.default_memory_pool().release_unused()


def _size_of_each(field: str, path: Path) -> int:
    """Return about how many bytes a column has."""
    if is_columnar(path):
        return 8 * about_rows(path)
    return path.stat().st_size // len(csv_text.beginning(field, path).names)


def _read(field: str, path: Path, columns: list[str], asked: Mapping[str, str]) -> pa.Table:
    """Read `columns` as a columnar file stores them, or as the text of a CSV file looks.

    Where `asked` names a number's type, that is tried first, and text what is of another.
    """
    if is_columnar(path):
        return pa.concat_tables(_columnar(field, path, columns))
    types = {name: _READ_AS.get(asked[name], pa.string()) for name in columns if name in asked}
    while True:
        try:
            table = csv_text.read(field, path, columns, types, cells.MISSING)
            break
        except pa.ArrowInvalid as error:
            # What the first rows look like, others may not.
            name = csv_text.unreadable(field, path, error)
            types[name] = pa.string() if name in asked else _LOOSER[types.get(name)]
    return _unspoilt(field, path, table, [name for name in columns if name not in asked])


def _columnar(field: str, path: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Read `columns` a batch at a time, because what the file's footer says of its size may not be so."""
    far = orc_footer.far_times(path) if _ending(path) == ORC else set()
    for name in filter(far.__contains__, columns):
        raise InputDataError(
            f"{field}: column {name!r} holds times before 1678 or after 2261, which cannot be read in an ORC file; "
            f"store dates or text, or end the file's name in .parquet"
        )
    most = limits.used().expanded(path.stat().st_size)
    rows = size = 0
    with _format_errors(field, "an ORC" if _ending(path) == ORC else "a Parquet"):
        schema, batches = _batches(path, columns)
        for batch in batches:
            size += sum(map(_size, batch.columns))
            if size > most:
                raise limits.refusal(field, "the file, read,", "expanded_bytes", "check what was delivered")
            rows += batch.num_rows
            yield pa.Table.from_batches([batch]).cast(schema)
    if not rows:
        yield schema.empty_table()


def _batches(path: Path, columns: list[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema of `columns` and their batches, in which texts may be dictionaries."""
    if _ending(path) == ORC:
        found, rows = dataset.dataset(path, format="orc"), orc.ORCFile(path).nrows
        at_once = min(_BATCH_ROWS, max(_FEWEST, rows // _BATCHES))
        schema, batches = found.schema, found.scanner(columns, batch_size=at_once, use_threads=False).to_batches()
    else:
        unit = "us" if _holds_far_times(path, columns) else None
        file = parquet.ParquetFile(path, coerce_int96_timestamp_unit=unit)
        schema = file.schema_arrow
        # As dictionaries, texts that a few bytes repeat stay as short until their size is known. It takes ten times as
        # long, so those of large files have batches of few rows only.
        if path.stat().st_size <= _SMALL:
            texts = [each.name for each in schema if is_text(each.type)]
            file = parquet.ParquetFile(path, read_dictionary=texts, coerce_int96_timestamp_unit=unit)
        batches = (batch.select(columns) for batch in file.iter_batches(_BATCH_ROWS, columns=columns))
    return pa.schema([schema.field(name) for name in columns]), batches


def _holds_far_times(path: Path, columns: list[str]) -> bool:
    """Return whether there are times of INT96, as Spark and Hive write them, for which nanoseconds are too small."""
    stored = parquet.ParquetFile(path, coerce_int96_timestamp_unit="us")
    found = [
        each.path for each in map(stored.schema.column, range(len(stored.schema))) if each.physical_type == "INT96"
    ]
    batches = stored.iter_batches(_BATCH_ROWS, columns=[name for name in found if name in columns])
    return any(cells.are_far(column) for batch in batches for column in batch.columns)


def _size(column: pa.Array) -> int:
    """Return the bytes of a column, those of a dictionary's texts counted as often as they are there."""
    if not pa.types.is_dictionary(column.type) or not is_text(column.dictionary.type):
        return int(column.nbytes)
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)


def is_text(kind: pa.DataType) -> bool:
    """Return whether cells of this type are texts of any length."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind))


def _unspoilt(field: str, path: Path, table: pa.Table, inferred: list[str]) -> pa.Table:
    """Return a CSV file's `table` with columns as text, or whole numbers, where what was inferred is less than these.

    Arrow drops leading zeros, digits and the spelling of dates.
    """
    doubtful = [name for name in inferred if _may_be_spoilt(table.column(name))]
    if not doubtful:
        return table
    floats = {name for name in doubtful if pa.types.is_floating(table.schema.field(name).type)}
    integers = {name for name in doubtful if pa.types.is_integer(table.schema.field(name).type)}
    as_text, whole = set(doubtful) - floats - integers, set(floats)
    for spelled in csv_text.batches(field, path, doubtful, dict.fromkeys(doubtful, pa.string()), ()):
        for name in doubtful:
            if name not in as_text and pc.any(pc.match_substring_regex(spelled.column(name), _LEADING_ZERO)).as_py():
                as_text.add(name)
            if (
                name in whole
                and not pc.all(pc.match_substring_regex(spelled.column(name), _WHOLE_OR_MISSING), min_count=0).as_py()
            ):
                whole.discard(name)
    again = [name for name in doubtful if name in as_text | whole]
    if not again:
        return table
    read_again = csv_text.read(field, path, again, dict.fromkeys(again, pa.string()), ())
    for name in again:
        column = read_again.column(name)
        if name not in as_text:
            with suppress(pa.ArrowInvalid):  # of more than 64 bits they are text
                column = cells.cast(column, pa.int64())
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _may_be_spoilt(column: pa.ChunkedArray) -> bool:
    """Return whether text may have been more than what was inferred from it."""
    if pa.types.is_floating(column.type):
        # Whole numbers of more than 64 bits. Those with leading zeros may be small.
        return cells.are_inexact(column) or bool(pc.all(pc.equal(pc.floor(column), column)).as_py())
    return column.type not in {pa.string(), pa.bool_(), pa.null()}


def _as_type(field: str, name: str, column: pa.ChunkedArray, wanted: pa.DataType | None) -> pa.ChunkedArray:
    """Cast a column to `wanted`. Raises InputDataError naming the row of the first cell that is not of that type."""
    try:
        return cells.typed(column) if wanted is None else cells.cast(column, wanted)
    except cells.UNREADABLE:
        if wanted is None:
            raise InputDataError(f"{field}: column {name!r} holds no plain values; leave it out") from None
        kind = next(spelling for spelling, type_ in TYPES.items() if type_ == wanted)
        raise InputDataError(
            f"{field}: column {name!r} holds no {kind}{_where(_first_unlike(column, wanted))}; "
            f"correct the file or name another type"
        ) from None


def _first_unlike(column: pa.ChunkedArray, wanted: pa.DataType) -> int | None:
    """Find the row of the first cell that cannot be cast by halving, None where no cell can be cast."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cells.cast(column.slice(low, middle - low), wanted)
        except pa.ArrowInvalid:
            high = middle
        except pa.ArrowNotImplementedError:
            return None
        else:
            low = middle
    return low + 1


def _where(row: int | None) -> str:
    return f" in row {row}" if row else ""


def _write_parquet(path: Path, tables: Tables) -> None:
    """Write groups of as many rows as Arrow makes of one table."""
    kept, rows = list[pa.Table](), 0
    with parquet.ParquetWriter(path, next(tables()).schema) as writer:
        for table in tables():
            kept.append(table)
            rows += table.num_rows
            while rows > _GROUP_ROWS:
                joined = pa.concat_tables(kept)
                writer.write_table(joined.slice(0, _GROUP_ROWS))
                kept, rows = [joined.slice(_GROUP_ROWS)], rows - _GROUP_ROWS
        writer.write_table(pa.concat_tables(kept))


def _write_orc(field: str, path: Path, tables: Tables) -> None:
    first = next(tables())
    doubtful = [name for name in first.column_names if cells.may_not_fit_orc(first.column(name))]
    as_text = set[str]()
    for table in tables() if doubtful else ():
        as_text |= {name for name in doubtful if cells.is_text_in_orc(table.column(name))}
    with opened(field, path) as file, orc.ORCWriter(file) as writer:
        for table in tables():
            writer.write(_each(table, lambda name, column: cells.for_orc(column, as_text=name in as_text)))


def _write_csv(path: Path, tables: Tables) -> None:
    """Write cells without quotes, which the next reader is faster with, or with them where some need quotes."""
    if _write_unquoted(path, tables):
        return
    as_text, has_missing = set[str](), False
    for table in tables():
        as_text |= {name for name in table.column_names if not cells.is_spelled_by_arrow(table.column(name))}
        has_missing |= table.num_columns == 1 and cells.written(table.column(0)).null_count > 0

    def written(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        column = cells.written(column, as_text=name in as_text)
        # One that is missing alone in its row would make an empty line. An empty text is quoted.
        return pc.fill_null(column.cast(pa.string()), "") if has_missing else column

    with compressed.to_write(path) as file:
        for number, table in enumerate(tables()):
            options = pa_csv.WriteOptions(quoting_style="needed", include_header=number == 0)
            pa_csv.write_csv(_each(table, written), file, options)


def _write_unquoted(path: Path, tables: Tables) -> bool:
    """Return False where a cell needs quotes."""
    with compressed.to_write(path) as file:
        for number, table in enumerate(tables()):
            if table.num_columns == 1:  # an empty cell alone in its line would be no row
                return False
            options = pa_csv.WriteOptions(quoting_style="none", include_header=number == 0)
            written = _each(table, lambda _, column: cells.written(column))
            try:
                pa_csv.write_csv(written, file, options)
            except pa.ArrowInvalid:
                return False
    return True


def _each(table: pa.Table, change: Callable[[str, pa.ChunkedArray], pa.ChunkedArray]) -> pa.Table:
    return pa.table({name: change(name, table.column(name)) for name in table.column_names})


def _plain_text(field: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if cells.are_inexact(column):
        raise InputDataError(
            f"{field}: column {name!r} holds floating-point numbers too large to be exact; write keys as text"
        )
    try:
        values = pc.fill_null(cells.text(column), "")
    except cells.UNREADABLE:
        raise InputDataError(f"{field}: column {name!r} holds no plain values; name another key") from None
    special = pc.match_substring_regex(values, _SPECIAL)
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


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _nearly(column: str, names: Sequence[str]) -> str:
    """Say how to mend a column's name."""
    if any(name.strip() == column.strip() for name in names):
        return "one differs in the blanks around its name; remove them from the header"
    if any(name.strip().casefold() == column.strip().casefold() for name in names):
        return "one differs in upper and lower case; spell it as the header does"
    return "check the header"


@contextmanager
def _unwritable(field: str) -> Iterator[None]:
    """Turn an error of Arrow at values that a format cannot hold into a ResultSaveError."""
    try:
        yield
    except cells.UNREADABLE:
        raise ResultSaveError(
            f"{field}: a column holds values that this format cannot hold; end the file's name in .parquet"
        ) from None


@contextmanager
def _format_errors(field: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
        raise InputDataError(f"{field}: cannot be read as {kind} file; check what was delivered") from None
