"""Keeps a party's paths inside its data roots. Runs in the party process, on that party's own paths only.

No message here holds a path, as the field's name is enough for whoever wrote the envelope.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from io import BufferedWriter, FileIO
from itertools import count
from pathlib import Path
from typing import Any

from sfworker import beneath
from sfworker.disks import disk_full, says_full
from sfworker.errors import InputDataError, ParameterValidationError, ResultSaveError

MOST_FILES = 200
"""Files in an input directory, each of which is open as long as the job."""
OUTPUT_ENDINGS = {"", ".csv", ".tsv", ".txt", ".parquet", ".orc", ".gz", ".bz2", ".xz", ".zip", ".zst"}
_ENDINGS = re.compile(r"(\.[A-Za-z0-9]{1,16}){1,2}\Z")
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:")


def _nothing(directory: Path) -> None:
    pass


@dataclass(frozen=True)
class Place:
    """The place of an output, whose `target` is a real path. `directory` is that of the target as it is held."""

    target: Path
    directory: Path


class DataRoots:
    """The directories that one party may use. Relative paths start at the first.

    Whatever is used is opened beneath them without following links, and known to libraries by names in `scratch` that
    lead to what was opened, so that it stays the same whoever renames what meanwhile. `making` is told each directory
    that is about to be made for an output.
    """

    def __init__(self, roots: list[str], scratch: Path, making: Callable[[Path], None] = _nothing) -> None:
        self._roots = beneath.real(roots)
        self._scratch = scratch
        self._making = making
        self._inputs: dict[Path, Path] = {}
        self._descriptors: list[int] = []

    def close(self) -> None:
        """Let go of all that was opened, whose names lead nowhere from then on."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def input_file(self, field: str, path: str) -> Path:
        """Return a name for an existing, readable, regular file inside the roots, the same one each time.

        Raises ParameterValidationError for a path that is not allowed, InputDataError for a file that is not there.
        """
        found = self._resolve(field, path)
        if found not in self._inputs:
            self._inputs[found] = self._open_input(field, found)
        return self._inputs[found]

    def input_directory(self, field: str, path: str) -> Path:
        """Return a directory of names for the regular files that are in a directory inside the roots.

        Raises as `input_file`.
        """
        found = self._resolve(field, path)
        try:
            with beneath.held(self._roots, found) as directory:
                self._claim_input(field, os.stat(directory))
                names = Path(tempfile.mkdtemp(prefix="input-", dir=self._scratch))
                self._name_all(field, directory, names, count())
        except OSError:
            raise InputDataError(
                f"{field}: no such directory at this party; train and save the model there first"
            ) from None
        return names

    def output_file(self, field: str, path: str) -> Place:
        """Return the place of an output file inside the roots. Its directory is made if missing.

        Raises ParameterValidationError for a path that is not allowed, ResultSaveError where it cannot be written.
        """
        place = self.new_path(field, path)
        # Whatever else may lie there, programs and logs among it, is not replaced by a table.
        if place.target.suffix.lower() not in OUTPUT_ENDINGS:
            raise ParameterValidationError(f"{field}: has not the ending of a table; end it in .csv, .parquet or .orc")
        former = _look_at(place)
        if former is not None and stat.S_ISDIR(former.st_mode):
            raise ResultSaveError(f"{field}: is a directory; name a file")
        if former is not None and not stat.S_ISREG(former.st_mode):
            raise ResultSaveError(f"{field}: is there and no regular file; name another one")
        self._claim_output(field, place, former)
        return place

    def output_directory(self, field: str, path: str, holds: str) -> Place:
        """Return the place of an output directory, which must be new, empty, or have a file named `holds`.

        Raises as `output_file`.
        """
        place = self.new_path(field, path)
        former = _look_at(place)
        if former is not None and not stat.S_ISDIR(former.st_mode):
            raise ResultSaveError(f"{field}: is a file; name a directory")
        self._claim_output(field, place, former)
        if former is not None:
            with saving(field), beneath.held([place.directory], place.directory / place.target.name) as directory:
                inside = [each.stat(follow_symlinks=False) for each in os.scandir(directory)]
                if inside and not (directory / holds).is_file():
                    raise ResultSaveError(f"{field}: is a directory with other files in it; name a new one")
            for each in inside:
                self._claim(field, each, "output", "input")
        return place

    def new_path(self, field: str, path: str) -> Place:
        """Return the place of a new file or directory inside the roots. Its directory is made if missing.

        Raises ParameterValidationError for a path that is not allowed, ResultSaveError where it cannot be written.
        """
        target = self._resolve(field, path)
        if any(root.is_relative_to(target) for root in self._roots):
            raise ParameterValidationError(f"{field}: is a data root itself; name a file or directory inside it")
        if target.name.startswith("."):
            raise ParameterValidationError(f"{field}: begins with a dot, as files of programs do; name another")
        try:
            directory = self._hold(target.parent)
        except OSError as error:
            if says_full(error):
                raise disk_full("the outputs") from None
            raise ResultSaveError(f"{field}: its directory cannot be made ({_reason(error)})") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ResultSaveError(f"{field}: the worker may not write to its directory; change the permissions")
        return Place(target, directory)

    def make_file(self, place: Place, name: str) -> Path:
        """Make an empty file beside the target, and return a name for it with the same ending. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = self._in(place, lambda directory: os.open(directory / name, flags, 0o666))
        return self._named("output", descriptor, name)

    def make_directory(self, place: Place, name: str, mode: int = 0o777, *, anew: bool = True) -> Path:
        """Make a directory beside the target and return a name for it.

        It may be there already where it need not be made `anew`, if this user made it. Raises OSError.
        """

        def make(directory: Path) -> int:
            with nullcontext() if anew else suppress(FileExistsError):
                (directory / name).mkdir(mode)
            return os.open(directory / name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)

        descriptor = self._in(place, make)
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return self._named("output", descriptor, "")

    def lasting_file(self, field: str, path: str) -> Path:
        """Return a name for a file that is written in its place. Raises as `output_file`."""
        place = self.new_path(field, path)
        former = _look_at(place)
        # Others' names for the same file would change with it.
        if former is not None and not (stat.S_ISREG(former.st_mode) and former.st_nlink == 1):
            raise ResultSaveError(f"{field}: is there and no regular file of one name; name another one")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with saving(field):
            descriptor = self._in(place, lambda directory: os.open(directory / place.target.name, flags, 0o666))
        return self._named("output", descriptor, place.target.name)

    def _open_input(self, field: str, found: Path) -> Path:
        if found in self._roots:
            raise InputDataError(f"{field}: is a directory; name a CSV or Parquet file")
        try:
            with beneath.held(self._roots, found.parent) as directory:
                # Looked at before it is opened, as opening a FIFO or a device may hang or do something.
                looked = os.open(directory / found.name, os.O_PATH | os.O_NOFOLLOW)
            try:
                self._require_table(field, os.fstat(looked))
                descriptor = os.open(f"/proc/self/fd/{looked}", os.O_RDONLY)
            finally:
                os.close(looked)
        except (FileNotFoundError, NotADirectoryError):
            raise InputDataError(
                f"{field}: no such file at this party; check the path and that it was delivered"
            ) from None
        except PermissionError:
            raise InputDataError(f"{field}: the worker may not read this file; change its permissions") from None
        except OSError as error:
            raise InputDataError(f"{field}: cannot be looked at ({_reason(error)})") from None
        self._claim_input(field, os.fstat(descriptor))
        return self._named("input", descriptor, found.name)

    def _require_table(self, field: str, looked: os.stat_result) -> None:
        if stat.S_ISDIR(looked.st_mode):
            raise InputDataError(f"{field}: is a directory; name a CSV or Parquet file")
        if not stat.S_ISREG(looked.st_mode):
            raise InputDataError(f"{field}: not a regular file")
        if looked.st_size == 0:
            raise InputDataError(f"{field}: the file is empty; it needs a header line and rows")

    def _name_all(self, field: str, directory: Path, names: Path, numbers: Iterator[int]) -> None:
        """Give names to the regular files in a directory that is held. Links and others get none. Raises OSError."""
        with os.scandir(directory) as entries:
            for entry in entries:
                if next(numbers) >= MOST_FILES:
                    raise InputDataError(
                        f"{field}: holds more than {MOST_FILES} files; name a directory that a job has saved"
                    )
                if entry.is_dir(follow_symlinks=False):
                    (names / entry.name).mkdir()
                    with beneath.held([directory], directory / entry.name) as inner:
                        self._name_all(field, inner, names / entry.name, numbers)
                elif entry.is_file(follow_symlinks=False):
                    descriptor = os.open(directory / entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    self._claim_input(field, os.fstat(descriptor))
                    (names / entry.name).symlink_to(self._held(descriptor))

    def _hold(self, directory: Path) -> Path:
        descriptor = beneath.open_directory(self._roots, directory, self._making)
        self._descriptors.append(descriptor)
        return Path(f"/proc/self/fd/{descriptor}")

    def _in(self, place: Place, make: Callable[[Path], int]) -> int:
        try:
            return make(place.directory)
        except FileNotFoundError:  # it was one of another job, which failed and has removed it just now
            return make(self._hold(place.target.parent))

    def _named(self, what: str, descriptor: int, name: str) -> Path:
        """Return a name in the scratch directory for what is open, with the endings that say its format."""
        made = self._scratch / f"{what}-{descriptor}{_endings(name)}"
        with _in_scratch():
            made.symlink_to(self._held(descriptor))
        return made

    def _held(self, descriptor: int) -> Path:
        """Return a path to what is open here, for this process and those that it starts."""
        self._descriptors.append(descriptor)
        return Path(f"/proc/{os.getpid()}/fd/{descriptor}")

    def _claim_input(self, field: str, found: os.stat_result) -> None:
        self._claim(field, found, "input", "output")

    def _claim_output(self, field: str, place: Place, former: os.stat_result | None) -> None:
        """Note where an output goes, beside the scratch directories of all parties of this attempt.

        Parties may share a data root. Raises ParameterValidationError where another output goes there, too.
        """
        at = os.stat(place.directory)
        name = hashlib.sha256(os.fsencode(place.target.name)).hexdigest()[:16]
        marks = [f"place-{at.st_dev}-{at.st_ino}-{name}"]
        if former is not None:
            marks.append(f"place-{former.st_dev}-{former.st_ino}")
        try:
            for mark in marks:
                (self._scratch.parent / mark).touch(exist_ok=False)
        except FileExistsError:
            raise ParameterValidationError(
                f"{field}: another output of this job has the same path; name one of its own"
            ) from None
        if former is not None:
            self._claim(field, former, "output", "input")

    def _claim(self, field: str, found: os.stat_result, what: str, other: str) -> None:
        """Raise ParameterValidationError where a file or directory is both input and output of this attempt."""
        file = f"{found.st_dev}-{found.st_ino}"
        with _in_scratch():
            (self._scratch.parent / f"{what}-{file}").touch()
        if (self._scratch.parent / f"{other}-{file}").exists():
            raise ParameterValidationError(f"{field}: is both an input and an output of this job; name another output")

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


@contextmanager
def _in_scratch() -> Iterator[None]:
    """Tell a full disk of the scratch directory from one of the outputs."""
    try:
        yield
    except OSError as error:
        if says_full(error):
            raise disk_full("the scratch directory") from None
        raise


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


def _look_at(place: Place) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.lstat(place.directory / place.target.name)
    return None


def _endings(name: str) -> str:
    """Return the last two endings, as far as they are plain: the envelope chose them, and a shell may read them."""
    found = _ENDINGS.search(name)
    return found[0] if found else ""


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__


def remove(path: Path) -> None:
    """Remove a file or a directory with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
