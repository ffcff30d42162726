"""Numbers on the command line, checked: what argparse calls a `type`."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """Read a time limit. Raises ArgumentTypeError unless it is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def count(text: str) -> int:
    """Read how many. Raises ArgumentTypeError unless it is a whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value
