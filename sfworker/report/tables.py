"""Finds the tables of a result. Only the shape of a value decides, never its task type.

list of lists of scalars                  a matrix; lists beside it that are as long name its columns and rows
list of objects                           a table, a row each
objects by name, or by party and column   a table, the names in front; or name and value, where fields differ
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

MOST_FIELDS = 40
_Path = tuple[str, ...]
_Record = tuple[_Path, dict[str, Any]]
_SUMMARY = "summary"


@dataclass(frozen=True)
class Place:
    """Where a value stands: the fields that lead there, and the names or numbers of the rows on the way."""

    fields: _Path = ()
    rows: _Path = ()

    def below(self, field: str, *rows: str) -> Place:
        return Place((*self.fields, field), (*self.rows, *rows))


@dataclass(frozen=True, kw_only=True)
class Value:
    """A scalar or a list of scalars; a title of what follows where `value` is UNSET."""

    depth: int
    title: str
    place: Place
    value: Any = msgspec.UNSET


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table. Each row begins with as many names as the others, or none."""

    depth: int
    title: str
    place: Place
    columns: list[str]
    rows: list[tuple[list[str], list[Any]]]
    of_objects: bool = True
    """Whether columns are fields, so that one without any value says nothing."""

    @property
    def names(self) -> int:
        """Return how many names each row begins with."""
        return len(self.rows[0][0]) if self.rows else 0

    def without_empty_columns(self) -> Grid:
        """Return it without the fields that no row has, unless that is all of them."""
        if not self.of_objects:
            return self
        kept = [n for n in range(len(self.columns)) if any(cells[n] is not None for _, cells in self.rows)]
        return self.part(kept or range(len(self.columns)))

    def part(self, kept: Collection[int]) -> Grid:
        """Return it with only these of its columns."""
        rows = [(names, [cells[number] for number in kept]) for names, cells in self.rows]
        return replace(self, columns=[self.columns[number] for number in kept], rows=rows)


@dataclass(frozen=True)
class Table:
    """A table for programs: each column has a name of its own."""

    columns: list[str]
    rows: list[list[Any]]


def pieces(answer: Any) -> Iterator[Value | Grid]:
    """Yield what a job has answered, piece by piece, in its order."""
    yield from _fields(answer if isinstance(answer, dict) else {"result": answer}, Place(), 1)


def tables(result: dict[str, Any]) -> dict[str, Table]:
    """Return the tables of a result as the worker publishes it, by the names of their fields.

    Tables inside the rows of another are one, whose rows begin with the names or the number of the other's; where their
    columns differ, each is one, and these are in its name. What is no table is together in `summary`.
    """
    parties = set((result.get("performance_metrics") or {}).get("peak_rss_bytes") or {})
    values: list[list[Any]] = []
    grids: dict[str, list[Grid]] = defaultdict(list)
    answer = result.get("result")
    for piece in pieces({} if answer is None else answer):
        if isinstance(piece, Grid):
            grids[".".join(piece.place.fields)].append(piece)
        elif piece.value is not msgspec.UNSET:
            values.append([".".join((*piece.place.fields, *piece.place.rows)), piece.value])
    found = {}
    for name, alike in grids.items():
        if len({(each.names, *each.columns) for each in alike}) == 1:
            found[name] = _table(alike, parties)
        else:
            for each in alike:
                alone = replace(each, place=Place(each.place.fields))
                found[".".join((name, *each.place.rows))] = _table([alone], parties)
    if values:
        summary = _SUMMARY if _SUMMARY not in found else f"{_SUMMARY}_"
        found[summary] = Table(["name", "value"], values)
    return found


def _table(grids: list[Grid], parties: Collection[str]) -> Table:
    first = grids[0]
    name = first.place.fields[-1]
    before = _names_of_names([each.place.rows for each in grids], parties)
    before += _names_of_names([names for each in grids for names, _ in each.rows], parties)
    rows = [[*each.place.rows, *names, *cells] for each in grids for names, cells in each.rows]
    columns = [*before, *(column or name for column in first.columns)]
    # A list in each row, all as long, is as many columns.
    for number in reversed(range(len(before), len(columns))):
        lengths = {len(row[number]) if isinstance(row[number], list) else -1 for row in rows}
        if len(lengths) == 1 and (length := lengths.pop()) >= 0:
            columns[number : number + 1] = [f"{columns[number]}.{each}" for each in range(1, length + 1)]
            for row in rows:
                row[number : number + 1] = row[number]
    return Table(_distinct(columns), rows)


def _names_of_names(rows: list[Any], parties: Collection[str]) -> list[str]:
    """Return what the names are that rows begin with: a party and its column, or whatever it is."""
    count = len(rows[0]) if rows else 0
    if parties and count and all(names[0] in parties for names in rows):
        return ["party", "column", *(["name"] * (count - 2))][:count]
    return ["number" if all(names[n].isdecimal() for names in rows) else "name" for n in range(count)]


def _distinct(columns: list[str]) -> list[str]:
    taken: dict[str, int] = defaultdict(int)
    found: list[str] = []
    for column in columns:
        name = column
        while name in found:
            taken[column] += 1
            name = f"{column}_{taken[column] + 1}"
        found.append(name)
    return found


