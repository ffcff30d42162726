"""A worker whose pool computes nothing: what is left is the state changes.

python -m tests.bench.stub_worker REDIS_URL CONCURRENCY
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import uvloop

from sfworker.broker.broker import open_broker
from sfworker.catalog import load_modules
from sfworker.daemon.worker import Worker
from sfworker.pool.outcome import Outcome
from sfworker.pool.pool import Pool
from sfworker.settings import load
from sfworker.telemetry import Telemetry


class StubPool:
    """Answers at once, with the moment at which a job would begin."""

    is_ready = True

    async def until_ready(self) -> None:
        pass

    @asynccontextmanager
    async def execute(self, *job: Any) -> AsyncIterator[Outcome]:
        yield Outcome(result={"first_line_at": time.time()})


async def main(redis_url: str, concurrency: int) -> None:
    load_modules(["tests.acting_job"])
    settings = load(redis_url=redis_url, concurrency=concurrency)
    async with open_broker(settings, "secretflow", "stub") as broker:
        await Worker(settings, "stub", broker, cast(Pool, StubPool()), Telemetry()).run()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
