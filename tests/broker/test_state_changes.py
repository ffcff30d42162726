"""What the scripts do to an execution's state, on a real server: one step each, and only for the owner."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import anyio
import pytest
from redis.exceptions import RedisError

from sfworker.broker.broker import Attempt, Broker, Lease, Started
from sfworker.broker.entry import Entry
from sfworker.broker.scripts import LARGEST_BATCH, MOST_TRIPS
from sfworker.daemon.priorities import RankOrder
from tests.broker.conftest import GROUP, OpenBroker

EVENT = (b'{"attempt":', b',"status":"RUNNING"}')


def attempt_at(entry: Entry, run: str = "run-1", execution_id: str | None = "e-1") -> Attempt:
    return Attempt(entry, run, execution_id, "t", "s")


async def append(redis: Any, stream: str = "sf:jobs", **fields: str) -> str:
    entry_id: bytes = await redis.xadd(stream, fields or {"envelope": "{}"})
    return entry_id.decode()


async def notices(redis: Any) -> list[dict[str, Any]]:
    return [json.loads(fields[b"payload"]) for _, fields in await redis.xrange("sf:notices")]


async def take_one(broker: Broker) -> Entry:
    [entry] = await broker.take([1])
    return entry


async def pending(redis: Any, stream: str = "sf:jobs") -> dict[str, int]:
    """How many entries each consumer owns."""
    found = await redis.xpending(stream, GROUP)
    return {consumer["name"].decode(): consumer["pending"] for consumer in found["consumers"]}


async def said(redis: Any) -> list[tuple[str, str, str]]:
    """Kind, status and payload of what the results stream holds."""
    entries = await redis.xrange("sf:results")
    return [tuple(fields[name].decode() for name in (b"kind", b"status", b"payload")) for _, fields in entries]


async def begun(redis: Any, broker: Broker, run: str = "run-1") -> Attempt:
    """An attempt that was taken and started."""
    await append(redis)
    attempt = attempt_at(await take_one(broker), run)
    assert (await broker.start(attempt, EVENT)).verdict == "run"
    return attempt


async def test_a_start_counts_and_says_so_on_the_stream_and_both_channels(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    async with redis.pubsub() as listener:
        await listener.subscribe("task_status", "task_status:e-1")
        await begun(redis, broker)
        messages: list[Any] = []
        while len(messages) < 2:
            message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
            messages += [message] if message else []
    event = '{"attempt":1,"status":"RUNNING"}'
    assert {(m["channel"], m["data"].decode()) for m in messages} == {
        (b"task_status", event),
        (b"task_status:e-1", event),
    }
    assert await said(redis) == [("status", "RUNNING", event)]
    [(_, fields)] = await redis.xrange("sf:results")
    assert list(fields) == [b"kind", b"execution_id", b"task_id", b"subtask_id", b"status", b"payload"]


async def test_a_start_whose_reply_was_lost_is_repeated_without_effect(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    assert await broker.start(attempt, EVENT) == Started("run", 1, 0, 0)
    assert len(await said(redis)) == 1


async def test_finishing_is_result_event_acknowledgement_and_deletion(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", result_ttl=50)
    attempt = await begun(redis, broker)
    assert await broker.finish(attempt, "SUCCESS", b'{"e":1}', b'{"r":1}')
    assert await redis.get("sf:result:e-1") == b'{"r":1}'
    assert 0 < await redis.ttl("sf:result:e-1") <= 50
    assert (await said(redis))[1:] == [("result", "SUCCESS", '{"r":1}'), ("status", "SUCCESS", '{"e":1}')]
    assert await redis.xlen("sf:jobs") == 0
    assert await pending(redis) == {}


async def test_finishing_twice_publishes_once(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    assert await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    assert await broker.finish(attempt, "SUCCESS", b"{}", b"{}")  # the first reply was lost
    assert len(await said(redis)) == 3


@pytest.mark.parametrize("change", ["progress", "finish", "bury", "retry", "release", "renew"])
async def test_nothing_is_changed_for_a_worker_that_lost_its_entry(
    redis: Any, new_broker: OpenBroker, change: str
) -> None:
    paused, other = await new_broker("paused"), await new_broker("other")
    attempt = await begun(redis, paused)
    await redis.xclaim("sf:jobs", GROUP, "other", 0, [attempt.entry.entry_id])
    assert (await other.start(attempt_at(attempt.entry, "run-2"), EVENT)).verdict == "run"
    before = await said(redis), await redis.hgetall("sf:exec:e-1"), await pending(redis)
    acts = {
        "progress": lambda: paused.progress(attempt, b"{}"),
        "finish": lambda: paused.finish(attempt, "SUCCESS", b"{}", b"{}"),
        "bury": lambda: paused.bury(attempt, b"{}", b"{}"),
        "retry": lambda: paused.retry(attempt, b"{}", 1.0),
        "release": lambda: paused.release(attempt, "releases"),
        "renew": lambda: paused.renew([attempt]),
    }
    assert await acts[change]() in (False, [Lease.LOST])
    assert (await said(redis), await redis.hgetall("sf:exec:e-1"), await pending(redis)) == before
    assert not await redis.exists("sf:result:e-1")


async def test_the_same_execution_sent_twice_is_run_once(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    await append(redis)
    assert (await broker.start(attempt_at(await take_one(broker), "run-2"), EVENT)).verdict == "duplicate"
    assert await broker.finish(attempt, "SUCCESS", b"{}", b"{}")  # the first one is not disturbed
    await append(redis)
    assert (await broker.start(attempt_at(await take_one(broker), "run-3"), EVENT)).verdict == "duplicate"
    heard = await said(redis)
    assert [(kind, status) for kind, status, _ in heard] == [
        ("status", "RUNNING"),
        ("result", "SUCCESS"),
        ("status", "SUCCESS"),
    ]
    assert [notice["message"].partition(": ")[2] for notice in await notices(redis)] == [
        "its first job is not answered yet; only a new execution_id is run",
        "it was answered before; only a new execution_id is run",
    ]
    assert await redis.xlen("sf:jobs") == 0


@pytest.mark.parametrize("state", ["running", "waiting", "dead", "answered", "expired", "cancelled in the queue"])
@pytest.mark.parametrize("sent", ["the same", "in another order", "another"])
async def test_whoever_sends_an_execution_again_hears_what_became_of_it(
    redis: Any, new_broker: OpenBroker, state: str, sent: str
) -> None:
    broker = await new_broker("a")
    envelope = {"execution_id": "e-1", "task_config": {"task_type": "hello", "of": [1, None, {}], "deep": {"a": "b"}}}
    await redis.xadd("sf:jobs", {"envelope": json.dumps(envelope)})
    if state == "cancelled in the queue":
        await redis.set("sf:cancel:e-1", "1")
        [entry] = [entry async for entry in broker.queued()]
        assert await broker.cancel_queued(Attempt.of(entry), b"{}", b"{}")
    else:
        attempt = Attempt.of(await take_one(broker))
        await broker.start(attempt, EVENT)
        if state == "waiting":
            await broker.retry(attempt, b"{}", 60)
        elif state == "dead":
            await broker.bury(attempt, b"{}", b"{}")
        elif state != "running":
            await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    if state == "expired":
        await redis.delete("sf:result:e-1", "sf:envelope:e-1")
    if sent == "in another order":
        envelope = dict(reversed(envelope.items()))
    elif sent == "another":
        envelope["task_config"]["deep"]["a"] = "c"  # type: ignore[index]
    await redis.xadd("sf:jobs", {"envelope": json.dumps(envelope)})
    before = await said(redis)
    again = Attempt.of(await take_one(broker))
    assert (await broker.start(again, EVENT, silently=True)).verdict == "duplicate"
    assert (await broker.start(again, EVENT)).verdict == "lost"  # where the reply was lost, it is not said twice
    assert await said(redis) == before
    [notice] = await notices(redis)
    statuses = {"running": "RUNNING", "waiting": "RETRY", "dead": "FAILURE", "cancelled in the queue": "CANCELLED"}
    assert notice["status"] == statuses.get(state, "SUCCESS")
    differs = sent == "another" and state != "expired"
    assert notice["differs"] is differs
    expected = "its first job is not answered yet" if state in {"running", "waiting"} else "it was answered before"
    expected += ", and what was sent now differs from that" * differs
    expected += ", and its result has expired" * (state == "expired")
    assert notice["message"] == f"this execution_id was sent again: {expected}; only a new execution_id is run"


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ('{"execution_id":"e-1","x":"%s"}', ""),
        ('{"x":"%s","execution_id":"e-1"}', "and what was sent now is another text"),
    ],
)
async def test_long_envelopes_are_compared_as_texts(redis: Any, new_broker: OpenBroker, again: str, said: str) -> None:
    broker = await new_broker("a")
    for envelope in ('{"execution_id":"e-1","x":"%s"}', again):
        await redis.xadd("sf:jobs", {"envelope": envelope % ("x" * 20_000)})
        await broker.start(Attempt.of(await take_one(broker)), EVENT)
    [notice] = await notices(redis)
    assert said in notice["message"]
    assert ("another text" in notice["message"]) == bool(said)


@pytest.mark.attack("stream entry")
async def test_a_long_envelope_that_is_sent_again_keeps_nobody_waiting(redis: Any, new_broker: OpenBroker) -> None:
    """Redis would decode it for seconds, in which it serves nobody, and take 30 times its length of memory."""
    broker = await new_broker("a")
    for sent in ("[]", "{}"):
        long = f'{{"execution_id": "e-1", "more": [{sent}{",[]" * (1 << 20)}]}}'
        await redis.xadd("sf:jobs", {"envelope": long})
        attempt = Attempt.of(await take_one(broker))
        before = (await redis.info("memory"))["used_memory_lua"]
        started = await broker.start(attempt, EVENT)
        if started.verdict == "run":
            await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    assert started.verdict == "duplicate"
    assert (await redis.info("memory"))["used_memory_lua"] - before < 1 << 25
    [notice] = await notices(redis)
    assert "it was answered before, and what was sent now is another text than that; only" in notice["message"]


async def test_a_retry_waits_with_the_pending_entry_and_comes_back_when_due(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    assert await broker.retry(attempt, b'{"e":2}', 3600)
    assert await pending(redis) == {"@retry": 1}
    assert (await said(redis))[1:] == [("status", "RETRY", '{"e":2}')]
    assert await broker.take([1]) == []
    assert await redis.zadd("sf:retries:normal:secretflow", {attempt.entry.entry_id: 0}) == 0
    again = await take_one(broker)
    assert again == attempt.entry
    assert await broker.start(attempt_at(again, "run-2"), EVENT) == Started("run", 2, 0, 0)


async def test_a_retry_whose_due_time_was_lost_is_found_again(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    await broker.retry(attempt, b"{}", 3600)
    assert await broker.tidy() == 0
    await redis.delete("sf:retries:normal:secretflow")
    assert await broker.tidy() == 1
    assert await take_one(broker) == attempt.entry


async def test_a_buried_job_answers_and_stays_with_the_dead(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", retention=60)
    attempt = await begun(redis, broker)
    assert await broker.bury(attempt, b'{"e":1}', b'{"r":1}')
    assert await broker.bury(attempt, b'{"e":1}', b'{"r":1}')  # the first reply was lost
    assert await pending(redis) == {"@dead": 1}
    assert (await said(redis))[1:] == [("result", "FAILURE", '{"r":1}'), ("status", "FAILURE", '{"e":1}')]
    assert await redis.xlen("sf:jobs") == 1
    await broker.tidy()
    assert await redis.xlen("sf:jobs") == 1  # until its retention has passed
    await redis.xclaim("sf:jobs", GROUP, "@dead", 0, [attempt.entry.entry_id], idle=61_000)
    await broker.tidy()
    assert await redis.xlen("sf:jobs") == 0


async def test_an_answer_without_execution_id_is_given_under_the_entrys_id(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    entry_id = await append(redis, envelope="garbage")
    attempt = attempt_at(await take_one(broker), execution_id=None)
    await broker.start(attempt, (b"", b""))
    assert await broker.bury(attempt, b"{}", b"{}")
    for _, fields in await redis.xrange("sf:results"):
        assert fields[b"message_id"] == entry_id.encode()
        assert b"execution_id" not in fields


# --- leases


async def test_what_a_silent_worker_left_is_swept_and_counts_as_a_crash(redis: Any, new_broker: OpenBroker) -> None:
    dead, other = await new_broker("dead"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, dead)
    assert await other.sweep(5) == []  # its lease has not run out
    await redis.xclaim("sf:jobs", GROUP, "dead", 0, [attempt.entry.entry_id], idle=2000)
    assert await other.sweep(0) == []  # no slot is free
    assert await other.sweep(5) == [attempt.entry]
    assert await other.start(attempt_at(attempt.entry, "run-2"), EVENT) == Started("run", 2, 1, 0)


async def seen_until(redis: Any, broker: Broker, worker: str, milliseconds_ago: int) -> None:
    """As if the worker had been there for an hour until then."""
    seconds, microseconds = await redis.time()
    seen = seconds * 1000 + microseconds // 1000 - milliseconds_ago
    await redis.hset(broker.keys.workers(GROUP), worker, f"{seen} {seen - 3_600_000}")


@pytest.mark.parametrize("first_call", ["sweep", "renew"])
@pytest.mark.parametrize("cut_off", ["other", "all", "nobody"])
async def test_who_was_cut_off_takes_nothing_over_for_a_lease(
    redis: Any, new_broker: OpenBroker, first_call: str, cut_off: str
) -> None:
    silent, other = await new_broker("silent"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, silent)
    await redis.xclaim("sf:jobs", GROUP, "silent", 0, [attempt.entry.entry_id], idle=2000)
    await redis.delete(other.keys.workers(GROUP))
    await seen_until(redis, other, "@all", 600 if cut_off == "all" else 400)
    if cut_off != "all":  # where all are cut off, this one starts just then
        await seen_until(redis, other, "other", 600 if cut_off == "other" else 400)
    began = anyio.current_time()
    found = await other.renew([]) or await other.sweep(1) if first_call == "renew" else await other.sweep(1)
    while not found:
        await anyio.sleep(0.1)
        found = await other.sweep(1)
    waited = anyio.current_time() - began
    assert waited < 0.5 if cut_off == "nobody" else 0.9 < waited < 3


async def test_one_that_starts_takes_over_at_once_where_others_were_there(redis: Any, new_broker: OpenBroker) -> None:
    silent, other = await new_broker("silent"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, silent)
    await redis.xclaim("sf:jobs", GROUP, "silent", 0, [attempt.entry.entry_id], idle=2000)
    await redis.delete(other.keys.workers(GROUP))
    await seen_until(redis, other, "@all", 400)
    assert await other.sweep(1) == [attempt.entry]


async def test_a_clock_that_is_set_back_delays_no_takeover_by_more_than_a_lease(
    redis: Any, new_broker: OpenBroker
) -> None:
    silent, other = await new_broker("silent"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, silent)
    await redis.xclaim("sf:jobs", GROUP, "silent", 0, [attempt.entry.entry_id], idle=2000)
    tomorrow = (await redis.time())[0] * 1000 + 86_400_000
    for name in ("other", "@all"):
        await redis.hset(other.keys.workers(GROUP), name, f"{tomorrow} {tomorrow - 1000}")
    assert await other.sweep(1) == []
    for _ in range(12):
        await anyio.sleep(0.1)
        assert await other.renew([]) == []
    assert await other.sweep(1) == [attempt.entry]


async def test_leases_are_renewed_where_redis_has_no_memory(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, broker)
    await redis.xclaim("sf:jobs", GROUP, "a", 0, [attempt.entry.entry_id], idle=2000)
    await redis.config_set("maxmemory", 1)
    try:
        assert await other.sweep(1) == []  # without memory it could not begin the job
        assert await broker.renew([attempt]) == [Lease.HELD]
    finally:
        await redis.config_set("maxmemory", 0)
    assert await other.sweep(1) == []


async def test_what_waits_or_is_dead_is_never_swept(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", lease_seconds=1.0)
    for consumer in ("@retry", "@dead"):
        await append(redis)
        entry = await take_one(broker)
        await redis.xclaim("sf:jobs", GROUP, consumer, 0, [entry.entry_id], idle=60_000)
    assert await broker.sweep(10) == []


async def test_renewing_keeps_a_job_of_any_length(redis: Any, new_broker: OpenBroker) -> None:
    owner, other = await new_broker("owner"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, owner)
    await redis.xclaim("sf:jobs", GROUP, "owner", 0, [attempt.entry.entry_id], idle=3_600_000)
    assert await owner.renew([attempt]) == [Lease.HELD]
    assert await other.sweep(5) == []


async def test_a_job_that_takes_its_workers_down_is_poison(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", max_crashes=3)
    await append(redis)
    entry = await take_one(broker)
    verdicts = [await broker.start(attempt_at(entry, f"run-{number}"), EVENT) for number in range(4)]
    assert [started.verdict for started in verdicts] == ["run", "run", "run", "poison"]
    assert verdicts[-1] == Started("poison", 3, 3, 0)
    assert await broker.bury(attempt_at(entry, "run-3"), b"{}", b"{}")


async def test_released_and_crashed_attempts_are_not_used_up(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    assert await broker.release(attempt, "releases")
    assert await pending(redis) == {"@retry": 1}
    started = await broker.start(attempt_at(await take_one(broker), "run-2"), EVENT)
    assert started == Started("run", 2, 0, 1)
    assert started.used_up == 1
    assert len(await said(redis)) == 2  # only the two starts


async def test_an_entry_that_was_not_started_is_given_back_uncounted(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    entry = await take_one(broker)
    assert await broker.give_back(entry.stream, entry.entry_id)
    assert await take_one(broker) == entry
    assert await broker.start(attempt_at(entry), EVENT) == Started("run", 1, 0, 0)


async def test_entries_whose_reading_reply_was_lost_are_still_ours(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis, envelope="{}", traceparent="00-1-2-01")
    [entry] = await broker.wait()
    assert await broker.owned() == [("sf:jobs", entry.entry_id)]
    assert await broker.read_owned("sf:jobs", entry.entry_id) == entry
    await redis.xdel("sf:jobs", entry.entry_id)
    assert (await broker.read_owned("sf:jobs", entry.entry_id)).envelope is None


# --- cancelling


async def test_a_cancelled_job_is_started_only_to_be_answered(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    await redis.set("sf:cancel:e-1", "1")
    attempt = attempt_at(await take_one(broker))
    assert (await broker.start(attempt, EVENT)).verdict == "cancelled"
    assert await said(redis) == []
    assert await broker.finish(attempt, "CANCELLED", b"{}", b"{}")
    assert not await redis.exists("sf:cancel:e-1")


async def test_renewing_hears_of_a_cancellation(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    await redis.set("sf:cancel:e-1", "1")
    assert await broker.renew([attempt]) == [Lease.TO_BE_CANCELLED]


# --- taking


async def test_slots_ask_first_where_they_are_told_and_then_by_rank(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for stream in ("sf:jobs:high", "sf:jobs:high", "sf:jobs", "sf:jobs:low"):
        await append(redis, stream)
    assert [entry.stream for entry in await broker.take([3, 1])] == ["sf:jobs:low", "sf:jobs:high"]
    assert [entry.stream for entry in await broker.take([3, 3, 3, 3])] == ["sf:jobs:high", "sf:jobs"]
    assert await broker.take([1]) == []


@pytest.mark.parametrize("again", ["retry", "replay"])
async def test_ones_that_run_again_share_the_slots_of_their_stream(
    redis: Any, new_broker: OpenBroker, again: str
) -> None:
    broker, order = await new_broker("a"), RankOrder()
    ids = [await append(redis) for _ in range(40)]
    for number, entry in enumerate(await broker.take([2] * 40)):
        attempt = attempt_at(entry, execution_id=f"e-{number}")
        assert (await broker.start(attempt, EVENT)).verdict == "run"
        if again == "retry":
            assert await broker.retry(attempt, b"{}", 0)
        else:
            assert await broker.bury(attempt, b"{}", b"{}")
            assert await broker.replay(attempt, b"{}") == "replayed"
    new = [await append(redis) for _ in range(20)]
    for stream in ("sf:jobs:high", "sf:jobs:low"):
        await append(redis, stream)
    entries = [entry for _ in range(62) for entry in await broker.take(order.deal(1))]
    streams = [entry.stream for entry in entries]
    assert streams.index("sf:jobs:high") == 0
    assert streams.index("sf:jobs:low") < 10
    taken = [entry.entry_id for entry in entries if entry.stream == "sf:jobs"]
    assert {*taken[:40:2], *taken[40:]} == set(ids)
    assert taken[1:40:2] == new


async def test_an_urgent_job_is_tried_again_as_an_urgent_one(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    urgent = await append(redis, "sf:jobs:high")
    attempt = attempt_at(await take_one(broker))
    await broker.start(attempt, EVENT)
    for _ in range(5):
        await append(redis)
    assert await broker.retry(attempt, b"{}", 0)
    assert [entry.entry_id for entry in await broker.take([2, 1])][1] == urgent


async def test_what_waits_no_more_hides_nothing_that_is_due(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    assert await broker.retry(attempt, b"{}", 0)
    await redis.zadd("sf:retries:normal:secretflow", {f"1-{number}": 1 for number in range(50)})
    assert await take_one(broker) == attempt.entry
    assert await redis.zcard("sf:retries:normal:secretflow") == 0


async def test_no_more_is_taken_than_there_are_slots(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for _ in range(5):
        await append(redis)
    assert len(await broker.take([1, 1])) == 2
    assert sum((await pending(redis)).values()) == 2


async def test_two_groups_on_a_stream_delete_only_what_both_have_settled(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("b", group="other")
    attempt = await begun(redis, broker)
    await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    assert await redis.xlen("sf:jobs") == 1
    [entry] = await other.take([1])
    assert (await other.start(attempt_at(entry, "run-2"), EVENT)).verdict == "duplicate"
    assert await redis.xlen("sf:jobs") == 0


# --- the server


async def test_scripts_are_loaded_again_after_a_server_forgot_them(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await redis.script_flush()
    await begun(redis, broker)


async def test_a_worker_that_leaves_takes_only_empty_consumers_with_it(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await begun(redis, broker)
    await broker.heartbeat(b"{}")
    await broker.leave()
    assert await pending(redis) == {"a": 1}
    assert not await redis.exists("sf:worker:a")
    assert await redis.xinfo_consumers("sf:jobs:low", GROUP) == []


async def test_events_are_json_whatever_the_attempt(redis: Any, new_broker: OpenBroker) -> None:
    await begun(redis, await new_broker("a"))
    [(_, _, payload)] = await said(redis)
    assert json.loads(payload) == {"attempt": 1, "status": "RUNNING"}


async def test_calls_share_trips_and_each_gets_its_own_reply(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for _ in range(2 * MOST_TRIPS * LARGEST_BATCH + 50):
        await append(redis)
    entries = await broker.take([1] * (2 * MOST_TRIPS * LARGEST_BATCH + 50))
    verdicts: dict[str, str] = {}

    async def start(entry: Entry) -> None:
        attempt = attempt_at(entry, f"run-{entry.entry_id}", f"e-{entry.entry_id}")
        verdicts[entry.entry_id] = (await broker.start(attempt, EVENT)).verdict

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for entry in entries:
                tasks.start_soon(start, entry)
    assert set(verdicts) == {entry.entry_id for entry in entries}
    assert set(verdicts.values()) == {"run"}
    assert len(await said(redis)) == len(entries)


async def test_each_call_gets_its_own_reply_whichever_others_are_given_up(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    held = await begun(redis, broker)
    not_ours = replace(held, run="somebody else's")
    for seed in range(2 * MOST_TRIPS):  # a trip that is never given back would be missing in the end
        chance = random.Random(seed)
        asked = [chance.random() < 0.5 for _ in range(200)]
        heard: dict[int, bool] = {}

        async def progress(number: int, chance: random.Random, asked: list[bool], heard: dict[int, bool]) -> None:
            with anyio.move_on_after(chance.choice([0.0, 0.001, 0.003, 60.0])):
                await anyio.sleep(chance.choice([0.0, 0.002]))
                heard[number] = await broker.progress(held if asked[number] else not_ours, b"{}")

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(len(asked)):
                    tasks.start_soon(progress, number, chance, asked, heard)
        assert 20 < len(heard) < len(asked)
        assert heard == {number: asked[number] for number in heard}
    with anyio.fail_after(5):
        assert await broker.progress(held, b"{}")


async def test_a_lost_connection_ends_every_call_and_none_of_the_next(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    held = await begun(redis, broker)
    ended: list[bool] = []

    async def progress() -> None:
        try:
            ended.append(await broker.progress(held, b"{}"))
        except RedisError:
            ended.append(False)

    for _ in range(5):
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(progress)
                tasks.start_soon(redis.client_kill_filter, None, "normal", None, True)
        assert await broker.progress(held, b"{}")
    assert len(ended) == 500
    assert {True, False} == set(ended)


async def test_a_call_that_is_given_up_does_not_take_others_with_it(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    attempt = attempt_at(await take_one(broker))
    with anyio.move_on_after(0):
        await broker.progress(attempt, b"{}")
    assert (await broker.start(attempt, EVENT)).verdict == "run"


async def test_what_cannot_be_sent_is_an_error_and_later_calls_go_on(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    with pytest.raises(TypeError):
        await broker.progress(Attempt(Entry("sf:jobs", "1-1", b""), "run", "e", None, None), object())
    await begun(redis, broker)


async def test_leaving_keeps_a_job_that_arrives_meanwhile(redis: Any, new_broker: OpenBroker) -> None:
    """The reading reply may be lost, but then the entry is still pending, and is swept by others."""
    leaving, other = await new_broker("leaving"), await new_broker("other", lease_seconds=1.0)
    await append(redis)
    await take_one(leaving)
    await leaving.leave()
    assert await pending(redis) == {"leaving": 1}
    await redis.xclaim("sf:jobs", GROUP, "leaving", 0, [(await redis.xrange("sf:jobs"))[0][0]], idle=2000)
    assert len(await other.sweep(1)) == 1


async def test_an_entry_deleted_before_it_began_is_answered_under_its_own_id(
    redis: Any, new_broker: OpenBroker
) -> None:
    dead, other = await new_broker("dead"), await new_broker("other", lease_seconds=1.0)
    await append(redis)
    entry = await take_one(dead)
    lost = await found_without_payload(redis, other, entry)
    assert lost.execution_id is None
    assert await other.lost(lost, b"{}", b"{}") == []
    assert await other.lost(lost, b"{}", b"{}") is None
    assert await pending(redis) == {}
    await append(redis)  # nobody had heard of this execution
    assert await other.start(attempt_at(await take_one(other), "run-3"), EVENT) == Started("run", 1, 0, 0)


async def test_an_execution_whose_payload_is_deleted_is_answered_under_its_id(
    redis: Any, new_broker: OpenBroker
) -> None:
    dead, other = await new_broker("dead"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, dead)
    assert await dead.wrote(attempt, "/data/.x")
    lost = await found_without_payload(redis, other, attempt.entry)
    assert (lost.execution_id, lost.task_id, lost.subtask_id) == ("e-1", "t", "s")
    assert await other.lost(lost, b"{}", b'{"r":1}') == ["/data/.x"]
    assert await other.lost(lost, b"{}", b"{}") is None
    assert await redis.get("sf:result:e-1") == b'{"r":1}'
    assert await pending(redis) == {}
    assert not await dead.finish(attempt, "SUCCESS", b"{}", b"{}")
    await append(redis)
    assert (await other.start(attempt_at(await take_one(other), "run-3"), EVENT)).verdict == "duplicate"
    assert await redis.exists(f"sf:answers:{GROUP}") == 0
    assert await redis.ttl("sf:exec:e-1") > 0


async def test_one_whose_payload_is_deleted_and_that_is_sent_again_is_not_lost(
    redis: Any, new_broker: OpenBroker
) -> None:
    dead, other = await new_broker("dead"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, dead)
    lost = await found_without_payload(redis, other, attempt.entry)
    await append(redis)
    again = attempt_at(await take_one(other), "run-3")
    assert await other.start(again, EVENT) == Started("run", 1, 0, 0)
    assert await other.lost(lost, b"{}", b"{}") is None
    assert await pending(redis) == {"other": 1}
    assert await other.finish(again, "SUCCESS", b"{}", b"{}")
    assert [status for kind, status, _ in await said(redis) if kind == "result"] == ["SUCCESS"]
    assert await redis.exists(f"sf:answers:{GROUP}") == 0


async def test_one_that_waits_for_its_next_attempt_may_be_lost(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await begun(redis, broker)
    assert await broker.retry(attempt, b"{}", 0.0)
    await redis.xdel("sf:jobs", attempt.entry.entry_id)
    found = await take_one(broker)
    lost = await broker.identify(attempt_at(found, "run-2", None))
    assert (found.envelope, lost.execution_id) == (None, "e-1")
    assert await broker.lost(lost, b"{}", b"{}") == []
    assert await pending(redis) == {}


async def found_without_payload(redis: Any, finder: Broker, entry: Entry) -> Attempt:
    """Delete what a dead worker's entry holds, and take it over."""
    await redis.xclaim("sf:jobs", GROUP, "dead", 0, [entry.entry_id], idle=2000)
    await redis.xdel("sf:jobs", entry.entry_id)
    [found] = await finder.sweep(5)
    assert found == Entry("sf:jobs", entry.entry_id, None)
    return await finder.identify(attempt_at(found, "run-2", None))


async def test_a_repeated_start_keeps_its_verdict(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", max_crashes=1)
    await append(redis)
    entry = await take_one(broker)
    await broker.start(attempt_at(entry, "run-1"), EVENT)
    for _ in range(2):
        assert (await broker.start(attempt_at(entry, "run-2"), EVENT)).verdict == "poison"


async def test_the_next_attempt_hears_what_the_ones_before_have_written(redis: Any, new_broker: OpenBroker) -> None:
    dead, other = await new_broker("dead"), await new_broker("other", lease_seconds=1.0)
    attempt = await begun(redis, dead)
    for path in ("/data/一", "/data/b", "/data/一"):
        assert await dead.wrote(attempt, path)
    await redis.xclaim("sf:jobs", GROUP, "dead", 0, [attempt.entry.entry_id], idle=2000)
    [entry] = await other.sweep(5)
    assert not await other.wrote(attempt_at(entry, "run-2"), "/data/c")  # has not begun
    assert (await other.start(attempt_at(entry, "run-2"), EVENT)).written == ["/data/一", "/data/b"]
    assert not await dead.wrote(attempt, "/data/c")
