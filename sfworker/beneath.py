"""Opens what lies beneath data roots, so that no link leads out of them. Runs in the daemon and in party processes.

A path that was checked may be another file when it is used: whoever may write to a directory can swap it for a link in
between. So the way down from a root is walked directory by directory, each opened in the one before it and no link
followed. What is done then is done in the directory that is held: `/proc/self/fd/N` is a path that stays with it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def open_directory(roots: Iterable[Path], path: Path, making: Callable[[Path], None] | None = None) -> int:
    """Open a directory, given by its real path, beneath one of the real paths `roots`. Raises OSError.

    With `making`, directories that are missing are made; it is told each before.
    """
    root = next((root for root in roots if path.is_relative_to(root) and ".." not in path.parts), None)
    if root is None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    descriptor, reached = os.open(root, _DIRECTORY), root
    for part in path.relative_to(root).parts:
        above, reached = descriptor, reached / part
        try:
            if making is not None:
                _make(above, part, reached, making)
            descriptor = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
    return descriptor


@contextmanager
def held(roots: Iterable[Path], path: Path) -> Iterator[Path]:
    """Hold a directory as `open_directory` opens it, and give a path to it that no renaming leads elsewhere."""
    descriptor = open_directory(roots, path)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def real(roots: Iterable[str]) -> list[Path]:
    """Return the real paths of roots, which may be links, as the operator has named them."""
    return [Path(os.path.realpath(root)) for root in roots]


def _make(above: int, name: str, path: Path, making: Callable[[Path], None]) -> None:
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        making(path)
        with suppress(FileExistsError):  # another job's, made just now
            os.mkdir(name, dir_fd=above)
