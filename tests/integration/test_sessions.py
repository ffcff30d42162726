"""Sessions other than the mesh of one host, and party processes that are not forked."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.running_worker import PARTIES, RunningWorker, envelope

RUNTIME = {"protocol": "SEMI2K", "field": "FM128"}


def free_ports(count: int) -> list[int]:
    """Ports of this host that nobody listened on a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_two_workers_are_one_party_each(tmp_path: Path) -> None:
    """As on two machines: each party has a worker and a Redis of its own, and they meet on TCP."""
    fed_alice, fed_bob, spu_alice, spu_bob = free_ports(4)
    parties = {"alice": {"address": f"127.0.0.1:{fed_alice}"}, "bob": {"address": f"127.0.0.1:{fed_bob}"}}
    nodes = [
        {"party": "alice", "address": f"127.0.0.1:{spu_alice}"},
        {"party": "bob", "address": f"127.0.0.1:{spu_bob}"},
    ]

    def job(me: str) -> dict[str, Any]:
        config = {"parties": parties, "self_party": me}
        spu = {"cluster_def": {"runtime_config": RUNTIME, "nodes": nodes}}
        made = envelope({"task_type": "health_check"}, spu_config=spu)
        return made | {"execution_id": "met-on-tcp", "sf_init_config": {"cluster_config": config}}

    for party in PARTIES:
        (tmp_path / party).mkdir()
    with (
        EmbeddedRedis() as redis_of_alice,
        EmbeddedRedis() as redis_of_bob,
        RunningWorker(redis_of_alice.url, tmp_path / "alice") as alice,
        RunningWorker(redis_of_bob.url, tmp_path / "bob") as bob,
    ):
        sent = [alice.send(job("alice")), bob.send(job("bob"))]
        for worker, execution_id, party in zip((alice, bob), sent, PARTIES, strict=True):
            assert worker.until_ended(execution_id)["status"] == "SUCCESS"
            [result] = worker.said(execution_id, "result")
            assert set(result["performance_metrics"]["peak_rss_bytes"]) == {party}
            assert result["task_metadata"]["devices_used"] == ["alice", "bob", "spu"]
            worker.until_clean()


@pytest.mark.parametrize("config", [{"engine": "ray"}, {"address": "10.0.0.1:6379"}])
def test_sessions_on_ray_are_refused(worker: RunningWorker, config: dict[str, str]) -> None:
    job = envelope({"task_type": "health_check"})
    job["sf_init_config"] = {"parties": PARTIES, **config}
    result = worker.run(job)
    assert result["error_type"] == "ParameterValidationError"
    assert "sf_init_config" in result["error"]
    assert "cluster_config" in result["error"]


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
        # Where the parties have machines of their own, each worker writes for its own party.
        addresses = {party: {"address": "127.0.0.1:1"} for party in PARTIES}
        job = envelope({"task_type": "act_alone", "output_paths": {"alice": "out", "bob": "out"}})
        job["sf_init_config"] = {"cluster_config": {"parties": addresses, "self_party": "bob"}}
        assert worker.run(job)["status"] == "success"
    assert [path.parent.name for path in tmp_path.glob("*/out")] == ["bob"]
