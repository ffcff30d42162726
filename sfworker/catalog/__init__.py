"""The task types: each one's parameters and result as typed structs, with no SecretFlow in sight.

The daemon checks a job against these before it starts a process, and `sfworker schema` prints their JSON Schema. The
function that computes is registered under the same name in `sfworker.jobs`.
"""

from sfworker.catalog.base import (
    ColumnRef,
    TaskParams,
    TaskType,
    all_task_types,
    find,
    load_modules,
    register,
    validate,
)

__all__ = [
    "ColumnRef",
    "TaskParams",
    "TaskType",
    "all_task_types",
    "find",
    "load_modules",
    "register",
    "validate",
]
