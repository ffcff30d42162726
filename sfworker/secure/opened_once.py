"""Has the SPU mask and open a value once, however often it is multiplied. Runs in party processes.

The SPU knows such a value by its address in memory. Where another one got that address, at one party only, the parties'
messages would no longer match and they would wait for each other for ever. So these values stay until the process ends.
"""

from __future__ import annotations

from typing import Any

from spu.experimental.make_cached_var_impl import make_cached_var

_kept: dict[int, Any] = {}


def kept(value: Any) -> Any:
    """Return a value on the SPU, which is not freed before the process ends."""
    _kept[id(value)] = value
    return value


def opened_once(value: Any) -> Any:
    """Return a value that a program for the SPU was given, which has to be a `kept` one and not a part of one."""
    return make_cached_var(value)
