"""How an execution went, as a value: what the mesh returns and the publisher turns into a result."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Any

from msgspec import Struct, field

from sfworker.errors import Failure
from sfworker.wire.frames import Staging


class Stop(IntEnum):
    """Why the daemon ends an execution before it has ended by itself. Of several reasons the last one here counts."""

    SOFT_TIME_LIMIT = auto()
    TIME_LIMIT = auto()
    DRAINED = auto()
    CANCELLED = auto()
    LEASE_LOST = auto()


class Timings(Struct):
    """Seconds of the slowest party per phase; `ended` holds when each phase ended, in Unix seconds."""

    cluster: float = 0.0
    devices: float = 0.0
    execution: float = 0.0
    ended: dict[str, float] = field(default_factory=dict)


class Outcome(Struct, kw_only=True):
    """The end of one attempt's computation."""

    result: Any = None
    failure: Failure | None = None
    """None: every party succeeded."""
    stopped: Stop | None = None
    """Set where the daemon ended it; then `failure` says so too."""
    template_lost: bool = False
    """The computation ended because the process it was forked from did."""
    never_ran: bool = False
    """The template was gone before a process could be made for it."""
    timings: Timings = field(default_factory=Timings)
    devices: list[str] = field(default_factory=list)
    peak_rss: dict[str, int] = field(default_factory=dict)
    outputs: list[Staging] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Directories that are of use to a next attempt only."""
