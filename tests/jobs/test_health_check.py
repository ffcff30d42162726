"""`health_check` on every device and protocol that a mesh of two or three parties offers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running_worker import RunningWorker, envelope

HEU = {
    "sk_keeper": {"party": "alice"},
    "evaluators": [{"party": "bob"}],
    "mode": "PHEU",
    "he_parameters": {"schema": "ou", "key_pair": {"generate": {"bit_size": 2048}}},
}


def spu(protocol: str) -> dict[str, Any]:
    return {"cluster_def": {"runtime_config": {"protocol": protocol, "field": "FM64"}}}


@pytest.mark.parametrize(
    ("parties", "more", "devices"),
    [
        (["alice", "bob"], {}, {"alice", "bob"}),
        (["alice", "bob"], {"spu_config": spu("SEMI2K")}, {"alice", "bob", "spu"}),
        (["alice", "bob"], {"spu_config": spu("CHEETAH")}, {"alice", "bob", "spu"}),
        (["alice", "bob", "carol"], {"spu_config": spu("ABY3")}, {"alice", "bob", "carol", "spu"}),
        (["alice", "bob"], {"spu_config": spu("SEMI2K"), "heu_config": HEU}, {"alice", "bob", "spu", "heu"}),
        (["a.1", "B-2_"], {"spu_config": spu("SEMI2K")}, {"a.1", "B-2_", "spu"}),
    ],
)
def test_every_device_computes(
    worker: RunningWorker, parties: list[str], more: dict[str, Any], devices: set[str]
) -> None:
    job = envelope({"task_type": "health_check"}, **more)
    job["sf_init_config"] = {**job["sf_init_config"], "parties": parties}
    result = worker.run(job)
    assert result["status"] == "success", result
    assert result["result"]["healthy"] is True
    assert result["result"]["parties"] == parties
    assert set(result["result"]["devices"]) == devices
    assert set(result["result"]["versions"]) == {"secretflow", "spu", "python"}
    assert set(result["task_metadata"]["devices_used"]) == devices


def test_a_device_that_cannot_be_made(worker: RunningWorker) -> None:
    result = worker.run(envelope({"task_type": "health_check"}, heu_config={"mode": "PHEU"}))
    assert result["error_type"] == "DeviceInitializationError"
    assert result["error"].startswith("heu_config: ")
