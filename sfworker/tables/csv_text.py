"""Reads CSV files row for row as pandas does without options, at Arrow's speed. Runs in the party process.

That is RFC 4180 with what files in the wild have: quoted line breaks, commas and doubled quotes, LF, CRLF or CR, a byte
order mark, no end of the last line, blank lines (skipped, also those of spaces and tabs), cells of any length, and rows
shorter than the header (the rest is missing). Refused are longer rows, which pandas may shift into an index.
"""

from __future__ import annotations

import codecs
import csv
import mmap
import re
import secrets
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import SEEK_CUR
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
from pyarrow import csv as pa_csv

from sfworker import limits
from sfworker.errors import InputDataError
from sfworker.tables import cells

BLOCK_SIZES = (1 << 20, 1 << 25, (1 << 31) - 1)
"""Bytes that Arrow parses at a time. A row has to fit, so the next size is for longer ones."""
_CELLS_AT_ONCE = 1 << 18
"""Cells of a file with short rows that pandas reads at a time."""
_BLANKS = " \t"
_BLANK_LINE = re.compile(rb"(?:\A|[\r\n])[ \t]+(?:[\r\n]|\Z)")
_MAGIC = {
    b"PAR1": "is a Parquet file; end its name in .parquet",
    b"ORC": "is an ORC file; end its name in .orc",
    b"PK\x03\x04": "is an Excel workbook or another ZIP archive; save the table as CSV, or end the name in .zip",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; save the table as CSV",
    b"\x1f\x8b": "is compressed by gzip; end its name in .gz",
    b"BZh": "is compressed by bzip2; end its name in .bz2",
    b"\xfd7zXZ": "is compressed by xz; end its name in .xz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; end its name in .zst",
    b"\xff\xfe": "is in UTF-16; convert it to UTF-8",
    b"\xfe\xff": "is in UTF-16; convert it to UTF-8",
}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", "\x01": "Ctrl-A (Hive's own)"}
_OPEN_QUOTE = "a cell begins with a quote that nothing closes; correct the file"
csv.field_size_limit(sys.maxsize)  # the csv module would take no cell beyond 128 KiB


@dataclass(frozen=True)
class Beginning:
    """The header of a file, and its place."""

    names: list[str]
    """Columns of the header."""
    lines_before: int
    """Blank lines before it."""
    has_rows: bool


def beginning(field: str, path: Path) -> Beginning:
    """Read the header and the first row. Raises InputDataError."""
    with path.open("rb") as opened:
        start = opened.read(8)
    for magic, said in _MAGIC.items():
        if start.startswith(magic):
            raise InputDataError(f"{field}: the file {said}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Arrow takes NUL in a cell, the csv module does not.
            rows = enumerate(csv.reader(line.replace("\0", "\ufffd") for line in file))
            found = list(islice(((at, row) for at, row in rows if not _is_blank(row)), 2))
    except (UnicodeDecodeError, csv.Error):
        raise InputDataError(f"{field}: {_encoding(path)}") from None
    if not found:
        raise InputDataError(f"{field}: the file is empty; it needs a header line and rows")
    (lines_before, names), *rest = found
    if any("\ufffd" in name for name in names):
        raise InputDataError(f"{field}: {_encoding(path)}")
    for _, first in rest:
        if len(names) == 1:
            _require_commas(field, names[0], first)
    return Beginning(names, lines_before, bool(rest))


def read(
    field: str, path: Path, columns: Sequence[str], types: Mapping[str, pa.DataType], missing: Sequence[str]
) -> pa.Table:
    """Read `columns` as one table, as `batches` does."""
    return pa.concat_tables(batches(field, path, columns, types, missing))


def batches(
    field: str,
    path: Path,
    columns: Sequence[str],
    types: Mapping[str, pa.DataType],
    missing: Sequence[str],
    after: int = 0,
) -> Iterator[pa.Table]:
    """Read `columns` some rows at a time, those after the first `after`. One table at least.

    They are of the type that `types` says, or else of that which Arrow infers from the first rows. Cells like one of
    `missing` are null, but not in text. Raises InputDataError, or ArrowInvalid where a cell is not of its column's type
    (see `unreadable`).
    """
    convert = pa_csv.ConvertOptions(
        include_columns=columns,
        column_types=types,
        null_values=missing,
        # Without Arrow's 1 and 0, which are numbers.
        true_values=cells.TRUE,
        false_values=cells.FALSE,
    )
    start = beginning(field, path)
    rows = _Rows(start)
    # To Arrow a line of blanks is a row where each has one cell. Only quotes tell such a line from a cell of blanks.
    is_filled = len(start.names) == 1 and _has_blank_line(path)
    try:
        if not is_filled:
            for table in _parse(path, start, rows, convert, after):
                if rows.missing_cells:
                    break
                after += table.num_rows
                yield table
        if is_filled or rows.missing_cells:
            rows.begin()
            yield from _filled(field, path, start.names, convert, after)
    except pa.ArrowInvalid as error:
        if not (start.has_rows or rows.has_open_quote):  # to Arrow a header that no line end follows is no file
            yield pa.schema([(name, types.get(name, pa.null())) for name in columns]).empty_table()
            return
        # Of a wrong row in another encoding nothing is told to `judge`, so `wrong` does not say whether there is one.
        if rows.wrong is None and not any(text in str(error) for text in ("CSV parse error", "UTF8", "straddling")):
            raise
        raise InputDataError(f"{field}: {_reason(path, start)}") from None
    except _UnfilledError:
        raise InputDataError(f"{field}: {_reason(path, start)}") from None
    if rows.has_open_quote:
        raise InputDataError(f"{field}: {_OPEN_QUOTE}")


def unreadable(field: str, path: Path, error: pa.ArrowInvalid) -> str:
    """Return the column with the cell at which `batches` has raised `error`."""
    found = re.match(r"In CSV column #(\d+): ", str(error))
    if found is None:
        raise error
    return beginning(field, path).names[int(found[1])]


def has_quotes(path: Path) -> bool:
    """Return whether there is a quote after the first line, or one that is opened there and closed later."""
    about = path.stat()
    return _has_quotes(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=8)
def _has_quotes(path: Path, _changed: int, _size: int) -> bool:
    with path.open("rb") as file:
        if file.readline().count(b'"') % 2:
            return True
        return holds_any(file, b'"')


def holds_any(file: BinaryIO, characters: bytes) -> bool:
    """Return whether one of `characters` is in the rest of a file."""
    # Blocks that fit into the processor's cache are searched several times as fast as a mapped file.
    block = bytearray(1 << 18)
    while size := file.readinto(block):  # type: ignore[attr-defined]
        if any(block.find(character, 0, size) >= 0 for character in characters):
            return True
    return False


class _Rows:
    """Judges rows whose number of cells is not that of the header."""

    def __init__(self, start: Beginning) -> None:
        self._mark = f"{secrets.token_hex(16)}{',' * len(start.names)}"
        self._lines_before = start.lines_before
        self.begin()

    def begin(self) -> None:
        """Forget what was read, as the file is read from its beginning."""
        self._blank_lines = self._lines_before
        self._awaits_mark = False
        self.wrong: Any = None
        """The first wrong row."""
        self.missing_cells = 0
        """Cells that rows have less than the header."""

    def mark(self) -> bytes:
        """Return a wrong row to be put behind the file.

        Arrow takes a quote that is open at the end as closed there, and the mark is then inside a cell.
        """
        self._awaits_mark = True
        return f"\n{self._mark}".encode()

    def judge(self, row: Any) -> str:
        if row.text == self._mark:
            self._awaits_mark = False
        elif row.actual_columns < row.expected_columns and self._mark not in row.text and row.text.strip(_BLANKS):
            self.missing_cells += row.expected_columns - row.actual_columns
        elif row.text.strip(_BLANKS):
            self.wrong = self.wrong or row
            return "error"
        else:
            self._blank_lines += 1
        return "skip"

    @property
    def has_open_quote(self) -> bool:
        return self._mark in self.wrong.text if self.wrong else self._awaits_mark

    @property
    def number(self) -> int:
        """Number of the first wrong row."""
        return int(self.wrong.number) - 1 - self._blank_lines


class _Marked:
    """A file for Arrow to read, with a mark behind it."""

    closed = False

    def __init__(self, file: BinaryIO, mark: bytes) -> None:
        self._file, self._mark = file, mark

    def read(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) < size:
            found, self._mark = found + self._mark, b""
        elif found.endswith(b"\r") and size > 1:
            # Arrow drops an LF that a block begins with after such an end, also one within quotes.
            self._file.seek(-1, SEEK_CUR)
            return found[:-1]
        return found

    def close(self) -> None:
        self.closed = True


class _UnfilledError(Exception):
    """pandas cannot read the file."""


def _filled(
    field: str, path: Path, names: Sequence[str], convert: pa_csv.ConvertOptions, after: int
) -> Iterator[pa.Table]:
    """Read a file as pandas does, which fills short rows, and let Arrow read what pandas has read, with quotes.

    Raises _UnfilledError where pandas cannot, or InputDataError where the file becomes too long.
    """
    left, seen = limits.used().expanded(path.stat().st_size), 0
    for frame in _frames(path, names):
        left -= frame.size
        if left < 0:
            raise limits.refusal(field, "the file, read,", "expanded_bytes", "check what was delivered")
        seen += len(frame)
        if seen > after or not seen:
            text = _quoted(frame.tail(seen - after))
            table = pa_csv.read_csv(
                pa.BufferReader(text),
                pa_csv.ReadOptions(use_threads=False, block_size=len(text)),
                pa_csv.ParseOptions(newlines_in_values=True),
                convert,
            )
            # Types that were inferred stay.
            convert.column_types = table.schema
            after = seen
            yield table


def _frames(path: Path, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    with path.open("rb") as file:
        if holds_any(file, b"\0"):  # at which pandas would end a cell
            raise _UnfilledError
    at_once = max(1, _CELLS_AT_ONCE // len(names))
    try:
        with pd.read_csv(
            path, dtype=str, na_filter=False, encoding="utf-8-sig", names=names, header=0, chunksize=at_once
        ) as frames:
            yield from frames
    except ValueError:
        raise _UnfilledError from None


def _quoted(frame: pd.DataFrame) -> bytes:
    text: str = frame.to_csv(index=False, quoting=csv.QUOTE_ALL)
    return text.encode()


def _parse(
    path: Path,
    start: Beginning,
    rows: _Rows,
    convert: pa_csv.ConvertOptions,
    after: int = 0,
) -> Iterator[pa.Table]:
    quoted = has_quotes(path)
    for size in BLOCK_SIZES:
        rows.begin()
        seen = 0
        with path.open("rb") as file:
            try:
                reader = pa_csv.open_csv(
                    # Quotes are what Python has to help with. Arrow reads other files itself.
                    _Marked(file, rows.mark()) if quoted else pa.OSFile(str(path)),
                    read_options=pa_csv.ReadOptions(
                        # After an error in one of its threads, Arrow may lose it to a wait that has no end.
                        use_threads=False,
                        block_size=size,
                        skip_rows=start.lines_before,
                    ),
                    parse_options=pa_csv.ParseOptions(newlines_in_values=quoted, invalid_row_handler=rows.judge),
                    convert_options=convert,
                )
                # Types that were inferred stay where the file is read once more.
                convert.column_types = reader.schema
                for batch in reader:
                    seen += batch.num_rows
                    if seen > after:
                        table, known = pa.Table.from_batches([batch]), batch.num_rows - (seen - after)
                        # Copied, as Arrow's `if_else` takes the wrong texts of slices.
                        yield table.take(pa.array(range(known, batch.num_rows))) if known > 0 else table
                        after = seen
                if not after:
                    yield reader.schema.empty_table()
                return
            except pa.ArrowInvalid as error:
                if "straddling" not in str(error) or size >= min(path.stat().st_size, BLOCK_SIZES[-1]):
                    raise


def _has_blank_line(path: Path) -> bool:
    """Return whether there is a line of blanks."""
    with path.open("rb") as file:
        if not holds_any(file, _BLANKS.encode()):  # what most files answer, in a hundredth of the pattern's time
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return bool(_BLANK_LINE.search(content))


def _is_blank(row: Sequence[str]) -> bool:
    return not "".join(row).strip(_BLANKS) and len(row) <= 1


def _require_commas(field: str, name: str, first: Sequence[str]) -> None:
    """Raise InputDataError where the only name and the first row hold another separator than commas."""
    for mark, called in _SEPARATORS.items():
        if name.count(mark) and name.count(mark) == ",".join(first).count(mark):
            raise InputDataError(
                f"{field}: cells are separated by {called}; save the file with commas between cells and a point in "
                f"numbers"
            )


def _reason(path: Path, start: Beginning) -> str:
    """Say why a file cannot be read."""
    rows = _Rows(start)
    convert = pa_csv.ConvertOptions(include_columns=start.names[:1], check_utf8=False)
    convert.column_types = {start.names[0]: pa.binary()}
    with suppress(pa.ArrowInvalid):
        deque(_parse(path, start, rows, convert), maxlen=0)
    if rows.has_open_quote:
        return _OPEN_QUOTE
    if rows.wrong is None:
        return _encoding(path)
    return (
        f"row {rows.number} has {rows.wrong.actual_columns} cells where the header has "
        f"{rows.wrong.expected_columns}; correct the file"
    )


def _encoding(path: Path) -> str:
    """Say what to do with a file that is not in UTF-8."""
    decoder = codecs.getincrementaldecoder("gb18030")()
    with path.open("rb") as file:
        try:
            for block in iter(lambda: file.read(1 << 20), b""):
                if b"\0" in block:
                    return "holds NUL characters and so is not a CSV file in UTF-8; convert it"
                decoder.decode(block)
        except UnicodeDecodeError:
            return "not a CSV file in UTF-8; convert it"
    return "not a CSV file in UTF-8, but perhaps one in GB18030 or GBK; convert it, as `iconv -f GB18030 -t UTF-8` does"
