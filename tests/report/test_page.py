"""Pages of results of every task type: what they hold, and that no text of a result becomes part of a page."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sfworker.catalog.base import TaskType
from sfworker.catalog.installed import installed_task_types
from sfworker.report.page import MOST_COLUMNS, page
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


@pytest.mark.attack("page of a result")
@pytest.mark.parametrize("task_type", TASK_TYPES.values(), ids=TASK_TYPES)
def test_no_text_of_an_answer_becomes_part_of_the_page(task_type: TaskType) -> None:
    answer = made(task_type.result, EVIL, 2)
    if task_type.name == "regression_eval":
        answer["residual_quantiles"] = {"0.1": -1.0, "0.9": 1.0}  # whose names are numbers
    told = Page(page(answered(task_type.name, answer), paths=True))
    assert ('alert("1")' in told.text) == ("alert" in str(answer))
    assert "\x07" not in told.text


@pytest.mark.attack("page of a result")
@pytest.mark.parametrize("status", ["success", "failure"])
def test_no_text_around_an_answer_becomes_part_of_the_page(status: str) -> None:
    result = msgspec.convert({**made(JobResult, EVIL), "status": status, "result": EVIL}, JobResult)
    envelope = {"sf_init_config": {"parties": [EVIL]}, "task_config": {EVIL: EVIL}, "options": {EVIL: EVIL}}
    source = page(result, envelope)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in source
    told = Page(source)
    # Each time, the error, result or warnings among them, the parties twice in a chart and its table.
    assert told.text.count('alert("1")') > 20
    assert "\x07" not in told.text
    assert len(told.pictures) == 2


def test_empty_answers_have_a_page() -> None:
    for task_type in TASK_TYPES.values():
        Page(page(answered(task_type.name, made(task_type.result, "0.5", 0))))


def test_names_of_any_script_and_length_are_texts_that_end_where_they_belong() -> None:
    """Rotated names hang by their end, as how long they are is the reader's font's affair."""
    names = [f"{start}客户平均月收入水平_after_taxes_{number}" for number, start in enumerate("甲$乙")]
    columns = [{"party": "alice", "column": name} for name in names]
    matrix = [[1.0, 0.5, None], [0.5, 1.0, None], [None, None, None]]
    arithmetic = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}
    answer = {"rows": 9, "columns": columns, "correlation": matrix, "arithmetic": arithmetic, "warnings": []}
    source = page(answered("pearson_correlation", answer))
    read = Page(source)
    for name in names:
        assert name in read.text  # in the table, whole
        assert [text for text in read.texts if "…" in text and text.endswith(name[-6:])]  # beside the axes
    assert source.count("text-anchor: end") >= 6
    assert "The strongest is 0.5" in read.text


def test_200_columns_are_drawn_and_counted() -> None:
    columns = [{"party": "alice", "column": f"f{number}"} for number in range(200)]
    matrix = [[1.0 if row == column else 0.25 for column in range(200)] for row in range(200)]
    arithmetic = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}
    answer = {"rows": 9, "columns": columns, "correlation": matrix, "arithmetic": arithmetic, "warnings": []}
    source = page(answered("pearson_correlation", answer))
    assert f"and {200 - MOST_COLUMNS} more columns" in Page(source).text
    assert len(source) < 1_000_000
    factors = {"alice": {f"f{number}": 1 + number / 10 for number in range(200)}}
    answer = {"rows": 9, "vif": factors, "arithmetic": arithmetic, "warnings": []}
    told = Page(page(answered("vif", answer))).text
    assert "alice.f199 comes first with 20.9" in told
    assert "The 40 to look at first of 200 are drawn." in told


def test_what_another_version_answered_has_tables_but_no_charts() -> None:
    read = Page(page(answered("vif", {"factors": {"alice": {"age": 1.5}}})))
    assert read.pictures == []
    assert read.tables == 1


@pytest.mark.parametrize("worst", [1e308, -1e308, 10**30])
def test_figures_that_cannot_be_drawn_are_told(worst: float) -> None:
    answer = {"statistics": {"alice": {"age": {"datatype": "float", "total_count": 3, "count": 3, "min": worst}}}}
    read = Page(page(answered("table_statistics", answer)))
    assert read.pictures == []
    assert f"{float(worst):.4g}" in read.text or str(worst) in read.text
