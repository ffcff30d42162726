"""What people see of status events: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sfworker.cli.progress import EventDisplay, fraction, sentence


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"status": "RUNNING", "stage": "task_started"}, 0.0),
        ({"status": "RUNNING", "stage": "cluster_ready"}, 0.05),
        ({"status": "RUNNING", "stage": "devices_ready"}, 0.1),
        ({"status": "RUNNING", "stage": "progress", "progress": 0.5}, 0.55),
        ({"status": "RUNNING", "stage": "progress", "progress": 1.0}, 1.0),
        ({"status": "RUNNING", "stage": "progress"}, 0.1),
        ({"status": "SUCCESS", "stage": "task_succeeded"}, 1.0),
        ({"status": "FAILURE", "stage": "task_failed_final"}, 0.4),
        ({"status": "RETRY", "stage": "task_retrying"}, 0.0),
        ({"status": "RUNNING", "stage": "of a later version"}, 0.4),
    ],
)
def test_how_far_an_execution_is(event: dict[str, Any], expected: float) -> None:
    assert fraction(event, before=0.4) == pytest.approx(expected)


def test_errors_come_before_messages_before_stages() -> None:
    assert sentence({"stage": "progress"}) == "computing"
    assert sentence({"stage": "progress", "message": "epoch 1"}) == "epoch 1"
    assert sentence({"stage": "task_failed_final", "message": "x", "error": "broken"}) == "broken"
    assert sentence({"stage": "of a later version"}) == "of a later version"


def test_a_terminal_gets_bars() -> None:
    out = io.StringIO()
    with EventDisplay(Console(file=out, force_terminal=True, width=120)) as display:
        display.expect("e-1", "psi")
        display.show({"execution_id": "e-1", "status": "RUNNING", "stage": "progress", "progress": 0.5})
        display.show({"execution_id": "e-1", "status": "FAILURE", "stage": "task_failed_final", "error": "[b]no[/b]"})
    shown = out.getvalue()
    assert "psi" in shown
    assert "55%" in shown
    assert "[b]no[/b]" in shown


def test_anything_else_gets_lines() -> None:
    out = io.StringIO()
    with EventDisplay(Console(file=out, width=120, markup=False)) as display:
        display.expect("e-1", "psi")
        display.show({"execution_id": "e-1", "status": "RUNNING", "stage": "cluster_ready"}, "psi")
    assert out.getvalue() == " psi RUNNING cluster_ready: parties joined\n"
