"""Tells which foreign exceptions' and warnings' texts are literals of source code, and so hold no data.

Runs in party processes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any


def literal_text(error: BaseException) -> str | None:
    """Return the message of an exception if the code that raised it holds that very text as a constant, else None.

    A text that was put together of parts, or that came as a value, is none: only whole constants of code that was read
    from a module's file count, as an expression that is evaluated may quote data. A text of one word does not count
    either, because a cell may happen to equal it.
    """
    given = error.args[0] if error.args else getattr(error, "message", None)
    return _literal(given, traceback.walk_tb(error.__traceback__))


def literal_warning(warning: Warning) -> str | None:
    """Return the text of a warning that is being shown, if some caller of this function holds it as a constant."""
    return _literal(warning.args[0] if warning.args else None, traceback.walk_stack(None))


def _literal(given: object, frames: Iterable[tuple[FrameType, int]]) -> str | None:
    if not isinstance(given, str) or " " not in given.strip():
        return None
    for frame, _ in frames:
        if _is_of_a_file(frame) and given in _texts(frame.f_code.co_consts):
            return " ".join(given.split())
    return None


def _is_of_a_file(frame: FrameType) -> bool:
    return frame.f_code.co_filename == frame.f_globals.get("__file__")


def _texts(constants: tuple[Any, ...] | frozenset[Any]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from _texts(constant)
