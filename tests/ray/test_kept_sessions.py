"""Sessions that serve several jobs on the nodes of a cluster: as on one host, whose tests are run again here.

What else can end there ends them, too, and leaves nothing on any node.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.integration import test_kept_sessions as here
from tests.integration.test_kept_sessions import act, place
from tests.integration.test_kept_sessions_long import SETTINGS, require_all_right
from tests.ray.lab import Cluster, Node, in_session
from tests.ray.nodes import OnNodes, on_nodes, settings_of_node
from tests.ray.test_faults import bridge
from tests.running_worker import PARTIES, RunningWorker, until

KEEPS = {"session_jobs": "8", "session_idle_seconds": "10", "jobs": here.JOBS}


class OnCluster(RunningWorker):
    """Has the parties of each job on the nodes."""

    def __init__(self, cluster: Cluster, *given: Any, **settings: Any) -> None:
        super().__init__(*given, ray_addresses=cluster.address, **settings)
        self.address = cluster.address

    def send(self, job: dict[str, Any] | bytes, stream: str = "sf:jobs") -> str:
        assert isinstance(job, dict)
        return super().send(job | {"sf_init_config": {**job["sf_init_config"], "address": self.address}}, stream)


@pytest.fixture(scope="module")
def keeping(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    """A worker whose sessions serve up to eight jobs."""
    settings = {**KEEPS, "tenants": "acme,umbra", "cancel_grace_seconds": "0.5"}
    with EmbeddedRedis() as redis, OnCluster(cluster, redis.url, tmp_path_factory.mktemp("k"), **settings) as worker:
        yield worker


@pytest.fixture
def nodes(keeping: RunningWorker, cluster: Cluster, nodes_directory: Path) -> OnNodes:
    return OnNodes(keeping, cluster, nodes_directory)


def test_a_session_serves_so_many_jobs_in_the_same_processes(keeping: RunningWorker) -> None:
    here.test_a_session_serves_so_many_jobs_in_the_same_processes(keeping)


def test_what_a_job_leaves_is_removed_before_the_next_one(keeping: RunningWorker) -> None:
    here.test_what_a_job_leaves_is_removed_before_the_next_one(keeping)


@pytest.mark.slow
@pytest.mark.parametrize("kind", here.LASTING)
def test_where_something_remains_no_other_job_is_served(keeping: RunningWorker, kind: str) -> None:
    here.test_where_something_remains_no_other_job_is_served(keeping, kind)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["raise", "kill", "stubborn"])
def test_no_other_job_is_served_after_an_error_or_a_limit(keeping: RunningWorker, action: str) -> None:
    here.test_no_other_job_is_served_after_an_error_or_a_limit(keeping, action)


@pytest.mark.slow
def test_nor_after_a_cancel(keeping: RunningWorker) -> None:
    here.test_nor_after_a_cancel(keeping)


@pytest.mark.slow
def test_only_jobs_of_one_tenant_that_are_alike_share_a_session(keeping: RunningWorker) -> None:
    here.test_only_jobs_that_are_alike_share_a_session(keeping)
    here.test_tenants_share_none(keeping)


@pytest.mark.slow
def test_what_is_random_differs_between_jobs_of_a_session(keeping: RunningWorker) -> None:
    here.test_what_is_random_differs_between_jobs_of_a_session(keeping)


def hosts(nodes: OnNodes, node: str) -> list[int]:
    session = nodes.cluster[node].session
    return [pid for pid in in_session(session) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Host")]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["party process", "gateway", "node", "host", "bridge"])
def test_whatever_ends_while_it_waits_ends_it(nodes: OnNodes, what: str) -> None:
    worker = nodes.worker
    place(worker.run(act()))
    waiting = {party: until(lambda party=party: nodes.waiting(party))[0] for party in PARTIES}  # type: ignore[misc]
    assert set(waiting.values()) <= {*nodes.serving(b"")}
    find: dict[str, Callable[[], list[int]]] = {
        "party process": lambda: [waiting["bob"]],
        "gateway": lambda: [nodes.gateway("bob")],
        "node": lambda: [nodes.node_process("bob")],
        "host": lambda: hosts(nodes, "two"),
        "bridge": lambda: [bridge(nodes)],
    }
    for pid in find[what]():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not set(waiting.values()) & {*nodes.serving(b"")})  # that of alice, too
    until(lambda: not nodes.left())
    assert place(worker.run(act(options={"max_retries": 3, "retry_delay": 0.1}))) == 1


@pytest.mark.slow
def test_it_ends_when_no_job_comes_and_nothing_is_left(nodes: OnNodes) -> None:
    place(nodes.worker.run(act()))
    nodes.until_clean()
    assert place(nodes.worker.run(act())) == 1


@pytest.mark.slow
def test_every_answer_of_two_hundred_jobs_is_right(cluster: Cluster, nodes_directory: Path, tmp_path: Path) -> None:
    with EmbeddedRedis() as redis, OnCluster(cluster, redis.url, tmp_path, **SETTINGS) as worker:
        require_all_right(worker, nodes_directory / "shared")


@pytest.mark.slow
def test_one_that_waits_holds_no_room_and_serves_on_when_there_is_some(tmp_path: Path) -> None:
    directory = tmp_path / "n"
    directory.mkdir()
    one, two = settings_of_node(directory, "alice"), settings_of_node(directory, "bob")
    with (
        Cluster(
            Node("one", {"alice": 1}, environment=one, cpus=1), Node("two", {"bob": 1}, environment=two, cpus=1)
        ) as cluster,
        EmbeddedRedis() as redis,
        EmbeddedRedis() as others,
        on_nodes(
            cluster, redis.url, tmp_path / "w1", directory, ray_cpus="1", **{**KEEPS, "session_idle_seconds": "300"}
        ) as keeping,
        on_nodes(cluster, others.url, tmp_path / "w2", directory, ray_cpus="1", **KEEPS) as other,
    ):
        assert place(keeping.run(act())) == 1
        job = act("report", seconds=600)
        held = other.worker.send(other.there(job))
        assert other.worker.until_said(held, "task_started", 60.0)["attempt"] == 1
        other.worker.until_said(held, "progress", 60.0)
        waiting = keeping.worker.send(keeping.there(act()))
        assert "no room" in keeping.worker.until_said(waiting, "task_retrying", 60.0)["error"]
        other.worker.redis.set(f"sf:cancel:{held}", 1, ex=60)
        other.worker.redis.publish("sf:control", held)
        keeping.worker.until_ended(waiting)
        [result] = keeping.said(waiting, "result")
        assert place(result) == 2
