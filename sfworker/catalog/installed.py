"""Finds the task types that are installed here, those of SFWORKER_JOBS among them, for command lines."""

from __future__ import annotations

from sfworker.catalog.base import TaskType, all_task_types, find, load_modules
from sfworker.errors import TaskTypeNotFoundError
from sfworker.settings import load


def installed_task_types() -> list[TaskType]:
    """Loads and lists them. Raises SettingsError where a module cannot be imported."""
    load_modules(load().jobs)
    return all_task_types()


def installed(name: str) -> TaskType:
    """Finds the task type `name`. Raises TaskTypeNotFoundError, with the nearest names."""
    installed_task_types()
    try:
        return find(name)
    except TaskTypeNotFoundError as error:
        # On a command line there is no envelope whose field could be named.
        raise TaskTypeNotFoundError(str(error).removeprefix("task_config.task_type: ")) from None
