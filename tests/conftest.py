"""A real Redis server and a real worker for whoever needs one; each starts once per test run.

`redis_url` is a server that is emptied for each test; `worker` has a server of its own, which nobody empties.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.node.packages import node  # noqa: F401 - a fixture of every folder
from tests.running_worker import RunningWorker, envelope

_made: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make directories of tests with short paths, as those of sockets end at 107 bytes."""
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        _made.append(f"{tempfile.gettempdir()}/t{secrets.token_hex(2)}")
        config.option.basetemp = _made[0]


def pytest_unconfigure() -> None:
    for directory in _made:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """The embedded server, running. A test that stops it starts it again."""
    with EmbeddedRedis("--appendfsync", "no") as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """URL of the embedded server, emptied."""
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
    return redis_server.url


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


@pytest.fixture(scope="module")
def outlasting_worker(shared_worker: RunningWorker) -> Iterator[RunningWorker]:
    """The shared worker; after the tests of a file it serves the next job, and nothing of them is left over."""
    daemon = shared_worker.process.pid
    yield shared_worker
    assert shared_worker.process.pid == daemon
    assert shared_worker.run(envelope({"task_type": "hello"}))["status"] == "success"
    shared_worker.until_clean()


@pytest.fixture
def worker(outlasting_worker: RunningWorker) -> RunningWorker:
    """The shared worker, which no test ends."""
    assert outlasting_worker.process.poll() is None
    return outlasting_worker


@pytest.fixture
def data(shared_worker: RunningWorker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh directory inside the shared worker's data root."""
    made = shared_worker.log_file.parent / tmp_path_factory.mktemp("data").name
    made.mkdir()
    return made
