"""`sfworker list`: jobs in every state, as a broker has left them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.cli.states import send


def listed(sfworker: Command, *words: str) -> list[dict[str, Any]]:
    outcome = sfworker("list", "--json", *words)
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert found["next"] is None
    executions: list[dict[str, Any]] = found["executions"]
    return executions


def test_every_state_is_listed_newest_first(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    found = listed(sfworker)
    [[broken, _]] = redis.xrevrange("sf:jobs", count=1)
    times = [one["ended_at"] or one["started_at"] or one["appended_at"] for one in found]
    assert times == sorted(times, reverse=True)
    assert {one["execution_id"]: one["state"] for one in found} == {
        broken.decode(): "queued",
        "succeeded": "success",
        "failed": "failure",
        "cancelled": "cancelled",
        "waits": "waiting",
        "runs": "running",
        "was given back": "queued",
        "is high": "queued",
        "is low": "queued",
    }
    [succeeded], [failed] = ([one for one in found if one["execution_id"] == each] for each in jobs[:2])
    assert (failed["error_type"], succeeded["error_type"], succeeded["attempts"]) == ("InputDataError", None, 1)
    assert succeeded["appended_at"] <= succeeded["started_at"] <= succeeded["ended_at"]
    assert {**succeeded, "entry_id": "", "appended_at": "", "started_at": "", "ended_at": ""} == {
        "execution_id": "succeeded",
        "state": "success",
        "task_type": "ss_lr",
        "error_type": None,
        "worker": "w-1",
        "attempts": 1,
        "stream": "sf:jobs",
        "entry_id": "",
        "task_id": "T-1",
        "subtask_id": "s",
        "appended_at": "",
        "started_at": "",
        "ended_at": "",
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--state", "running"], {"runs"}),
        (["--state", "running", "--state", "failure"], {"runs", "failed"}),
        (["--task-type", "ss_lr"], {"succeeded"}),
        (["--task-type", "ss_xgb", "--state", "queued"], set()),
        (["--error-type", "InputDataError"], {"failed"}),
        (["--worker", "w-1"], {"succeeded", "failed", "cancelled", "waits", "runs"}),
        (["--text", "GIVEN"], {"was given back"}),
        (["--text", "t-1", "--state", "waiting"], {"waits"}),
        (["--since", "1h", "--state", "success"], {"succeeded"}),
    ],
)
def test_only_what_is_asked_for(sfworker: Command, jobs: list[str], words: list[str], expected: set[str]) -> None:
    assert {one["execution_id"] for one in listed(sfworker, *words)} == expected


def test_pages_hold_each_once_though_many_have_one_time(sfworker: Command, redis: Any) -> None:
    facts = ["SUCCESS", "psi", "", "w", 1, 0, "sf:jobs", "1-0", "t", "s"]
    redis.zadd("sf:ended", {json.dumps([f"e-{n}", *facts]): 1000 + n // 700 for n in range(1500)})
    redis.xgroup_create("sf:jobs", "secretflow", id="0", mkstream=True)
    seen: list[str] = []
    place: str | None = "9000"
    while place is not None:
        outcome = sfworker("list", "--json", "--limit", "260", "--before", place)
        page = json.loads(outcome.out)
        seen += [one["execution_id"] for one in page["executions"]]
        place = page["next"]
    assert len(seen) == 1500
    assert set(seen) == {f"e-{n}" for n in range(1500)}
    assert [int(each[2:]) // 700 for each in seen] == sorted((n // 700 for n in range(1500)), reverse=True)


def test_those_that_wait_are_listed_by_page_beside_the_dead(sfworker: Command, redis: Any) -> None:
    redis.xgroup_create("sf:jobs", "secretflow", id="0", mkstream=True)
    for number in range(1300):
        send(redis, f"e-{number}")
    redis.xreadgroup("secretflow", "w", {"sf:jobs": ">"}, count=1290)
    entries = [entry_id for entry_id, _ in redis.xrange("sf:jobs")]
    for consumer, first in (("@dead", 0), ("@retry", 1)):  # in turn, as given back
        redis.xclaim("sf:jobs", "secretflow", consumer, 0, entries[first:1280:2], justid=True)
    for number in range(1, 400, 2):
        redis.hset(
            "sf:answers:secretflow", f"sf:jobs {entries[number].decode()}", json.dumps([f"e-{number}", "t", "s"])
        )
        redis.hset(f"sf:exec:e-{number}", mapping={"state": "retry", "entry": entries[number], "attempt": "1"})
    given_back = [f"e-{n}" for n in range(1279, 400, -2)]
    waiting = [f"e-{n}" for n in range(399, 0, -2)]
    taken, new = ([f"e-{n}" for n in range(*ends, -1)] for ends in ((1289, 1279), (1299, 1289)))
    for state, expected in (("waiting", waiting), ("queued", [*new, *taken, *given_back])):
        found = listed(sfworker, "--state", state, "--limit", "2000")
        assert [one["execution_id"] for one in sorted(found, key=_number, reverse=True)] == expected
        appended = [one["appended_at"] for one in found]
        assert appended == sorted(appended, reverse=True)
    assert [one["execution_id"] for one in listed(sfworker, "--text", "e-1279")] == ["e-1279"]
    assert sfworker("show", "e-401").out.startswith("e-401: queued")
    assert sfworker("show", "e-399").out.startswith("e-399: waiting")


def _number(one: dict[str, Any]) -> int:
    return int(one["execution_id"][2:])


def test_a_replayed_one_is_not_among_the_ended(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    assert sfworker("replay", "--execution-id", "failed").code == 0
    assert [one["state"] for one in listed(sfworker, "--text", "failed")] == ["waiting"]


def test_for_people(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    out = sfworker("list", "--state", "success").out
    assert out.split()[:8] == ["execution", "state", "task", "type", "attempts", "ago", "took", "worker"]
    assert "succeeded" in out
    assert "and more" not in out
    assert "and more; the same with --before" in sfworker("list", "--limit", "2").out
    assert sfworker("list", "--text", "nowhere").out == "no such job is known here\n"
    wrong = sfworker("list", "--before", "yesterday")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "yesterday is no place; take the one that a list has ended with" in wrong.err


def test_what_others_put_there_is_passed_over(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    redis.zadd("sf:ended", {"no JSON": 1, "[]": 2, '["e", "SUCCESS"]': time.time() * 1000})
    redis.delete("sf:exec:runs")
    redis.set("sf:exec:runs", "text")
    found = {one["execution_id"]: one["state"] for one in listed(sfworker)}
    assert found["runs"] == "queued"
    assert len(found) == len(jobs) + 1
