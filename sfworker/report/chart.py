"""Holds what a chart is, and which figures can be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sfworker.report.tables import Table

LARGEST = 1e100
"""From here on, differences of figures may be more than any number."""


@dataclass(frozen=True)
class Chart:
    """A picture, what it shows in words, and its figures."""

    title: str
    description: str
    svg: str
    table: Table


def figure(value: Any) -> float | None:
    """Return a value as a number that can be drawn, also where it is written as text; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if abs(found) <= LARGEST else None
