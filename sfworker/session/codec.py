"""Encodes what parties send each other and keep in models, in msgpack. Runs in party processes.

A pickle calls what its sender names, with the sender's arguments. Here bytes choose among the kinds that are registered
in this process, each made by a function that checks its parts, so the kinds are a closed set. A message is::

    | length of the tree, 8 byte | tree, msgpack | buffer | buffer | ...

Buffers are what arrays and long bytes hold, in the order in which the tree refers to them, each at a multiple of 16
byte. So arrays are sent from where they are and used where they were received. In the tree stands

| node | for |
|---|---|
| nil, bool, integer of 64 bit, float, text, bytes, array | itself (an array is a list) |
| map with texts as keys | a dict |
| map `{0: n}` | the next buffer, which has n byte |
| map `{1: [kind, part, ...]}` | a value of that kind, made from parts, which are nodes |

`fed_values` registers the kinds of SecretFlow, SPU and HEU, and modules of jobs their own records. A message takes no
more memory than a small multiple of its length, whatever it says.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sfworker.errors import RecurringError

DEEPEST = 64
LONGEST = 1 << 36
"""Bytes of the longest message that a party receives."""
_LONGEST_TREE = 1 << 30
_LONGEST_IN_TREE = 1 << 12
_ALIGNMENT = 16
_BUFFER, _VALUE = 0, 1
_LENGTH = struct.Struct(">Q")
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_LEAST_INT, _GREATEST_INT = -(1 << 63), (1 << 64) - 1
_ENCODER = msgspec.msgpack.Encoder()


class _Kind(NamedTuple):
    name: str
    parts: Callable[[Any], Sequence[Any]]


_kinds: dict[type, _Kind] = {}
_families: dict[type, _Kind] = {}
"""Kinds that types derived from these are of, too."""
_makers: dict[str, Callable[..., Any]] = {}


def kind(
    name: str,
    of: type,
    parts: Callable[[Any], Sequence[Any]],
    make: Callable[..., Any],
    *,
    family: bool = False,
) -> None:
    """Register a kind. `parts` takes a value apart, `make` puts parts that a stranger chose together, or raises."""
    (_families if family else _kinds)[of] = _Kind(name, parts)
    _makers[name] = make


def record(of: type, fixed: dict[str, Any] | None = None, **fields: Any) -> None:
    """Let parties send each other objects of a class that is nothing but `fields`, each of a type, for modules of jobs.

    Its methods have to gain a stranger nothing, whatever values of these types the fields have. Fields of `fixed` have
    one value, which is not sent.
    """
    fixed = fixed or {}

    def parts(value: Any) -> Sequence[Any]:
        held = {name: part for name, part in vars(value).items() if name not in fixed or part is not fixed[name]}
        if unknown := held.keys() - fields.keys():
            raise RecurringError(f"{of.__qualname__} has no field {min(unknown)} that may be sent to another party")
        return [held]

    def make(held: Any) -> Any:
        if any(not isinstance(part, fields[name]) for name, part in held.items()):
            raise TypeError
        made: Any = object.__new__(of)
        vars(made).update(held, **fixed)
        return made

    kind(f"{of.__module__}.{of.__qualname__}", of, parts, make)


def enumeration(of: type, members: Iterable[Any]) -> None:
    """Register an enumeration with its `members`, each of which is sent as its number."""
    by_number = {int(member): member for member in members}
    kind(f"{of.__module__}.{of.__qualname__}", of, lambda member: [int(member)], by_number.__getitem__)


def encode(value: Any) -> list[bytes | memoryview]:
    """Return a message in pieces, whose buffers are still those of `value`. Raises RecurringError."""
    buffers: list[memoryview] = []
    try:
        tree = _ENCODER.encode(_node(value, buffers, 0))
    except (ValueError, OverflowError):
        raise RecurringError("an object cannot be sent to another party, as one of its values is of no kind") from None
    pieces: list[bytes | memoryview] = [_LENGTH.pack(len(tree)), tree]
    end = _LENGTH.size + len(tree)
    for buffer in buffers:
        padding = -end % _ALIGNMENT
        pieces += [bytes(padding), buffer]
        end += padding + len(buffer)
    if len(tree) > _LONGEST_TREE or end > LONGEST:
        raise RecurringError("an object is too long to be sent to another party; send arrays, and fewer rows at a time")
    return pieces


def dumps(value: Any) -> bytes:
    """Return `value` as one message. Raises RecurringError where it is of no kind."""
    return b"".join(encode(value))


def loads(message: bytes | bytearray) -> Any:
    """Return the value that a stranger has sent or written. Raises RecurringError where it is none.

    Arrays lie in a bytearray that is given, and keep it.
    """
    try:
        view = memoryview(message if isinstance(message, bytearray) else bytearray(message))
        (length,) = _LENGTH.unpack_from(view)
        start = _LENGTH.size + length
        if length > _LONGEST_TREE or start > len(view):
            raise ValueError
        buffers = _Buffers(view, start)
        value = _value(msgspec.msgpack.decode(view[_LENGTH.size : start]), buffers, 0)
        buffers.end()
    except Exception as error:  # noqa: BLE001 - whatever a stranger's bytes raise in a library is refused
        raise RecurringError(f"what a party sent cannot be read ({type(error).__name__})") from None
    return value


class _Buffers:
    """Hands out the buffers of a message in order."""

    def __init__(self, view: memoryview, start: int) -> None:
        self._view, self._end = view, start

    def take(self, length: int) -> memoryview:
        start = self._end + -self._end % _ALIGNMENT
        if type(length) is not int or not 0 <= length <= len(self._view) - start:
            raise ValueError
        self._end = start + length
        return self._view[start : self._end]

    def end(self) -> None:
        if self._end != len(self._view):
            raise ValueError


def _node(value: Any, buffers: list[memoryview], depth: int) -> Any:
    if depth > DEEPEST:
        raise RecurringError(f"an object is nested deeper than {DEEPEST} levels, which no party accepts")
    of = type(value)
    if of in _PLAIN and _in_tree([value]):
        return value
    if of is memoryview:
        buffers.append(value)
        return {_BUFFER: len(value)}
    if of is list:
        table = _table(value)
        return _nodes(value, buffers, depth) if table is None else {_VALUE: table}
    if of is dict and set(map(type, value)) <= {str}:
        return dict(zip(value, _nodes(value.values(), buffers, depth), strict=True))
    found = _kinds.get(of) or next((_families[base] for base in of.__mro__ if base in _families), None)
    if found is None:
        raise RecurringError(
            f"an object of type {of.__module__}.{of.__qualname__} cannot be sent to another party; "
            f"a job that needs it describes it with sfworker.session.codec.record"
        )
    return {_VALUE: [found.name, *_nodes(found.parts(value), buffers, depth)]}


def _nodes(values: Collection[Any], buffers: list[memoryview], depth: int) -> Collection[Any]:
    return values if _in_tree(values) else [_node(value, buffers, depth + 1) for value in values]


def _in_tree(values: Collection[Any]) -> bool:
    """Say whether all are nodes as they are. Lists may be long, so little of this is done for each value."""
    types = set(map(type, values))
    if not types <= _PLAIN:
        return False
    if int in types:
        whole = [value for value in values if type(value) is int]
        if min(whole) < _LEAST_INT or max(whole) > _GREATEST_INT:
            return False
    return bytes not in types or max(len(value) for value in values if type(value) is bytes) <= _LONGEST_IN_TREE


def _table(values: list[Any]) -> list[Any] | None:
    """Return plain rows of one width in one piece, as kind, width and values, or None where it is no list of them."""
    types = set(map(type, values))
    if types not in ({tuple}, {list}) or len(widths := set(map(len, values))) != 1:
        return None
    flat = list(chain.from_iterable(values))
    return ["tuples" if tuple in types else "lists", *widths, flat] if flat and _in_tree(flat) else None


def _value(node: Any, buffers: _Buffers, depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError
    of = type(node)
    if of in _PLAIN:
        return node
    if of is list:
        return _values(node, buffers, depth)
    if of is dict and set(map(type, node)) <= {str}:
        return dict(zip(node, _values(node.values(), buffers, depth), strict=True))
    # Anything else than a map of one entry is nothing that `_node` writes.
    [(what, content)] = node.items()
    if what == _BUFFER:
        return buffers.take(content)
    if what != _VALUE:
        raise ValueError
    name, *parts = content
    return _makers[name](*_values(parts, buffers, depth))


def _values(nodes: Collection[Any], buffers: _Buffers, depth: int) -> Collection[Any]:
    return nodes if set(map(type, nodes)) <= _PLAIN else [_value(node, buffers, depth + 1) for node in nodes]


def require(value: Any, *of: type) -> Any:
    """Return `value` if it is of one of these types, none of its subtypes. Raises TypeError."""
    if type(value) not in of:
        raise TypeError
    return value


def require_shape(sizes: Any) -> tuple[int, ...]:
    """Return the shape of an array from its parts. Raises TypeError or ValueError where it is none."""
    shape = tuple(require(sizes, list, tuple))
    if any(type(size) is not int or not 0 <= size < 1 << 48 for size in shape) or len(shape) > 32:
        raise ValueError
    return shape


def _tuples(width: Any, flat: Any) -> list[Any]:
    if not 1 <= width <= len(require(flat, list)) or len(flat) % width:
        raise ValueError
    return list(zip(*[iter(flat)] * width, strict=True))


def _long_int(digits: Any) -> int:
    # Linear in the number of digits, as hexadecimal ones are.
    return int(require(digits, str), 16)


def _map(keys: Any, values: Any) -> dict[Any, Any]:
    return dict(zip(require(keys, list), require(values, list), strict=True))


_makers |= {"tuples": _tuples, "lists": lambda *table: list(map(list, _tuples(*table)))}
kind("tuple", tuple, lambda value: value, lambda *parts: parts)
kind("set", set, list, lambda *parts: set(parts))
kind("frozenset", frozenset, list, lambda *parts: frozenset(parts))
kind("map", dict, lambda value: [list(value), list(value.values())], _map)
kind("slice", slice, lambda value: [value.start, value.stop, value.step], slice)
kind("int", int, lambda value: [hex(value)], _long_int)
kind("bytes", bytes, lambda value: [memoryview(value)], lambda view: bytes(require(view, memoryview)))
kind("bytearray", bytearray, lambda value: [bytes(value)], lambda held: bytearray(require(held, bytes)))

_DTYPE = re.compile(
    r"\|[biu]1|<[iu][248]|<f[248]|<c8|<c16|<U[1-9]\d{0,6}|\|S[1-9]\d{0,6}|<[mM]8\[(?:Y|M|W|D|h|m|s|ms|us|ns)\]"
)
"""Types of elements without pointers. Any other text may name a type of objects, or make NumPy parse it."""
_SCALARS: list[type] = [np.dtype(code).type for code in "?bBhHiIlLefdFD"]
_TYPES = {f"{of.__module__}.{of.__qualname__}": of for of in (bool, int, float, str, bytes, *_SCALARS)}


@functools.lru_cache(maxsize=256)
def _dtype(text: Any) -> np.dtype[Any]:
    if not _DTYPE.fullmatch(text):
        raise ValueError
    return np.dtype(text)


def _array_parts(array: np.ndarray[Any, Any]) -> Sequence[Any]:
    if array.dtype == object:
        return [list(array.shape), array.ravel().tolist()]
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    return [list(array.shape), _dtype(flat.dtype.str).str, flat.view(np.uint8).data]


def _array(sizes: Any, of: Any, held: Any = None) -> np.ndarray[Any, Any]:
    shape = require_shape(sizes)
    if type(of) is list:
        return np.fromiter(of, dtype=object, count=len(of)).reshape(shape)
    flat: np.ndarray[Any, Any] = np.frombuffer(require(held, memoryview), np.uint8).view(_dtype(of))
    # NumPy takes these as they are: it counts trues by adding bytes, and looks characters up by number.
    if (flat.dtype.kind == "b" and flat.view(np.uint8).max(initial=0) > 1) or (
        flat.dtype.kind == "U" and flat.view(np.uint32).max(initial=0) > 0x10FFFF
    ):
        raise ValueError
    return flat.reshape(shape)


def _scalar_parts(value: np.generic) -> Sequence[Any]:
    return [np.asarray(value)]


def _scalar(array: Any) -> Any:
    return require(array, np.ndarray).reshape(())[()]


def _any_dtype(text: Any) -> np.dtype[Any]:
    return np.dtype(object) if text == "|O" else _dtype(text)


def _type_name(of: type) -> Sequence[Any]:
    name = f"{of.__module__}.{of.__qualname__}"
    if _TYPES.get(name) is not of:
        raise ValueError
    return [name]


kind("array", np.ndarray, _array_parts, _array)
kind("scalar", np.generic, _scalar_parts, _scalar, family=True)
kind("dtype", np.dtype, lambda dtype: [dtype.str], _any_dtype, family=True)
kind("type", type, _type_name, _TYPES.__getitem__)
