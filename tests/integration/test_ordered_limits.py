"""Limits hold over several real workers, also where one is killed, by what the jobs themselves say of their times."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.test_execution import act
from tests.integration.test_orders import order
from tests.running_worker import RunningWorker, until

SECONDS = 0.3


def test_the_next_begins_when_one_ends_and_others_go_on(worker: RunningWorker) -> None:
    order(worker, "limit", "--task-type", "act_alone", "--running", "1")
    first = worker.send(act("hang", alone=True))
    worker.until_said(first, "task_started")
    second = worker.send(act("succeed", alone=True))
    assert worker.run(act("succeed"))["status"] == "success"
    until(lambda: "limited: of act_alone 1 of 1 run; 1 wait" in order(worker, "status"))
    assert worker.said(second) == []
    worker.redis.set(f"sf:cancel:{first}", "1")
    worker.redis.publish("sf:control", first)
    assert worker.until_ended(first)["status"] == "CANCELLED"
    ended = worker.until_ended(second)
    assert (ended["status"], ended["attempt"]) == ("SUCCESS", 1)
    order(worker, "limit", "--task-type", "act_alone", "--remove")
    assert "limited: " not in order(worker, "status")


@pytest.mark.slow  # three workers start
def test_never_more_run_than_may_though_a_worker_is_killed_and_all_are_done(redis_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        named = [stack.enter_context(_Worker(redis_url, tmp_path / name)) for name in ("one", "two", "three")]
        for each in named:
            each.until_ready()
        first = named[0]
        assert "limited: of act_alone 0 of 2 run" in order(first, "limit", "--task-type", "act_alone", "--running", "2")
        sent = [first.send(act("report", alone=True, seconds=SECONDS)) for _ in range(30)]
        others = [first.send(act("succeed")) for _ in range(3)]  # behind them, and not limited
        until(lambda: any(first.said(each) for each in sent))
        ran_at = next(event["worker_id"] for each in sent for event in first.said(each))
        next(each for each in named if f"-{each.process.pid}-" in ran_at).kill()
        assert {first.until_ended(each)["status"] for each in others} == {"SUCCESS"}
        done = [each for each in sent if first.redis.exists(f"sf:result:{each}")]
        assert len(done) < len(sent)
        [limit] = json.loads(order(first, "top", "--json"))["limits"]
        assert (limit["name"], limit["most_running"]) == ("act_alone", 2)
        assert limit["running"] <= 2 < limit["waiting"]
        ended = [first.until_ended(each, 120.0) for each in sent]
        assert {event["status"] for event in ended} == {"SUCCESS"}
        results = [json.loads(first.redis.get(f"sf:result:{each}"))["result"] for each in sent]
        begins = sorted(result["first_line_at"] for result in results)
        # Of each three, the third begins when one of the two before it has ended.
        assert [third for one, third in zip(begins, begins[2:], strict=False) if third < one + SECONDS] == []
        # Nothing is used up by waiting; only the killed worker's jobs came twice.
        again = [each for each, event in zip(sent, ended, strict=True) if event["attempt"] > 1]
        assert set(again) <= {each for each in sent if _was_run_by(first, each, ran_at)}
        order(first, "limit", "--task-type", "act_alone", "--remove")
        assert first.redis.zcard("sf:running:secretflow") == 0
        assert first.redis.exists("sf:orders:secretflow") == 0


class _Worker(RunningWorker):
    """Begins at once, so that several start together."""

    def __init__(self, redis_url: str, directory: Path) -> None:
        super().__init__(redis_url, directory, concurrency="2", lease_seconds="2")

    def start(self) -> None:
        self.begin()


def _was_run_by(worker: RunningWorker, execution_id: str, worker_id: str) -> bool:
    return worker_id in {event["worker_id"] for event in worker.said(execution_id)}
