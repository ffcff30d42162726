"""A broker as a worker has it, on the emptied embedded Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from sfworker.broker.broker import Broker
from sfworker.broker.connection import connect
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
    carriers: list[asyncio.Task[None]] = []
    async with AsyncExitStack() as stack:

        async def open_one(worker_id: str, group: str = GROUP, **settings: Any) -> Broker:
            # Not `open_broker`: pytest sets up and tears down in different tasks, which its task group forbids.
            clients = [await stack.enter_async_context(connect(redis_url)) for _ in range(2)]
            broker = Broker(*clients, Settings(redis_url=redis_url, **settings), group, worker_id)
            carriers.append(asyncio.create_task(broker.run()))
            await broker.ensure_groups()
            return broker

        yield open_one
        for carrier in carriers:
            carrier.cancel()
        await asyncio.wait(carriers)
