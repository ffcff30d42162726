"""Sessions other than the mesh of one host, and party processes that are not forked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.running_worker import PARTIES, RunningWorker, envelope


@pytest.mark.parametrize("config", [{"engine": "ray"}, {"address": "10.0.0.1:6379"}])
def test_ray_is_refused_where_the_operator_names_none(worker: RunningWorker, config: dict[str, str]) -> None:
    job = envelope({"task_type": "health_check"})
    job["sf_init_config"] = {"parties": PARTIES, **config}
    result = worker.run(job)
    assert result["error_type"] == "ParameterValidationError"
    assert "sf_init_config" in result["error"]
    assert "SFWORKER_RAY_ADDRESSES" in result["error"]


def test_party_processes_may_be_fresh_interpreters(tmp_path: Path) -> None:
    with (
        EmbeddedRedis() as redis,
        RunningWorker(redis.url, tmp_path, start_method="spawn", spare_processes="0") as worker,
    ):
        result = worker.run(envelope({"task_type": "act", "action": "succeed"}), 90)
        assert result["status"] == "success"
        worker.until_clean(spares=0)


def test_without_a_session_each_party_keeps_to_its_own_data_roots(tmp_path: Path) -> None:
    roots = {party: str(tmp_path / party) for party in PARTIES}
    with EmbeddedRedis() as redis, RunningWorker(redis.url, tmp_path, data_roots=roots) as worker:
        result = worker.run(envelope({"task_type": "act_alone", "output_paths": {"bob": f"{roots['alice']}/out"}}))
        assert result["error_type"] == "ParameterValidationError"
        assert "outside the data roots" in result["error"]
