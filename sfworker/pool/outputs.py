"""Moves outputs from their staged paths to the targets that the envelope names. Runs in the daemon."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from sfworker.disks import disk_full, says_full
from sfworker.errors import ResultSaveError
from sfworker.wire.frames import Staging

# Names of staged outputs and checkpoints, as `sfworker.party.context` makes them.
_BESIDE = re.compile(r"\.[0-9a-f]{16}(-\d+\.partial.*|\.checkpoint)")
# Python offers no rename that exchanges two names. Old C libraries have no such function either.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_renameat2: Callable[..., int] = getattr(ctypes.CDLL(None), "renameat2", lambda *_: -1)


def flush(outputs: list[Staging]) -> None:
    """Flush staged outputs to disk, as a power failure after the answer could leave empty files. May take long.

    Raises ResultSaveError after removing all of them.
    """
    try:
        for staged in (Path(output.staged) for output in outputs):
            for path in [staged, *staged.rglob("*")]:
                _fsync(path)
    except OSError as error:
        discard(outputs)
        raise _unwritten("kept on disk", error) from None


def commit(outputs: list[Staging]) -> None:
    """Put each output in its place and remove its predecessor. At every moment each place holds the one or the other.

    Predecessors get the staged names until all outputs are in place, so those that a crash leaves are removed like
    staged outputs. Raises ResultSaveError with all predecessors in place and all staged outputs removed.
    """
    placed: list[Staging] = []
    try:
        for output in outputs:
            if os.path.lexists(output.target) and os.path.isdir(output.target) != os.path.isdir(output.staged):
                raise FileExistsError(errno.EEXIST, "a directory where a file is to be, or the reverse")
            _exchange(output.staged, output.target)
            placed.append(output)
        for directory in {Path(output.target).parent for output in outputs}:
            _fsync(directory)
    except OSError as error:
        for output in reversed(placed):
            with suppress(OSError):
                _exchange(output.target, output.staged)
        raise _unwritten("renamed into place", error) from None
    finally:
        discard(outputs)


def discard(outputs: Iterable[Staging]) -> None:
    """Remove the staged outputs of a failed execution."""
    remove(output.staged for output in outputs)


def remove(paths: Iterable[str]) -> None:
    """Remove those of the files and directories that exist."""
    for path in paths:
        with suppress(OSError):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)


def remove_left_behind(paths: Iterable[str], roots: Iterable[str]) -> None:
    """Remove staged outputs, checkpoints, and the empty ones among the directories that were made for outputs.

    The paths come from Redis, which others may write to, so only staged names inside `roots` are removed.
    """
    real = [Path(os.path.realpath(root)) for root in roots]
    for path in sorted(map(Path, paths), reverse=True):  # what is in a directory first
        directory = Path(os.path.realpath(path.parent))
        if not any(directory.is_relative_to(root) for root in real):
            continue
        if _BESIDE.fullmatch(path.name):
            remove([str(directory / path.name)])
        else:
            with suppress(OSError):  # there is something in it, or it is none
                os.rmdir(directory / path.name)


def _unwritten(what: str, error: OSError) -> ResultSaveError:
    if says_full(error):
        return disk_full("the outputs")
    return ResultSaveError(f"an output could not be {what} ({os.strerror(error.errno or 0)})")


def _exchange(first: str, second: str) -> None:
    """Swap two names in one step, or rename the first where the second does not exist."""
    if _renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return
    # The second name does not exist, or this file system (NFS, for one) cannot exchange names. Then it takes three
    # steps, and a crash between them leaves the predecessor beside its place, for people to find.
    aside = f"{first}.aside"
    with suppress(FileNotFoundError):
        os.rename(second, aside)
    try:
        os.rename(first, second)
    finally:
        with suppress(FileNotFoundError):
            os.rename(aside, first if os.path.lexists(second) else second)


def _fsync(path: Path) -> None:
    if not (path.is_file() or path.is_dir()):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Not every file system can flush a directory, and a directory that may be written to may be closed to reading.
        if not (path.is_dir() and error.errno in (errno.EACCES, errno.EINVAL)):
            raise
