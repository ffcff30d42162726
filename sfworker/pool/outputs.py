"""Moves outputs from their staged paths to the targets that the envelope names. Runs in the daemon.

The paths are a party process's words, or Redis', so whatever is done happens in directories beneath the data roots that
are held meanwhile (`sfworker.beneath`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sfworker import beneath
from sfworker.disks import disk_full, says_full
from sfworker.errors import ResultSaveError
from sfworker.wire.frames import FrameError, Keeping, Making, Staging

# Names of staged outputs and checkpoints, as `sfworker.party.context` makes them.
_STAGED = re.compile(r"\.[0-9a-f]{16}-\d+\.partial.*", re.S)  # a target's ending may hold anything
_KEPT = re.compile(r"\.[0-9a-f]{16}\.checkpoint")
# Python offers no rename that exchanges two names. Old C libraries have no such function either.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_renameat2: Callable[..., int] = getattr(ctypes.CDLL(None), "renameat2", lambda *_: -1)


def require_own(frame: Making | Staging | Keeping, roots: Iterable[str]) -> None:
    """Raise FrameError where a party process names a path that no job context makes beneath these roots."""
    paths = [Path(frame.staged), Path(frame.target)] if isinstance(frame, Staging) else [Path(frame.path)]
    texts = [frame.staged, frame.target] if isinstance(frame, Staging) else [frame.path]
    if any("\0" in text or os.path.normpath(text) != text for text in texts):
        raise FrameError("a path that is none")
    inside = beneath.real(roots)
    if not all(any(root in path.parents for root in inside) for path in paths):
        raise FrameError("a path outside its data roots")
    names = [bool(_STAGED.fullmatch(path.name) or _KEPT.fullmatch(path.name)) for path in paths]
    fits = {
        Making: names == [False],
        Keeping: bool(_KEPT.fullmatch(paths[0].name)),
        Staging: bool(_STAGED.fullmatch(paths[0].name)) and paths[0].parent == paths[-1].parent and not names[-1],
    }
    if not fits[type(frame)]:
        raise FrameError("a path with a name that is none of its kind")


def flush(outputs: list[Staging], roots: Iterable[str]) -> None:
    """Flush staged outputs to disk, as a power failure after the answer could leave empty files. May take long.

    Raises ResultSaveError after removing all of them.
    """
    try:
        with _held(outputs, roots) as places:
            for staged in (Path(output.staged) for output in places):
                for path in [staged, *staged.rglob("*")]:
                    _fsync(path)
    except OSError as error:
        discard(outputs, roots)
        raise _unwritten("kept on disk", error) from None


def commit(outputs: list[Staging], roots: Iterable[str], log_file: str = "") -> None:
    """Put each output in its place and remove its predecessor. At every moment each place holds the one or the other.

    Predecessors get the staged names until all outputs are in place, so those that a crash leaves are removed like
    staged outputs. Raises ResultSaveError with all predecessors in place and all staged outputs removed.
    """
    placed: list[Staging] = []
    new = {_identity(os.stat(log_file))} if log_file and os.path.exists(log_file) else set()
    try:
        with _held(outputs, roots) as places:
            try:
                for output in places:
                    new.add(_require_exchangeable(output, new))
                    _exchange(output.staged, output.target)
                    placed.append(output)
                for directory in {Path(output.target).parent for output in places}:
                    _fsync(f"{directory}/.")
            except OSError:
                for output in reversed(placed):
                    with suppress(OSError):
                        _exchange(output.target, output.staged)
                raise
    except OSError as error:
        raise _unwritten("renamed into place", error) from None
    finally:
        discard(outputs, roots)


def discard(outputs: Iterable[Staging], roots: Iterable[str]) -> None:
    """Remove the staged outputs of a failed execution."""
    inside = beneath.real(roots)
    for output in outputs:
        staged = Path(output.staged)
        with suppress(OSError), beneath.held(inside, staged.parent) as directory:
            _remove(directory / staged.name)


def remove_left_behind(paths: Iterable[str], roots: Iterable[str]) -> None:
    """Remove staged outputs, checkpoints, and the empty ones among the directories that were made for outputs.

    The paths come from Redis, which others may write to, so only staged names inside `roots` are removed.
    """
    inside = beneath.real(roots)
    for path in sorted(map(Path, paths), reverse=True):  # what is in a directory first
        # Suppressed: it lies outside, is gone, is no directory, or there is something in it.
        with suppress(OSError, ValueError), beneath.held(inside, path.parent) as directory:
            if _STAGED.fullmatch(path.name) or _KEPT.fullmatch(path.name):
                _remove(directory / path.name)
            else:
                os.rmdir(directory / path.name)


@contextmanager
def _held(outputs: Iterable[Staging], roots: Iterable[str]) -> Iterator[list[Staging]]:
    """Hold the outputs' directories, and give the outputs with paths that stay with them. Raises OSError."""
    inside = beneath.real(roots)
    with ExitStack() as stack:
        parents = {Path(output.target).parent for output in outputs}
        at = {parent: stack.enter_context(beneath.held(inside, parent)) for parent in parents}
        yield [
            Staging(*(str(at[Path(output.target).parent] / Path(path).name) for path in (output.staged, output.target)))
            for output in outputs
        ]


def _require_exchangeable(output: Staging, new: set[tuple[int, int]]) -> tuple[int, int]:
    """Return which file is staged. Raises FileExistsError where the target is not a former output of its kind.

    It is none where it is one of `new`: the log, and what this execution has put there, as names may differ and mean
    the same file.
    """
    staged = os.lstat(output.staged)
    kinds = {stat.S_IFREG, stat.S_IFDIR}
    with suppress(FileNotFoundError):
        target = os.lstat(output.target)
        kinds = {stat.S_IFMT(target.st_mode)} & kinds
        if _identity(target) in new:
            kinds = set()
    if stat.S_IFMT(staged.st_mode) not in kinds:
        raise FileExistsError(errno.EEXIST, "something else is in its place")
    return _identity(staged)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _remove(path: Path) -> None:
    """Remove a file or a directory with all in it. Raises OSError."""
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)


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


def _fsync(path: Path | str) -> None:
    mode = os.lstat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Not every file system can flush a directory, and a directory that may be written to may be closed to reading.
        if not (stat.S_ISDIR(mode) and error.errno in (errno.EACCES, errno.EINVAL)):
            raise
