"""Says what a cell means, by the one rule for all formats that `files` describes. Runs in the party process."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
"""Names of column types in an envelope, with the type of each here."""
MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""Texts that stand for no number, as in pandas."""
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
"""Texts of which columns are booleans, as in pandas."""
_WHOLE = 2.0**53
"""Whole numbers that a double holds are exact below this, and not beyond."""
_WRITTEN_ALIKE = 1e10
"""Arrow writes numbers from here on with an exponent."""
_SPELLED_BY_ARROW = (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date32)
_ODDITIES = (
    (r"^\s|\s$", "some with blanks at an end"),
    (r"^0[0-9]", "some with leading zeros"),
    (r"^-?[0-9]+\.0$", "some ending in .0, as pandas writes whole numbers where one is missing"),
    (r"^-?[0-9.]+[eE][+-]?[0-9]+$", "some with an exponent"),
    (r"^[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}", "some like dates"),
    (r"[^\x00-\x7f]", "some beyond ASCII"),
    (r"^(NA|N/A|NaN|nan|None|NULL|null|<NA>)$", "some like a word for no value"),
)
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
"""Exceptions of the functions here where a cell is not what is asked for."""


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without dictionaries and the types that differ from string or float32 in storage only."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        return plain(column.cast(type_.value_type))
    if pa.types.is_fixed_size_binary(type_):
        return column.cast(pa.binary()).cast(pa.string())
    if pa.types.is_large_string(type_) or pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return column.cast(pa.string())
    return column.cast(pa.float32()) if pa.types.is_float16(type_) else column


def text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return cells as text, a missing one as null. Equal values have equal texts."""
    column = plain(column)
    if pa.types.is_string(column.type):
        return _nulled(column, pc.equal(column, ""))
    if pa.types.is_floating(column.type):
        return _text_of_floats(column)
    if pa.types.is_decimal(column.type):
        return _without_zeros(column.cast(pa.string()))
    if pa.types.is_timestamp(column.type):
        return _text_of_times(column)
    return _without_zeros(column.cast(pa.string())) if pa.types.is_time(column.type) else column.cast(pa.string())


def written(column: pa.ChunkedArray, *, as_text: bool = False) -> pa.ChunkedArray:
    """Return cells as Arrow may write them to a CSV file, in which they read as `text` says."""
    column = plain(column)
    return text(column) if as_text or not is_spelled_by_arrow(column) else column


def is_spelled_by_arrow(column: pa.ChunkedArray) -> bool:
    """Return whether Arrow writes all cells as `text` does."""
    column = plain(column)
    if pa.types.is_floating(column.type):
        return not pc.any(_spelled_otherwise(column)).as_py()
    return any(is_type(column.type) for is_type in _SPELLED_BY_ARROW)


def for_orc(column: pa.ChunkedArray, *, as_text: bool = False) -> pa.ChunkedArray:
    """Return cells with a type that an ORC file can store, or as text."""
    column = plain(column)
    if as_text or pa.types.is_time(column.type):
        return text(column)
    if pa.types.is_unsigned_integer(column.type):
        return column.cast(pa.int64())
    return column.cast(pa.float64()) if pa.types.is_null(column.type) else column


def may_not_fit_orc(column: pa.ChunkedArray) -> bool:
    """Return whether a column is of a type of which an ORC file can store some cells only."""
    kind = plain(column).type
    return bool(pa.types.is_unsigned_integer(kind) or pa.types.is_timestamp(kind))


def is_text_in_orc(column: pa.ChunkedArray) -> bool:
    """Return whether there are cells for which a column that `may_not_fit_orc` has to be text."""
    column = plain(column)
    return are_far(column) if pa.types.is_timestamp(column.type) else bool(pa.types.is_string(typed(column).type))


def are_far(column: pa.ChunkedArray | pa.Array) -> bool:
    """Return whether there are times that 64 bits of nanoseconds do not hold, as ORC files need them to."""
    try:
        column.cast(pa.timestamp("ns", column.type.tz))
    except pa.ArrowInvalid:
        return True
    return False


def are_inexact(column: pa.ChunkedArray) -> bool:
    """Return whether whole numbers among the cells are too large for a floating-point type to be exact."""
    column = plain(column)
    if not pa.types.is_floating(column.type):
        return False
    limit = _WHOLE if column.type == pa.float64() else 2.0**24
    return bool(pc.any(pc.greater_equal(pc.abs(column), limit)).as_py())


def cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """Return cells as one of TYPES, a missing one as null. Raises one of UNREADABLE."""
    column = plain(column)
    if wanted == pa.string():
        return text(column)
    if pa.types.is_string(column.type):
        column = _spelled(column)
        if wanted == pa.int64():
            column = pc.replace_substring_regex(column, r"^\+?(-?\d+)(\.0*)?$", r"\1")
        elif wanted == pa.float64() and pc.all(pc.is_in(column.drop_null(), value_set=pa.array(TRUE + FALSE))).as_py():
            column = column.cast(pa.bool_())  # numbers of 1 and 0, as they are where a file stores them as booleans
    elif pa.types.is_floating(column.type):
        column = _nulled(column, pc.is_nan(column))
    if wanted != pa.float64():
        return column.cast(wanted)
    # A safe cast would refuse integers beyond 2**53, which float64 rounds. Added to 0, -0.0 is 0, which it equals.
    return pc.add(column.cast(wanted, safe=False), 0.0)


def typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return cells with the one of TYPES that holds them exactly. Raises one of UNREADABLE."""
    column = plain(column)
    type_ = column.type
    if pa.types.is_integer(type_) or (pa.types.is_decimal(type_) and type_.scale == 0):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return text(column)
    if pa.types.is_boolean(type_):
        return column
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_) or pa.types.is_null(type_):
        return cast(column, pa.float64())
    return text(column)


