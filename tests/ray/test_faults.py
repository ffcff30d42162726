"""Whatever dies or hangs between a worker and its parties' nodes is heard of, and leaves nothing on these."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.files import below
from tests.network import free_ports
from tests.processes import told
from tests.ray.lab import Cluster, Node, in_session
from tests.ray.nodes import OnNodes, on_nodes, settings_of_node
from tests.running_worker import RunningWorker, envelope, until

pytestmark = pytest.mark.slow
OUTPUTS = {"alice": "a", "bob": "b"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnNodes]:
    directory = tmp_path_factory.mktemp("f")
    one, two = settings_of_node(directory, "alice"), settings_of_node(directory, "bob")
    with (
        Cluster(Node("one", {"alice": 2}, environment=one), Node("two", {"bob": 2}, environment=two)) as cluster,
        EmbeddedRedis() as redis,
        on_nodes(cluster, redis.url, tmp_path_factory.mktemp("w"), directory, concurrency="2") as made,
    ):
        yield made


@pytest.fixture
def nodes(shared: OnNodes) -> OnNodes:
    """Both parties' nodes serve."""
    assert shared.run(envelope({"task_type": "act"}))["status"] == "success"
    return shared


def begin(nodes: OnNodes, **more: Any) -> str:
    """A job that is in the middle of its work at both parties, with outputs staged."""
    job = envelope({"task_type": "act", "action": "hang", "output_paths": OUTPUTS, **more})
    execution_id = nodes.worker.send(nodes.there(job))
    nodes.computing("alice")
    nodes.computing("bob")
    until(lambda: sum(fnmatch(path.name, ".*.partial") for path in below(nodes.directory)) == 2)
    return execution_id


def lost(nodes: OnNodes, execution_id: str, seconds: float) -> str:
    """What is said of a job whose party was lost, which leaves nothing, and after which the next job is served."""
    ended = nodes.worker.until_ended(execution_id, seconds)
    assert ended["error_type"] == "PartyProcessLostError"
    nodes.until_clean()
    assert not any((nodes.root(party) / path).exists() for party, path in OUTPUTS.items())
    result = nodes.run(envelope({"task_type": "act", "output_paths": OUTPUTS}))
    assert result["status"] == "success", result["error"]
    for party, path in OUTPUTS.items():
        (nodes.root(party) / path).unlink()
    return str(ended["error"])


def host(nodes: OnNodes, node: str) -> int:
    """The actor on a node."""
    session = nodes.cluster[node].session
    [found] = (pid for pid in in_session(session) if told(pid, "cmdline").startswith(b"ray::Host"))
    return found


def bridge(nodes: OnNodes) -> int:
    children = nodes.worker.children()
    return next(pid for pid in children if b"sfworker.ray.bridge" in told(pid, "cmdline"))


def test_a_host_that_is_killed(nodes: OnNodes) -> None:
    execution_id = begin(nodes)
    os.kill(host(nodes, "two"), signal.SIGKILL)
    assert "the process of bob was lost with its host" in lost(nodes, execution_id, 5.0)


def test_a_nodes_process_that_is_killed(nodes: OnNodes) -> None:
    execution_id = begin(nodes)
    os.kill(nodes.node_process("bob"), signal.SIGKILL)
    assert "the process of bob was lost" in lost(nodes, execution_id, 5.0)


def test_a_nodes_process_that_hangs(nodes: OnNodes) -> None:
    execution_id = begin(nodes)
    os.kill(nodes.node_process("bob"), signal.SIGSTOP)
    assert "the process of bob was lost" in lost(nodes, execution_id, 8.0)


def test_a_host_that_hangs(nodes: OnNodes) -> None:
    execution_id = begin(nodes)
    os.kill(host(nodes, "two"), signal.SIGSTOP)
    assert "bob" in lost(nodes, execution_id, 8.0)


def test_a_template_on_a_node_that_is_killed(nodes: OnNodes) -> None:
    execution_id = begin(nodes)
    os.kill(nodes.template("bob"), signal.SIGKILL)
    assert "the process of bob ended together with the process that started it" in lost(nodes, execution_id, 5.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_bridge_that_is_gone_is_replaced_and_the_job_runs_again(nodes: OnNodes, number: int) -> None:
    execution_id = begin(nodes, attempts=1)
    os.kill(bridge(nodes), number)
    ended = nodes.worker.until_ended(execution_id, 60.0)
    assert ended["status"] == "SUCCESS"
    assert ended["attempt"] == 2
    nodes.until_clean()


def test_a_node_that_is_killed(nodes: OnNodes) -> None:
    execution_id = begin(nodes)
    nodes.cluster["two"].stop()
    ended = nodes.worker.until_ended(execution_id, 8.0)
    assert "the process of bob was lost" in ended["error"]
    nodes.cluster.start()
    nodes.until_clean()


def test_a_node_that_hangs(nodes: OnNodes) -> None:
    execution_id = begin(nodes)
    nodes.cluster["two"].signal(signal.SIGSTOP)
    ended = nodes.worker.until_ended(execution_id, 8.0)
    nodes.cluster["two"].signal(signal.SIGCONT)
    assert "the process of bob was lost" in ended["error"]
    nodes.until_clean()


def test_a_cluster_that_was_restarted_between_two_jobs(nodes: OnNodes) -> None:
    nodes.cluster.stop()
    nodes.cluster.start()
    assert nodes.run(envelope({"task_type": "act"}))["status"] == "success"


def test_a_worker_that_is_killed_leaves_nothing_on_nodes(nodes: OnNodes) -> None:
    execution_id = begin(nodes, attempts=1)
    nodes.worker.kill()
    until(lambda: not nodes.left() and not nodes.serving(), 10.0)
    nodes.worker.start()
    assert nodes.worker.until_ended(execution_id, 60.0)["status"] == "SUCCESS"
    nodes.until_clean()


def test_an_address_where_nothing_is(tmp_path: Path) -> None:
    [port] = free_ports(1)
    address = f"127.0.0.1:{port}"
    with EmbeddedRedis() as redis, RunningWorker(redis.url, tmp_path, ray_addresses=address) as worker:
        job = envelope({"task_type": "act"})
        job["sf_init_config"]["address"] = address
        worker.send(job)
        ended = worker.until_ended(job["execution_id"], 8.0)
        assert ended["error_type"] == "ClusterInitializationError"
        assert "does not answer" in ended["error"]
        assert ended["retryable"]
