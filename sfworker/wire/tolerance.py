"""Takes JSON as web sides in many languages write it, where it can mean one thing only. Runs in daemon and parties.

This is the one place, before a struct is made. A null stands for a field that is left out, as Jackson and Go write it,
and so does an empty text where no text is asked for. A number such as 10.0 is an integer where one is asked for, and so
is a text of it; a word of a choice may have any case. One text is a list of it in a map of lists, as SecretFlow takes
the keys of parties, and an empty list is PHP's empty object. What is a value of its own stays.
"""

from __future__ import annotations

import functools
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

CONFIGURATION = {"holds": "configuration"}
"""Extra metadata of a dict that goes to SecretFlow as it is, in which nulls and whole numbers are treated alike."""
_WHOLE = 2.0**63
"""From here on a number with a point stays one, as no integer of a frame could hold it."""
_MOST_UNREAD = 20
_LONGEST_NAME = 64
_STEP = re.compile(r"\.(?P<field>[^.\[`]+)|\[(?P<index>\d+)\]|(?P<key>\[\.\.\.\])")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")
_FLAGS = {"true": True, "false": False}
_NO_TEXTS = (
    *(inspect.LiteralType, inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.NoneType),
    *(inspect.StructType, inspect.DictType, inspect.ListType),
)
_KINDS: dict[type, tuple[type[inspect.Type], ...]] = {
    dict: (inspect.StructType, inspect.DictType),
    list: (inspect.ListType,),
    float: (inspect.FloatType, inspect.IntType, inspect.LiteralType),
    int: (inspect.IntType, inspect.FloatType, inspect.LiteralType, inspect.BoolType),
}
"""Types that JSON values may become, the first one that is offered."""
_T = TypeVar("_T")
_Note = Callable[[str], None]
_described: Callable[[Any], inspect.Type] = functools.cache(inspect.type_info)


def _once(tell: Callable[[inspect.Type], _T]) -> Callable[[inspect.Type], _T]:
    """Let a function be called once for each type. Types are known by their identity, as `_described` keeps them."""
    known: dict[int, _T] = {}

    @functools.wraps(tell)
    def told(kind: inspect.Type) -> _T:
        try:
            return known[id(kind)]
        except KeyError:
            return known.setdefault(id(kind), tell(kind))

    return told


def convert(given: Any, kind: type[_T], unread: list[str] | None = None) -> _T:
    """Make a `kind` of JSON values. Raises msgspec.ValidationError, which names keys of maps where msgspec does not.

    The paths, of twenty at most, at which they hold what nobody reads are appended to `unread`.
    """
    found: dict[str, None] = {}
    normal = _normal(given, _described(kind), lambda path: found.update({path: None}))
    if unread is not None:
        unread.extend(islice(found, _MOST_UNREAD))
    try:
        return msgspec.convert(normal, kind, strict=True)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(_with_names(str(error), normal, kind)) from None


def prepare(kind: type[Any]) -> None:
    """Work out ahead what `convert` and msgspec have to know of a type, which takes longer than most conversions."""
    with suppress(msgspec.ValidationError):
        convert({}, kind)


def _normal(given: Any, kind: inspect.Type, note: _Note, path: str = "") -> Any:
    if isinstance(given, str) and not _takes_no_text(kind):
        return given
    if _is_configuration(kind):
        return {} if given == [] else _configuration(given)
    kind = _chosen(given, kind)
    if given == [] and isinstance(kind, inspect.StructType | inspect.DictType):
        given = {}
    if isinstance(given, dict):
        if isinstance(kind, inspect.StructType):
            return _fields(given, kind, note, path)
        if isinstance(kind, inspect.DictType):
            return {
                key: _normal(_listed(each, kind.value_type), kind.value_type, note, _below(path, key))
                for key, each in given.items()
                if each is not None or _takes_null(kind.value_type)
            }
    if isinstance(given, list) and isinstance(kind, inspect.ListType):
        return [_normal(each, kind.item_type, note, path) for each in given]
    return _text(given, kind) if isinstance(given, str) else _number(given, kind)


def _number(given: Any, kind: inspect.Type) -> Any:
    if isinstance(given, float) and isinstance(kind, inspect.IntType | inspect.LiteralType):
        return _whole(given)
    return bool(given) if isinstance(kind, inspect.BoolType) and type(given) is int and given in (0, 1) else given


def _fields(given: dict[str, Any], kind: inspect.StructType, note: _Note, path: str) -> dict[str, Any]:
    fields, made = _types_of_fields(kind), {}
    for name, each in given.items():
        if name in fields and _is_empty(each, fields[name]):
            continue
        if name in fields and (each is not None or _takes_null(fields[name])):
            made[name] = _normal(each, fields[name], note, _below(path, name))
        elif name not in fields and each is not None:
            made[name] = each
            if name != kind.tag_field and not kind.forbid_unknown_fields:
                note(_below(path, name))
    return made


@_once
def _types_of_fields(kind: inspect.Type) -> dict[str, inspect.Type]:
    return {field.encode_name: field.type for field in kind.fields} if isinstance(kind, inspect.StructType) else {}


