"""Has the SPU mask and open a value once, however often it is multiplied. Runs in party processes.

The SPU knows such a value by its address in memory. Where another one got that address, at one party only, the parties'
messages would no longer match and they would wait for each other for ever. So these values stay until the process ends,
and a session that all parties keep for the next job, which is to find nothing of this one, masks and opens them each
time. Dropping them in the end would not do: what the SPU has written of them stays in a file that it keeps open.
"""

from __future__ import annotations

from typing import Any

from spu.experimental.make_cached_var_impl import make_cached_var

_kept: dict[int, Any] = {}
_is_used = True


def open_each_time() -> None:
    """Keep no values in this process from now on. To be called at all parties, or at none."""
    global _is_used  # noqa: PLW0603 - programs for the SPU are functions without an owner
    _is_used = False


def kept(value: Any) -> Any:
    """Return a value on the SPU, which is not freed before the process ends."""
    if _is_used:
        _kept[id(value)] = value
    return value


def opened_once(value: Any) -> Any:
    """Return a value that a program for the SPU was given, which has to be a `kept` one and not a part of one."""
    return make_cached_var(value) if _is_used else value
