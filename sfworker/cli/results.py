"""Prints results for people, in lines and tables. Only the shape of a value decides how, never its task type.

    list of lists of scalars                  a matrix; lists beside it that are as long name its columns and rows
    list of objects                           a table, a row each
    objects by name, or by party and column   a table, the names in front; or name and value, where fields differ

A table that is too wide is turned round or cut into several. Figures in tables are short; JSON has all digits.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_ROWS = 50
MOST_FIELDS = 40
MOST_DISCLOSURES = 3
_LONG_HEADER = 10
_Path = tuple[str, ...]
_Record = tuple[_Path, dict[str, Any]]


def print_result(result: dict[str, Any]) -> None:
    """Print a result as the worker publishes it."""
    if result.get("status") != "success":
        error = f": {_shown(result['error'])} ({result.get('error_type')})" if result.get("error") else ""
        print(f"{result.get('status')}{error}")
        return
    from sfworker.cli.console import console

    out = console()
    total = (result.get("performance_metrics") or {}).get("total_seconds")
    print("success" if total is None else f"success after {total:.2f} s")
    for warning in result.get("warnings") or []:
        print(f"warning: {_shown(warning)}")
    answer = result.get("result")
    _print_fields(out, answer if isinstance(answer, dict) else {"result": answer}, 1)
    _print_disclosures(out, result)


def _print_disclosures(out: Console, result: dict[str, Any]) -> None:
    disclosures = result.get("disclosures") or []
    if disclosures:
        print("revealed:")
    for disclosure in disclosures[:MOST_DISCLOSURES]:
        print(textwrap.fill(_shown(disclosure), out.width, initial_indent="  - ", subsequent_indent="    "))
    if len(disclosures) > MOST_DISCLOSURES:
        task_type = (result.get("task_metadata") or {}).get("task_type")
        print(f"  and {len(disclosures) - MOST_DISCLOSURES} more, which `sfworker tasks {task_type}` prints")


def _print_fields(out: Console, fields: dict[str, Any], depth: int) -> None:
    labels = _labels(fields)
    used = {name for names in labels.values() for name in names if name}
    for name, value in fields.items():
        if name in labels:
            columns, rows = ([_label(each) for each in fields[by]] if by else [] for by in labels[name])
            _print_title(name, depth)
            _print_matrix(out, value, columns, rows, depth)
        elif name not in used:
            _print_value(out, name, value, depth)


def _print_value(out: Console, name: str, value: Any, depth: int) -> None:
    start = f"{'  ' * depth}{_shown(name)}:"
    if value is None or value in ([], {}):
        print(start, "none")
    elif _is_scalar(value):
        print(start, _shown(value))
    elif isinstance(value, list) and all(map(_is_scalar, value)):
        _print_list(start, value, out.width)
    elif records := _records(value):
        _print_title(name, depth)
        _print_records(out, records, depth)
    elif isinstance(value, dict):
        _print_title(name, depth)
        _print_fields(out, value, depth + 1)
    else:
        for number, each in enumerate(value, 1):
            _print_value(out, f"{name} {number}", each, depth)


def _print_title(name: str, depth: int) -> None:
    print(f"{'  ' * depth}{_shown(name)}:")


def _print_list(start: str, values: list[Any], width: int) -> None:
    shown = [_shown(each) for each in values[:MOST_ROWS]]
    if len(values) > MOST_ROWS:
        shown.append(f"and {len(values) - MOST_ROWS} more")
    line = f"{start} {', '.join(shown)}"
    if len(line) <= width and not any(" " in each for each in shown):
        print(line)
        return
    print(start)
    indent = " " * (len(start) - len(start.lstrip()) + 2)
    for each in shown:
        print(textwrap.fill(each, width, initial_indent=f"{indent}- ", subsequent_indent=f"{indent}  "))


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
        and all(_is_scalar(cell) for row in value for cell in row)
    )


def _names_something(value: Any) -> bool:
    """Return whether it is a list of texts or of small objects, such as party and column."""
    return isinstance(value, list) and all(isinstance(each, str) or (each and _is_plain(each)) for each in value)


def _label(value: Any) -> str:
    return ".".join(map(_shown, value.values())) if isinstance(value, dict) else _shown(value)


def _print_matrix(out: Console, rows: list[list[Any]], columns: list[str], names: list[str], depth: int) -> None:
    header = columns or [str(number) for number in range(1, len(rows[0]) + 1)]
    heads = [names[number] if names else str(number + 1) for number in range(len(rows))]
    _print_grid(out, [""], header, [([head], row) for head, row in zip(heads, rows, strict=True)], depth)


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
    if not alike and all(_is_scalar(field) for _, each in found for field in each.values()):
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
    return isinstance(value, dict) and all(map(_is_scalar, value.values()))


def _flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    """All fields, those of objects inside by their whole path."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _print_records(out: Console, records: list[_Record], depth: int) -> None:
    rows = [(path, _flat(fields)) for path, fields in records]
    names = list(dict.fromkeys(name for _, fields in rows for name in fields))
    lists = [name for name in names if any(_is_list_of_more(fields.get(name)) for _, fields in rows)]
    shown = [
        name for name in names if name not in lists and any(fields.get(name) is not None for _, fields in rows)
    ] or [name for name in names if name not in lists]
    heads = [""] * len(rows[0][0])
    _print_grid(out, heads, shown, [([*path], [fields.get(name) for name in shown]) for path, fields in rows], depth)
    for number, (path, fields) in enumerate(rows, 1):
        for name in lists:
            if fields.get(name):
                _print_value(out, " ".join((*(path or [str(number)]), name)), fields[name], depth + 1)


