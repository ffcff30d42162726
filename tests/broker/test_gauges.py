"""Figures of streams and of the results' readers, as metrics tell them."""

from __future__ import annotations

from typing import Any

from sfworker.broker.keys import DEAD_CONSUMER, RETRY_CONSUMER
from tests.broker.conftest import GROUP, OpenBroker


async def test_figures_are_what_redis_holds(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a", tenants=["bank"])
    for _ in range(7):
        await redis.xadd("sf:jobs", {"envelope": "x"})
    for consumer, count in ((DEAD_CONSUMER, 1), (RETRY_CONSUMER, 2), ("a", 1)):
        await redis.xreadgroup(GROUP, consumer, {"sf:jobs": ">"}, count=count)
    await redis.xadd("sf:tenant:bank:jobs:low", {"envelope": "x"}, id="1-0")
    await redis.xadd("sf:results", {"payload": "x"})
    await redis.xadd("sf:results", {"payload": "x"})
    await redis.xgroup_create("sf:results", "web", "0")
    await redis.xreadgroup("web", "reader", {"sf:results": ">"}, count=1)
    jobs, readers = await broker.gauges()
    assert len(jobs) == 6
    figures = {each.stream: (each.tenant, each.figures) for each in jobs}

    tenant, normal = figures["sf:jobs"]
    has_lag = "lag" in normal  # from Redis 7 on
    assert tenant == ""
    assert 0 <= normal.pop("oldest_age") < 60
    counts = {"queued": 3, "pending": 1, "retrying": 2, "held": 0, "limited": 0, "dead": 1}
    assert normal == counts | ({"lag": 3} if has_lag else {})
    tenant, low = figures["sf:tenant:bank:jobs:low"]
    assert (tenant, low["queued"]) == ("bank", 1)
    assert low["oldest_age"] > 1e9  # since the first second that there was
    assert figures["sf:jobs:high"][1]["queued"] == figures["sf:jobs:high"][1]["oldest_age"] == 0
    [reader] = readers
    assert (reader.stream, reader.group) == ("sf:results", "web")
    assert reader.figures == {"pending": 1} | ({"lag": 1} if has_lag else {})


async def test_what_is_no_stream_or_has_no_such_group_has_no_figures(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    await redis.delete("sf:jobs", "sf:jobs:high")
    await redis.set("sf:jobs", "x")
    await redis.xgroup_destroy("sf:jobs:low", GROUP)
    await redis.set("sf:results", "x")
    assert await broker.gauges() == ([], [])


async def test_of_many_readers_some_are_told(redis: Any, new_broker: OpenBroker) -> None:
    broker = await new_broker("a")
    for number in range(20):
        await redis.xgroup_create("sf:results", f"web-{number}", "0", mkstream=True)
    _, readers = await broker.gauges()
    assert len(readers) == 16
