"""Outputs, from where they were written to where the envelope wants them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress

from sfworker.errors import ResultSaveError
from sfworker.wire.frames import Staging


def commit(outputs: Iterable[Staging]) -> None:
    """Rename each into place. A directory (a model) replaces the one that is there.

    Raises ResultSaveError, having removed what was not renamed yet.
    """
    outputs = list(outputs)
    try:
        for output in outputs:
            if os.path.isdir(output.target) and not os.path.islink(output.target):
                shutil.rmtree(output.target)
            os.replace(output.staged, output.target)
    except OSError as error:
        discard(outputs)
        raise ResultSaveError(f"an output could not be renamed into place ({os.strerror(error.errno or 0)})") from None


def discard(outputs: Iterable[Staging]) -> None:
    """Remove what a failed execution has written."""
    remove(output.staged for output in outputs)


def remove(paths: Iterable[str]) -> None:
    """Remove files and directories that are no longer of use, where they are there."""
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)
