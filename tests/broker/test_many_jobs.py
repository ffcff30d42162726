"""What thousands of jobs leave behind in Redis: nothing that grows, whatever reads the streams."""

from __future__ import annotations

import secrets
from typing import Any

import anyio
import pytest

from sfworker.broker.broker import Attempt, Broker
from sfworker.settings import Settings
from tests.bench.history import WALKS, fill, steps
from tests.broker.conftest import OpenBroker

JOBS = 2000
AT_ONCE = 100
EVENT = (b'{"attempt":', b',"status":"RUNNING"}')
ANSWER = b'{"status":"success"}'
LARGEST_FACTS = 400
"""Bytes that an ended execution may take in the index."""
LARGEST_STREAM = 100_000
"""Bytes; a stream that kept its 2,000 entries would have more."""


EVENTS = 400


async def say(redis: Any, broker: Broker, count: int = EVENTS) -> None:
    """Have a job that begins and says `count` events in all."""
    await redis.xadd("sf:jobs", {"envelope": "{}"})
    [entry] = await broker.take([1])
    attempt = Attempt(entry, secrets.token_hex(8), secrets.token_hex(8), "t", "s")
    assert (await broker.start(attempt, EVENT)).verdict == "run"
    for _ in range(count - 1):
        assert await broker.progress(attempt, b"{}")


async def run_one(redis: Any, broker: Broker) -> None:
    """Have a job that ends well."""
    await redis.xadd("sf:jobs", {"envelope": "{}"})
    [entry] = await broker.take([1])
    attempt = Attempt(entry, secrets.token_hex(8), secrets.token_hex(8), "t", "s")
    await broker.start(attempt, EVENT)
    assert await broker.finish(attempt, "SUCCESS", b"{}", ANSWER)


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
    first = await new_broker("a", results_maxlen=100, ended_maxlen=200)
    second = await new_broker("b", group="other", results_maxlen=100, ended_maxlen=200)
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
    assert lasting == {name.encode() for name in (*streams, "sf:results", "sf:ended", *workers)}
    assert len(keys) == 3 * JOBS + len(lasting)  # a result, a record and the envelope of each, until they expire
    assert await redis.zcard("sf:ended") == 200
    assert await redis.memory_usage("sf:ended") < 200 * LARGEST_FACTS


