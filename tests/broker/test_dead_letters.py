"""How attempts ended, and what can be done with an execution that failed for good, on a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sfworker.broker import dead
from sfworker.broker.broker import OUTLAST_SECONDS, Attempt, Broker, Started
from sfworker.broker.dead import DeadJob, PastAttempt, dead_jobs, find_dead_job
from sfworker.broker.entry import Entry
from sfworker.broker.keys import Keys
from tests.broker.conftest import GROUP, OpenBroker

EVENT = (b'{"attempt":', b',"status":"RUNNING"}')
ERROR = {"error_type": "InputDataError", "error": "input_paths.alice: 行 3 holds no number"}
FAILURE = json.dumps(ERROR, ensure_ascii=False).encode()
REPLAYED = b'{"stage":"task_replayed"}'
KEYS = Keys()


async def append(redis: Any, execution_id: str = "e-1", stream: str = "sf:jobs") -> str:
    envelope = {"execution_id": execution_id, "task_id": "t", "subtask_id": "s"}
    entry_id: bytes = await redis.xadd(stream, {"envelope": json.dumps(envelope)})
    return entry_id.decode()


async def begin(broker: Broker) -> Attempt:
    """The next entry, taken and started."""
    [entry] = await broker.take([1])
    attempt = Attempt.of(entry)
    assert (await broker.start(attempt, EVENT)).verdict == "run"
    return attempt


async def buried(redis: Any, broker: Broker, execution_id: str = "e-1") -> Attempt:
    await append(redis, execution_id)
    attempt = await begin(broker)
    assert await broker.bury(attempt, FAILURE, b'{"status":"failure"}')
    return attempt


async def owners(redis: Any, stream: str = "sf:jobs") -> list[str]:
    """Who owns the pending entries, in their order."""
    return [entry["consumer"].decode() for entry in await redis.xpending_range(stream, GROUP, "-", "+", 100)]


async def all_dead(redis: Any, group: str = GROUP) -> list[DeadJob]:
    return [job async for job in dead_jobs(redis, KEYS, group)]


async def history(redis: Any, execution_id: str = "e-1") -> list[PastAttempt]:
    job = await find_dead_job(redis, KEYS, GROUP, execution_id)
    assert job is not None
    return job.history


async def said(redis: Any) -> list[tuple[bytes, bytes]]:
    return [(fields[b"kind"], fields[b"payload"]) for _, fields in await redis.xrange("sf:results")]


async def snapshot(redis: Any) -> dict[bytes, Any]:
    """All there is but times to live."""
    found: dict[bytes, Any] = {b"": await owners(redis)}
    for key in await redis.keys("*"):
        is_hash = await redis.type(key) == b"hash"  # of which a dump has no order
        found[key] = await (redis.hgetall(key) if is_hash else redis.dump(key))
    return found


# --- history


async def test_every_attempt_is_kept_with_how_it_ended(redis: Any, new_broker: OpenBroker) -> None:
    first, second = await new_broker("first"), await new_broker("second", lease_seconds=1.0)
    await append(redis)
    assert await first.retry(await begin(first), FAILURE, 0)
    assert await first.release(await begin(first), "releases")
    assert await first.release(await begin(first), "crashes")
    silent = await begin(first)
    await redis.xclaim("sf:jobs", GROUP, "first", 0, [silent.entry.entry_id], idle=2000)
    [entry] = await second.sweep(1)
    last = Attempt.of(entry)
    assert await second.start(last, EVENT) == Started("run", 5, 2, 1)
    assert await second.bury(last, FAILURE, b"{}")

    past = await history(redis)
    assert [(at.attempt, at.worker, at.outcome) for at in past] == [
        (1, "first", "retrying"),
        (2, "first", "released"),
        (3, "first", "crashed"),
        (4, "first", "crashed"),
        (5, "second", "failed"),
    ]
    assert [at.error_type for at in past] == ["InputDataError", None, None, None, "InputDataError"]
    assert past[0].error == ERROR["error"]
    now, _ = await redis.time()
    times = [time for at in past for time in (at.started, at.ended)]
    assert times == sorted(times)
    assert abs(now * 1000 - times[-1]) < 10_000


async def test_a_job_that_is_poison_was_not_attempted_again(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", max_crashes=2)
    await append(redis)
    [entry] = await broker.take([1])
    attempts = [Attempt.of(entry) for _ in range(3)]
    assert [(await broker.start(one, EVENT)).verdict for one in attempts] == ["run", "run", "poison"]
    assert await broker.bury(attempts[-1], b'{"error_type":"CrashLoopError"}', b"{}")
    assert [(at.attempt, at.outcome) for at in await history(redis)] == [(1, "crashed"), (2, "crashed")]
    [job] = await all_dead(redis)
    assert (job.attempts, job.error_type) == (2, "CrashLoopError")


@pytest.mark.parametrize("found_out", ["before the next attempt", "after it began", "after it failed"])
async def test_a_worker_that_comes_back_did_not_crash(redis: Any, new_broker: OpenBroker, found_out: str) -> None:
    paused, other = await new_broker("paused"), await new_broker("other")
    await append(redis)
    attempt = await begin(paused)
    await redis.xclaim("sf:jobs", GROUP, "other", 0, [attempt.entry.entry_id])
    if found_out == "before the next attempt":
        await paused.disown(attempt)
    following = Attempt.of(attempt.entry)
    known = found_out == "before the next attempt"
    assert await other.start(following, EVENT) == Started("run", 2, 0 if known else 1, 1 if known else 0)
    if found_out == "after it began":
        await paused.disown(attempt)
    assert await other.bury(following, FAILURE, b"{}")
    if found_out == "after it failed":
        await paused.disown(attempt)
    assert [(at.worker, at.outcome) for at in await history(redis)] == [("paused", "lease_lost"), ("other", "failed")]
    assert await redis.hmget("sf:exec:e-1", "attempt", "crashes", "releases") == [b"2", b"0", b"1"]


async def test_a_worker_that_comes_back_after_a_replay_changes_no_counter(redis: Any, new_broker: OpenBroker) -> None:
    paused, other = await new_broker("paused"), await new_broker("other")
    await append(redis)
    attempt = await begin(paused)
    await redis.xclaim("sf:jobs", GROUP, "other", 0, [attempt.entry.entry_id])
    following = Attempt.of(attempt.entry)
    await other.start(following, EVENT)
    assert await other.bury(following, FAILURE, b"{}")
    assert await other.replay(following, REPLAYED) == "replayed"
    await paused.disown(attempt)
    assert await redis.hmget("sf:exec:e-1", "attempt", "crashes", "releases") == [b"0"] * 3


async def test_disowning_says_nothing_of_attempts_that_ended_otherwise(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    attempt = await begin(broker)
    before = await snapshot(redis)
    await broker.disown(attempt)  # it still owns the entry
    await broker.disown(Attempt(attempt.entry, "unknown", "e-2", None, None))
    assert await snapshot(redis) == before
    assert await broker.retry(attempt, FAILURE, 60)
    before = await snapshot(redis)
    await broker.disown(attempt)
    assert await snapshot(redis) == before


async def test_the_last_hundred_attempts_are_kept_and_expire_with_the_record(
    redis: Any, new_broker: OpenBroker
) -> None:
    broker = await new_broker("a", retention=60)
    await append(redis)
    for _ in range(120):
        assert await broker.retry(await begin(broker), FAILURE, 0)
    assert await broker.bury(await begin(broker), FAILURE, b"{}")
    assert [at.attempt for at in await history(redis)] == list(range(22, 122))
    assert 60 < await redis.ttl("sf:exec:e-1") <= 60 + OUTLAST_SECONDS
    assert [key for key in await redis.keys("*") if b"e-1" in key] in (
        [b"sf:exec:e-1", b"sf:result:e-1"],
        [b"sf:result:e-1", b"sf:exec:e-1"],
    )


# --- listing and finding


async def test_the_dead_are_listed_page_by_page(
    redis: Any, new_broker: OpenBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "PAGE", 3)
    broker, other = await new_broker("a"), await new_broker("b", group="other")
    names = [f"e-{number}" for number in range(7)]
    for name in names:
        await buried(redis, broker, name)
    await append(redis, "queued", "sf:jobs:high")
    await append(redis, "lives")
    await broker.take([2])
    assert [job.attempt.execution_id for job in await all_dead(redis)] == names
    assert await all_dead(redis, "other") == []
    assert await all_dead(redis, "no such group") == []
    job = (await all_dead(redis))[3]
    assert (job.attempts, job.replays, job.error_type, job.error) == (1, 0, ERROR["error_type"], ERROR["error"])
    now, _ = await redis.time()
    assert abs(job.buried_at - now) < 10
    assert other.keys == broker.keys


async def test_a_dead_job_is_found_by_either_id(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await buried(redis, broker)
    # Entries of two streams may have the same id where they were appended in the same millisecond.
    garbage: bytes = await redis.xadd("sf:jobs:low", {"envelope": "garbage"}, id="9999999999999-0")
    await broker.bury(await begin(broker), FAILURE, b"{}")
    for known_as in ("e-1", attempt.entry.entry_id):
        found = await find_dead_job(redis, KEYS, GROUP, known_as)
        assert found is not None
        assert found.attempt.entry == attempt.entry
    found = await find_dead_job(redis, KEYS, GROUP, garbage.decode())
    assert found is not None
    assert (found.attempt.entry.stream, found.attempt.execution_id) == ("sf:jobs:low", None)
    assert await find_dead_job(redis, KEYS, GROUP, "e-2") is None
    assert await find_dead_job(redis, KEYS, "other", "e-1") is None
    await redis.delete("sf:exec:e-1")
    assert await find_dead_job(redis, KEYS, GROUP, "e-1") is None
    found = await find_dead_job(redis, KEYS, GROUP, attempt.entry.entry_id)
    assert found is not None
    assert (found.attempts, found.error_type, found.history) == (None, None, [])
    await broker.purge(attempt.entry)
    assert await find_dead_job(redis, KEYS, GROUP, "e-1") is None


# --- replay


async def test_a_replay_is_a_new_life_with_the_old_history(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", max_crashes=2)
    await append(redis)
    assert await broker.release(await begin(broker), "crashes")
    assert await broker.retry(await begin(broker), FAILURE, 0)
    attempt = await begin(broker)
    assert await broker.bury(attempt, FAILURE, b'{"status":"failure"}')
    await redis.set("sf:cancel:e-1", "1")
    async with redis.pubsub() as listener:
        await listener.subscribe("task_status", "task_status:e-1")
        assert await broker.replay(attempt, REPLAYED) == "replayed"
        heard: list[tuple[bytes, bytes]] = []
        while len(heard) < 2:
            message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
            heard += [(message["channel"], message["data"])] if message else []
    assert set(heard) == {(b"task_status", REPLAYED), (b"task_status:e-1", REPLAYED)}
    assert (await said(redis))[-1] == (b"status", REPLAYED)
    assert await owners(redis) == ["@retry"]
    assert await redis.ttl("sf:exec:e-1") == -1
    assert not await redis.exists("sf:result:e-1", "sf:cancel:e-1")

    again = await begin(broker)
    assert again.entry == attempt.entry
    assert await redis.hmget("sf:exec:e-1", "attempt", "crashes", "releases") == [b"1", b"0", b"0"]
    assert await broker.bury(again, FAILURE, b'{"status":"failure"}')
    assert [(at.attempt, at.replays) for at in await history(redis)] == [(1, 0), (2, 0), (3, 0), (1, 1)]
    assert await broker.replay(again, REPLAYED) == "replayed"
    assert await broker.finish(await begin(broker), "SUCCESS", b"{}", b'{"status":"success"}')
    assert await redis.get("sf:result:e-1") == b'{"status":"success"}'
    assert await redis.ttl("sf:exec:e-1") > 0
    assert await redis.xlen("sf:jobs") == 0


async def test_only_the_dead_are_replayed(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await buried(redis, broker)
    queued = Attempt.of(Entry("sf:jobs", await append(redis, "e-2"), b""))
    assert await broker.replay(attempt, REPLAYED) == "replayed"

    async def nothing_happens(one: Attempt) -> None:
        before = await snapshot(redis)
        assert await broker.replay(one, REPLAYED) == "not dead"
        assert not await broker.purge(one.entry)
        assert await snapshot(redis) == before

    await nothing_happens(attempt)  # it waits
    await nothing_happens(queued)
    again = await begin(broker)
    await nothing_happens(again)
    await broker.finish(again, "SUCCESS", b"{}", b"{}")
    await nothing_happens(again)
    await nothing_happens(Attempt.of(Entry("sf:jobs:low", "1-1", b"")))


async def test_a_job_whose_payload_is_gone_is_not_replayed_into_nothing(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await buried(redis, broker)
    await redis.xdel("sf:jobs", attempt.entry.entry_id)
    before = await snapshot(redis)
    assert await broker.replay(attempt, REPLAYED) == "gone"
    assert await snapshot(redis) == before
    found = await find_dead_job(redis, KEYS, GROUP, "e-1")
    assert found is not None
    assert found.attempt.entry.envelope is None
    assert await broker.purge(found.attempt.entry)
    assert await owners(redis) == []


async def test_a_replay_needs_no_record(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await buried(redis, broker)
    await redis.delete("sf:exec:e-1", "sf:result:e-1")
    assert await broker.replay(attempt, REPLAYED) == "replayed"
    duplicate = await append(redis)
    assert await broker.finish(await begin(broker), "SUCCESS", b"{}", b"{}")
    [entry] = await broker.take([1])
    assert entry.entry_id == duplicate
    assert (await broker.start(Attempt.of(entry), EVENT)).verdict == "duplicate"


async def test_what_was_sent_again_stands_instead_of_what_is_replayed(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await buried(redis, broker)
    await redis.delete("sf:exec:e-1")
    await append(redis)
    newer = await begin(broker)
    assert await broker.replay(attempt, REPLAYED) == "superseded"
    assert await broker.finish(newer, "SUCCESS", b"{}", b"{}")
    assert await broker.replay(attempt, REPLAYED) == "superseded"
    assert [job.error_type for job in await all_dead(redis)] == [None]  # its record is about the other entry
    assert await broker.purge(attempt.entry)


async def test_an_answer_of_the_life_before_comes_too_late(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await buried(redis, broker)
    await broker.replay(attempt, REPLAYED)
    await begin(broker)
    before = await snapshot(redis)
    assert not await broker.bury(attempt, FAILURE, b"{}")  # the first reply was lost
    assert not await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    assert not await broker.retry(attempt, FAILURE, 0)
    assert await snapshot(redis) == before


async def test_a_replay_is_found_again_after_its_due_time_was_lost(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", retention=60)
    attempt = await buried(redis, broker)
    await buried(redis, broker, "stays dead")
    await broker.replay(attempt, REPLAYED)
    await redis.delete("sf:retries:normal:secretflow")
    assert await broker.take([1]) == []
    assert await broker.tidy() == 1
    assert (await begin(broker)).entry == attempt.entry
    assert await owners(redis) == ["a", "@dead"]


# --- purge


async def test_purging_deletes_what_every_group_has_acknowledged(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("b", group="other")
    attempt = await buried(redis, broker)
    assert await broker.purge(attempt.entry)
    assert not await broker.purge(attempt.entry)
    assert await owners(redis) == []
    assert await redis.xlen("sf:jobs") == 1
    [entry] = await other.take([1])
    assert (await other.start(Attempt.of(entry), EVENT)).verdict == "duplicate"
    assert await redis.xlen("sf:jobs") == 0


async def test_what_was_purged_was_answered_and_is_not_run_again(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await buried(redis, broker)
    await broker.purge(attempt.entry)
    await append(redis)
    [entry] = await broker.take([1])
    assert (await broker.start(Attempt.of(entry), EVENT)).verdict == "duplicate"
    assert await redis.xlen("sf:jobs") == 0
    assert await broker.replay(attempt, REPLAYED) == "not dead"


# --- cancelling one that waits


async def test_one_that_waits_is_handed_out_to_be_cancelled(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("b", group="other")
    await append(redis)
    attempt = await begin(broker)
    await redis.set("sf:cancel:e-1", "1")
    assert await broker.withdraw("e-1") is None  # it runs
    await redis.delete("sf:cancel:e-1")
    assert await broker.retry(attempt, FAILURE, 3600)
    assert await broker.withdraw("e-1") is None  # nobody wants it cancelled
    await redis.set("sf:cancel:e-1", "1")
    assert await other.withdraw("e-1") is None  # it is not this group's
    assert await broker.withdraw("e-1") == attempt.entry
    assert await broker.withdraw("e-1") is None
    assert await redis.zcard("sf:retries:normal:secretflow") == 0
    assert (await broker.start(Attempt.of(attempt.entry), EVENT)).verdict == "cancelled"


async def test_one_that_is_cancelled_while_it_fails_does_not_wait(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    attempt = await begin(broker)
    await redis.set("sf:cancel:e-1", "1")
    assert await broker.retry(attempt, FAILURE, 3600)
    [entry] = await broker.take([1])
    assert (await broker.start(Attempt.of(entry), EVENT)).verdict == "cancelled"


async def test_a_failure_that_came_first_stands(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    attempt = await begin(broker)
    await redis.set("sf:cancel:e-1", "1")
    assert await broker.bury(attempt, FAILURE, b"{}")
    assert not await redis.exists("sf:cancel:e-1")


async def test_cancelling_what_has_ended_changes_nothing(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    attempt = await buried(redis, broker)
    await buried(redis, broker, "e-2")
    assert await broker.replay(Attempt.of(attempt.entry), REPLAYED) == "replayed"
    await broker.finish(await begin(broker), "SUCCESS", b"{}", b"{}")
    before = await snapshot(redis)
    for execution_id in ("e-1", "e-2"):
        await redis.set(f"sf:cancel:{execution_id}", "1")
        assert await broker.withdraw(execution_id) is None
    assert await snapshot(redis) == before
    await redis.set("sf:cancel:not-there-yet", "1")
    assert await broker.withdraw("not-there-yet") is None
    assert await redis.exists("sf:cancel:not-there-yet")  # for its turn


# --- cancelling one that is queued


async def found(broker: Broker, execution_id: str = "e-1") -> Attempt:
    """The first of this id among the queued."""
    attempts = [Attempt.of(entry) async for entry in broker.queued()]
    return next(attempt for attempt in attempts if attempt.execution_id == execution_id)


async def test_one_worker_looks_for_all(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("b")
    await append(redis)
    assert not await broker.is_first_to_look("e-1")  # nobody wants it cancelled
    await redis.set("sf:cancel:e-1", "1", ex=60)
    assert await broker.is_first_to_look("e-1")
    assert not await other.is_first_to_look("e-1")
    assert 0 < await redis.ttl("sf:cancel:e-1") <= 60
    await redis.set("sf:cancel:e-1", "1", ex=60)  # asked again
    assert await other.is_first_to_look("e-1")
    await redis.delete("sf:cancel:e-1")
    await begin(broker)
    await redis.set("sf:cancel:e-1", "1")
    assert not await broker.is_first_to_look("e-1")  # it runs


async def test_a_queued_one_is_ended_without_being_taken(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for number in range(250):
        await append(redis, f"e-{number}")
    await broker.take([1])
    assert len([entry async for entry in broker.queued()]) == 249
    attempt = await found(broker, "e-200")
    assert not await broker.cancel_queued(attempt, b"{}", b"{}")  # nobody wants it cancelled
    await redis.set("sf:cancel:e-200", "1")
    assert await broker.cancel_queued(attempt, b'{"c":1}', b'{"r":1}')
    assert not await broker.cancel_queued(attempt, b'{"c":1}', b'{"r":1}')
    assert await redis.get("sf:result:e-200") == b'{"r":1}'
    assert await redis.xlen("sf:jobs") == 249
    assert not await redis.exists("sf:cancel:e-200")
    await append(redis, "e-200")
    for _ in range(249):
        [entry] = await broker.take([1])
    assert (await broker.start(Attempt.of(entry), EVENT)).verdict == "duplicate"


async def test_one_that_was_taken_meanwhile_is_not_ended_as_queued(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    await redis.set("sf:cancel:e-1", "1")
    attempt = await found(broker)
    [entry] = await broker.take([1])
    assert not await broker.cancel_queued(attempt, b"{}", b"{}")
    assert (await broker.start(Attempt.of(entry), EVENT)).verdict == "cancelled"


async def test_what_another_group_has_yet_to_read_stays_for_it(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("b", group="other")
    await append(redis)
    await redis.set("sf:cancel:e-1", "1")
    assert await broker.cancel_queued(await found(broker), b"{}", b"{}")
    for group in (broker, other):
        [entry] = await group.take([1])
        assert (await group.start(Attempt.of(entry), EVENT)).verdict == "duplicate"
    assert await redis.xlen("sf:jobs") == 0


async def test_one_that_was_given_back_before_it_began_is_ended_as_well(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    [entry] = await broker.take([1])
    assert await broker.give_back(entry.stream, entry.entry_id)
    await redis.set("sf:cancel:e-1", "1")
    assert await broker.withdraw("e-1") is None
    assert await broker.is_first_to_look("e-1")
    assert await broker.cancel_queued(await found(broker), b"{}", b"{}")
    assert await owners(redis) == []
    assert await redis.zcard("sf:retries:normal:secretflow") == 0
    assert await redis.xlen("sf:jobs") == 0


async def test_the_queue_is_seen_where_a_stream_or_its_group_is_gone(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await redis.delete("sf:jobs:high")
    await redis.xgroup_destroy("sf:jobs", GROUP)
    await append(redis)
    await append(redis, "e-2", "sf:jobs:low")
    for execution_id in ("e-1", "e-2"):
        await redis.set(f"sf:cancel:{execution_id}", "1")
        assert await broker.cancel_queued(await found(broker, execution_id), b"{}", b"{}")
    assert [await redis.xlen(stream) for stream in KEYS.job_streams()] == [0, 0, 0]


async def test_cancellations_that_nobody_heard_are_found(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", prefix="s[f")
    for execution_id in ("one", "two:three", "not to be cancelled"):
        await append(redis, execution_id, "s[f:jobs")
        assert await broker.retry(await begin(broker), FAILURE, 60)
    for execution_id in ("queued", "queued, too"):
        await append(redis, execution_id, "s[f:jobs:low")
    for execution_id in ("one", "two:three", "queued"):
        await redis.set(f"s[f:cancel:{execution_id}", "1")
    async with broker.cancellations() as said:
        heard = {(await anext(said))[0] for _ in range(3)}
        await redis.publish("s[f:control", "four")
        assert (heard, await anext(said)) == ({"one", "two:three", "queued"}, ("four", broker.keys))
