"""A cluster's addresses: an envelope chooses among those of the settings, and brings none."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from sfworker.catalog import load_modules
from sfworker.catalog.job import Job, accept
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.errors import ParameterValidationError
from sfworker.settings import Settings
from tests.catalog.examples import SPU
from tests.network import HOST, free_ports
from tests.running_worker import PARTIES, RunningWorker, envelope, until

A, A_SPU, B, B_SPU, STRANGE = "10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "10.0.0.2:2", "169.254.169.254:80"
PEERS = [f"alice={A}", f"alice={A_SPU}", f"bob={B}", f"bob={B_SPU}"]
SETTINGS = Settings(party="alice", peers=PEERS)


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    load_modules([])


def cluster(alice: dict[str, Any], bob: dict[str, Any], nodes: list[dict[str, Any]], own: str) -> dict[str, Any]:
    spu = {"cluster_def": {**SPU["cluster_def"], "nodes": nodes}}
    job = envelope({"task_type": "health_check"}, spu_config=spu)
    return job | {"sf_init_config": {"cluster_config": {"parties": {"alice": alice, "bob": bob}, "self_party": own}}}


def accepted(
    settings: Settings = SETTINGS,
    alice: dict[str, Any] | None = None,
    bob: dict[str, Any] | None = None,
    alice_spu: dict[str, Any] | None = None,
    bob_spu: dict[str, Any] | None = None,
    own: str = "alice",
) -> Job:
    nodes = [{"party": "alice", "address": A_SPU, **(alice_spu or {})}]
    nodes += [{"party": "bob", "address": B_SPU, **(bob_spu or {})}]
    job = cluster({"address": A, **(alice or {})}, {"address": B, **(bob or {})}, nodes, own)
    return accept(json.dumps(job).encode(), settings, now=0.0)


def test_what_the_settings_list_is_taken() -> None:
    assert accepted().mode == "cluster"
    behind = Settings(party="alice", peers=PEERS, listen=["0.0.0.0:1", "0.0.0.0:2"])
    assert accepted(behind, alice={"listen_addr": "0.0.0.0:1"}, alice_spu={"listen_address": "0.0.0.0:2"})


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("sf_init_config.cluster_config", {"settings": Settings()}),
        ("sf_init_config.cluster_config", {"settings": Settings(party="alice")}),
        ("sf_init_config.cluster_config", {"settings": Settings(peers=PEERS)}),
        ("sf_init_config.cluster_config.self_party", {"own": "bob"}),
        ("sf_init_config.cluster_config.parties.alice.address", {"alice": {"address": "0.0.0.0:1"}}),
        ("sf_init_config.cluster_config.parties.alice.listen_addr", {"alice": {"listen_addr": "0.0.0.0:1"}}),
        ("sf_init_config.cluster_config.parties.bob.address", {"bob": {"address": STRANGE}}),
        ("sf_init_config.cluster_config.parties.bob.address", {"bob": {"address": A}}),
        ("sf_init_config.cluster_config.parties.bob.address", {"bob": {"address": "unix:/run/a.sock"}}),
        ("spu_config.cluster_def.nodes[0].address", {"alice_spu": {"address": ""}}),
        ("spu_config.cluster_def.nodes[0].listen_address", {"alice_spu": {"listen_address": "[::]:2"}}),
        ("spu_config.cluster_def.nodes[1].address", {"bob_spu": {"address": STRANGE}}),
        (
            "sf_init_config.cluster_config.parties.alice.listen_addr",
            {"settings": Settings(party="alice", peers=PEERS, listen=["127.0.0.1:1"])},
        ),
    ],
)
def test_nothing_else_is(field: str, asked: dict[str, Any]) -> None:
    with pytest.raises(ParameterValidationError) as refused:
        accepted(**asked)
    said = str(refused.value)
    assert said.startswith(f"{field}: ")
    assert "SFWORKER_P" in said or "SFWORKER_LISTEN" in said
    assert STRANGE not in said


def test_a_worker_without_peers_neither_binds_nor_connects(tmp_path: Path) -> None:
    own, other = (f"{HOST}:{port}" for port in free_ports(2))
    with (
        EmbeddedRedis() as redis,
        RunningWorker(redis.url, tmp_path) as worker,
        socket.create_server((HOST, int(other.rpartition(":")[2]))) as stranger,
    ):
        stranger.settimeout(0.5)
        job = cluster({"address": own}, {"address": other}, [], PARTIES[0])
        result = worker.run(job, 5)
        assert result["error_type"] == "ParameterValidationError"
        assert "SFWORKER_PEERS" in result["error"]
        with pytest.raises(TimeoutError):
            stranger.accept()
        until(lambda: not worker.executions_on_disk())
