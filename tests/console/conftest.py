"""Jobs in every state, and one all of whose words are an attack on whoever looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from sfworker.broker.broker import open_broker
from sfworker.settings import Settings
from tests.cli.states import EVENT, one_in_each_state, send, take

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e{{ 1234567 * 7 }}"


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
async def jobs(redis: Any, redis_url: str) -> None:
    """One execution in each state."""
    await one_in_each_state(redis, redis_url)


@pytest.fixture
async def evil(redis: Any, redis_url: str) -> None:
    """Hostile words wherever somebody may write some."""
    event = {"stage": EVIL, "error_type": EVIL, "error": EVIL, "message": EVIL, "timestamp": EVIL, "attempt": EVIL}
    names = ("task_id", "subtask_id", "execution_id", "task_type", "worker_id", "started_at", "completed_at")
    about = dict.fromkeys(names, EVIL)
    result = {
        "status": "success",
        "result": {
            EVIL: EVIL,
            "list": [EVIL],
            "table": [{EVIL: EVIL, "b": 1}, {EVIL: EVIL, "b": 2}],
            "warnings": [EVIL],
        },
        "performance_metrics": {"total_seconds": 1.0, "peak_rss_bytes": {EVIL: 1}},
        "task_metadata": about,
        "disclosures": [EVIL],
        "warnings": [EVIL],
    }
    failed = {**result, "status": "failure", "result": None, "error": EVIL, "error_type": EVIL}
    async with open_broker(Settings(redis_url=redis_url), "secretflow", EVIL) as broker:
        await broker.ensure_groups()
        for execution_id in (EVIL, f"{EVIL} failed", f"{EVIL} waits", f"{EVIL} runs", f"{EVIL} queued"):
            send(redis, execution_id, EVIL, task_id=EVIL, sf_init_config={"parties": [EVIL]}, options={EVIL: EVIL})
            if execution_id.endswith("queued"):
                break
            attempt = await take(broker, start=False)
            await broker.start(attempt, EVENT)
            said = json.dumps({**event, "execution_id": EVIL}).encode()
            await broker.progress(attempt, said)
            if execution_id == EVIL:
                await broker.finish(attempt, "SUCCESS", said, json.dumps(result).encode())
            elif execution_id.endswith("failed"):
                await broker.bury(attempt, said, json.dumps(failed).encode())
            elif execution_id.endswith("waits"):
                await broker.retry(attempt, said, 3600)
        job = {"execution_id": f"{EVIL} runs", "task_type": EVIL, "began": 1.0, "progress": 0.5, "memory_bytes": 1}
        heartbeat = {"worker_id": EVIL, "started_at": EVIL, "executions": [EVIL], "jobs": [job]}
        await broker.heartbeat(json.dumps(heartbeat).encode())
        await broker.renew([])
        for order in ("pause", f"pause stream {EVIL}", f"pause type {EVIL}", f"drain {EVIL}"):
            await broker.give_order(order)
