"""Pages of results of every task type: what they hold, and that no text of a result becomes part of a page."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sfworker.catalog.base import TaskType
from sfworker.catalog.installed import installed_task_types
from sfworker.report.page import page
from sfworker.wire.events import JobResult
from tests.report.made import made
from tests.report.reading import Page

EVIL = '</td></svg><script>alert("1")</script>&amp;\'$x_1$-->名\x07'
TASK_TYPES = {each.name: each for each in installed_task_types([])}


def answered(task_type: str, answer: Any, **more: Any) -> JobResult:
    """A result with nothing but what a task type has answered, and `more`."""
    metadata = dict.fromkeys(("task_id", "subtask_id", "execution_id", "started_at"))
    told = {
        "status": "success",
        "result": answer,
        "task_metadata": {**metadata, "task_type": task_type, "completed_at": "2026-01-01T00:00:00+00:00"},
        **more,
    }
    return msgspec.convert(told, JobResult)


@pytest.mark.parametrize("task_type", TASK_TYPES.values(), ids=TASK_TYPES)
def test_no_text_of_an_answer_becomes_part_of_the_page(task_type: TaskType) -> None:
    answer = made(task_type.result, EVIL)
    if task_type.name == "regression_eval":
        answer["residual_quantiles"] = {"0.1": -1.0, "0.9": 1.0}  # whose names are numbers
    told = Page(page(answered(task_type.name, answer), paths=True))
    assert ('alert("1")' in told.text) == ("alert" in str(answer))
    assert "\x07" not in told.text


@pytest.mark.parametrize("status", ["success", "failure"])
def test_no_text_around_an_answer_becomes_part_of_the_page(status: str) -> None:
    result = msgspec.convert({**made(JobResult, EVIL), "status": status, "result": EVIL}, JobResult)
    envelope = {"sf_init_config": {"parties": [EVIL]}, "task_config": {EVIL: EVIL}, "options": {EVIL: EVIL}}
    told = Page(page(result, envelope))
    # Each time, the error, result or warnings among them, the parties twice in a chart and its table.
    assert told.text.count('alert("1")') > 20
    assert "\x07" not in told.text
    assert len(told.pictures) == 2
