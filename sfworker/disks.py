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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from sfworker.errors import ResultSaveError

MARGIN = 1 << 20
"""Free bytes below which a disk counts as full, because a library's next write may be cut off."""
_LOOK_SECONDS = 0.01
_LOOKS_PER_PROBE = 5
_PATIENCE_SECONDS = 5.0
"""Time for a library to notice itself that a disk is full."""
_FEW_NAMES = 16
"""Free names (inodes) below which a library's failure is laid to them."""
_WRITE = 1 << 16
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEXTS = [os.strerror(number) for number in _FULL]


def disk_full(name: str) -> ResultSaveError:
    """Return the error that says that the disk of `name` (the outputs, the scratch directory) is full."""
    return ResultSaveError(f"the disk of {name} is full; free space on it, or raise the quota or file size limit")


def says_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it followed from, is that of a full disk, quota or file size limit."""
    while error is not None:
        # Errors of C++ libraries have no number, only the system's text somewhere in theirs.
        if (isinstance(error, OSError) and error.errno in _FULL) or any(text in str(error) for text in _TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_full(path: Path, least: int = MARGIN, least_names: int = 1) -> bool:
    """Return whether the disk that holds `path` has less than `least` bytes, or names, left for this process."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    if disk.f_blocks == 0 or disk.f_flag & os.ST_RDONLY:  # it does not say, or nothing is written there
        return False
    no_names = disk.f_files > 0 and disk.f_favail < least_names
    return no_names or disk.f_bavail * disk.f_frsize < least


def where_full(scratch: str, roots: Iterable[str]) -> ResultSaveError | None:
    """Return the error that names the disk of an execution that is full now, None where none is."""
    for name, paths in (("the scratch directory", [scratch]), ("the outputs", roots)):
        if any(is_full(Path(path)) for path in paths):
            return disk_full(name)
    return None


@contextmanager
def watched(*places: tuple[str, Path], break_off: Callable[[ResultSaveError], None]) -> Iterator[None]:
    """Watch the disks of `places` (what errors call it, and a file or directory) during the block.

    Raises ResultSaveError at its end, also in place of the block's own exception, where one was full meanwhile. An
    exception that says so without more is laid to the first. A block that goes on is ended by `break_off` with the
    error, as parties of libpsi may wait for each other where both have failed.
    """
    full: list[str] = []
    done = threading.Event()

    def look() -> None:
        for number in count():
            probed = number % _LOOKS_PER_PROBE == 0
            full.extend(
                name
                for name, path in places
                if is_full(path) or _holds_a_cut_off_file(path) or (probed and path.is_dir() and _is_refused_room(path))
            )
            if full or done.wait(_LOOK_SECONDS):
                break
        if full and not done.wait(_PATIENCE_SECONDS):
            break_off(disk_full(full[0]))

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    failed: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again below
        failed = error
    finally:
        done.set()
    watch.join()
    # libpsi removes its files, of which it has fewer, as it fails.
    names = _FEW_NAMES if isinstance(failed, RuntimeError) else 1
    full += [
        name
        for name, path in places
        if is_full(path, least_names=names) or _holds_a_cut_off_file(path) or _is_refused_room(path)
    ]
    if full or says_full(failed):
        raise disk_full([*full, places[0][0]][0]) from failed
    if failed is not None:
        raise failed


def _holds_a_cut_off_file(path: Path) -> bool:
    """Return whether a file at `path` is as long as this process's limit on file sizes, which no disk tells."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return False
    sizes = []
    for file in [path, *path.rglob("*")]:
        with suppress(OSError):  # gone meanwhile
            # `path` itself may be a name for what is open elsewhere.
            sizes.append(0 if file.is_dir() else (file.stat() if file == path else file.lstat()).st_size)
    return max(sizes, default=0) >= limit


def _is_refused_room(path: Path) -> bool:
    """Return whether a directory's files or a file may not grow, as where a quota is met, which no disk tells."""
    # What was removed from a directory has made room again; a file that could not grow still cannot.
    room = MARGIN if path.is_dir() else _WRITE
    try:
        with tempfile.TemporaryFile(dir=path) if path.is_dir() else path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                os.posix_fallocate(file.fileno(), end, room)
                # A write of others that failed for want of the room just taken has left none for this.
                os.posix_fallocate(file.fileno(), end + room, _WRITE)
            finally:
                file.truncate(end)
    except OSError as error:
        return says_full(error)
    return False
