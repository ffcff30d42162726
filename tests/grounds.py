"""Tries faults in turn, those of a kind on common ground until a bound is missed there, and prints a table."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console
from rich.table import Table


class OnGround(Protocol):
    """Describes a fault: its name, and the kind of ground that it is tried on."""

    @property
    def name(self) -> str: ...
    @property
    def ground(self) -> str: ...


_Fault = TypeVar("_Fault", bound=OnGround)
_Ground = TypeVar("_Ground")


def print_all(
    faults: Sequence[_Fault],
    words: list[str],
    ground: Callable[[str, Path], AbstractContextManager[_Ground]],
    tried: Callable[[_Fault, _Ground, Table], str],
    table: Table,
    width: int,
) -> int:
    """Try the faults whose names hold one of `words`, or all. Return 1 where a bound was missed.

    `tried` adds a fault's rows to `table` and returns `met` or another verdict; `width` is for what is no terminal.
    """
    chosen = [each for each in faults if not words or any(word in each.name for word in words)]
    waiting, misses = list(chosen), 0
    while waiting:
        kind = waiting[0].ground
        with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as directory, ground(kind, Path(directory)) as made:
            verdict = "met"
            while verdict == "met" and waiting and waiting[0].ground == kind:  # after a miss on fresh ground
                verdict = tried(waiting.pop(0), made, table)
            misses += verdict != "met"
    Console(width=None if sys.stdout.isatty() else width).print(table)
    print(f"{len(chosen)} faults, {misses} bounds missed")
    return int(misses > 0)
