"""What one attempt does with the answers of a real Redis; a job's computation is only noted."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
from redis.asyncio import Redis

from sfworker.broker.broker import Attempt, Broker, Started, open_broker
from sfworker.catalog import load_modules
from sfworker.daemon.task_executor import Services, TaskExecutor
from sfworker.pool.outcome import Outcome
from sfworker.pool.pool import Execution, Pool
from sfworker.publish.status_notifier import StatusNotifier
from sfworker.settings import Settings
from sfworker.telemetry import Telemetry
from tests.running_worker import envelope


class Noting:
    """In place of a pool."""

    computed = 0

    @asynccontextmanager
    async def execute(self, *_: object) -> AsyncIterator[Outcome]:
        self.computed += 1
        yield Outcome()


class Late(StatusNotifier):
    """As where Redis is away for a while."""

    def __init__(self, broker: Broker, until: float) -> None:
        super().__init__(broker, "worker-1")
        self._until = until

    async def started(self, attempt: Attempt, *, silently: bool = False) -> Started:
        await anyio.sleep(self._until - time.time())
        return await super().started(attempt, silently=silently)


async def test_a_job_that_expires_while_its_start_is_on_the_way_is_not_run(redis_url: str) -> None:
    load_modules([])
    settings, pool = Settings(redis_url=redis_url), Noting()
    expires_at = time.time() + 1.0
    job = envelope({"task_type": "hello"}, options={"expires_at": expires_at})
    async with open_broker(settings, "secretflow", "worker-1") as broker, Redis.from_url(redis_url) as client:
        redis: Any = client
        await broker.ensure_groups()
        await redis.xadd("sf:jobs", {"envelope": json.dumps(job)})
        [entry] = await broker.take([2])
        services = Services(
            settings=settings,
            worker_id="worker-1",
            broker=broker,
            pool=cast(Pool, pool),
            notifier=Late(broker, expires_at + 0.1),
            telemetry=Telemetry.from_environ({}, "worker-1", "0"),
        )
        await TaskExecutor(services).execute(Attempt.of(entry), Execution())
        result = json.loads(await redis.get(f"sf:result:{job['execution_id']}"))
    assert result["error_type"] == "ExpiredError"
    assert pool.computed == 0
