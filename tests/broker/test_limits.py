"""Of a limited task type or tenant no more begin than may, over all workers, and the others wait in order."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sfworker.broker.broker import Attempt, Broker
from sfworker.broker.entry import Entry
from sfworker.broker.keys import Keys
from sfworker.broker.limits import Limit, limits_of_settings
from sfworker.broker.orders import PAUSE_STREAM, PAUSE_TYPE
from sfworker.broker.overview import all_limits, overview
from sfworker.settings import Settings
from tests.broker.conftest import GROUP, OpenBroker
from tests.broker.test_state_changes import EVENT, said

PSI = "running type psi"


async def send(redis: Any, *numbers: int, task_type: str = "psi", stream: str = "sf:jobs", **more: Any) -> None:
    for number in numbers:
        envelope = {"execution_id": f"e-{number}", "task_config": {"task_type": task_type}, **more}
        await redis.xadd(stream, {"envelope": json.dumps(envelope)})


async def begin(broker: Broker, *entries: Entry) -> tuple[list[Attempt], list[str]]:
    """Start the entries. Returns the attempts that run, and which executions wait because of a limit."""
    runs, waits = [], []
    for entry in entries:
        attempt = Attempt.of(entry)
        verdict = (await broker.start(attempt, EVENT)).verdict
        if verdict == "run":
            runs.append(attempt)
        else:
            assert verdict == "limited"
            waits.append(attempt.known_as)
    return runs, waits


async def take_all(broker: Broker) -> tuple[list[Attempt], list[str]]:
    """Take and start until there is nothing to take."""
    runs, waits = [], []
    while entries := await broker.take([1, 1]):
        found = await begin(broker, *entries)
        runs += found[0]
        waits += found[1]
    return runs, waits


def ids(attempts: list[Attempt]) -> list[str]:
    return [attempt.known_as for attempt in attempts]


async def psi(redis: Any) -> Limit:
    [found] = await all_limits(redis, Keys(), GROUP)
    return found


async def test_only_so_many_of_a_type_run_over_all_workers_and_the_oldest_are_next(
    redis: Any, new_broker: OpenBroker
) -> None:
    broker, other = await new_broker("a"), await new_broker("b")
    await broker.order_limit(PSI, 2)
    await send(redis, 1, 2, 3, 4, 5)
    await send(redis, 6, task_type="ss_xgb")
    runs, waits = await take_all(broker)
    assert (ids(runs), waits) == (["e-1", "e-2", "e-6"], ["e-3", "e-4", "e-5"])
    assert await take_all(other) == ([], [])
    limit = await psi(redis)
    assert limit == Limit(of="type", name="psi", most_running=2, running=2, waiting=3)
    assert limit.sentence == "limited: of psi 2 of 2 run; 3 wait"
    figures = await overview(redis, Keys(), GROUP)
    assert (figures.limited, figures.held, figures.retrying, figures.running) == (3, 0, 0, 3)
    assert figures.limits == [limit]
    [gauges, *_] = [each for each in (await broker.gauges())[0] if each.stream == "sf:jobs"]
    assert (gauges.figures["limited"], gauges.figures["retrying"], gauges.figures["pending"]) == (3, 0, 3)
    assert [status for _, status, _ in await said(redis)] == ["RUNNING"] * 3  # nothing is said of those that wait
    assert await broker.hasten_one("e-3") == "limited"
    assert await broker.hasten_all() == 0
    assert await broker.finish(runs[1], "SUCCESS", b"{}", b"{}")
    runs_there, waits = await take_all(other)
    assert (ids(runs_there), waits) == (["e-3"], [])
    assert (await redis.hmget("sf:exec:e-3", "attempt", "crashes", "releases")) == [b"1", b"0", b"0"]


ENDS = ["finish", "bury", "retry", "release", "lost", "give back", "cancel"]


@pytest.mark.parametrize("end", ENDS)
async def test_however_one_ends_the_next_begins(redis: Any, new_broker: OpenBroker, end: str) -> None:
    broker = await new_broker("a")
    await broker.order_limit(PSI, 1)
    await send(redis, 1, 2, 3)
    [first], waits = await take_all(broker)
    assert waits == ["e-2", "e-3"]
    if end == "finish":
        assert await broker.finish(first, "CANCELLED", b"{}", b"{}")
    elif end == "bury":
        assert await broker.bury(first, b"{}", b"{}")
    elif end == "retry":
        assert await broker.retry(first, b"{}", 3600.0)
    elif end == "release":
        assert await broker.release(first, "releases")
    elif end == "lost":
        await redis.xdel(first.entry.stream, first.entry.entry_id)
        assert await broker.lost(first, b"{}", b"{}") == []
    else:
        assert await broker.finish(first, "SUCCESS", b"{}", b"{}")
        [entry] = await broker.take([1])
        assert (await psi(redis)).running == 1  # it has its place from here on
        if end == "give back":  # and keeps it until somebody begins it
            assert await broker.give_back(entry.stream, entry.entry_id)
        else:
            await redis.set("sf:cancel:e-2", "1")
            assert (await broker.start(Attempt.of(entry), EVENT)).verdict == "cancelled"
    runs, _ = await take_all(broker)
    assert ids(runs) == ["e-3" if end == "cancel" else "e-2"]
    assert (await psi(redis)).running == 1


async def test_one_that_a_silent_worker_ran_keeps_its_place_until_another_runs_it(
    redis: Any, new_broker: OpenBroker
) -> None:
    broker, other = await new_broker("a", lease_seconds=1.0), await new_broker("b", lease_seconds=1.0)
    await broker.order_limit(PSI, 1)
    await send(redis, 1, 2)
    [attempt], _ = await take_all(broker)
    assert await take_all(other) == ([], [])
    found: list[Entry] = []
    while not found:
        found = await other.sweep(1)
    assert await take_all(broker) == ([], [])
    [again], _ = await begin(other, *found)
    assert again.known_as == attempt.known_as
    assert await take_all(broker) == ([], [])
    assert not await broker.finish(attempt, "SUCCESS", b"{}", b"{}")  # the late one frees no place
    assert await take_all(broker) == ([], [])
    assert await other.finish(again, "SUCCESS", b"{}", b"{}")
    assert ids((await take_all(broker))[0]) == ["e-2"]


async def test_none_that_comes_later_is_before_those_that_wait(redis: Any, new_broker: OpenBroker) -> None:
    broker, other = await new_broker("a"), await new_broker("b")
    await broker.order_limit(PSI, 1)
    await send(redis, 1, 2, 3)
    [first], _ = await take_all(broker)
    await send(redis, 4)
    assert await broker.finish(first, "SUCCESS", b"{}", b"{}")
    [new] = await other.wait()  # as a worker does that has waited for it meanwhile
    assert await begin(other, new) == ([], ["e-4"])
    for expected in ("e-2", "e-3", "e-4"):
        [next_one], _ = await take_all(other)
        assert next_one.known_as == expected
        assert await other.finish(next_one, "SUCCESS", b"{}", b"{}")


async def test_one_that_was_let_go_has_its_place_though_another_comes_before_it(
    redis: Any, new_broker: OpenBroker
) -> None:
    broker, other = await new_broker("a"), await new_broker("b")
    await broker.order_limit(PSI, 1)
    await send(redis, 1, 2)
    [first], _ = await take_all(broker)
    assert await broker.finish(first, "SUCCESS", b"{}", b"{}")
    [second] = await broker.take([1])
    await send(redis, 3)
    [third] = await other.wait()
    assert await begin(other, third) == ([], ["e-3"])
    assert ids((await begin(broker, second))[0]) == ["e-2"]


async def test_starts_are_counted_for_a_minute(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", max_starts_of_types={"psi": 2})
    await send(redis, 1, 2, 3)
    runs, waits = await take_all(broker)
    assert (ids(runs), waits) == (["e-1", "e-2"], ["e-3"])
    for attempt in runs:
        assert await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    assert await take_all(broker) == ([], [])
    assert 0 < await redis.ttl("sf:starts:secretflow") <= 60
    await broker.order_limit("starts type psi", 2)  # so that status knows of it
    assert (await psi(redis)).sentence == "limited: of psi 2 of 2 started in the last minute; 1 wait"
    # One of the two becomes older than a minute.
    oldest, _ = sorted(await redis.zrange("sf:starts:secretflow", 0, -1))
    subject, _, at = oldest.partition(b"\n")
    await redis.zrem("sf:starts:secretflow", oldest)
    aged = b"%s\n%d %s" % (subject, int(at.split()[0]) - 60_000, at.split()[1])
    await redis.zadd("sf:starts:secretflow", {aged: 0})
    assert ids((await take_all(broker))[0]) == ["e-3"]
    assert aged not in await redis.zrange("sf:starts:secretflow", 0, -1)


async def test_an_order_comes_before_settings_and_they_hold_again_when_it_is_taken_back(
    redis: Any, new_broker: OpenBroker
) -> None:
    broker = await new_broker("a", max_running_of_types={"psi": 1})
    await send(redis, *range(1, 7))
    assert ids((await take_all(broker))[0]) == ["e-1"]
    await broker.order_limit(PSI, 2)
    assert ids((await take_all(broker))[0]) == ["e-2"]
    await broker.order_limit(PSI, None)
    assert ids((await take_all(broker))[0]) == ["e-3", "e-4", "e-5", "e-6"]
    assert await broker.lift_limits("type psi")
    assert not await broker.lift_limits("type psi")
    await send(redis, 7)
    assert await take_all(broker) == ([], ["e-7"])


async def test_those_whose_limit_is_gone_begin(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", max_running_of_types={"psi": 1})
    await send(redis, 1, 2, 3)
    await take_all(broker)
    unlimited = await new_broker("b")
    assert ids((await take_all(unlimited))[0]) == ["e-2", "e-3"]


async def test_a_limit_counts_those_that_ran_before_it(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await send(redis, 1, 2, 3)
    entries = await broker.take([1, 1])
    await begin(broker, *entries)
    await broker.order_limit(PSI, 2)
    assert await take_all(broker) == ([], ["e-3"])


async def test_a_tenants_jobs_are_limited_whatever_their_type_and_stream(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", tenants=["bank", "shop"], max_running_of_tenants={"bank": 1})
    await send(redis, 1, stream="sf:tenant:bank:jobs")
    await send(redis, 2, stream="sf:tenant:bank:jobs:high", task_type="ss_xgb", options={"priority": "high"})
    await send(redis, 3, stream="sf:tenant:shop:jobs")
    await send(redis, 4)
    runs, waits = await take_all(broker)
    assert (len(runs), len(waits)) == (3, 1)
    [of_bank] = [run for run in runs if run.entry.stream.startswith("sf:tenant:bank")]
    assert await broker.finish(of_bank, "SUCCESS", b"{}", b"{}")
    assert ids((await take_all(broker))[0]) == waits


async def test_a_job_under_two_limits_keeps_to_both(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker(
        "a", tenants=["bank"], max_running_of_tenants={"bank": 2}, max_running_of_types={"psi": 1}
    )
    await send(redis, 1, 2, stream="sf:tenant:bank:jobs")
    await send(redis, 3, 4, 5, stream="sf:tenant:bank:jobs", task_type="ss_xgb")
    runs, waits = await take_all(broker)
    assert (ids(runs), waits) == (["e-1", "e-3"], ["e-2", "e-4", "e-5"])
    assert await broker.finish(runs[0], "SUCCESS", b"{}", b"{}")
    assert ids((await take_all(broker))[0]) == ["e-4"]
    assert await broker.finish(runs[1], "SUCCESS", b"{}", b"{}")
    assert ids((await take_all(broker))[0]) == ["e-2"]  # which is older than e-5


async def test_what_somebody_deleted_holds_no_place(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await broker.order_limit(PSI, 2)
    await send(redis, 1, 2, 3, 4)
    runs, _ = await take_all(broker)
    await redis.xack("sf:jobs", GROUP, runs[0].entry.entry_id)
    await redis.zadd("sf:running:secretflow", {f"type psi\nsf:jobs {number}-0": 0 for number in range(300)})
    began: list[str] = []
    while not began:  # of many such a part is looked at each time
        began = ids((await take_all(broker))[0])
    assert began == ["e-3"]


async def test_books_of_another_type_are_made_again(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await broker.order_limit(PSI, 2)
    await send(redis, 1)
    [attempt], _ = await take_all(broker)
    await redis.set("sf:starts:secretflow", "x")
    await redis.delete("sf:running:secretflow")
    await redis.set("sf:running:secretflow", "x")
    assert (await psi(redis)).running == 0
    assert await broker.finish(attempt, "SUCCESS", b"{}", b"{}")
    await broker.mend()
    assert await redis.keys("sf:running:*") == await redis.keys("sf:starts:*") == []


async def test_a_paused_type_lets_none_go_and_resumes_within_its_limit(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await broker.order_limit(PSI, 1)
    await send(redis, 1, 2, 3)
    [first], _ = await take_all(broker)
    await broker.give_order(f"{PAUSE_TYPE}psi")
    assert await broker.finish(first, "SUCCESS", b"{}", b"{}")
    verdicts = []
    while entries := await broker.take([1]):
        verdicts += [(await broker.start(Attempt.of(entry), EVENT)).verdict for entry in entries]
    assert set(verdicts) == {"held"}
    await broker.lift_order(f"{PAUSE_TYPE}psi")
    runs, _ = await take_all(broker)
    assert len(runs) == 1


async def test_one_that_was_let_go_in_a_stream_that_is_paused_then_holds_no_place(
    redis: Any, new_broker: OpenBroker
) -> None:
    broker = await new_broker("a")
    await broker.order_limit(PSI, 1)
    await send(redis, 1, 2, stream="sf:jobs:low")
    [first], _ = await take_all(broker)
    assert await broker.finish(first, "SUCCESS", b"{}", b"{}")
    await send(redis, 3, task_type="hello", stream="sf:jobs:high")
    assert [entry.stream for entry in await broker.take([1])] == ["sf:jobs:high"]
    assert (await psi(redis)).running == 1
    await broker.give_order(f"{PAUSE_STREAM}sf:jobs:low")
    await send(redis, 4)
    runs, waits = await take_all(broker)
    assert (ids(runs), waits) == (["e-4"], ["e-4"])
    await broker.lift_order(f"{PAUSE_STREAM}sf:jobs:low")
    assert await take_all(broker) == ([], ["e-2"])


async def test_no_envelope_widens_a_limit(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", max_running_of_types={"psi": 1})
    await send(redis, 1)
    await take_all(broker)
    wide = {"max_running_of_types": {"psi": 9}, "limit": 9, "priority": "high"}
    await send(redis, 2, stream="sf:jobs:high", options=wide, limits=wide, tenant="bank")
    twice = '{"execution_id": "e-3", "task_config": {"task_type": "ss_xgb", "task_type": "psi"}}'
    await redis.xadd("sf:jobs", {"envelope": twice})
    assert await take_all(broker) == ([], ["e-2", "e-3"])


async def test_a_cancelled_one_that_waits_is_answered_at_once(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", max_running_of_types={"psi": 1})
    await send(redis, 1, 2)
    await take_all(broker)
    await redis.set("sf:cancel:e-2", "1")
    withdrawn = await broker.withdraw("e-2")
    assert withdrawn is not None
    assert (await broker.start(Attempt.of(withdrawn), EVENT)).verdict == "cancelled"


async def test_limits_that_no_command_wrote_are_passed_over(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for name, value in ((PSI, "few"), (PSI, "1"), ("starts type psi", "1e9 5"), ("", ""), ("x y z", "1 1")):
        await redis.hset("sf:orders:secretflow", f"limit {name}", value)
    await send(redis, 1, 2)
    assert ids((await take_all(broker))[0]) == ["e-1", "e-2"]
    figures = await overview(redis, Keys(), GROUP)
    assert (figures.limits, figures.orders) == ([], [])


def test_settings_name_limits_as_orders_do() -> None:
    settings = Settings(
        max_running_of_types={"psi": 2}, max_running_of_tenants={"bank": 3}, max_starts_of_tenants={"bank": 4}
    )
    assert limits_of_settings(settings) == {PSI: 2, "running tenant bank": 3, "starts tenant bank": 4}


@pytest.mark.parametrize("seed", [1])
async def test_whatever_happens_no_more_run_than_may_and_all_are_answered(
    redis: Any, new_broker: OpenBroker, seed: int
) -> None:
    chance = random.Random(seed)
    most = {"psi": 2, "ss_xgb": 1}
    lasting = {"lease_seconds": 3600.0, "max_crashes": 100}
    brokers = [await new_broker(name, max_running_of_types=most, **lasting) for name in "abc"]
    total, runs, done = 40, dict[str, tuple[Broker, Attempt]](), set[str]()
    types = {f"e-{number}": chance.choice([*most, "hello"]) for number in range(total)}

    async def step() -> None:
        broker, act = chance.choice(brokers), chance.random()
        if act < 0.5 or not runs:
            for entry in await broker.take([chance.randint(1, 3)]) or await waiting_for(broker):
                attempt = Attempt.of(entry)
                if chance.random() < 0.1:
                    assert await broker.give_back(entry.stream, entry.entry_id)
                elif (verdict := (await broker.start(attempt, EVENT)).verdict) == "run":
                    runs[attempt.known_as] = broker, attempt
                else:
                    assert verdict == "limited"
            return
        known_as = chance.choice(list(runs))
        owner, attempt = runs.pop(known_as)
        if act < 0.6:
            assert await owner.retry(attempt, b"{}", 0.0)
        elif act < 0.7:
            assert await owner.release(attempt, "releases")
        elif act < 0.75:
            await redis.delete("sf:retries:normal:secretflow")
            await owner.tidy()
            runs[known_as] = owner, attempt
        elif act < 0.8:  # its worker falls silent, and another takes it over
            await redis.xclaim("sf:jobs", GROUP, "silent", 0, [attempt.entry.entry_id], idle=10**8)
            [entry] = await broker.sweep(1)
            again = Attempt.of(entry)
            assert (await broker.start(again, EVENT)).verdict == "run"
            runs[known_as] = broker, again
        else:
            assert await owner.finish(attempt, "SUCCESS", b"{}", b"{}")
            done.add(known_as)

    async def waiting_for(broker: Broker) -> list[Entry]:
        return await broker.wait() if await redis.xlen("sf:jobs") > total // 2 and chance.random() < 0.02 else []

    for number in range(total):
        await send(redis, number, task_type=types[f"e-{number}"])
    for _ in range(3000):
        await step()
        for task_type, bound in most.items():
            assert sum(types[name] == task_type for name in runs) <= bound
        if len(done) == total:
            break
    assert len(done) == total
    assert await redis.zcard("sf:running:secretflow") == 0
