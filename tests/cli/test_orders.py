"""`sfworker pause`, `resume`, `limit`, `drain`, `retry-now` and `groups`, on jobs as a broker has left them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Command

PAUSES = [
    (["--all"], "paused: no job begins"),
    (["--stream", "sf:jobs:low"], "paused: no job of sf:jobs:low begins"),
    (["--task-type", "psi"], "paused: no psi job begins"),
]


@pytest.mark.parametrize(("words", "sentence"), PAUSES)
def test_what_is_paused_is_shown_until_it_is_resumed(
    sfworker: Command, jobs: list[str], words: list[str], sentence: str
) -> None:
    paused = sfworker("pause", *words)
    assert (paused.code, paused.err) == (0, "")
    said, remedy = paused.out.splitlines()
    assert said == sentence
    assert remedy.endswith(f"sfworker resume {' '.join(words)} takes that back")
    assert sentence in sfworker("status").out
    [order] = json.loads(sfworker("status", "--json").out)["orders"]
    assert order["since"] > 10**12
    assert sfworker("resume", *words).out == "resumed\n"
    again = sfworker("resume", *words)
    assert (again.code, again.err) == (1, "sfworker: that was not paused\n")
    assert "paused" not in sfworker("status").out


def test_what_stays_paused_is_said(sfworker: Command, jobs: list[str]) -> None:
    sfworker("pause", "--all")
    assert "hello_wrld is no task type that is known here" in sfworker("pause", "--task-type", "hello_wrld").out
    assert sfworker("resume", "--all").out == "paused: no hello_wrld job begins\nresumed\n"


def test_a_limit_is_shown_until_it_is_removed(
    sfworker: Command, redis: Any, jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "limited: of psi 0 of 2 run; 0 wait"
    assert sfworker("limit", "--task-type", "psi", "--running", "2").out == f"{sentence}\n"
    assert sentence in sfworker("status").out
    assert sentence in sfworker("top", "--once").out
    [limit] = json.loads(sfworker("status", "--json").out)["limits"]
    assert json.loads(sfworker("limit", "--task-type", "psi", "--running", "2", "--json").out)["limits"] == [limit]
    assert sfworker("limit").out == f"{sentence}\n"
    both = sfworker("limit", "--task-type", "psi", "--running", "any", "--per-minute", "30")
    assert both.out == "limited: of psi 0 of 30 started in the last minute; 0 wait\n"
    # What a worker's settings say is shown as well, and holds again.
    redis.set("sf:worker:w-1", json.dumps({"worker_id": "w-1", "limits": {"running type psi": 5}}))
    redis.hset("sf:workers:secretflow", "w-1", "1 1")
    removed = sfworker("limit", "--task-type", "psi", "--remove")
    assert removed.out == "limited: of psi 0 of 5 run; 0 wait\n"
    again = sfworker("limit", "--task-type", "psi", "--remove")
    assert (again.code, again.out) == (1, "")
    assert "those of the workers' settings hold" in again.err
    monkeypatch.setenv("SFWORKER_TENANTS", "bank")
    assert "of tenant bank 0 of 1 run" in sfworker("limit", "--tenant", "bank", "--running", "1").out
    assert "hello_wrld is no task type" in sfworker("limit", "--task-type", "hello_wrld", "--running", "1").out


def test_orders_that_are_no_times_are_shown_all_the_same(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    redis.hset("sf:orders:secretflow", mapping={"pause": "yes", "limit running type psi": "many", b"\xff": b"\xff"})
    assert "paused: no job begins" in sfworker("status").out
    orders = json.loads(sfworker("status", "--json").out)["orders"]
    assert {"name": "pause", "since": None} in orders


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["pause", "--stream", "sf:jbos"],
            "workers read no sf:jbos, only sf:jobs:high, sf:jobs, sf:jobs:low",
        ),
        (["pause"], "one of the arguments --stream --task-type --all is required; see sfworker pause --help"),
        (["limit", "--task-type", "psi"], "with --running, --per-minute or both, or with --remove alone"),
        (["limit", "--task-type", "psi", "--running", "1", "--remove"], "or both, or with --remove alone"),
        (["limit", "--running", "1"], "or both, or with --remove alone"),
        (
            ["limit", "--task-type", "psi", "--running", "0"],
            "0 is not a whole number above 0; see sfworker limit --help",
        ),
        (["limit", "--tenant", "bank", "--running", "1"], "--tenant: SFWORKER_TENANTS has no bank, but none"),
        (["drain", ""], "argument WORKER: is empty; see sfworker drain --help"),
    ],
)
def test_wrong_words_are_named(sfworker: Command, words: list[str], sentence: str) -> None:
    outcome = sfworker(*words)
    assert outcome.code == 2
    assert outcome.err.rstrip().endswith(sentence)


@pytest.mark.parametrize(
    "command",
    [
        ["pause", "--all"],
        ["drain", "w-1"],
        ["retry-now", "--all"],
        ["limit", "--task-type", "psi", "--running", "1"],
    ],
)
def test_a_group_that_is_not_there_gets_no_orders(sfworker: Command, jobs: list[str], command: list[str]) -> None:
    outcome = sfworker(*command, "--group", "other")
    assert outcome.code == 1
    assert "no worker has ever served group other here; there is secretflow" in outcome.err


def test_only_a_live_worker_is_drained(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    outcome = sfworker("drain", "w-1")
    assert (outcome.code, outcome.err) == (1, "sfworker: no worker w-1 serves group secretflow now; there is none\n")
    redis.set("sf:worker:w-1", json.dumps({"worker_id": "w-1"}))
    redis.hset("sf:workers:secretflow", "w-1", "1 1")
    assert "drain w-2" not in sfworker("drain", "w-2").out
    assert sfworker("drain", "w-1").code == 0
    assert list(redis.hgetall("sf:orders:secretflow")) == [b"drain w-1"]
    assert "draining: w-1 takes no more jobs and stops" in sfworker("status").out


def test_a_retry_that_waits_is_due_at_once(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    [(_, due)] = redis.zrange("sf:retries:normal:secretflow", -1, -1, withscores=True)
    assert sfworker("retry-now", "waits").out == "waits is tried again as soon as a worker is free\n"
    [(_, now)] = redis.zrange("sf:retries:normal:secretflow", -1, -1, withscores=True)
    assert due - now > 3_500_000
    assert sfworker("retry-now", "--all").out == "0 will be tried again as soon as workers are free\n"


@pytest.mark.parametrize(
    ("execution_id", "said"),
    [
        ("succeeded", "succeeded was answered"),
        ("runs", "runs runs, so there is no attempt to hasten"),
        ("is low", "is low is queued, so there is no attempt to hasten"),
        ("nobody", "no job nobody is known here"),
    ],
)
def test_what_does_not_wait_is_not_hastened(sfworker: Command, jobs: list[str], execution_id: str, said: str) -> None:
    outcome = sfworker("retry-now", execution_id)
    assert outcome.code == 1
    assert said in outcome.err


def test_groups_are_listed_and_one_without_jobs_is_removed(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    redis.xgroup_create("sf:jobs", "mistyped", id="$")
    [mistyped, served] = json.loads(sfworker("groups", "list", "--json").out)
    assert mistyped == {
        **{"name": "mistyped", "workers": 0, "queued": 0, "taken": 0, "dead": 0},
        "trouble": "no worker serves it, so no jobs wait; it keeps each new one",
    }
    assert (served["name"], served["taken"], served["dead"]) == ("secretflow", 3, 1)
    assert "mistyped" in sfworker("groups", "list").out
    assert sfworker("groups", "remove", "mistyped").out == "group mistyped is removed\n"
    assert [group["name"] for group in redis.xinfo_groups("sf:jobs")] == [b"secretflow"]
    refused = sfworker("groups", "remove", "secretflow")
    assert refused.code == 1
    assert "has 3 queued jobs and 3 that were taken and no answer; --force drops its claim on them" in refused.err
    assert sfworker("groups", "remove", "secretflow", "--force").code == 0
    assert redis.keys("*secretflow") == []
    assert sfworker("groups", "remove", "secretflow").err == "sfworker: no group secretflow is on the job streams\n"


def test_a_group_that_workers_serve_is_not_removed(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    redis.set("sf:worker:w-1", json.dumps({"worker_id": "w-1"}))
    redis.hset("sf:workers:secretflow", "w-1", "1 1")
    refused = sfworker("groups", "remove", "secretflow", "--force")
    assert (refused.code, refused.err) == (1, "sfworker: 1 workers serve group secretflow now; stop them first\n")
