"""Finds the task types that are installed here, for command lines."""

from __future__ import annotations

from sfworker.catalog.base import TaskType, all_task_types, find, load_modules
from sfworker.errors import TaskTypeNotFoundError
from sfworker.settings import load


def installed_task_types(jobs: list[str] | None = None) -> list[TaskType]:
    """Load and list them, those of `jobs` (default: SFWORKER_JOBS) among them.

    Raises SettingsError where a module cannot be imported.
    """
    load_modules(load(jobs=jobs).jobs)
    return all_task_types()


def installed(name: str, jobs: list[str] | None = None) -> TaskType:
    """Find the task type `name`. Raises TaskTypeNotFoundError, with the nearest names, otherwise as above."""
    installed_task_types(jobs)
    try:
        return find(name)
    except TaskTypeNotFoundError as error:
        # On a command line there is no envelope whose field could be named.
        raise TaskTypeNotFoundError(str(error).removeprefix("task_config.task_type: ")) from None
