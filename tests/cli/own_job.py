"""A task type in one file."""

from msgspec import Struct

from sfworker.catalog import TaskParams, TaskType, register
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher


class OwnParams(TaskParams, tag="own", frozen=True, kw_only=True):
    """Answers."""


class OwnResult(Struct, frozen=True, kw_only=True):
    """The answer."""

    answer: int


register(TaskType(name="own", summary="Answers", params=OwnParams, result=OwnResult, session=False))


@TaskDispatcher.register_task("own")
def own(context: JobContext[OwnParams]) -> OwnResult:
    """Answers, in a process of its own."""
    return OwnResult(answer=42)
