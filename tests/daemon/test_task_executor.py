"""What one attempt does with the answers of a real Redis; a job's computation is only noted."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest
from redis.asyncio import Redis

from sfworker.broker.broker import Attempt, Started, open_broker
from sfworker.catalog import load_modules
from sfworker.daemon.task_executor import Services, TaskExecutor
from sfworker.pool.outcome import Outcome
from sfworker.pool.pool import Execution, Pool
from sfworker.publish.status_notifier import StatusNotifier
from sfworker.settings import Settings
from sfworker.telemetry import Telemetry
from tests.running_worker import envelope

SOON = 1.0


class Noting:
    """In place of a pool."""

    def __init__(self) -> None:
        self.computed = 0

    @asynccontextmanager
    async def execute(self, *_: object) -> AsyncIterator[Outcome]:
        self.computed += 1
        yield Outcome()


class Late(StatusNotifier):
    """As where Redis is away for a while."""

    async def started(self, attempt: Attempt, *, silently: bool = False) -> Started:
        await anyio.sleep(2 * SOON)
        return await super().started(attempt, silently=silently)


async def answer(
    url: str, pool: Noting, notifier: type[StatusNotifier] | None = None, **options: Any
) -> dict[str, Any]:
    """The result of a job that is executed with this pool."""
    load_modules([])
    settings, job = Settings(redis_url=url), envelope({"task_type": "hello"}, options=options)
    async with open_broker(settings, "secretflow", "worker-1") as broker, Redis.from_url(url) as client:
        redis: Any = client
        await broker.ensure_groups()
        await redis.xadd("sf:jobs", {"envelope": json.dumps(job)})
        [entry] = await broker.take([2])
        services = Services(
            settings=settings,
            worker_id="worker-1",
            broker=broker,
            pool=cast(Pool, pool),
            notifier=(notifier or StatusNotifier)(broker, "worker-1"),
            telemetry=Telemetry.from_environ({}, "worker-1", "0"),
        )
        await TaskExecutor(services).execute(Attempt.of(entry), Execution())
        result: dict[str, Any] = json.loads(await redis.get(f"sf:result:{job['execution_id']}"))
        return result


async def test_a_job_that_expires_while_its_start_is_on_the_way_is_not_run(redis_url: str) -> None:
    pool = Noting()
    result = await answer(redis_url, pool, Late, expires_at=time.time() + SOON)
    assert result["error_type"] == "ExpiredError"
    assert pool.computed == 0


async def test_an_envelope_that_nobody_foresaw_is_answered(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LookupError("4711")

    monkeypatch.setattr("sfworker.daemon.task_executor.accept", fail)
    pool = Noting()
    result = await answer(redis_url, pool)
    assert (result["error_type"], pool.computed) == ("EnvelopeError", 0)
    assert "4711" not in result["error"]
