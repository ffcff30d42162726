"""Checks and makes the data roots when a worker, or a node of its parties, starts."""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from sfworker.errors import SettingsError
from sfworker.pool.run_dir import PREFIX
from sfworker.settings import Settings, variable

_log = logging.getLogger("sfworker.worker")
_OF_THE_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")
_SHARED = ("/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/var", "/var/lib", "/var/log")
"""Directories below which roots may lie, and which are none themselves. So are those for temporary files."""


def prepare(settings: Settings) -> None:
    """Make the data roots that are missing, for this user alone, and name them in the log.

    Raises SettingsError where a root holds more than the parties' files, as jobs read and replace what is in it.
    """
    for which, root in _named(settings):
        what = refusal(Path(os.path.realpath(root)), settings)
        if what:
            raise SettingsError(
                f"{variable('data_roots')}: {which} is {what}; name a directory that holds the parties' files alone"
            )
        try:
            os.mkdir(root, 0o700)
            _log.info("made the data root %s", root)
        except FileExistsError:
            _log.info("data root %s", root)
        except OSError as error:
            raise SettingsError(
                f"{variable('data_roots')}: {which} cannot be made ({error.strerror}); create it, or name another"
            ) from None


def _named(settings: Settings) -> Iterator[tuple[str, str]]:
    parties = list(settings.data_roots) if isinstance(settings.data_roots, dict) else [""]
    for party in parties:
        for number, root in enumerate(settings.roots_of(party), 1):
            yield f"root {number}" + (f" of {party}" if party else ""), root


def refusal(root: Path, settings: Settings) -> str:
    """Say what a directory is that cannot be a root, or nothing."""
    if root == Path("/"):
        return "the whole file system"
    if any(root.is_relative_to(each) for each in _OF_THE_SYSTEM):
        return "a directory of the system"
    if str(root) in _SHARED or (root.is_dir() and root.stat().st_mode & stat.S_ISVTX):
        return "a directory that many programs share"
    if root in _homes():
        return "somebody's home"
    return _of_the_worker(root, settings)


def _of_the_worker(root: Path, settings: Settings) -> str:
    run_dir = Path(os.path.realpath(settings.run_dir))
    within = any(each.parent == run_dir and each.name.startswith(PREFIX) for each in (root, *root.parents))
    if within or run_dir.is_relative_to(root):
        return f"where other jobs' scratch is ({variable('run_dir')}), or around it"
    logs = settings.job_logs and Path(os.path.realpath(settings.job_logs))
    if logs and (logs.is_relative_to(root) or root.is_relative_to(logs)):
        return f"where logs of executions are ({variable('job_logs')}), or around it"
    return ""


def _homes() -> set[Path]:
    homes = {entry.pw_dir for entry in pwd.getpwall()} | {os.environ.get("HOME", "")}
    return {Path(os.path.realpath(home)) for home in homes if home}
