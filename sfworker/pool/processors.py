"""Chooses processors for the party processes of executions whose number of them is limited. Runs in the daemon."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable


class Processors:
    """Spreads processes over this worker's processors. Each gets those on which the fewest others compute."""

    def __init__(self) -> None:
        self._used: Counter[int] = Counter()

    def acquire(self, count: int) -> list[int]:
        """Return `count` processors, or all where there are no more."""
        chosen = sorted(os.sched_getaffinity(0), key=lambda each: (self._used[each], each))[:count]
        self._used.update(chosen)
        return chosen

    def release(self, processors: Iterable[int]) -> None:
        self._used.subtract(processors)
