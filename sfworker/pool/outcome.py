"""Holds how an execution went, as the mesh returns it and the publisher turns it into a result."""

from __future__ import annotations

from enum import IntEnum, auto

from msgspec import Raw, Struct, field

from sfworker.errors import Failure
from sfworker.pool.keepers import Keeper
from sfworker.wire.frames import Staging, Traced


class Stop(IntEnum):
    """Reason for the daemon to end an execution before it ends by itself. Of several, the last of this list counts."""

    SOFT_TIME_LIMIT = auto()
    TIME_LIMIT = auto()
    DRAINED = auto()
    CANCELLED = auto()
    LEASE_LOST = auto()


class Timings(Struct):
    """Seconds of the slowest party per phase. `ended` holds the end of each phase in Unix seconds."""

    cluster: float = 0.0
    devices: float = 0.0
    execution: float = 0.0
    ended: dict[str, float] = field(default_factory=dict)


class Outcome(Struct, kw_only=True):
    """The end of one attempt's computation."""

    result: Raw | None = None
    """Encoded, as it is published."""
    failure: Failure | None = None
    """None where every party succeeded."""
    stopped: Stop | None = None
    """Reason where the daemon ended the execution, which `failure` tells too."""
    template_lost: bool = False
    """True where the computation ended because the template did."""
    never_ran: bool = False
    """True where the template was gone before a process could be forked."""
    peer_absent: bool = False
    """True where it ended because a party elsewhere was not there."""
    peer_returns: bool = False
    """True where it was there, and comes back as soon as its worker or gateway does."""
    no_room: bool = False
    """True where it has not begun, as its cluster has no room for it now."""
    is_answered: bool = False
    """True where it is a success whose answer is published."""
    number: int = 0
    """Place of the execution among those of its session, from 0."""
    timings: Timings = field(default_factory=Timings)
    devices: list[str] = field(default_factory=list)
    peak_rss: dict[str, int] = field(default_factory=dict)
    outputs: list[Staging] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """Directories that were not there before, made for outputs."""
    kept: list[str] = field(default_factory=list)
    """Directories with checkpoints, which are of use to a next attempt only."""
    traced: dict[str, Traced] = field(default_factory=dict)
    """Spans of each party here, as far as it has told them."""
    keeper: Keeper | None = None
    """Keeper of its staged outputs, None where that is this host."""
