"""From a task type's name to the function that computes it. Runs in the party process."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from msgspec import Struct

from sfworker import catalog
from sfworker.errors import TaskTypeNotFoundError
from sfworker.party.context import JobContext
from sfworker.party.preload import hide_ray, keep_traces_in_scratch, remove_jax_directory
from sfworker.wire import tolerance

JobFunction = Callable[[JobContext[Any]], Struct | None]
_F = TypeVar("_F", bound=JobFunction)


class TaskDispatcher:
    """The registry of job functions."""

    _functions: ClassVar[dict[str, JobFunction]] = {}

    @classmethod
    def register_task(cls, task_type: str) -> Callable[[_F], _F]:
        """Decorator: the function computes `task_type`, whose catalogue entry has to exist already.

        The function takes a JobContext and returns the task type's result struct, or None at parties without it.
        Raises ValueError where the name is taken.
        """
        catalog.find(task_type)

        def decorate(function: _F) -> _F:
            if cls._functions.setdefault(task_type, function) is not function:
                raise ValueError(f"task type {task_type!r} has two functions")
            return function

        return decorate

    @classmethod
    def dispatch(cls, task_type: str, context: JobContext[Any]) -> Struct | None:
        """Run the job. Raises TaskTypeNotFoundError where nothing is registered under `task_type`."""
        if task_type not in cls._functions:
            raise TaskTypeNotFoundError(f"task_config.task_type: {task_type} has no function in this worker's jobs")
        return cls._functions[task_type](context)


def load_jobs(modules: list[str]) -> None:
    """Import the catalogue, every module of `sfworker.jobs`, and `modules`."""
    hide_ray()
    keep_traces_in_scratch()
    catalog.load_modules(modules)
    package = importlib.import_module("sfworker.jobs")
    for module in pkgutil.walk_packages(package.__path__, "sfworker.jobs."):
        importlib.import_module(module.name)
    for task_type in catalog.all_task_types():
        tolerance.prepare(task_type.params)  # else each fork would do so, for a job's first millisecond
    remove_jax_directory()
