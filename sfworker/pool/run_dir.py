"""Makes the worker's own directory, which holds sockets and scratch of running executions and does not outlive it.

The directory is locked as long as the worker lives. An unlocked one was left by a worker that was killed together with
its template process; the next worker on this host removes it, and ends what still runs in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "sfworker-run-"
EXECUTIONS = 10_000
"""Names of executions' directories, which are used again."""
LONGEST_PARENT = 107 - len(f"/{PREFIX}12345678/{EXECUTIONS - 1}/spu-9-15.sock")
"""Bytes that the path of a directory may have in which a worker makes its own: a socket's path may have 107."""


@contextmanager
def run_dir(parent: str, prefix: str = PREFIX) -> Iterator[str]:
    """Make a private directory in `parent` for the block, after removing the directories of dead workers there.

    Programs with another `prefix` have directories of their own kind.
    """
    remove_abandoned(parent, prefix)
    directory, lock = _locked_directory(os.path.realpath(parent), prefix)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: str, prefix: str = PREFIX) -> int:
    """Remove the directories of this user's workers that are gone, and return their number."""
    removed = 0
    for directory in Path(os.path.realpath(parent)).glob(f"{prefix}*"):
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # somebody else's, or gone
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _kill_all_in(directory)
                shutil.rmtree(directory, ignore_errors=True)
                removed += 1
        except OSError:  # held by a worker that lives
            pass
        finally:
            os.close(lock)
    return removed


def _locked_directory(parent: str, prefix: str) -> tuple[str, int]:
    """Make a new directory, and return it with the descriptor that holds its lock."""
    while True:
        directory = tempfile.mkdtemp(prefix=prefix, dir=parent)  # 0700
        with suppress(FileNotFoundError):  # another worker took it for an abandoned one before it was locked
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(directory):
                return directory, lock
            os.close(lock)


def _kill_all_in(directory: Path) -> None:
    """Kill programs that a job had started there, which do not die with the template as party processes do.

    They are recognised by their working directory or their TMPDIR, one of which they have inherited.
    """
    inside = f"{directory}/"
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with suppress(OSError):  # not ours to look at, or gone
            there = os.readlink(f"/proc/{name}/cwd").startswith(inside)
            if there or f"\0TMPDIR={inside}".encode() in b"\0" + Path(f"/proc/{name}/environ").read_bytes():
                os.kill(int(name), signal.SIGKILL)
