"""Keeps a party's paths inside its data roots. Runs in the party process, on that party's own paths only.

No message here holds a path, as the field's name is enough for whoever wrote the envelope.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any

from sfworker.disks import disk_full, says_full
from sfworker.errors import InputDataError, ParameterValidationError, ResultSaveError

_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:")


def _nothing(directory: Path) -> None:
    pass


class DataRoots:
    """The directories that one party may use. Relative paths start at the first.

    `making` is told each directory that is about to be made for an output.
    """

    def __init__(self, roots: list[str], making: Callable[[Path], None] = _nothing) -> None:
        self._roots = [Path(os.path.realpath(root)) for root in roots]
        self._making = making

    def input_file(self, field: str, path: str) -> Path:
        """Return the real path of an existing, readable, regular file inside the roots.

        Raises ParameterValidationError for a path that is not allowed, InputDataError for a file that is not there.
        """
        found = self._resolve(field, path)
        try:
            if found.is_dir():
                raise InputDataError(f"{field}: is a directory; name a CSV or Parquet file")
            if not found.exists():
                raise InputDataError(f"{field}: no such file at this party; check the path and that it was delivered")
            if not found.is_file():
                raise InputDataError(f"{field}: not a regular file")
            if found.stat().st_size == 0:
                raise InputDataError(f"{field}: the file is empty; it needs a header line and rows")
        except OSError as error:
            raise InputDataError(f"{field}: cannot be looked at ({_reason(error)})") from None
        if not os.access(found, os.R_OK):
            raise InputDataError(f"{field}: the worker may not read this file; change its permissions")
        return found

    def input_directory(self, field: str, path: str) -> Path:
        """Return the real path of an existing directory inside the roots. Raises as `input_file`."""
        found = self._resolve(field, path)
        if not found.is_dir():
            raise InputDataError(f"{field}: no such directory at this party; train and save the model there first")
        return found

    def output_file(self, field: str, path: str) -> Path:
        """Return the real path of an output file inside the roots. Its directory is made if missing.

        Raises ParameterValidationError for a path that is not allowed, ResultSaveError where it cannot be written.
        """
        target = self.new_path(field, path)
        if target.is_dir():
            raise ResultSaveError(f"{field}: is a directory; name a file")
        return target

    def output_directory(self, field: str, path: str, holds: str) -> Path:
        """Return the real path of an output directory, which must be new, empty, or have a file named `holds`.

        Raises as `output_file`.
        """
        target = self.new_path(field, path)
        if target.exists() and not target.is_dir():
            raise ResultSaveError(f"{field}: is a file; name a directory")
        if target.is_dir() and not (target / holds).is_file() and any(target.iterdir()):
            raise ResultSaveError(f"{field}: is a directory with other files in it; name a new one")
        return target

    def new_path(self, field: str, path: str) -> Path:
        """Return the real path of a new file or directory inside the roots. Its directory is made if missing.

        Raises ParameterValidationError for a path that is not allowed, ResultSaveError where it cannot be written.
        """
        target = self._resolve(field, path)
        if any(root.is_relative_to(target) for root in self._roots):
            raise ParameterValidationError(f"{field}: is a data root itself; name a file or directory inside it")
        try:
            for missing in [each for each in reversed(target.parents) if not each.exists()]:
                self._making(missing)
                missing.mkdir(exist_ok=True)
        except OSError as error:
            if says_full(error):
                raise disk_full("the outputs") from None
            raise ResultSaveError(f"{field}: its directory cannot be made ({_reason(error)})") from None
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise ResultSaveError(f"{field}: the worker may not write to its directory; change the permissions")
        return target

    def _resolve(self, field: str, path: str) -> Path:
        if _URL.match(path):
            raise ParameterValidationError(f"{field}: URLs are not accepted; name a path inside the data roots")
        if "\x00" in path:
            raise ParameterValidationError(f"{field}: holds a NUL character")
        if not self._roots:
            raise ParameterValidationError(f"{field}: this party has no data root; set SFWORKER_DATA_ROOTS")
        try:
            # `..` and symbolic links are resolved first, so neither leads out.
            found = Path(os.path.realpath(self._roots[0] / path))
        except OSError as error:
            raise ParameterValidationError(f"{field}: not a usable path ({_reason(error)})") from None
        if not any(found.is_relative_to(root) for root in self._roots):
            raise ParameterValidationError(
                f"{field}: lies outside the data roots; move the file there or add its directory to SFWORKER_DATA_ROOTS"
            )
        return found


@contextmanager
def saving(field: str, disk: str = "the outputs") -> Iterator[None]:
    """Turn an OSError of writing an output into a ResultSaveError that names the field, or the disk that is full."""
    try:
        yield
    except OSError as error:
        if says_full(error):
            raise disk_full(disk) from None
        raise ResultSaveError(f"{field}: cannot be written ({_reason(error)})") from None


def opened(field: str, path: Path) -> BufferedWriter[Any]:
    """Open an output for a library that may not hear of a full disk. Closing it raises ResultSaveError, each time.

    Arrow ends the process where an ORC file cannot be written.
    """
    with saving(field):
        return BufferedWriter(_OutputFile(field, path))


class _OutputFile(FileIO):
    """A file that takes whatever is written, and fails when it is closed, without what was cut off."""

    def __init__(self, field: str, path: Path) -> None:
        super().__init__(path, "wb")
        self._field, self._path = field, path
        self._error: OSError | None = None

    def write(self, content: Any) -> int:
        if self._error is None:
            try:
                return super().write(content) or 0
            except OSError as error:
                self._error = error
        return memoryview(content).nbytes

    def close(self) -> None:
        with saving(self._field):
            super().close()
            if self._error is not None:
                self._path.unlink(missing_ok=True)
                raise self._error


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__


def remove(path: Path) -> None:
    """Remove a file or a directory with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
