"""Each outcome is kept as long, and as many of it, as settings say; what goes beyond, goes whole and by steps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sfworker.broker.broker import Attempt, Broker
from sfworker.broker.dead import dead_jobs
from sfworker.broker.finding import Wanted, executions
from sfworker.broker.keys import Keys
from tests.broker.conftest import GROUP, OpenBroker
from tests.broker.test_state_changes import EVENT, pending

HOUR, DAY = 3600, 86_400


async def begin(redis: Any, broker: Broker, execution_id: str | None) -> Attempt:
    ids = {"execution_id": execution_id} if execution_id else {}
    await redis.xadd("sf:jobs", {"envelope": json.dumps({**ids, "task_config": {"task_type": "psi"}})})
    [entry] = await broker.take([1])
    attempt = Attempt.of(entry)
    assert (await broker.start(attempt, EVENT)).verdict == "run"
    return attempt


async def end(redis: Any, broker: Broker, execution_id: str | None, outcome: str) -> Attempt:
    """An execution that ended so."""
    if outcome == "cancelled in the queue":
        envelope = json.dumps({"execution_id": execution_id})
        await redis.xadd("sf:jobs", {"envelope": envelope})
        [(entry_id, _)] = await redis.xrevrange("sf:jobs", count=1)
        await redis.set(f"sf:cancel:{execution_id}", "1")
        [queued] = [entry async for entry in broker.queued() if entry.entry_id == entry_id.decode()]
        assert await broker.cancel_queued(Attempt.of(queued), b"{}", b"{}")
        return Attempt.of(queued)
    attempt = await begin(redis, broker, execution_id)
    if outcome == "failure":
        assert await broker.bury(attempt, b'{"error_type": "E"}', b"{}")
    elif outcome == "lost":
        await redis.xdel("sf:jobs", attempt.entry.entry_id)
        assert await broker.lost(attempt, b"{}", b"{}") == []
    else:
        status = {"success": "SUCCESS", "cancelled": "CANCELLED"}[outcome]
        assert await broker.finish(attempt, status, b"{}", b"{}")
    return attempt


async def listed(redis: Any, *states: Any) -> list[str]:
    wanted = Wanted(states=frozenset(states or ("success", "failure", "cancelled")))
    return [one.execution_id async for one in executions(redis, Keys(), GROUP, wanted)]


LENGTHS = [
    ("success", HOUR, DAY),
    ("failure", 3 * HOUR, 3 * DAY),
    ("lost", 3 * HOUR, 3 * DAY),
    ("cancelled", 9 * HOUR, 9 * DAY),
    ("cancelled in the queue", 9 * HOUR, 9 * DAY),
]


@pytest.mark.parametrize(("outcome", "of_result", "of_record"), LENGTHS)
async def test_each_outcome_is_kept_as_long_as_its_own_settings_say(
    redis: Any, new_broker: OpenBroker, outcome: str, of_result: int, of_record: int
) -> None:
    broker = await new_broker(
        "a",
        result_ttl=9 * HOUR,
        result_ttl_of={"success": HOUR, "failure": 3 * HOUR},
        retention=9 * DAY,
        retention_of={"success": DAY, "failure": 3 * DAY},
    )
    await end(redis, broker, "e-1", outcome)
    until_the_dead_are_settled = DAY if outcome == "failure" else 0
    assert of_record - 60 < await redis.ttl("sf:exec:e-1") - until_the_dead_are_settled <= of_record
    assert of_result - 60 < await redis.ttl("sf:result:e-1") <= of_result
    if outcome not in ("failure", "lost"):  # where the entry holds the envelope, or nothing does
        assert of_result - 60 < await redis.ttl("sf:envelope:e-1") <= of_result


async def test_lists_let_each_outcome_go_at_its_own_time(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", retention=DAY, retention_of={"failure": 3 * DAY, "success": 60})
    for number, outcome in enumerate(("success", "failure", "cancelled")):
        await end(redis, broker, f"e-{number}", outcome)
    assert sorted(await listed(redis)) == ["e-0", "e-1", "e-2"]  # they may have ended in the same millisecond
    assert await listed(redis, "failure") == ["e-1"]

    async def age(seconds: int) -> None:
        for index in ("sf:ended", "sf:ended:failure", "sf:ended:cancelled"):
            for member, at in await redis.zrange(index, 0, -1, withscores=True):
                await redis.zadd(index, {member: at - 1000 * seconds})

    left = []
    for seconds in (120, DAY, 2 * DAY):
        await age(seconds)
        await broker.tidy()
        left.append(sorted(await listed(redis)))
    assert left == [["e-1", "e-2"], ["e-1"], []]


async def test_the_dead_are_settled_by_the_time_of_failures(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", retention=60, retention_of={"failure": 120})
    attempt = await end(redis, broker, "e-1", "failure")
    for idle, left in ((90_000, {"@dead": 1}), (130_000, {})):
        await redis.xclaim("sf:jobs", GROUP, "@dead", 0, [attempt.entry.entry_id], idle=idle, justid=True)
        await broker.tidy()
        assert await pending(redis) == left


@pytest.mark.parametrize("outcome", ["success", "failure", "lost", "cancelled", "cancelled in the queue"])
async def test_of_more_than_are_kept_the_oldest_go_whole(redis: Any, new_broker: OpenBroker, outcome: str) -> None:
    kind = {"lost": "failure", "cancelled in the queue": "cancelled"}.get(outcome, outcome)
    broker = await new_broker("a", most_kept_of={kind: 2})
    other = "success" if kind != "success" else "cancelled"
    await end(redis, broker, "other", other)
    for number in range(5):
        await end(redis, broker, f"e-{number}", outcome)
    assert sorted(await listed(redis)) == ["e-3", "e-4", "other"]
    for what in ("exec", "result"):
        assert {key.decode() for key in await redis.keys(f"sf:{what}:*")} == {
            f"sf:{what}:{name}" for name in ("e-3", "e-4", "other")
        }
    assert all(key.split(b":")[-1] in (b"e-3", b"e-4", b"other") for key in await redis.keys("sf:envelope:*"))
    dead = [job.attempt.known_as async for job in dead_jobs(redis, Keys(), GROUP)]
    assert dead == (["e-3", "e-4"] if outcome == "failure" else [])
    assert await redis.xlen("sf:jobs") == len(dead)


async def test_one_whose_envelope_held_no_id_goes_whole(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", most_kept_of={"failure": 1})
    for _ in range(2):
        last = await end(redis, broker, None, "failure")
    assert {key.decode() for key in await redis.keys("sf:exec:*")} == {f"sf:exec:sf:jobs {last.entry.entry_id}"}
    assert {key.decode() for key in await redis.keys("sf:result:*")} == {f"sf:result:{last.entry.entry_id}"}
    assert await pending(redis) == {"@dead": 1}


async def test_what_was_replayed_or_sent_again_since_stays(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", most_kept_of={"failure": 1, "success": 1})
    buried = await end(redis, broker, "replayed", "failure")
    assert await broker.replay(buried, b"{}") == "replayed"
    [entry] = await broker.take([1])
    running = Attempt.of(entry)
    assert (await broker.start(running, EVENT)).verdict == "run"
    # As a list of an earlier version may still hold it, too.
    facts = ["replayed", "FAILURE", "psi", "E", "a", 1, 0, "sf:jobs", buried.entry.entry_id, "", ""]
    await redis.zadd("sf:ended:failure", {json.dumps(facts): 1})
    await end(redis, broker, "e-1", "failure")
    assert await redis.hget("sf:exec:replayed", "state") == b"running"
    assert await broker.finish(running, "SUCCESS", b"{}", b"{}")
    # Sent again when nothing was known of it any more.
    await end(redis, broker, "again", "success")
    await redis.delete("sf:exec:again")
    await end(redis, broker, "again", "success")
    assert await redis.exists("sf:exec:again", "sf:result:again", "sf:envelope:again") == 3


async def test_a_bound_that_is_lowered_is_reached_by_steps(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for number in range(30):
        await end(redis, broker, f"e-{number}", "success")
    bounded = await new_broker("b", most_kept_of={"success": 5})
    left = []
    for number in range(30, 34):
        await end(redis, bounded, f"e-{number}", "success")
        left.append((await redis.zcard("sf:ended"), len(await redis.keys("sf:result:*"))))
    assert left == [(21, 21), (12, 12), (5, 5), (5, 5)]


async def test_what_stands_in_a_list_or_in_the_place_of_a_record_costs_no_answer(
    redis: Any, new_broker: OpenBroker
) -> None:
    broker = await new_broker("a", most_kept_of={"success": 1})
    await redis.zadd("sf:ended", {"no JSON": 1, "[]": 2, '["x", 1]': 3, '{"a": []}': 4})
    await redis.set("sf:exec:odd", "x")
    facts = ["odd", "SUCCESS", "psi", "", "a", 1, 0, "sf:jobs", "1-1", "", ""]
    await redis.zadd("sf:ended", {json.dumps(facts): 5})
    await end(redis, broker, "e-1", "success")
    assert await listed(redis) == ["e-1"]
    assert await redis.get("sf:exec:odd") == b"x"
