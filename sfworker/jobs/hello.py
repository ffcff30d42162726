"""Implements `hello`, a greeting from a process of its own."""

from __future__ import annotations

from sfworker.catalog.basic import HelloParams, HelloResult
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher


@TaskDispatcher.register_task("hello")
def hello(context: JobContext[HelloParams]) -> HelloResult:
    """Greet the given name, which whoever reads results learns."""
    return HelloResult(message=f"Hello, {context.params.name}!")
