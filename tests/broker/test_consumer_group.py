"""What consumer groups and connections do by themselves that has cost other workers their jobs, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as AwayError

from sfworker.broker import broker as broker_module
from sfworker.broker import scripts
from sfworker.broker.broker import Attempt, Broker, Lease
from sfworker.broker.connection import connect
from sfworker.broker.finding import Wanted, executions
from sfworker.broker.groups import groups
from sfworker.broker.keys import Keys
from sfworker.broker.overview import overview
from tests.broker.conftest import GROUP, OpenBroker

EVENT = (b'{"attempt":', b',"status":"RUNNING"}')
_T = TypeVar("_T")
LONG_AGO = 1_000_000
"""Milliseconds; longer than any lease here."""


async def append(redis: Any, count: int = 1) -> list[str]:
    pipeline = redis.pipeline(transaction=False)
    for _ in range(count):
        pipeline.xadd("sf:jobs", {"envelope": "{}"})
    return [entry_id.decode() for entry_id in await pipeline.execute()]


async def begun(redis: Any, broker: Broker) -> Attempt:
    """An attempt at a new job, taken and started."""
    await append(redis)
    [entry] = await broker.take([1])
    attempt = Attempt(entry, "run-1", "e-1", "t", "s")
    assert (await broker.start(attempt, EVENT)).verdict == "run"
    return attempt


async def be_silent(redis: Any, consumer: str | bytes, *entry_ids: str) -> None:
    """Give entries to `consumer`, as if it had not been heard of since long ago."""
    await redis.xclaim("sf:jobs", GROUP, consumer, 0, entry_ids, idle=LONG_AGO, justid=True)


async def owners(redis: Any) -> dict[str, int]:
    found = await redis.xpending("sf:jobs", GROUP)
    return {consumer["name"].decode(): consumer["pending"] for consumer in found["consumers"]}


async def answers(redis: Any) -> int:
    return [fields[b"kind"] for _, fields in await redis.xrange("sf:results")].count(b"result")


async def first_of(look: Callable[[], Awaitable[_T]]) -> _T:
    """The first true value of `look`. Fails the test after 15 s."""
    with anyio.fail_after(15):
        while not (found := await look()):  # noqa: ASYNC110 - what is waited for happens in the server
            await anyio.sleep(0.01)
        return found


async def sent(redis: Any, command: str) -> bool:
    """Whether the server has this command of a worker before it."""
    return any(each["name"] == "sfworker" and each["cmd"] == command for each in await redis.client_list())


# --- whose jobs are found


async def test_a_crashed_job_is_found_behind_many_that_run_and_wait(redis: Any, new_broker: OpenBroker) -> None:
    busy, other = await new_broker("busy"), await new_broker("other", lease_seconds=60.0)
    await append(redis, 901)
    taken = [entry.entry_id for entry in await busy.take([1] * 901)]
    await be_silent(redis, "@retry", *taken[:300])
    await be_silent(redis, "@dead", *taken[300:600])
    await be_silent(redis, "busy", taken[-1])
    assert [entry.entry_id for entry in await other.sweep(1)] == [taken[-1]]
    assert await other.sweep(1) == []
    assert await owners(redis) == {"@retry": 300, "@dead": 300, "busy": 300, "other": 1}


async def test_others_name_their_groups_and_consumers_as_they_like(redis: Any, new_broker: OpenBroker) -> None:
    broker, name = await new_broker("a", results_maxlen=100, lease_seconds=60.0), b"\xff\xfe no text"
    for stream in ("sf:jobs", "sf:results"):
        await redis.xgroup_create(stream, name, "0", mkstream=True)
    await append(redis, 2)
    await redis.xreadgroup(GROUP, name, {"sf:jobs": ">"}, count=1)
    await redis.xreadgroup(name, name, {"sf:jobs": ">"})
    for _ in range(300):
        await redis.xadd("sf:results", {"kind": "status"})
    await redis.xreadgroup(name, name, {"sf:results": ">"}, count=1)
    assert await broker.tidy() == 0
    reader = await broker.slow_reader()
    assert reader is not None
    assert reader.group.endswith(" no text")
    assert [entry.stream async for entry in broker.queued()] == ["sf:jobs"]
    assert (await overview(redis, broker.keys, GROUP)).running == 1
    jobs, readers = await broker.gauges()
    assert [each.figures["pending"] for each in jobs if each.stream == "sf:jobs"] == [1]
    assert [each.group for each in readers] == [reader.group]
    assert [each.name for each in await groups(redis, broker.keys, [])] == [GROUP, reader.group]
    found = [one.state async for one in executions(redis, broker.keys, GROUP, Wanted())]
    assert found == ["queued", "queued"]
    assert await broker.sweep(1) == []
    await be_silent(redis, name, (await redis.xrange("sf:jobs", count=1))[0][0].decode())
    assert len(await broker.sweep(1)) == 1


async def test_a_group_that_is_made_again_reads_what_came_meanwhile(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await redis.xgroup_destroy("sf:jobs", GROUP)
    [entry_id] = await append(redis)
    await broker.ensure_groups()
    assert [entry.entry_id for entry in await broker.take([1])] == [entry_id]


async def test_an_idle_consumer_is_forgotten_only_if_it_owns_nothing(
    redis: Any, new_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "FORGET_IDLE_SECONDS", 0.05)
    broker = await new_broker("a", lease_seconds=60.0)
    await append(redis)
    await redis.xreadgroup(GROUP, "owner", {"sf:jobs": ">"})
    for name in ("a", "idle"):  # later, so that the owner has been idle for at least as long
        await redis.xgroup_createconsumer("sf:jobs", GROUP, name)

    async def forgotten() -> bool:
        assert await broker.sweep(1) == []
        return b"idle" not in [consumer["name"] for consumer in await redis.xinfo_consumers("sf:jobs", GROUP)]

    await first_of(forgotten)
    assert [consumer["name"] for consumer in await redis.xinfo_consumers("sf:jobs", GROUP)] == [b"a", b"owner"]
    assert await owners(redis) == {"owner": 1}


async def test_jobs_are_counted_where_the_server_cannot_tell_how_many_are_new(
    redis: Any, new_broker: OpenBroker
) -> None:
    """From 7.0 on it tells, but not after an entry was deleted that nobody had read."""
    broker = await new_broker("a")
    entry_ids = await append(redis, 4)
    await broker.take([1])
    await redis.xdel("sf:jobs", entry_ids[2])
    [info] = await redis.xinfo_groups("sf:jobs")
    assert info.get("lag") is None
    figures = await overview(redis, Keys(), GROUP)
    assert (figures.queued, figures.running) == (2, 1)


# --- what comes back, and what is cut off


async def test_an_acknowledged_entry_that_comes_back_is_not_run_again(redis: Any, new_broker: OpenBroker) -> None:
    """As after a failover to a replica that had not heard of it."""
    broker, other = await new_broker("a"), await new_broker("other", lease_seconds=60.0)
    attempt = await begun(redis, broker)
    before = await redis.dump("sf:jobs")
    assert await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    said = await redis.xlen("sf:results")
    await redis.restore("sf:jobs", 0, before, replace=True)
    await be_silent(redis, "a", attempt.entry.entry_id)
    [entry] = await other.sweep(1)
    assert (await other.start(Attempt(entry, "run-2", "e-1", "t", "s"), EVENT)).verdict == "duplicate"
    assert await redis.xlen("sf:results") == said
    assert await redis.xlen("sf:jobs") == 0
    assert await owners(redis) == {}


@pytest.mark.parametrize("ending", ["finish", "bury", "retry", "crash"])
async def test_a_job_whose_payload_is_trimmed_while_it_runs_is_answered_once(
    redis: Any, new_broker: OpenBroker, ending: str
) -> None:
    broker, other = await new_broker("a"), await new_broker("other", lease_seconds=0.1)
    attempt = await begun(redis, broker)
    await redis.xtrim("sf:jobs", maxlen=0)
    assert await broker.renew([attempt]) == [Lease.HELD]
    match ending:
        case "finish":
            assert await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
        case "bury":
            assert await broker.bury(attempt, b"{}", b"{}")
        case "retry":
            assert await broker.retry(attempt, b"{}", 0)
    if ending in {"retry", "crash"}:  # there is nothing to run it again from
        assert await broker.take([1]) == []
        [entry] = await first_of(lambda: other.sweep(1))
        assert entry.envelope is None
        assert await other.lost(Attempt(entry, "run-2", None, None, None), b"{}", b"{}") == []
    assert await answers(redis) == 1
    assert await owners(redis) == {}


async def test_a_worker_that_lives_keeps_a_job_whose_payload_is_trimmed(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("other", lease_seconds=0.1)
    attempt = await begun(redis, broker)
    await broker.heartbeat(b"{}")
    await redis.xtrim("sf:jobs", maxlen=0)
    await anyio.sleep(0.2)
    assert await other.sweep(1) == []
    await redis.delete("sf:worker:a")
    [entry] = await other.sweep(1)
    assert (entry.entry_id, entry.envelope) == (attempt.entry.entry_id, None)


async def test_what_runs_here_without_payload_hides_nobody_elses_job(redis: Any, new_broker: OpenBroker) -> None:
    broker, dead = await new_broker("a", lease_seconds=0.1), await new_broker("dead")
    attempt = await begun(redis, broker)
    await redis.xtrim("sf:jobs", maxlen=0)
    await append(redis)
    [left] = await dead.take([1])
    await anyio.sleep(0.2)
    assert await broker.sweep(1, [attempt]) == [left]


async def test_broken_entries_of_the_same_id_on_two_streams_are_both_answered(
    redis: Any, new_broker: OpenBroker
) -> None:
    broker = await new_broker("a")
    for stream in ("sf:jobs", "sf:jobs:low"):
        await redis.xadd(stream, {"envelope": "{"}, id="1-1")
        [entry] = await broker.take([1])
        attempt = Attempt.of(entry)
        assert (await broker.start(attempt, (b"", b""))).verdict == "run"
        assert await broker.bury(attempt, b"{}", b"{}")
    assert await answers(redis) == 2


# --- connections


async def test_waiting_for_jobs_outlasts_the_time_out_of_other_commands(
    new_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "COMMAND_SECONDS", 1.0)
    monkeypatch.setattr(broker_module, "BLOCK_SECONDS", 1.5)
    assert await (await new_broker("a")).wait() == []


async def test_listening_for_cancellations_outlasts_the_time_out_of_other_commands(
    redis: Any, new_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connect.__kwdefaults__, "socket_timeout", 0.2)  # type: ignore[index, unused-ignore]
    broker = await new_broker("a")
    async with broker.cancellations() as execution_ids:
        with anyio.move_on_after(1.0):
            await anext(execution_ids)  # nobody says anything
            pytest.fail("something was heard")
    async with broker.cancellations() as execution_ids, anyio.create_task_group() as tasks:

        async def say_later() -> None:
            await anyio.sleep(0.6)
            await redis.publish("sf:control", "e-1")

        tasks.start_soon(say_later)
        with anyio.fail_after(15):
            assert await anext(execution_ids) == ("e-1", broker.keys)


@pytest.mark.parametrize("command", ["take", "wait", "owned"])
async def test_a_command_that_is_cancelled_in_flight_leaves_its_reply_to_nobody(
    redis: Any, new_broker: OpenBroker, command: str
) -> None:
    """Each of the three connections: the scripts', the blocking one, the pool's."""
    broker = await new_broker("a")
    call: dict[str, Callable[[], Awaitable[Any]]] = {
        "take": lambda: broker.take([1]),
        "wait": broker.wait,
        "owned": broker.owned,
    }
    assert await call[command]() == []
    await redis.client_pause(500)
    with anyio.move_on_after(0.1):
        await call[command]()

    async def nobody_reads() -> bool:
        return not await sent(redis, "xreadgroup")

    await first_of(nobody_reads)  # else the next job would be a reply to it
    for _ in range(2):
        [entry_id] = await append(redis)
        [entry] = await broker.take([1])
        assert entry.entry_id == entry_id
        assert ("sf:jobs", entry_id) in await broker.owned()
        assert await broker.read_owned("sf:jobs", entry_id) == entry


@pytest.mark.parametrize("trips", [1, scripts.MOST_TRIPS])
async def test_who_is_cancelled_just_when_its_turn_comes_lets_the_next_one_go(
    new_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch, trips: int
) -> None:
    monkeypatch.setattr(scripts, "MOST_TRIPS", trips)
    broker = await new_broker("a")

    async def call(number: int) -> int:
        await broker.take([1])
        calls[1].cancel()  # its turn has come with the first one's answer, and it has not run yet
        return number

    calls = [asyncio.create_task(call(number)) for number in range(3)]
    with anyio.fail_after(5):
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, third) == (0, 2)
    assert isinstance(second, asyncio.CancelledError)


async def test_a_command_whose_connection_breaks_is_not_sent_again(redis: Any, redis_url: str) -> None:
    async def submit(client: Redis) -> None:
        with pytest.raises(AwayError):
            await client.xadd("sf:jobs", {"envelope": "{}"})

    await redis.client_pause(60_000, all=False)  # writes wait, so the command has no reply yet
    async with connect(redis_url) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(submit, client)
        await first_of(lambda: sent(redis, "xadd"))
        await redis.client_kill_filter(_type="normal", skipme=True)
        await redis.client_unpause()
    assert await redis.xlen("sf:jobs") == 0
