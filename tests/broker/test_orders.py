"""What operators pause is neither taken nor begun, and goes on where it was when they resume it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sfworker.broker.broker import Attempt, Broker, Started
from sfworker.broker.keys import Keys
from sfworker.broker.orders import NEVER_DUE, PAUSE_ALL, PAUSE_STREAM, PAUSE_TYPE, standing_orders
from sfworker.broker.overview import overview
from tests.broker.conftest import GROUP, OpenBroker
from tests.broker.test_state_changes import EVENT, append, attempt_at, notices, pending, said, take_one

TRAINING = json.dumps({"execution_id": "e-1", "task_config": {"task_type": "ss_xgb"}})


async def held(redis: Any, broker: Broker, execution_id: str = "e-1", task_type: str = "ss_xgb") -> Attempt:
    """An execution of a paused type that a worker has taken."""
    envelope = {"execution_id": execution_id, "task_config": {"task_type": task_type}}
    await append(redis, envelope=json.dumps(envelope))
    attempt = attempt_at(await take_one(broker), execution_id=execution_id)
    assert await broker.start(attempt, EVENT) == Started("held", 0, 0, 0)
    return attempt


@pytest.mark.parametrize("order", [PAUSE_ALL, f"{PAUSE_STREAM}sf:jobs"])
async def test_nothing_is_taken_from_a_paused_stream(redis: Any, new_broker: OpenBroker, order: str) -> None:
    broker = await new_broker("a")
    await broker.give_order(order)
    await append(redis)
    await append(redis, "sf:jobs:low")
    taken = [entry.stream for entry in [*await broker.take([1, 2]), *await broker.take([3])]]
    assert taken == ([] if order == PAUSE_ALL else ["sf:jobs:low"])
    assert await broker.wait() == []
    assert await pending(redis) == {}
    assert await broker.lift_order(order)
    assert not await broker.lift_order(order)
    assert {entry.stream for entry in await broker.take([1, 2])} >= {"sf:jobs"}


async def test_a_job_that_was_taken_before_its_stream_was_paused_goes_back(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await append(redis)
    entry = await take_one(broker)
    await broker.give_order(PAUSE_ALL)
    assert (await broker.start(attempt_at(entry), EVENT)).verdict == "held"
    assert (await said(redis), await pending(redis)) == ([], {"@retry": 1})
    assert await broker.take([1]) == []
    await broker.lift_order(PAUSE_ALL)
    assert await broker.start(attempt_at(await take_one(broker), "run-2"), EVENT) == Started("run", 1, 0, 0)


async def test_a_job_of_a_paused_type_waits_and_uses_up_no_attempt(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await broker.give_order(f"{PAUSE_TYPE}ss_xgb")
    attempt = await held(redis, broker)
    assert (await said(redis), await pending(redis)) == ([], {"@retry": 1})
    assert await broker.hasten_one("e-1") == "held"
    assert await broker.hasten_all() == 0
    assert await broker.take([1]) == []
    figures = await overview(redis, Keys(), GROUP)
    assert (figures.held, figures.retrying, figures.running) == (1, 0, 0)
    [order] = await standing_orders(redis, Keys(), GROUP)
    assert order.sentence == "paused: no ss_xgb job begins"
    # Others of the stream go on.
    await append(redis, envelope=json.dumps({"execution_id": "e-2", "task_config": {"task_type": "psi"}}))
    assert (await broker.start(attempt_at(await take_one(broker), execution_id="e-2"), EVENT)).verdict == "run"
    await broker.lift_order(f"{PAUSE_TYPE}ss_xgb")
    again = await take_one(broker)
    assert again.entry_id == attempt.entry.entry_id
    assert await broker.start(attempt_at(again, "run-2"), EVENT) == Started("run", 1, 0, 0)
    assert await redis.hget("sf:exec:e-1", "held") is None


async def test_resuming_one_type_leaves_the_others_held(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for task_type in ("ss_xgb", "psi"):
        await broker.give_order(f"{PAUSE_TYPE}{task_type}")
    await held(redis, broker)
    psi = await held(redis, broker, "e-2", "psi")
    await broker.lift_order(f"{PAUSE_TYPE}ss_xgb")
    verdicts = {}
    for entry in await broker.take([1, 1]):
        attempt = Attempt.of(entry)
        verdicts[attempt.execution_id] = (await broker.start(attempt, EVENT)).verdict
    assert verdicts == {"e-1": "run", "e-2": "held"}
    assert await redis.zrange("sf:retries:normal:secretflow", 0, -1, withscores=True) == [
        (psi.entry.entry_id.encode(), NEVER_DUE)
    ]


async def test_a_held_job_can_be_cancelled_and_is_known_when_sent_again(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await broker.give_order(f"{PAUSE_TYPE}ss_xgb")
    first = await held(redis, broker)
    await append(redis, envelope=TRAINING)
    assert (await broker.start(attempt_at(await take_one(broker), "run-2"), EVENT)).verdict == "duplicate"
    [notice] = await notices(redis)
    assert notice["status"] == "RETRY"
    await redis.set("sf:cancel:e-1", "1")
    withdrawn = await broker.withdraw("e-1")
    assert withdrawn is not None
    assert withdrawn.entry_id == first.entry.entry_id
    assert (await broker.start(attempt_at(withdrawn, "run-3"), EVENT)).verdict == "cancelled"


async def test_the_end_of_a_killed_worker_is_counted_though_its_job_is_held(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a", lease_seconds=0.3), await new_broker("b", lease_seconds=0.3)
    await append(redis, envelope=TRAINING)
    await broker.start(attempt_at(await take_one(broker)), EVENT)
    await broker.give_order(f"{PAUSE_TYPE}ss_xgb")
    found: list[Any] = []
    while not found:
        found = await other.sweep(1)
    assert await other.start(attempt_at(found[0], "run-2"), EVENT) == Started("held", 1, 1, 0)
    await other.lift_order(f"{PAUSE_TYPE}ss_xgb")
    assert await other.start(attempt_at(await take_one(other), "run-3"), EVENT) == Started("run", 2, 1, 0)


async def test_a_lost_due_time_of_a_held_job_is_restored_and_it_stays_held(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await broker.give_order(f"{PAUSE_TYPE}ss_xgb")
    await held(redis, broker)
    await redis.delete("sf:retries:normal:secretflow")
    assert await broker.tidy() == 1
    assert (await broker.start(attempt_at(await take_one(broker), "run-2"), EVENT)).verdict == "held"


async def test_what_waits_for_its_next_attempt_can_be_due_at_once(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for number in (1, 2, 3):
        await append(redis, envelope=json.dumps({"execution_id": f"e-{number}"}))
        attempt = attempt_at(await take_one(broker), f"run-{number}", f"e-{number}")
        await broker.start(attempt, EVENT)
        assert await broker.retry(attempt, b"{}", 600.0)
    assert await broker.take([1]) == []
    assert await broker.hasten_one("e-1") == "due"
    assert [Attempt.of(entry).execution_id for entry in await broker.take([1, 1])] == ["e-1"]
    assert await broker.hasten_one("e-1") == "not waiting"
    assert await broker.hasten_all() == 2
    assert [Attempt.of(entry).execution_id for entry in await broker.take([1, 1, 1])] == ["e-2", "e-3"]


async def test_orders_that_somebody_replaced_are_none(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await redis.set("sf:orders:secretflow", "x")
    await append(redis, envelope=TRAINING)
    assert (await broker.start(attempt_at(await take_one(broker)), EVENT)).verdict == "run"
    assert await standing_orders(redis, Keys(), GROUP) == []
    await broker.mend()
    assert not await redis.exists("sf:orders:secretflow")


async def test_a_worker_is_drained_by_its_name_and_takes_the_order_along(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("b")
    await broker.give_order("drain a")
    assert (await broker.is_to_drain(), await other.is_to_drain()) == (True, False)
    await broker.leave()
    assert not await redis.exists("sf:orders:secretflow")
