"""Jobs in every state, as a broker leaves them."""

from __future__ import annotations

import json
from typing import Any

from sfworker.broker.broker import Attempt, Broker, open_broker
from sfworker.settings import Settings

EVENT = (b'{"stage":"task_started","timestamp":"2026-01-31T18:00:00.250+00:00","attempt":', b"}")
FAILURE = b'{"error_type":"InputDataError","error":"keys.alice: no such column"}'
JOBS = ["succeeded", "failed", "cancelled", "waits", "runs", "was given back", "is high", "is low"]


def send(redis: Any, execution_id: str, task_type: str = "psi", stream: str = "sf:jobs", **more: Any) -> str:
    task = {"task_type": task_type}
    envelope = {"execution_id": execution_id, "task_id": "T-1", "subtask_id": "s", "task_config": task, **more}
    entry_id: bytes = redis.xadd(stream, {"envelope": json.dumps(envelope)})
    return entry_id.decode()


async def take(broker: Broker, *, start: bool = True) -> Attempt:
    [entry] = await broker.take([2])
    attempt = Attempt.of(entry)
    if start:
        await broker.start(attempt, EVENT)
    return attempt


async def one_in_each_state(redis: Any, redis_url: str) -> None:
    """Leave `JOBS` and an entry that is no envelope, oldest first, on three streams."""
    async with open_broker(Settings(redis_url=redis_url), "secretflow", "w-1") as broker:
        await broker.ensure_groups()
        send(redis, "succeeded", "ss_lr")
        attempt = await take(broker)
        for progress in (b"0.25", b"0.5"):
            said = b'{"stage":"progress","progress":%s,"attempt":1,"timestamp":"2026-01-31T18:00:02+00:00"}' % progress
            await broker.progress(attempt, said)
        await broker.finish(attempt, "SUCCESS", b'{"stage":"task_succeeded"}', b'{"status":"success","result":{"n":7}}')
        send(redis, "failed")
        await broker.bury(await take(broker), FAILURE, b'{"status":"failure"}')
        send(redis, "cancelled")
        await broker.finish(await take(broker), "CANCELLED", b"{}", b"{}")
        send(redis, "waits")
        await broker.retry(await take(broker), FAILURE, 3600)
        send(redis, "runs", "ss_xgb")
        await take(broker)
        send(redis, "was given back")
        given_back = (await take(broker, start=False)).entry
        await broker.give_back(given_back.stream, given_back.entry_id)
        send(redis, "is high", stream="sf:jobs:high")
        send(redis, "is low", stream="sf:jobs:low")
        redis.xadd("sf:jobs", {"envelope": "no JSON"})
