"""Arguments of the command line, checked: what argparse calls a `type`."""

from __future__ import annotations

import argparse
import math

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> float:
    """Read a time limit. Raises ArgumentTypeError unless it is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def age(text: str) -> float:
    """Read how long ago, in seconds. Raises ArgumentTypeError unless it is a number with its unit, as in 12h."""
    number, unit = text[:-1], _UNITS.get(text[-1:])
    if unit is None or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no age; write 90s, 15m, 12h or 7d")
    return float(number) * unit


def count(text: str) -> int:
    """Read how many. Raises ArgumentTypeError unless it is a whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def not_empty(text: str) -> str:
    """Read an id or a name. Raises ArgumentTypeError where it is empty, as an unset variable of a shell is."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text