def _is_list_of_more(value: Any) -> bool:
    return isinstance(value, list) and not all(map(_is_scalar, value))


# --- tables


def _print_grid(
    out: Console, heads: list[str], columns: list[str], rows: list[tuple[list[str], list[Any]]], depth: int
) -> None:
    """Print a table of rows that begin with names, as it fits."""
    left_out = {"rows": len(rows) - MOST_ROWS, "columns": len(columns) - MOST_ROWS}
    columns = columns[:MOST_ROWS]
    rows = [(names, cells[:MOST_ROWS]) for names, cells in rows[:MOST_ROWS]]
    if not columns:
        return
    wide = (heads, columns, rows)
    turned = (
        [""],
        [".".join(names) or str(number) for number, (names, _) in enumerate(rows, 1)],
        [([column], [cells[number] for _, cells in rows]) for number, column in enumerate(columns)],
    )
    for grid in (wide, turned):
        if _fits(out, _table(*grid), depth):
            _print_table(out, _table(*grid), depth)
            break
    else:
        numbered = ([""], columns, [([str(number)], cells) for number, (_, cells) in enumerate(rows, 1)])
        _print_cut(out, *(numbered if not heads else turned if len(rows) < len(columns) else wide), depth)
    if more := " and ".join(f"{number} more {what}" for what, number in left_out.items() if number > 0):
        print(f"{'  ' * (depth + 1)}and {more}, which --json prints")


def _print_cut(
    out: Console, heads: list[str], columns: list[str], rows: list[tuple[list[str], list[Any]]], depth: int
) -> None:
    """Print as many columns side by side as there is room for, and the others below."""
    first = 0
    while first < len(columns):
        last = first + 1
        while last < len(columns) and _fits(out, _part(heads, columns, rows, first, last + 1), depth):
            last += 1
        _print_table(out, _part(heads, columns, rows, first, last), depth)
        first = last
        if first < len(columns):
            print()


def _part(
    heads: list[str], columns: list[str], rows: list[tuple[list[str], list[Any]]], first: int, last: int
) -> Table:
    return _table(heads, columns[first:last], [(names, cells[first:last]) for names, cells in rows])


def _table(heads: list[str], columns: list[str], rows: list[tuple[list[str], list[Any]]]) -> Table:
    from rich import box
    from rich.table import Table

    header = any(columns)
    made = Table(
        box=box.SIMPLE_HEAD if header else None,
        show_header=header,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if header else 2, 0, 0),  # a box adds a space
    )
    for name in heads:
        made.add_column(_header(name), overflow="fold")
    for number, name in enumerate(columns):
        figures = any(isinstance(cells[number], (int, float)) for _, cells in rows)
        made.add_column(_header(name), justify="right" if figures else "left", overflow="fold")
    for names, cells in rows:
        made.add_row(*map(_shown, names), *map(_cell, cells))
    return made


def _header(name: str) -> str:
    """A name, on several lines where it is long."""
    if len(name) <= _LONG_HEADER:
        return _shown(name)
    return _shown(name).replace("_", "_\n").replace(".", ".\n")


def _fits(out: Console, table: Table, depth: int) -> bool:
    from rich.measure import Measurement

    return Measurement.get(out, out.options.update(max_width=10_000), table).maximum + 2 * (depth + 1) <= out.width


def _print_table(out: Console, table: Table, depth: int) -> None:
    from rich.padding import Padding

    out.print(Padding(table, (0, 0, 0, 2 * (depth + 1)), expand=False))


# --- single values


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, (dict, list))


def _cell(value: Any) -> str:
    """A value in a table, short."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if not isinstance(value, float):
        return _shown(value)
    if abs(value) >= 1e12 or not value.is_integer():
        return f"{value:.1f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"
    return str(int(value))


def _shown(value: Any) -> str:
    """A scalar as it is, without what would steer a terminal."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
