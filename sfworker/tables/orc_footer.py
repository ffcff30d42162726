"""Reads in an ORC file's footer which columns hold times that Arrow would read wrongly. Runs in the party process.

Arrow reads times of ORC files as nanoseconds in 64 bits, without a check: 9999-12-31, which data warehouses write for
"no end", becomes a day of 1816. Only the file's own statistics tell (https://orc.apache.org/specification/ORCv1). A
file without them is taken for one without such times.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import SEEK_END
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

_MOST_MILLISECONDS = (1 << 63) // 1_000_000
_MOST_BYTES = 1 << 26
_NONE, _ZLIB, _SNAPPY, _LZ4, _ZSTD = 0, 1, 2, 4, 5
_FOOTER_LENGTH, _COMPRESSION, _BLOCK_SIZE = 1, 2, 3
"""Fields of a file's postscript."""
_TYPES, _STATISTICS = 4, 7
"""Fields of its footer."""
_SUBTYPES, _NAMES = 2, 3
"""Fields of a type."""
_TIMES = 9
"""Field of a column's statistics: its least and largest time, in one or two time zones."""
_Field: TypeAlias = tuple[int, int | bytes]


def far_times(path: Path) -> set[str]:
    """Return the columns with times before 1678 or after 2261. Without those whose statistics cannot be read."""
    try:
        return set(_columns(_footer(path)))
    except (pa.ArrowException, zlib.error, IndexError, KeyError, TypeError, ValueError):
        return set()  # Arrow says what is wrong with the file


def _footer(path: Path) -> bytes:
    with path.open("rb") as file:
        end = file.seek(-1, SEEK_END)
        length = file.read(1)[0]
        file.seek(end - length)
        about = dict(_fields(file.read(length)))
        footer_length = _number(about[_FOOTER_LENGTH])
        file.seek(end - length - footer_length)
        footer = file.read(min(footer_length, _MOST_BYTES))
    kind = _number(about.get(_COMPRESSION, _NONE))
    if kind == _NONE:
        return footer
    found, at = b"", 0
    while at < len(footer) and len(found) < _MOST_BYTES:
        head = int.from_bytes(footer[at : at + 3], "little")
        block = footer[at + 3 : at + 3 + (head >> 1)]
        found += block if head & 1 else _unpacked(kind, block, min(_number(about[_BLOCK_SIZE]), _MOST_BYTES))
        at += 3 + (head >> 1)
    return found


def _unpacked(kind: int, block: bytes, most: int) -> bytes:
    if kind == _ZLIB:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(block, most)
    if kind == _ZSTD:
        return bytes(pa.CompressedInputStream(pa.BufferReader(block), "zstd").read(most))
    if kind == _SNAPPY:
        most = min(_varint(block, 0)[0], most)  # Arrow would fill the rest with zeros
    return bytes(pa.decompress(block, most, {_SNAPPY: "snappy", _LZ4: "lz4_raw"}[kind], asbytes=True))


def _columns(footer: bytes) -> Iterator[str]:
    """Yield the columns at the top with far times in them or below."""
    fields = list(_fields(footer))
    root = list(_fields(_text(next(value for number, value in fields if number == _TYPES))))
    statistics = [dict(_fields(_text(value))) for number, value in fields if number == _STATISTICS]
    places = [place for number, value in root if number == _SUBTYPES for place in _varints(_text(value))]
    names = [_text(value).decode() for number, value in root if number == _NAMES]
    for name, first, end in zip(names, places, [*places[1:], len(statistics)], strict=True):
        times = [_text(each[_TIMES]) for each in statistics[first:end] if _TIMES in each]
        # Their first four fields are numbers whose last bit is the sign.
        ends = [_number(value) >> 1 for each in times for number, value in _fields(each) if number <= 4]
        if max(ends, default=0) >= _MOST_MILLISECONDS:
            yield name


def _fields(message: bytes) -> Iterator[_Field]:
    """Yield numbers and values of the fields of a message in the format of Protocol Buffers."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            length, at = _varint(message, at)
        yield tag >> 3, message[at : at + length]
        at += length


def _varints(packed: bytes) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value


def _text(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError
    return value