def _fields(fields: dict[str, Any], place: Place, depth: int) -> Iterator[Value | Grid]:
    labels = _labels(fields)
    used = {name for names in labels.values() for name in names if name}
    for name, value in fields.items():
        if name in labels:
            columns, rows = ([_label(each) for each in fields[by]] if by else [] for by in labels[name])
            header = columns or [str(number) for number in range(1, len(value[0]) + 1)]
            heads = rows or [str(number) for number in range(1, len(value) + 1)]
            named = [([head], row) for head, row in zip(heads, value, strict=True)]
            yield Grid(depth=depth, title=name, place=place.below(name), columns=header, rows=named, of_objects=False)
        elif name not in used:
            yield from _value(name, value, place.below(name), depth)


def _value(title: str, value: Any, place: Place, depth: int) -> Iterator[Value | Grid]:
    if is_scalar(value) or value in ([], {}) or (isinstance(value, list) and all(map(is_scalar, value))):
        yield Value(depth=depth, title=title, place=place, value=value)
    elif records := _records(value):
        yield from _grids(title, records, place, depth)
    elif isinstance(value, dict):
        yield Value(depth=depth, title=title, place=place)
        yield from _fields(value, place, depth + 1)
    else:
        for number, each in enumerate(value, 1):
            numbered = Place(place.fields, (*place.rows, str(number)))
            yield from _value(f"{title} {number}", each, numbered, depth)


def _grids(title: str, records: list[_Record], place: Place, depth: int) -> Iterator[Value | Grid]:
    """Yield the table of some objects, and below it what its rows hold that fits into no cell."""
    rows = [(path, _flat(fields)) for path, fields in records]
    names = list(dict.fromkeys(name for _, fields in rows for name in fields))
    lists = [name for name in names if any(_is_list_of_more(fields.get(name)) for _, fields in rows)]
    columns = [name for name in names if name not in lists]
    cells = [([*path], [fields.get(name) for name in columns]) for path, fields in rows]
    yield Grid(depth=depth, title=title, place=place, columns=columns, rows=cells)
    for number, (path, fields) in enumerate(rows, 1):
        for name in lists:
            if fields.get(name):
                row = path or (str(number),)
                yield from _value(" ".join((*row, name)), fields[name], place.below(name, *row), depth + 1)


# --- matrices


def _labels(fields: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Of each matrix among `fields`, the lists that name its columns and its rows; empty without one."""
    lists = {name: len(value) for name, value in fields.items() if _names_something(value)}
    found = {}
    for name, value in fields.items():
        if _is_matrix(value):
            columns = next((by for by, length in lists.items() if length == len(value[0])), "")
            by_length = [by for by, length in lists.items() if length == len(value)]
            rows = next((by for by in by_length if by != columns), columns if by_length else "")
            found[name] = (columns, rows)
    return found


def _is_matrix(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, list) and row and len(row) == len(value[0]) for row in value)
        and all(is_scalar(cell) for row in value for cell in row)
    )


def _names_something(value: Any) -> bool:
    """Return whether it is a list of texts or of small objects, such as party and column."""
    return isinstance(value, list) and all(isinstance(each, str) or (each and _is_plain(each)) for each in value)


def _label(value: Any) -> str:
    return ".".join(map(shown, value.values())) if isinstance(value, dict) else shown(value)


# --- objects


def _records(value: Any) -> list[_Record] | None:
    """Return the objects in a list or at the ends of nested dictionaries, each with its path; None without any.

    A field of an object that is no scalar stays in it: see `_flat`.
    """
    if isinstance(value, list):
        return [((), each) for each in value] if value and all(_is_object(each) for each in value) else None
    found = list(_ends(value, ()))
    if not all(isinstance(each, dict) for _, each in found) or len({len(path) for path, _ in found}) != 1:
        return None
    alike = len(found) > 1 and len({tuple(each) for _, each in found}) == 1 and len(found[0][1]) <= MOST_FIELDS
    if not alike and all(is_scalar(field) for _, each in found for field in each.values()):
        return [((*path, name), {"": field}) for path, each in found for name, field in each.items()]
    return found if all(_is_object(each) for _, each in found) else None


def _ends(value: Any, path: _Path) -> Iterator[_Record]:
    """Yield what is no dictionary of dictionaries, below the names that lead there."""
    if isinstance(value, dict) and value and all(isinstance(each, dict) for each in value.values()):
        for name, each in value.items():
            yield from _ends(each, (*path, name))
    else:
        yield path, value


def _is_object(value: Any) -> bool:
    """Return whether it makes a row: it has few fields, and no lists in the lists of objects that it holds."""
    return (
        isinstance(value, dict)
        and 0 < len(_flat(value)) <= MOST_FIELDS
        and not any(
            isinstance(field, dict) and any(map(_is_list_of_more, _flat(field).values())) for field in value.values()
        )
        and not any(_is_list_of_more(field) and not all(map(_is_plain, field)) for field in value.values())
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_scalar, value.values()))


def _flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    """All fields, those of objects inside by their whole path."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _is_list_of_more(value: Any) -> bool:
    return isinstance(value, list) and not all(map(is_scalar, value))


# --- single values


def is_scalar(value: Any) -> bool:
    return not isinstance(value, (dict, list))


def cell(value: Any) -> str:
    """A value in a table, short."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if not isinstance(value, float):
        return shown(value)
    if abs(value) >= 1e12 or not value.is_integer():
        return f"{value:.1f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"
    return str(int(value))


def shown(value: Any) -> str:
    """A scalar as it is, without what would steer a terminal."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
