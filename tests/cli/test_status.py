"""`sfworker status` and the figures below it."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.conftest import Command


def fill(redis: Any) -> None:
    """On sf:jobs one job queued, one running, one waiting for its retry, two dead; on sf:jobs:high two queued."""
    redis.xgroup_create("sf:jobs", "secretflow", "0", mkstream=True)
    ids = [redis.xadd("sf:jobs", {"envelope": "{}"}) for _ in range(5)]
    redis.xreadgroup("secretflow", "worker-1", {"sf:jobs": ">"}, count=4)
    redis.xclaim("sf:jobs", "secretflow", "@retry", 0, [ids[1]])
    redis.xclaim("sf:jobs", "secretflow", "@dead", 0, ids[2:4])
    redis.xadd("sf:jobs:high", {"envelope": "{}"})
    redis.xadd("sf:jobs:high", {"envelope": "{}"})
    heartbeat = {
        "worker_id": "worker-1",
        "started_at": "2024-01-01T00:00:00Z",
        "concurrency": 4,
        "running": 1,
        "free": 3,
    }
    redis.set("sf:worker:worker-1", json.dumps({**heartbeat, "executions": ["e-1"]}), ex=60)
    redis.set("sf:worker:of-another-version", b"[not ours", ex=60)
    redis.hset("sf:workers:secretflow", mapping={"worker-1": "1 1", "of-another-version": "1 1", "gone": "1 1"})


def pending(redis: Any, consumer: str | None = None) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = redis.xpending_range("sf:jobs", "secretflow", "-", "+", 99, consumer)
    return entries


def test_an_empty_server(sfworker: Command) -> None:
    outcome = sfworker("status")
    assert outcome.code == 0
    assert "no worker serves group secretflow now" in outcome.out
    figures = json.loads(sfworker("status", "--json").out)
    assert [figures[name] for name in ("queued", "running", "retrying", "dead", "workers")] == [0, 0, 0, 0, []]


def test_dead_jobs_are_no_live_work(sfworker: Command, redis: Any) -> None:
    fill(redis)
    figures = json.loads(sfworker("status", "--json").out)
    assert {name: figures[name] for name in ("queued", "running", "retrying", "dead")} == {
        "queued": 3,
        "running": 1,
        "retrying": 1,
        "dead": 2,
    }
    assert [(stream["stream"], stream["queued"]) for stream in figures["streams"]] == [
        ("sf:jobs:high", 2),
        ("sf:jobs", 1),
        ("sf:jobs:low", 0),
    ]


def test_finished_jobs_are_gone_from_the_figures(sfworker: Command, redis: Any) -> None:
    fill(redis)
    [entry] = pending(redis, "worker-1")
    redis.xack("sf:jobs", "secretflow", entry["message_id"])
    redis.xdel("sf:jobs", entry["message_id"])
    figures = json.loads(sfworker("status", "--json").out)
    assert (figures["queued"], figures["running"]) == (3, 0)


def test_an_idle_worker_has_nothing_queued_though_jobs_were_trimmed_unread(sfworker: Command, redis: Any) -> None:
    """Until 8.2 Redis counts them in the lag for good."""

    def queued() -> int:
        count: int = json.loads(sfworker("status", "--json").out)["queued"]
        return count

    redis.xgroup_create("sf:jobs", "secretflow", "0", mkstream=True)
    for _ in range(6):
        redis.xadd("sf:jobs", {"envelope": "{}"})
    redis.xreadgroup("secretflow", "worker-1", {"sf:jobs": ">"}, count=2)
    redis.xtrim("sf:jobs", maxlen=2, approximate=False)
    assert 1 <= queued() <= 2
    redis.xreadgroup("secretflow", "worker-1", {"sf:jobs": ">"})
    assert queued() == 0
    redis.xack("sf:jobs", "secretflow", *(entry["message_id"] for entry in pending(redis)))
    redis.xtrim("sf:jobs", maxlen=0, approximate=False)
    redis.xadd("sf:jobs", {"envelope": "{}"})
    assert queued() == 1


def test_a_queued_job_is_seen_behind_dead_ones_without_payload(sfworker: Command, redis: Any) -> None:
    redis.xgroup_create("sf:jobs", "secretflow", "0", mkstream=True)
    ids = [redis.xadd("sf:jobs", {"envelope": "{}"}) for _ in range(4)]
    redis.xreadgroup("secretflow", "worker-1", {"sf:jobs": ">"}, count=3)
    redis.xclaim("sf:jobs", "secretflow", "@dead", 0, ids[:3])
    redis.xtrim("sf:jobs", maxlen=1, approximate=False)
    figures = json.loads(sfworker("status", "--json").out)
    assert (figures["queued"], figures["dead"]) == (1, 3)


def test_workers_are_shown_in_their_own_words(sfworker: Command, redis: Any) -> None:
    fill(redis)
    [worker] = json.loads(sfworker("status", "--json").out)["workers"]
    assert (worker["worker_id"], worker["free"], worker["executions"]) == ("worker-1", 3, ["e-1"])
    text = sfworker("status").out
    assert "worker-1" in text
    assert "\x1b" not in text  # not a terminal: no colours


def test_another_group_and_prefix_have_figures_of_their_own(sfworker: Command, redis: Any) -> None:
    fill(redis)
    redis.xgroup_create("sf:jobs", "other", "0")
    other_group = json.loads(sfworker("status", "--json", "--group", "other").out)
    assert (other_group["queued"], other_group["dead"]) == (7, 0)
    assert other_group["workers"] == []  # the one there is serves secretflow
    other_prefix = json.loads(sfworker("status", "--json", "--prefix", "s[f]*").out)
    assert (other_prefix["queued"], other_prefix["workers"]) == (0, [])
