"""What thousands of jobs leave behind in Redis: nothing that grows, whatever reads the streams."""

from __future__ import annotations

import secrets
from typing import Any

import anyio

from sfworker.broker.broker import Attempt, Broker
from tests.broker.conftest import OpenBroker

JOBS = 2000
AT_ONCE = 100
EVENT = (b'{"attempt":', b',"status":"RUNNING"}')
ANSWER = b'{"status":"success"}'
LARGEST_STREAM = 100_000
"""Bytes; a stream that kept its 2,000 entries would have more."""


async def work(broker: Broker) -> int:
    """Run what there is; how many were run, and not only put aside as answered before."""
    ran = 0

    async def run(attempt: Attempt) -> None:
        nonlocal ran
        if (await broker.start(attempt, EVENT)).verdict == "run":
            ran += 1
            assert await broker.progress(attempt, b"{}")
            assert await broker.finish(attempt, "SUCCESS", b"{}", ANSWER)

    while entries := await broker.take([1 + n % 3 for n in range(AT_ONCE)]):
        async with anyio.create_task_group() as tasks:
            for entry in entries:
                execution_id = (entry.envelope or b"").decode()
                tasks.start_soon(run, Attempt(entry, secrets.token_hex(8), execution_id, "t", "s"))
    return ran


async def test_streams_and_keys_stay_bounded_with_several_groups(redis: Any, new_broker: OpenBroker) -> None:
    first = await new_broker("a", results_maxlen=100)
    second = await new_broker("b", group="other", results_maxlen=100)
    streams = first.keys.job_streams()
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(JOBS):
            # The envelope is but the execution's id here.
            pipeline.xadd(streams[number % 3], {"envelope": f"e-{number}"})
        await pipeline.execute()

    assert await work(first) == JOBS
    assert sum([await redis.xlen(stream) for stream in streams]) == JOBS  # the other group has yet to see them
    assert await work(second) == 0

    for stream in streams:
        assert await redis.xlen(stream) == 0
        assert await redis.memory_usage(stream) < LARGEST_STREAM
        for info in await redis.xinfo_groups(stream):
            assert info["pending"] == 0
    assert await redis.xlen("sf:results") <= 300  # Redis trims whole nodes of 100 entries
    assert await redis.memory_usage("sf:results") < LARGEST_STREAM

    workers = [first.keys.workers(group) for group in ("secretflow", "other")]
    keys = [key async for key in redis.scan_iter(count=1000)]
    async with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.ttl(key)
        lasting = {key for key, ttl in zip(keys, await pipeline.execute(), strict=True) if ttl < 0}
    assert lasting == {name.encode() for name in (*streams, "sf:results", *workers)}
    assert len(keys) == 2 * JOBS + len(lasting)  # a result and a record of each, until they expire
