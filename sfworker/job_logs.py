"""Keeps a log file for each execution, bounded in size, number and age. Runs in the daemon's listener thread.

Several workers of a host may share a directory: a line is one write at the end of a file, and files are removed by age.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from sfworker.errors import SettingsError
from sfworker.settings import Settings, variable

FILE_BYTES = 4 * 1024 * 1024
"""Bound on one execution's log. Its last line says that there was more."""
_LOOK_SECONDS = 60.0
_FULL = b'{"level": "WARNING", "message": "this log is full; further lines are in that of the worker"}\n'
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def log_file_of(directory: str, execution_id: str) -> Path:
    """Return the file of an execution's log: named by its id, or by a digest where that is no plain name."""
    plain = _PLAIN.fullmatch(execution_id)
    name = execution_id if plain else f"~{hashlib.sha256(execution_id.encode(errors='replace')).hexdigest()[:32]}"
    return Path(directory, f"{name}.log")


class JobLogs:
    """Appends lines to the logs of executions, and removes old ones."""

    def __init__(self, settings: Settings) -> None:
        """Make the directory where it is missing. Raises SettingsError where it cannot be used."""
        self._directory = settings.job_logs
        self._kept, self._seconds = settings.job_logs_kept, settings.retention
        self._looked_at = 0.0
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            usable = os.access(self._directory, os.W_OK | os.X_OK)
        except OSError:
            usable = False
        if not usable:
            raise SettingsError(f"{variable('job_logs')}: no files can be made there; name a directory of the worker's")

    def write(self, execution_id: str, line: str) -> None:
        """Append a line. Raises OSError where that cannot be."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        file = os.open(log_file_of(self._directory, execution_id), flags, 0o666)  # less the umask of the worker's files
        try:
            size, text = os.fstat(file).st_size, f"{line}\n".encode(errors="backslashreplace")
            if size + len(text) <= FILE_BYTES:
                os.write(file, text)
            elif size <= FILE_BYTES:
                os.write(file, _FULL.ljust(FILE_BYTES + 1 - size))  # so that this is said once
        finally:
            os.close(file)
        if time.monotonic() > self._looked_at + _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._remove_old()

    def _remove_old(self) -> None:
        ages: list[tuple[float, str]] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another worker has removed it
                    if entry.name.endswith(".log") and entry.is_file(follow_symlinks=False):
                        ages.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
        ages.sort(reverse=True)
        oldest = time.time() - self._seconds
        for place, (written, path) in enumerate(ages):
            if place >= self._kept or written < oldest:
                with suppress(FileNotFoundError):
                    os.unlink(path)
