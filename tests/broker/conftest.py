"""A broker as a worker has it, on the emptied embedded Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from sfworker.broker.broker import Broker, open_broker
from sfworker.settings import Settings

GROUP = "secretflow"
OpenBroker = Callable[..., Any]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
async def new_broker(redis_url: str) -> AsyncIterator[OpenBroker]:
    """`await new_broker("worker-a", lease_seconds=1.0)`: as many as a test needs."""
    async with AsyncExitStack() as stack:

        async def open_one(worker_id: str, group: str = GROUP, **settings: Any) -> Broker:
            values = Settings(redis_url=redis_url, **settings)
            broker = await stack.enter_async_context(open_broker(values, group, worker_id))
            await broker.ensure_groups()
            return broker

        yield open_one