def _configuration(given: Any) -> Any:
    if isinstance(given, dict):
        return {key: _configuration(each) for key, each in given.items() if each is not None}
    if isinstance(given, list):
        return [_configuration(each) for each in given]
    return _whole(given)


def _whole(given: Any) -> Any:
    return int(given) if isinstance(given, float) and given.is_integer() and abs(given) < _WHOLE else given


def _text(given: str, kind: inspect.Type) -> Any:
    """Return what a text stands for where no text is asked for, or the text."""
    members = _members(kind)
    words = _words(members)
    alike = [word for word in words if isinstance(word, str) and word.casefold() == given.casefold()]
    if alike:
        return alike[0] if len(alike) == 1 else given
    if any(isinstance(member, inspect.BoolType) for member in members) and given.casefold() in _FLAGS:
        return _FLAGS[given.casefold()]
    takes_integers = any(isinstance(member, inspect.IntType) for member in members) or any(
        type(word) is int for word in words
    )
    if takes_integers and _INTEGER.fullmatch(given):
        return int(given)
    takes_numbers = takes_integers or any(isinstance(member, inspect.FloatType) for member in members)
    if takes_numbers and _NUMBER.fullmatch(given) and math.isfinite(number := float(given)):
        return _whole(number) if takes_integers else number
    return given


def _is_empty(given: Any, kind: inspect.Type) -> bool:
    """Return whether it is an empty text in the place of something that is no text, as Go writes what is not set."""
    return given == "" and "" not in _words(_members(kind)) and _takes_no_text(kind)


@_once
def _takes_no_text(kind: inspect.Type) -> bool:
    return all(isinstance(member, _NO_TEXTS) for member in _members(kind))


def _words(members: Sequence[inspect.Type]) -> list[Any]:
    """Return the values of the choices among the members of a union."""
    return [word for member in members if isinstance(member, inspect.LiteralType) for word in member.values]


@_once
def _bare(kind: inspect.Type) -> inspect.Type:
    """Return `kind` without its metadata."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


@_once
def _members(kind: inspect.Type) -> list[inspect.Type]:
    """Return the members of a union, or `kind` alone, without metadata."""
    kind = _bare(kind)
    if isinstance(kind, inspect.UnionType):
        return [each for member in kind.types for each in _members(member)]
    return [kind]


def _listed(given: Any, kind: inspect.Type) -> Any:
    kind = _chosen([], kind)
    if not (isinstance(given, str) and isinstance(kind, inspect.ListType)):
        return given
    return [given] if isinstance(_chosen("", kind.item_type), inspect.StrType) else given


def _chosen(given: Any, kind: inspect.Type) -> inspect.Type:
    """Return the member of a union that `given` may become, or `kind` without its metadata."""
    kind = _bare(kind)
    if not isinstance(kind, inspect.UnionType):
        return kind
    members = [_chosen(given, member) for member in kind.types]
    for wanted in (*_KINDS.get(type(given), ()), *(_KINDS[dict] if given == [] else ())):
        fitting = [member for member in members if isinstance(member, wanted)]
        if fitting:
            return fitting[0] if len(fitting) == 1 else kind
    return kind


@_once
def _is_configuration(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.UnionType):
        return any(map(_is_configuration, kind.types))
    return isinstance(kind, inspect.Metadata) and (kind.extra == CONFIGURATION or _is_configuration(kind.type))


@_once
def _takes_null(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.Metadata):
        return _takes_null(kind.type)
    if isinstance(kind, inspect.UnionType):
        return any(map(_takes_null, kind.types))
    return isinstance(kind, inspect.AnyType | inspect.NoneType)


def _below(path: str, name: str) -> str:
    return f"{path}.{name[:_LONGEST_NAME]}" if path else name[:_LONGEST_NAME]


def _with_names(text: str, given: Any, kind: type[Any]) -> str:
    """Put names in place of the `[...]` by which msgspec shows that it is in some entry of a map."""
    head, _, path = text.rpartition(" - at `")
    if "[...]" not in path:
        return text
    shown, at = "", given
    trail: list[Any] = []
    for step in _STEP.finditer(path):
        key: Any = step["field"] or step["key"] or int(step["index"])
        if step["key"]:
            names = list(at)
            fails = functools.partial(_fails_alike, text, given, kind, trail)
            # Entries are looked at in their order, so the first one that is wrong ends the shortest part that fails.
            count = bisect_left(range(len(names)), True, key=lambda count: fails(names[:count]))
            key = names[count - 1]
            shown += f".{key[:_LONGEST_NAME]}"
        else:
            shown += step[0]
        trail, at = [*trail, key], at[key]
    return f"{head} - at `{path[: path.find('$')]}${shown}`"


def _fails_alike(text: str, given: Any, kind: type[Any], trail: Sequence[Any], names: Sequence[str]) -> bool:
    try:
        msgspec.convert(_reduced(given, trail, names), kind, strict=True)
    except msgspec.ValidationError as error:
        return str(error) == text
    return False


def _reduced(given: Any, trail: Sequence[Any], names: Sequence[str]) -> Any:
    """Return `given` with only the entries `names` of the map at `trail`."""
    if not trail:
        return {name: given[name] for name in names}
    copy = given.copy()
    copy[trail[0]] = _reduced(given[trail[0]], trail[1:], names)
    return copy
