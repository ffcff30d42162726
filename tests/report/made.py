"""Makes a value of any type of the catalogue, with a text of choice wherever there is one."""

from __future__ import annotations

from typing import Any

from msgspec import inspect


def made(kind: Any, text: str, length: int = 3) -> Any:
    """Return a value of `kind` as JSON holds it; lists and dictionaries have `length` entries."""
    return _made(inspect.type_info(kind), text, length, 0)


def _made(kind: inspect.Type, text: str, length: int, number: int) -> Any:  # noqa: PLR0911 - a line for each kind
    match kind:
        case inspect.Metadata():
            return _made(kind.type, text, length, number)
        case inspect.UnionType():
            some = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            return _made(some[0], text, length, number)
        case inspect.StructType():
            return {field.encode_name: _made(field.type, text, length, number) for field in kind.fields}
        case inspect.ListType() | inspect.CollectionType():
            return [_made(kind.item_type, text, length, each) for each in range(length)]
        case inspect.DictType():
            # A dictionary of figures by share has shares for names.
            names = [f"{text}{each}" for each in range(length)]
            return {name: _made(kind.value_type, text, length, each) for each, name in enumerate(names)}
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.BoolType():
            return bool(number % 2)
        case inspect.IntType():
            return 20 + number
        case inspect.FloatType():
            return 0.25 + number / 8
        case inspect.StrType() | inspect.AnyType():
            return text
    raise AssertionError(kind)
