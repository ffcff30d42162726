"""Which links go without acknowledgements."""

from __future__ import annotations

from typing import Any

import pytest

from sfworker.wire.devices import acknowledges


@pytest.mark.parametrize(
    ("task_type", "protocol", "link", "expected"),
    [
        ("ss_xgb", "SEMI2K", {}, False),
        ("ss_lr", "ABY3", {}, False),
        ("ss_xgb", "CHEETAH", {}, True),
        ("psi", "SEMI2K", {}, True),
        ("component", "SEMI2K", {}, True),
        ("a_task_type_of_ones_own", "SEMI2K", {}, True),
        ("ss_xgb", "SEMI2K", {"throttle_window_size": 5}, True),
        ("ss_xgb", "SEMI2K", {"recv_timeout_ms": 5}, False),
    ],
)
def test_only_trainings_whose_parties_go_in_step_send_none(
    task_type: str, protocol: str, link: dict[str, Any], expected: bool
) -> None:
    spu = {"cluster_def": {"runtime_config": {"protocol": protocol}}, "link_desc": link or None}
    assert acknowledges(task_type, spu) is expected
    assert acknowledges(task_type, None)
