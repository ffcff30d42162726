"""Registers Arrow's and pandas' columns and tables as values that parties send each other. Runs in party processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.core.indexes.numeric import Float64Index, Int64Index, UInt64Index

from sfworker.session import codec
from sfworker.session.codec import require

_ARROW_TYPES = {
    str(of): of
    for of in (
        pa.bool_(),
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64()),
        *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary()),
        *(pa.date32(), pa.date64(), *map(pa.timestamp, ("s", "ms", "us", "ns"))),
    )
}


def _arrow_type(of: pa.DataType) -> str:
    if _ARROW_TYPES.get(str(of)) != of:
        raise ValueError
    return str(of)


def _arrow_parts(array: pa.Array) -> Sequence[Any]:
    of = _arrow_type(array.type)
    # The buffers of a slice hold the rows around it, too, those of a concatenation its own alone.
    held = pa.concat_arrays([array])
    return [of, len(held), *(None if each is None else memoryview(each) for each in held.buffers())]


def _arrow(of: Any, length: Any, *views: Any) -> pa.Array:
    buffers = [None if view is None else pa.py_buffer(require(view, memoryview)) for view in views]
    if not 0 <= require(length, int) <= 8 * sum(buffer.size for buffer in buffers if buffer):
        raise ValueError
    array = pa.Array.from_buffers(_ARROW_TYPES[of], length, buffers)
    array.validate(full=True)  # Arrow takes offsets as they are, and would read beyond the buffers
    return array


def _schema_parts(schema: pa.Schema) -> Sequence[Any]:
    fields = [[field.name, _arrow_type(field.type), field.nullable, field.metadata] for field in schema]
    return [fields, schema.metadata]


def _schema(fields: Any, metadata: Any) -> pa.Schema:
    return pa.schema(
        [pa.field(name, _ARROW_TYPES[of], nullable, metadata=more) for name, of, nullable, more in fields], metadata
    )


def _table(schema: Any, *columns: Any) -> pa.Table:
    table = pa.Table.from_arrays([require(column, pa.ChunkedArray) for column in columns], schema=schema)
    table.validate(full=True)
    return table


codec.kind("arrow type", pa.DataType, lambda of: [_arrow_type(of)], _ARROW_TYPES.__getitem__, family=True)
codec.kind("arrow array", pa.Array, _arrow_parts, _arrow, family=True)
codec.kind(
    "arrow chunks",
    pa.ChunkedArray,
    lambda array: [_arrow_type(array.type), *array.chunks],
    lambda of, *chunks: pa.chunked_array(chunks, _ARROW_TYPES[of]),
)
codec.kind("arrow schema", pa.Schema, _schema_parts, _schema)
codec.kind("arrow table", pa.Table, lambda table: [table.schema, *table.columns], _table)


def _column(values: Any, rows: int) -> np.ndarray[Any, Any]:
    # pandas repeats anything else for each row of an index, and an index of any length is a few bytes.
    if require(values, np.ndarray).shape != (rows,):
        raise ValueError
    return np.asarray(values)


def _index(values: Any, name: Any) -> pd.Index:
    return pd.Index(_column(values, len(values)), dtype=values.dtype, name=name)


def _series(values: Any, index: Any, name: Any) -> pd.Series:
    return pd.Series(_column(values, len(index)), index, name=name)


def _frame(names: Any, index: Any, *columns: Any) -> pd.DataFrame:
    if not columns and len(index):
        raise ValueError
    held = {place: _column(values, len(index)) for place, values in enumerate(columns)}
    frame = pd.DataFrame(held, index, copy=False)
    frame.columns = names
    return frame


def _range(*parts: Any) -> pd.RangeIndex:
    start, stop, step, name = parts
    return pd.RangeIndex(start, stop, step, name=name)


def _frame_parts(frame: pd.DataFrame) -> Sequence[Any]:
    return [frame.columns, frame.index, *(_values_of(frame.iloc[:, place]) for place in range(frame.shape[1]))]


def _values_of(held: pd.Series | pd.Index) -> np.ndarray[Any, Any]:
    if not isinstance(held.dtype, np.dtype):
        raise ValueError
    values: np.ndarray[Any, Any] = held.to_numpy()
    return values


codec.kind("pandas range", pd.RangeIndex, lambda index: [index.start, index.stop, index.step, index.name], _range)
for _of in (pd.Index, Int64Index, UInt64Index, Float64Index):
    codec.kind("pandas index", _of, lambda index: [_values_of(index), index.name], _index)
codec.kind("pandas series", pd.Series, lambda series: [_values_of(series), series.index, series.name], _series)
codec.kind("pandas frame", pd.DataFrame, _frame_parts, _frame)
