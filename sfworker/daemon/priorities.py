"""Decides which priority's stream a free slot asks first. Runs in the daemon.

By rank alone, a steady flow of urgent jobs would keep all others waiting for ever. So of ten slots, seven ask the most
urgent stream first, two the normal one and one the low one. Whichever is asked first, an empty stream passes the slot
on by rank, so no slot stays free while any job waits. Jobs that are tried or replayed again share the slots of the
stream that they came on.
"""

from __future__ import annotations

from itertools import cycle, islice

HIGH, NORMAL, LOW = 1, 2, 3
SHARES = (HIGH, HIGH, NORMAL, HIGH, HIGH, LOW, HIGH, NORMAL, HIGH, HIGH)


class RankOrder:
    """Deals out ranks to free slots by `SHARES`, going on where it stopped."""

    def __init__(self) -> None:
        self._turns = cycle(SHARES)

    def deal(self, slots: int) -> list[int]:
        """Return the rank (1 the most urgent) that each of `slots` free slots asks first."""
        return list(islice(self._turns, slots))
