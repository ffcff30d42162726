"""The worker's own directory: sockets and scratch of running executions, and nothing that outlives them.

Its lock file is held as long as the worker lives, so that the next worker on this host knows which directories were
left by one that was killed together with its template process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "sfworker-run-"


@contextmanager
def run_dir(parent: str) -> Iterator[str]:
    """A private directory in `parent`, removed at the end; what dead workers left there is removed first."""
    remove_abandoned(parent)
    directory = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)  # 0700
    with open(os.path.join(directory, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned(parent: str) -> int:
    """Remove the directories of workers of this user that are gone; returns how many there were."""
    removed = 0
    for directory in Path(parent).glob(f"{_PREFIX}*"):
        try:
            if directory.stat().st_uid != os.getuid():
                continue
            with open(directory / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
                removed += 1
        except OSError:  # held by a worker that lives, or just being made or removed by one
            continue
    return removed
