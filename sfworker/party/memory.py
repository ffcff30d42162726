"""Gives memory back that a library has freed. Runs in party processes."""

from __future__ import annotations

import ctypes

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """Return freed memory to the system, which the C library would keep for later."""
    _libc.malloc_trim(0)
