"""Which processors the party processes of an execution compute on, where their number is limited."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable


class Processors:
    """Spreads processes over this worker's processors: each gets those that the fewest others compute on."""

    def __init__(self) -> None:
        self._used: Counter[int] = Counter()

    def acquire(self, count: int) -> list[int]:
        """`count` processors, or all where there are no more."""
        chosen = sorted(os.sched_getaffinity(0), key=lambda each: (self._used[each], each))[:count]
        self._used.update(chosen)
        return chosen

    def release(self, processors: Iterable[int]) -> None:
        self._used.subtract(processors)
