"""A real Redis server for whoever needs one; it starts once per test run and is emptied for each test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis, server_binary


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """The embedded server, running. A test that stops it starts it again."""
    with EmbeddedRedis("--appendfsync", "no") as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """URL of the embedded server, emptied."""
    cli = server_binary().with_name("redis-cli")
    subprocess.run([cli, "-s", redis_server.socket_path, "flushall"], check=True, stdout=subprocess.DEVNULL)
    return redis_server.url