async def test_what_a_consumer_group_has_yet_to_read_is_kept(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", results_maxlen=100, results_unread_maxlen=1000)
    for group in ("slow", "fast"):
        await redis.xgroup_create("sf:results", group, "0", mkstream=True)
    await say(redis, broker)
    reader = await broker.slow_reader()
    assert reader is not None
    assert (reader.length, reader.loses) == (EVENTS, False)
    for group in ("slow", "fast"):
        [(_, entries)] = await redis.xreadgroup(group, "reader", {"sf:results": ">"}, count=1000)
        assert len(entries) == EVENTS
        if group == "fast":
            await redis.xack("sf:results", group, *(entry_id for entry_id, _ in entries))

    await say(redis, broker)
    reader = await broker.slow_reader()
    assert reader is not None
    assert (reader.group, reader.length) == ("slow", 2 * EVENTS)  # which has read and not acknowledged
    assert "consumer group slow has yet to read" in reader.sentence(1000)
    await redis.xack("sf:results", "slow", *(entry_id for entry_id, _ in entries))
    await say(redis, broker, 10)
    for group in ("slow", "fast"):
        [(_, entries)] = await redis.xreadgroup(group, "reader", {"sf:results": ">"}, count=10_000)
        assert len(entries) == EVENTS + 10
        await redis.xack("sf:results", group, *(entry_id for entry_id, _ in entries))
    await say(redis, broker, 10)
    assert 100 <= await redis.xlen("sf:results") <= 200
    assert await broker.slow_reader() is None


async def test_of_what_nobody_reads_no_more_is_kept_than_the_bound(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", results_maxlen=100, results_unread_maxlen=500)
    await redis.xgroup_create("sf:results", "forgotten", "0", mkstream=True)
    await say(redis, broker, 1500)
    assert 500 <= await redis.xlen("sf:results") <= 600
    reader = await broker.slow_reader()
    assert reader is not None
    assert reader.loses
    await redis.xgroup_destroy("sf:results", "forgotten")
    await say(redis, broker, 10)
    assert 100 <= await redis.xlen("sf:results") <= 200


@pytest.mark.parametrize("field", ["envelope", "another"])
async def test_what_is_too_large_to_be_accepted_is_answered_and_not_kept(
    redis: Any, new_broker: OpenBroker, field: str
) -> None:
    broker = await new_broker("a", max_envelope_bytes=1024)
    await redis.xadd("sf:jobs", {field: "x" * 30_000})
    [entry] = await broker.take([1])
    attempt = Attempt.of(entry)
    assert (await broker.start(attempt, EVENT)).verdict == "run"
    for _ in range(2):  # the first reply may be lost
        assert await broker.bury(attempt, b"{}", b"{}")
    assert await redis.xlen("sf:jobs") == 0
    assert (await redis.xpending("sf:jobs", "secretflow"))["pending"] == 0
    said = [fields[b"kind"] for _, fields in await redis.xrange("sf:results")]
    assert said == [b"status", b"result", b"status"]
    assert not await redis.exists("sf:envelope:e-1")


async def test_the_list_of_those_that_ended_is_shortened_by_steps(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", ended_maxlen=500)
    await redis.zadd("sf:ended", {f"past retention {n}": n for n in range(700)})
    await run_one(redis, broker)
    assert await redis.zcard("sf:ended") == 601
    await broker.tidy()
    assert await redis.zcard("sf:ended") == 1
    now = (await redis.time())[0] * 1000
    await redis.zadd("sf:ended", {f"recent {n}": now for n in range(620)})
    for expected in (522, 500, 500):
        await run_one(redis, broker)
        assert await redis.zcard("sf:ended") == expected
    assert b"past retention 699" not in await redis.zrange("sf:ended", 0, -1)


async def test_a_group_that_catches_up_lets_go_by_steps(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", results_maxlen=100, results_unread_maxlen=100_000)
    await redis.xgroup_create("sf:results", "slow", "0", mkstream=True)
    async with redis.pipeline(transaction=False) as pipeline:
        for _ in range(5000):
            pipeline.xadd("sf:results", {"kind": "status"})
        await pipeline.execute()
    await redis.xgroup_setid("sf:results", "slow", "$")
    await say(redis, broker, 1)
    assert 2900 <= await redis.xlen("sf:results") <= 3100
    await say(redis, broker, 10)
    assert 100 <= await redis.xlen("sf:results") <= 200


async def test_one_that_ended_leaves_a_small_record(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await redis.xadd("sf:jobs", {"envelope": "{}"})
    [entry] = await broker.take([1])
    attempt = Attempt(entry, secrets.token_hex(8), "3f2b8c1e-5a77-4a0e-9d0e-0a6f4f6f1c55", "t", "s")
    await broker.start(attempt, EVENT)
    for number in range(5):
        assert await broker.wrote(attempt, f"/data/alice/{number}/.0123456789abcdef-{number}.partial")
    assert await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    record = broker.keys.execution(attempt.known_as)
    assert set(await redis.hgetall(record)) == {b"group", b"run", b"state", b"status", b"answered"}

    assert await redis.memory_usage(record) <= 250


async def test_each_step_sends_the_same_however_many_have_ended_wait_or_are_dead(
    redis: Any, new_broker: OpenBroker
) -> None:
    async def sent(name: str, size: int) -> dict[str, dict[str, int]]:
        broker = await new_broker(name, lease_seconds=3600.0)
        await fill(redis, size)
        found = {}
        for step, act in (await steps(redis, broker, Settings())).items():
            if step not in WALKS:
                await redis.config_resetstat()
                await act()
                said = await redis.info("commandstats")
                found[step] = {command: figures["calls"] for command, figures in said.items()}
        return found

    few = await sent("a", 1000)
    await redis.flushall()
    many = await sent("b", 5000)
    for step, commands in few.items():
        assert many[step] == commands, step
        assert not {"cmdstat_scan", "cmdstat_keys"} & commands.keys()
