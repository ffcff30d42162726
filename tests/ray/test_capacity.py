"""Nodes run as many party processes as they offer, of all workers, and jobs wait for room in Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.ray.lab import Cluster, Node
from tests.ray.nodes import on_nodes, settings_of_node
from tests.running_worker import envelope, until

pytestmark = pytest.mark.slow


def test_a_job_for_which_there_is_no_room_waits_and_holds_nobody_up(tmp_path: Path) -> None:
    directory = tmp_path / "n"
    directory.mkdir()
    one, two = settings_of_node(directory, "alice", "carol"), settings_of_node(directory, "bob", "dave")
    with (
        Cluster(
            Node("one", {"alice": 1, "carol": 1}, environment=one), Node("two", {"bob": 1, "dave": 1}, environment=two)
        ) as cluster,
        EmbeddedRedis() as redis,
        EmbeddedRedis() as others,
        on_nodes(cluster, redis.url, tmp_path / "w1", directory, concurrency="2") as first,
        on_nodes(cluster, others.url, tmp_path / "w2", directory, concurrency="2") as second,
    ):
        holding = envelope({"task_type": "act", "action": "report", "seconds": 600})
        held = first.worker.send(first.there(holding))
        first.worker.until_said(held, "progress", 60.0)
        waiting = {
            worker: worker.worker.send(worker.there(envelope({"task_type": "act"}, options={"max_retries": 0})))
            for worker in (first, second)
        }
        for worker, execution_id in waiting.items():
            event = worker.worker.until_said(execution_id, "task_retrying", 60.0)
            assert "no room" in event["error"]
            assert event["retry_count"] == 0
            until(lambda worker=worker: "waits for room again in " in worker.worker.log())  # type: ignore[misc]
            assert not [event for event in worker.said(execution_id) if event["status"] == "FAILURE"]
        for worker in (first, second):  # one that runs here, and one whose parties have room
            assert worker.worker.run(envelope({"task_type": "hello"}))["status"] == "success"
            job = envelope({"task_type": "act"})
            job["sf_init_config"]["parties"] = ["carol", "dave"]
            assert worker.run(job)["status"] == "success"
        first.worker.redis.set(f"sf:cancel:{held}", 1, ex=60)
        first.worker.redis.publish("sf:control", held)
        for worker, execution_id in waiting.items():
            ended = worker.worker.until_ended(execution_id, 60.0)
            assert ended["status"] == "SUCCESS"
            assert ended["attempt"] > 1
        until(lambda: not first.left())
