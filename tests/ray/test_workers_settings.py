"""What a worker's settings, and a node's, mean for jobs on nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.gateway.certificates import make_authority, make_certificate
from tests.network import free_ports
from tests.ray.lab import Cluster, Node
from tests.ray.nodes import OnNodes, on_nodes, settings_of_node
from tests.running_worker import PARTIES, envelope

pytestmark = pytest.mark.slow
OWN_JOB = '''
import os
from msgspec import Struct
from sfworker.catalog import TaskParams, TaskType, register
from sfworker.party.task_dispatcher import TaskDispatcher
class LookParams(TaskParams, tag="look", frozen=True, kw_only=True):
    """Looks at its environment."""
class LookResult(Struct, frozen=True):
    """What is there."""
    colour: str | None
    execution_id: str
    threads: str | None
register(TaskType(name="look", summary="Looks", params=LookParams, result=LookResult))
@TaskDispatcher.register_task("look")
def look(context):
    found = {name: os.environ.get(name) for name in ("COLOUR", "EXECUTION_ID", "OMP_NUM_THREADS")}
    return LookResult(found["COLOUR"], found["EXECUTION_ID"], found["OMP_NUM_THREADS"])
'''


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnNodes]:
    """A worker with a task type in a file, whose nodes have certificates of their own."""
    directory, work = tmp_path_factory.mktemp("s"), tmp_path_factory.mktemp("w")
    certificates = directory / "certificates"
    certificates.mkdir(mode=0o700)
    make_authority(certificates, 10)
    file = work.parent / "looking.py"
    file.write_text(OWN_JOB)
    nodes = []
    for party, other, port in zip(PARTIES, reversed(PARTIES), free_ports(2), strict=True):
        make_certificate(certificates, party, 5)
        own = {
            "SFWORKER_PARTY": party,
            "SFWORKER_PEERS": f"{other}=nowhere:1",
            "SFWORKER_GATEWAY_LISTEN": f"0.0.0.0:{port}",
            "SFWORKER_GATEWAY_DIR": str(directory / f"gateway-{party}"),
            "SFWORKER_TLS_CERTIFICATE": str(certificates / f"{party}.pem"),
            "SFWORKER_TLS_KEY": str(certificates / f"{party}.key"),
            "SFWORKER_TLS_AUTHORITY": str(certificates / "authority.pem"),
            "SFWORKER_MIN_INTERSECTION_ROWS": "10",
        }
        nodes.append(Node(party, {party: 2}, environment=settings_of_node(directory, party) | own))
    settings = {"jobs": f"tests.acting_job,{file}", "ray_environment": "COLOUR", "stall_seconds": "8"}
    with (
        Cluster(*nodes) as cluster,
        EmbeddedRedis() as redis,
        on_nodes(cluster, redis.url, work, directory, **settings) as made,
    ):
        yield made


def looked(nodes: OnNodes, variables: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    job = nodes.there(envelope({"task_type": "look"}))
    job["sf_init_config"]["runtime_env"] = {"env_vars": variables}
    return job, nodes.worker.run(job, 120.0)


def test_a_task_type_in_a_file_comes_along_and_finds_what_the_envelope_sets(nodes: OnNodes) -> None:
    job, result = looked(nodes, {"COLOUR": "red", "EXECUTION_ID": "another"})
    assert result["status"] == "success", result["error"]
    assert result["result"] == {"colour": "red", "execution_id": job["execution_id"], "threads": None}
    _, result = looked(nodes, {"LD_PRELOAD": "evil.so"})
    assert result["error_type"] == "ParameterValidationError"
    assert "sf_init_config.runtime_env.env_vars.LD_PRELOAD" in result["error"]


def test_a_job_whose_nodes_only_wait_is_ended(nodes: OnNodes) -> None:
    result = nodes.run(envelope({"task_type": "act", "action": "hang"}))
    assert result["error_type"] == "StalledError"


def test_the_stricter_floor_of_worker_and_node_counts(nodes: OnNodes) -> None:
    for party in PARTIES:
        (nodes.root(party) / "in.csv").write_text("id\n" + "".join(f"{number}\n" for number in range(5)))
    task = {
        "task_type": "psi",
        "keys": {party: ["id"] for party in PARTIES},
        "input_paths": dict.fromkeys(PARTIES, "in.csv"),
        "output_paths": dict.fromkeys(PARTIES, "out.csv"),
        "receiver": "alice",
    }
    spu = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}
    result = nodes.run(envelope(task, spu_config=spu))
    assert result["status"] == "failure"
    assert "SFWORKER_MIN_INTERSECTION_ROWS" in result["error"]
    assert not (nodes.root("alice") / "out.csv").exists()
