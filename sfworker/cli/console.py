"""Prints for people and programs. Colours, bars and the terminal's width are used only on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from sfworker.cli.plain import Plain, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH_OF_A_PIPE = 140


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is, because identifiers may look like markup or steer a terminal."""
    from rich.console import Console

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(plain(text), **options)

    stream: Any = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return PlainConsole(
        file=stream.stream if isinstance(stream, Plain) else None,  # as colours and bars do steer it
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        force_terminal=terminal,
        width=None if terminal else _WIDTH_OF_A_PIPE,
    )


def print_json(value: Any) -> None:
    """Print one JSON document, for programs."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say(facts: dict[str, Any], *sentences: str, as_json: bool) -> None:
    """Print what a command has done: facts for programs, or sentences for people."""
    if as_json:
        print_json(facts)
        return
    for sentence in sentences:
        print(sentence)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table. A column whose name ends in ` >` holds figures and is aligned to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in columns:
        name = column.removesuffix(" >")
        made.add_column(name, justify="right" if name != column else "left", overflow="fold")
    return made
