"""Takes rows of tables that follow each other, in any order. Runs in party processes.

Rows in the order of the file are taken as they come. For others, what is more than memory should hold waits in the
scratch directory: each row goes to the file of its part of the result, and one part at a time is put in order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from sfworker import limits
from sfworker.party.data_roots import saving
from sfworker.tables.files import Tables, is_text

ABSENT = -1
"""Number of a row that is empty."""
PART_BYTES = 1 << 25
"""Bytes of rows that are put in order at a time."""
RowNumbers = npt.NDArray[np.integer[Any]]


def taken(field: str, source: Path, tables: Tables, rows: RowNumbers, scratch: Path) -> Tables:
    """Return the `rows` of `tables`, which were read from `source`; some may repeat, or be ABSENT.

    Raises InputDataError that begins with `field` where they are more bytes than the file may become.
    """
    if (rows[1:] >= rows[:-1]).all() and (not len(rows) or rows[0] != ABSENT):
        return lambda: _in_their_order(_Room(field, source), tables, rows)
    room, parts, begin = _Room(field, source), None, 0
    order = ordered = rows
    with saving(field, "the scratch directory"):
        for table in _gathered(tables()):
            if not begin and int(rows.max()) < table.num_rows:
                room.take(table, rows[rows != ABSENT])
                found = table.take(_indices(rows))
                return lambda: iter([found])
            if parts is None:
                parts = _Parts(table, len(rows), scratch)
                order = np.argsort(rows, kind="stable")
                ordered = rows[order]
            low, high = np.searchsorted(ordered, [begin, begin + table.num_rows])
            wanted = ordered[low:high] - ordered.dtype.type(begin)
            room.take(table, wanted)
            parts.add(table, wanted, order[low:high])
            begin += table.num_rows
        assert parts is not None  # noqa: S101 - there is one table at least
        parts.written()
    return parts.read


def _in_their_order(room: _Room, tables: Tables, rows: RowNumbers) -> Iterator[pa.Table]:
    begin = 0
    for table in tables():
        low, high = np.searchsorted(rows, [begin, begin + table.num_rows])
        wanted = rows[low:high] - rows.dtype.type(begin)
        room.take(table, wanted)
        yield table.take(pa.array(wanted))
        begin += table.num_rows


def _gathered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join tables to some of about PART_BYTES, one at least."""
    kept, size = list[pa.Table](), 0
    for table in tables:
        kept.append(table)
        size += table.nbytes
        if size >= PART_BYTES:
            joined = pa.concat_tables(kept)
            kept, size = [joined.schema.empty_table()], 0
            yield joined
            del joined
    yield pa.concat_tables(kept)


def _indices(rows: RowNumbers) -> pa.Array:
    """Return numbers by which Arrow takes rows, which it does slower where some may be missing."""
    absent = rows == ABSENT
    return pa.array(rows, mask=absent) if absent.any() else pa.array(rows)


class _Parts:
    """Parts of the result, each in a file with the place of each row there."""

    def __init__(self, table: pa.Table, rows: int, scratch: Path) -> None:
        self._rows = rows
        self._at_once = max(1, PART_BYTES * table.num_rows // max(1, table.nbytes))
        directory = Path(tempfile.mkdtemp(prefix="rows-", dir=scratch))
        self._paths = [directory / f"{number}.arrow" for number in range(-(-rows // self._at_once))]
        schema = table.schema.append(pa.field("place", pa.int64()))
        options = ipc.IpcWriteOptions(compression="lz4")
        self._writers = [ipc.new_file(str(path), schema, options=options) for path in self._paths]

    def written(self) -> None:
        """End the files."""
        for writer in self._writers:
            writer.close()

    def add(self, table: pa.Table, rows: RowNumbers, places: RowNumbers) -> None:
        """Add `rows` of `table` at their places in the result."""
        table = table.combine_chunks()  # once for all parts
        part = places // self._at_once
        by_part = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[by_part], np.arange(len(self._paths) + 1))
        for writer, begin, end in zip(self._writers, ends[:-1], ends[1:], strict=True):
            some = by_part[begin:end]
            if len(some):
                writer.write_table(table.take(pa.array(rows[some])).append_column("place", pa.array(places[some])))

    def read(self) -> Iterator[pa.Table]:
        for number, path in enumerate(self._paths):
            begin = number * self._at_once
            with ipc.open_file(str(path)) as file:
                table = file.read_all()
            at = np.full(min(self._at_once, self._rows - begin), ABSENT)
            at[table.column(table.num_columns - 1).to_numpy() - begin] = np.arange(table.num_rows)
            yield table.remove_column(table.num_columns - 1).take(_indices(at))


class _Room:
    """The bytes that rows of a file may become."""

    def __init__(self, field: str, source: Path) -> None:
        self._field = field
        self._left = limits.used().expanded(source.stat().st_size)

    def take(self, table: pa.Table, rows: RowNumbers) -> None:
        """Count `rows` of a table. Raises InputDataError."""
        texts = [column for column in table.columns if is_text(column.type)]
        size = np.full(table.num_rows, 8 * (table.num_columns - len(texts)), dtype=np.int64)
        for column in texts:
            size += pc.fill_null(pc.binary_length(column), 0).to_numpy()
        self._left -= int(size[rows].sum())
        if self._left < 0:
            raise limits.refusal(self._field, "the output", "expanded_bytes")
