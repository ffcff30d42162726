"""One worker and one Redis for all tests of this directory that do not need to break them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.running_worker import RunningWorker


@pytest.fixture(scope="session")
def own_redis() -> Iterator[EmbeddedRedis]:
    """A server that no other test empties."""
    with EmbeddedRedis("--appendfsync", "no") as server:
        yield server


@pytest.fixture(scope="session")
def shared_worker(own_redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    directory = tmp_path_factory.mktemp("worker")
    with RunningWorker(own_redis.url, directory, concurrency="2", cancel_grace_seconds="0.5") as worker:
        yield worker


@pytest.fixture
def worker(shared_worker: RunningWorker) -> Iterator[RunningWorker]:
    """The shared worker; after each test it serves the next job, and nothing of the test is left over."""
    daemon = shared_worker.process.pid
    yield shared_worker
    assert shared_worker.process.pid == daemon
    assert shared_worker.run({"execution_id": f"after-{id(object())}", **HELLO})["status"] == "success"
    shared_worker.until_clean()


@pytest.fixture
def data(shared_worker: RunningWorker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh directory inside the shared worker's data root."""
    made = shared_worker.log_file.parent / tmp_path_factory.mktemp("data").name
    made.mkdir()
    return made


HELLO = {
    "task_id": "task",
    "subtask_id": "subtask",
    "sf_init_config": {"parties": ["alice", "bob"]},
    "task_config": {"task_type": "hello", "name": "world"},
}
