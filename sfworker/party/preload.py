"""Readies the interpreter before job modules are imported, and clears state that must not survive a fork."""

from __future__ import annotations

import ctypes
import inspect
import logging
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any


def import_secretflow() -> None:
    """Import SecretFlow without s3fs, which it only needs for URLs, which are refused.

    That brings an HTTP client along: an eighth of the time that all takes, and 13 MB. Who imports it later gets it.
    """
    sys.modules["s3fs"] = ModuleType("s3fs")
    try:
        import secretflow  # noqa: F401
    finally:
        del sys.modules["s3fs"]


def hide_ray() -> None:
    """Make `import ray` fail at once in this process and its forks.

    SecretFlow tries the import for each call that a PYU makes. That costs 0.4 s at the first call where Ray is
    installed, and a search of the whole import path each time where it is not. Parties here never run on Ray objects.
    """
    sys.modules["ray"] = None  # type: ignore[assignment]


def keep_traces_in_scratch() -> None:
    """Make libpsi write its traces into the working directory, which is a party's scratch directory.

    It writes one at the end of each intersection, readable by all, and no option moves or stops that. So its constant
    path is replaced in memory by a relative one of the same length. Where that cannot be done, traces stay in /tmp.
    """
    from spu import libpsi

    library = Path(libpsi.__file__).resolve()
    path, replacement = b"/tmp/psi_{}.trace", b"././/psi_{}.trace"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(path)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, start, _, _, *name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        address = low + place - int(start, 16)
        if name == [str(library)] and place > 0 and low <= address < high:
            _overwrite(address, path, replacement)


def _overwrite(address: int, before: bytes, after: bytes) -> None:
    """Overwrite constants of a library in this process's memory."""
    libc = ctypes.CDLL(None)
    first = address - address % mmap.PAGESIZE
    pages = ctypes.c_void_p(first), ctypes.c_size_t(address + len(after) - first)
    is_there = ctypes.string_at(address, len(before)) == before
    if is_there and libc.mprotect(*pages, mmap.PROT_READ | mmap.PROT_WRITE) == 0:
        ctypes.memmove(address, after, len(after))
        libc.mprotect(*pages, mmap.PROT_READ)


def remove_jax_directory() -> None:
    """Remove the temporary directory that JAX makes when it is imported, for GPUs, and leaves behind."""
    from jax._src import compiler

    function: Any = compiler._compile_and_write_autotune_config
    with suppress(OSError):
        os.rmdir(function.autotune_configs_dir)


def warm_up() -> None:
    """Compile the pattern of Python's tokens, which the standard library keeps and each fork would compile anew.

    SecretFlow uses it to look at the signature of a function that a party calls.
    """
    inspect.signature(len)


def forget_jax_client() -> None:
    """Drop the client that JAX makes when an import computes something, as that of `sml` does.

    Its threads do not survive a fork, so a forked process with this client would wait for ever at its first
    computation that is large enough for threads. Without it, the process makes a client of its own in a millisecond.
    """
    import jax.extend.backend

    logging.getLogger("jax").setLevel(logging.WARNING)  # it would announce this
    jax.extend.backend.clear_backends()  # type: ignore[no-untyped-call]
