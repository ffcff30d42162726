"""Tells whether a disk is full. Runs in the daemon and in party processes.

Some libraries do not check what they write: libpsi answers a full disk with fewer rows. While such a library works its
disks are watched, and what it answers is dropped where one of them ran full.
"""

from __future__ import annotations

import errno
import os
import resource
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sfworker.errors import ResultSaveError

MARGIN = 1 << 20
"""Free bytes below which a disk counts as full, because a library's next write may be cut off."""
_LOOK_SECONDS = 0.01
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def disk_full(name: str) -> ResultSaveError:
    """Return the error that says that the disk of `name` (the outputs, the scratch directory) is full."""
    return ResultSaveError(f"the disk of {name} is full; free space on it, or raise the quota or file size limit")


def says_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it followed from, is that of a full disk, quota or file size limit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def is_full(path: Path, least: int = MARGIN) -> bool:
    """Return whether the disk that holds `path` has less than `least` bytes left for this process."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    if disk.f_blocks == 0 or disk.f_flag & os.ST_RDONLY:  # it does not say, or nothing is written there
        return False
    no_names = disk.f_files > 0 and disk.f_favail == 0
    return no_names or disk.f_bavail * disk.f_frsize < least


def where_full(scratch: str, roots: Iterable[str]) -> ResultSaveError | None:
    """Return the error that names the disk of an execution that is full now, None where none is."""
    for name, paths in (("the scratch directory", [scratch]), ("the outputs", roots)):
        if any(is_full(Path(path)) for path in paths):
            return disk_full(name)
    return None


@contextmanager
def watched(*places: tuple[str, Path]) -> Iterator[None]:
    """Watch the disks of `places` (what errors call it, and a file or directory) during the block.

    Raises ResultSaveError at its end, also in place of the block's own exception, where one was full meanwhile.
    """
    full: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not full:
            full.extend(name for name, path in places if is_full(path))
            if done.wait(_LOOK_SECONDS):
                break

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        done.set()
        watch.join()
        if full:
            raise disk_full(full[0]) from error
        raise
    finally:
        done.set()
    watch.join()
    full += [name for name, path in places if is_full(path) or _at_a_limit(path)]
    if full:
        raise disk_full(full[0])


def _at_a_limit(path: Path) -> bool:
    """Return whether what is written at `path` has met a quota or the limit on file sizes, which no disk tells."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY:
        files = path.rglob("*") if path.is_dir() else [path]
        if any(file.lstat().st_size >= limit for file in files):
            return True
    try:
        with tempfile.TemporaryFile(dir=path if path.is_dir() else path.parent, buffering=0) as probe:
            return probe.write(bytes(MARGIN)) < MARGIN
    except OSError as error:
        return says_full(error)
