"""Prints results for people, in lines and the tables that `report/tables.py` finds in them.

A table that is too wide is turned round or cut into several. Figures in tables are short; JSON has all digits.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from sfworker.report.tables import Grid, Value, cell, pieces, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_ROWS = 50
MOST_DISCLOSURES = 3
_LONG_HEADER = 10


def print_result(result: dict[str, Any]) -> None:
    """Print a result as the worker publishes it."""
    if result.get("status") != "success":
        error = f": {shown(result['error'])} ({result.get('error_type')})" if result.get("error") else ""
        print(f"{result.get('status')}{error}")
        return
    from sfworker.cli.console import console

    out = console()
    total = (result.get("performance_metrics") or {}).get("total_seconds")
    print("success" if total is None else f"success after {total:.2f} s")
    for warning in result.get("warnings") or []:
        print(f"warning: {shown(warning)}")
    for piece in pieces(result.get("result")):
        if isinstance(piece, Grid):
            print(f"{'  ' * piece.depth}{shown(piece.title)}:")
            _print_grid(out, piece.without_empty_columns())
        else:
            _print_value(piece, out.width)
    _print_disclosures(out, result)


def _print_disclosures(out: Console, result: dict[str, Any]) -> None:
    disclosures = result.get("disclosures") or []
    if disclosures:
        print("revealed:")
    for disclosure in disclosures[:MOST_DISCLOSURES]:
        print(textwrap.fill(shown(disclosure), out.width, initial_indent="  - ", subsequent_indent="    "))
    if len(disclosures) > MOST_DISCLOSURES:
        task_type = (result.get("task_metadata") or {}).get("task_type")
        print(f"  and {len(disclosures) - MOST_DISCLOSURES} more, which `sfworker tasks {task_type}` prints")


def _print_value(piece: Value, width: int) -> None:
    start = f"{'  ' * piece.depth}{shown(piece.title)}:"
    if piece.value is UNSET:
        print(start)
    elif piece.value is None or piece.value in ([], {}):
        print(start, "none")
    elif isinstance(piece.value, list):
        _print_list(start, piece.value, width)
    else:
        print(start, shown(piece.value))


def _print_list(start: str, values: list[Any], width: int) -> None:
    texts = [shown(each) for each in values[:MOST_ROWS]]
    if len(values) > MOST_ROWS:
        texts.append(f"and {len(values) - MOST_ROWS} more")
    line = f"{start} {', '.join(texts)}"
    if len(line) <= width and not any(" " in each for each in texts):
        print(line)
        return
    print(start)
    indent = " " * (len(start) - len(start.lstrip()) + 2)
    for each in texts:
        print(textwrap.fill(each, width, initial_indent=f"{indent}- ", subsequent_indent=f"{indent}  "))


# --- tables


def _print_grid(out: Console, grid: Grid) -> None:
    """Print a table of rows that begin with names, as it fits."""
    depth, columns, rows = grid.depth, grid.columns, grid.rows
    heads = [""] * grid.names
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
    for whole in (wide, turned):
        if _fits(out, _table(*whole), depth):
            _print_table(out, _table(*whole), depth)
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
        made.add_row(*map(shown, names), *map(cell, cells))
    return made


def _header(name: str) -> str:
    """A name, on several lines where it is long."""
    if len(name) <= _LONG_HEADER:
        return shown(name)
    return shown(name).replace("_", "_\n").replace(".", ".\n")


def _fits(out: Console, table: Table, depth: int) -> bool:
    from rich.measure import Measurement

    return Measurement.get(out, out.options.update(max_width=10_000), table).maximum + 2 * (depth + 1) <= out.width


def _print_table(out: Console, table: Table, depth: int) -> None:
    from rich.padding import Padding

    out.print(Padding(table, (0, 0, 0, 2 * (depth + 1)), expand=False))