def hints(column: pa.ChunkedArray) -> list[str]:
    """Say what a column of keys looks like: its type, lengths and oddities, but no cell. For its owner alone."""
    texts = text(column).drop_null()
    if not len(texts):
        return ["no value in any row"]
    lengths = pc.min_max(pc.utf8_length(texts)).as_py()
    found = [f"stored as {plain(column).type}", f"{lengths['min']} to {lengths['max']} characters"]
    return [
        *found,
        *(oddity for pattern, oddity in _ODDITIES if pc.any(pc.match_substring_regex(texts, pattern)).as_py()),
    ]


def _spelled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts of numbers or booleans without blanks around them."""
    column = pc.utf8_trim_whitespace(column)
    return _nulled(column, pc.is_in(column, value_set=pa.array(MISSING)))


def _nulled(column: pa.ChunkedArray, mask: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pc.any(mask).as_py():
        return column
    return pc.if_else(mask, pa.scalar(None, column.type), column)


def _spelled_otherwise(column: pa.ChunkedArray) -> Any:
    """Mask the numbers that Arrow would write in another way than `text` does."""
    return pc.or_(pc.is_nan(column), pc.or_(pc.greater_equal(pc.abs(column), _WRITTEN_ALIKE), pc.equal(column, 0.0)))


def _text_of_floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write whole numbers without a point, others as shortly as reads back the same."""
    column = _nulled(column, pc.is_nan(column))
    whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), _WHOLE))
    digits = pc.if_else(whole, column, pa.scalar(None, column.type)).cast(pa.int64()).cast(pa.string())
    if digits.null_count == column.null_count:
        return digits
    found = pc.coalesce(digits, column.cast(pa.string()))
    large = pc.fill_null(pc.and_(pc.invert(whole), _spelled_otherwise(column)), False)
    if not pc.any(large).as_py():
        return found
    spelled = [repr(value.as_py()) for value in column.filter(large)]
    return pa.chunked_array([pc.replace_with_mask(found.combine_chunks(), large.combine_chunks(), pa.array(spelled))])


def _text_of_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write a time as pandas does: midnight as the date alone; with a time zone, in UTC and with a Z."""
    zoned = column.type.tz is not None
    found = _without_zeros(column.cast(pa.timestamp(column.type.unit)).cast(pa.string()))
    if zoned:
        return pc.binary_join_element_wise(found, "Z", "")
    return pc.replace_substring_regex(found, r" 00:00:00$", "")


def _without_zeros(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Drop the zeros at the end of a fraction, and the point where nothing follows it."""
    return pc.replace_substring_regex(texts, r"(\.\d*[1-9])0+$|\.0+$", r"\1")
