"""`sfworker dead` and `sfworker replay`, on jobs that a broker has buried."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from sfworker.broker.broker import Attempt, open_broker
from sfworker.cli import console
from sfworker.settings import Settings
from tests.cli.conftest import Command

EVENT = (b'{"attempt":', b"}")
Bury = Callable[..., list[str]]


@pytest.fixture
def bury(redis_url: str, redis: Any) -> Bury:
    """`bury({"execution_id": "e-1"}, ...)`: each is tried twice and then fails for good. Returns the entries' ids."""

    async def work(error_type: str, group: str) -> None:
        failure = json.dumps({"error_type": error_type, "error": "keys.alice: [bold]missing[/bold]"}).encode()
        async with open_broker(Settings(redis_url=redis_url), group, "worker-1") as broker:
            await broker.ensure_groups()
            while entries := await broker.take([1] * 100):
                for entry in entries:
                    attempt = Attempt.of(entry)
                    await broker.start(attempt, EVENT)
                    if redis.hget(f"sf:exec:{attempt.known_as}", "attempt") == b"1":
                        await broker.retry(attempt, b'{"error_type":"TaskExecutionError"}', 0)
                    else:
                        await broker.bury(attempt, failure, b'{"status":"failure"}')

    def bury(*envelopes: Any, error_type: str = "InputDataError", group: str = "secretflow") -> list[str]:
        ids = [
            redis.xadd("sf:jobs", {"envelope": one if isinstance(one, str) else json.dumps(one)}).decode()
            for one in envelopes
        ]
        asyncio.run(work(error_type, group))
        return ids

    return bury


def job(execution_id: str, **more: Any) -> dict[str, Any]:
    task = {"task_type": "psi", "receiver": "爱丽丝"}
    return {"execution_id": execution_id, "task_id": "t", "subtask_id": "s", "task_config": task, **more}


def owners(redis: Any) -> list[str]:
    return [entry["consumer"].decode() for entry in redis.xpending_range("sf:jobs", "secretflow", "-", "+", 20_000)]


def test_an_empty_server_has_no_dead(sfworker: Command) -> None:
    outcome = sfworker("dead", "list")
    assert (outcome.code, outcome.out) == (0, "no job has failed for good\n")
    assert json.loads(sfworker("dead", "list", "--json").out) == []
    assert sfworker("replay", "--all").out == "0 replayed\n"
    assert sfworker("dead", "purge", "--all").out == "0 purged\n"


def test_the_list_says_what_died_of_what(sfworker: Command, bury: Bury) -> None:
    entry_id, broken = bury(job("e-1"), "garbage")
    bury(job("e-2"), error_type="CrashLoopError")
    listed = json.loads(sfworker("dead", "list", "--json").out)
    buried_at = listed[0].pop("buried_at")
    assert buried_at.startswith(time.strftime("%Y-%m-%dT", time.gmtime()))
    assert listed[0] == {
        "execution_id": "e-1",
        "entry_id": entry_id,
        "stream": "sf:jobs",
        "task_id": "t",
        "subtask_id": "s",
        "task_type": "psi",
        "attempts": 2,
        "replays": 0,
        "error_type": "InputDataError",
        "error": "keys.alice: [bold]missing[/bold]",
    }
    assert (listed[1]["execution_id"], listed[1]["entry_id"], listed[1]["task_type"]) == (None, broken, None)
    text = sfworker("dead", "list").out
    for said in ("e-1", broken, "e-2", "psi", "InputDataError", "[bold]missing[/bold]", buried_at[:10]):
        assert said in text
    [only] = json.loads(sfworker("dead", "list", "--json", "--error-type", "CrashLoopError").out)
    assert only["execution_id"] == "e-2"
    assert "e-1" not in sfworker("dead", "list", "--error-type", "CrashLoopError").out
    assert "and more; --limit N shows more than 1" in sfworker("dead", "list", "--limit", "1").out
    assert "and more" not in sfworker("dead", "list", "--limit", "3").out


def test_one_is_shown_with_its_envelope_and_every_attempt(sfworker: Command, bury: Bury) -> None:
    entry_id, broken = bury(job("e-1"), "gar\nbage")
    shown = json.loads(sfworker("dead", "show", "e-1", "--json").out)
    assert shown["envelope"] == job("e-1")
    first, second = shown["history"]
    assert (first["attempt"], first["worker_id"], first["outcome"]) == (1, "worker-1", "retrying")
    assert (first["error_type"], first["error"]) == ("TaskExecutionError", None)
    assert (second["attempt"], second["outcome"], second["error_type"]) == (2, "failed", "InputDataError")
    assert first["started_at"] <= first["ended_at"] <= second["started_at"] <= second["ended_at"] <= shown["buried_at"]
    assert json.loads(sfworker("dead", "show", entry_id, "--json").out) == shown
    assert json.loads(sfworker("dead", "show", broken, "--json").out)["envelope"] == "gar\nbage"
    text = sfworker("dead", "show", "e-1").out
    for said in ("worker-1", "TaskExecutionError", "[bold]missing[/bold]", '"receiver": "爱丽丝"', entry_id):
        assert said in text


@pytest.mark.parametrize("command", [("replay", "--execution-id"), ("dead", "replay")])
def test_one_is_replayed_once(sfworker: Command, redis: Any, bury: Bury, command: tuple[str, ...]) -> None:
    bury(job("e-1"), job("e-2"))
    outcome = sfworker(*command, "e-1")
    assert (outcome.code, outcome.out) == (0, "e-1 is replayed: it runs again as soon as a worker is free\n")
    assert owners(redis) == ["@retry", "@dead"]
    [(_, fields)] = redis.xrevrange("sf:results", count=1)
    event = json.loads(fields[b"payload"])
    assert (fields[b"status"], event["status"], event["stage"]) == (b"RETRY", "RETRY", "task_replayed")
    assert (event["execution_id"], event["task_id"], event["subtask_id"]) == ("e-1", "t", "s")
    assert (event["attempt"], event["retry_count"]) == (0, 0)
    length = redis.xlen("sf:results")
    outcome = sfworker(*command, "e-1")
    said = "sfworker: e-1 waits for its next attempt and is not among the jobs that failed for good\n"
    assert (outcome.code, outcome.out, outcome.err) == (1, "", said)
    assert redis.xlen("sf:results") == length


def test_many_are_replayed_by_their_error(sfworker: Command, redis: Any, bury: Bury) -> None:
    bury(job("e-1"), "garbage")
    bury(job("e-2"), error_type="CrashLoopError")
    assert sfworker("replay", "--error-type", "CrashLoopError").out == "1 replayed\n"
    assert owners(redis) == ["@dead", "@dead", "@retry"]
    assert sfworker("replay", "--all").out == "2 replayed\n"
    assert owners(redis) == ["@retry"] * 3


def test_replaying_trims_nothing_of_what_was_said(
    sfworker: Command, redis: Any, bury: Bury, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where people are, the workers' settings need not be known."""
    monkeypatch.setenv("SFWORKER_RESULTS_MAXLEN", "100")
    bury(job("e-1"), job("e-2"))
    with redis.pipeline(transaction=False) as pipeline:
        for _ in range(500):
            pipeline.xadd("sf:results", {"kind": "status"})
        pipeline.execute()
    said = redis.xlen("sf:results")
    assert sfworker("replay", "--execution-id", "e-1").code == 0
    assert sfworker("replay", "--all").code == 0
    assert redis.xlen("sf:results") == said + 2


def test_what_cannot_be_replayed_is_named(sfworker: Command, redis: Any, bury: Bury) -> None:
    entry_id, _ = bury(job("e-1"), job("e-2"))
    redis.xdel("sf:jobs", entry_id)
    reason = "cannot be replayed, its payload was deleted from the stream; send it under another execution_id"
    outcome = sfworker("replay", "--execution-id", "e-1")
    assert (outcome.code, outcome.err) == (1, f"sfworker: e-1 {reason}\n")
    outcome = sfworker("replay", "--all")
    assert (outcome.code, outcome.out) == (1, f"{entry_id} {reason}\n1 replayed\n")
    assert json.loads(sfworker("dead", "show", "e-1", "--json").out)["envelope"] is None
    assert sfworker("dead", "purge", "e-1").out == "1 purged\n"


def test_purging_one_or_all(sfworker: Command, redis: Any, bury: Bury) -> None:
    bury(job("e-1"), job("e-2"), "garbage")
    outcome = sfworker("dead", "purge", "e-1")
    assert (outcome.code, outcome.out) == (0, "1 purged\n")
    assert redis.xlen("sf:jobs") == 2
    outcome = sfworker("dead", "purge", "e-1")
    assert (outcome.code, outcome.out) == (1, "")
    assert "e-1 was answered and is not among the jobs that failed for good" in outcome.err
    outcome = sfworker("dead", "purge", "--all")
    assert (outcome.code, outcome.out) == (0, "2 purged\n")
    assert redis.xlen("sf:jobs") == 0
    outcome = sfworker("dead", "show", "e-2")
    assert (outcome.code, outcome.out) == (1, "")
    assert "e-2 was answered and is not among the jobs that failed for good" in outcome.err


@pytest.mark.parametrize(
    "command", [("replay", "--execution-id"), *(("dead", name) for name in ("show", "replay", "purge"))]
)
def test_one_that_nobody_knows(sfworker: Command, bury: Bury, command: tuple[str, ...]) -> None:
    bury(job("e-1"))
    outcome = sfworker(*command, "e-9")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "sfworker: no job e-9 is known here\n")
    outcome = sfworker(*command, "17-0")  # could be an entry
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "sfworker: no job 17-0 has failed for good\n")


def test_an_error_that_no_job_has(sfworker: Command, bury: Bury) -> None:
    bury(job("e-1"))
    outcome = sfworker("replay", "--error-type", "CrashLoopError")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "sfworker: no job has failed for good with CrashLoopError; nothing is replayed\n"
    said = "no job has failed for good with CrashLoopError\n"
    assert sfworker("dead", "list", "--error-type", "CrashLoopError").out == said


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("dead", "list"),
        ("dead", "show", "e-1"),
        ("dead", "purge", "--all"),
        ("replay", "--all"),
        ("replay", "--execution-id", "e-1"),
    ],
)
def test_a_group_that_nobody_has_served(sfworker: Command, bury: Bury, command: tuple[str, ...]) -> None:
    bury(job("e-1"))
    outcome = sfworker(*command, "--group", "typo")
    said = "sfworker: no worker has ever served group typo here; there is secretflow\n"
    assert (outcome.code, outcome.out, outcome.err) == (1, "", said)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_limit_is_a_number_above_0(sfworker: Command, value: str) -> None:
    outcome = sfworker("dead", "list", "--limit", value)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert f"--limit: {value} is not a whole number above 0" in outcome.err


def test_in_a_narrow_terminal_each_job_is_a_block(
    sfworker: Command, bury: Bury, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(job("e-1"), "garbage")
    monkeypatch.setattr(console, "_WIDTH_OF_A_PIPE", 80)
    lines = sfworker("dead", "list").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "e-1"
    assert lines[1].startswith("  psi, failed at 20")
    assert lines[1].endswith("Z after 2 attempts")
    assert lines[2].rstrip() == "    InputDataError: keys.alice: [bold]missing[/bold]"
    assert lines[4].startswith("  (no task type), failed at 20")
    assert max(map(len, sfworker("dead", "show", "e-1").out.splitlines())) <= 80


def test_another_groups_dead_are_its_own(sfworker: Command, redis: Any, bury: Bury) -> None:
    bury(job("e-1"))
    redis.xgroup_create("sf:jobs", "other", "0")
    assert sfworker("dead", "list", "--group", "other").out == "no job has failed for good\n"
    outcome = sfworker("dead", "purge", "e-1", "--group", "other")
    assert (outcome.code, outcome.err) == (1, "sfworker: e-1 is a job of group secretflow, not of other\n")
    assert sfworker("dead", "purge", "--all").out == "1 purged\n"
    assert redis.xlen("sf:jobs") == 1  # the other group has yet to see it


def test_of_many_some_are_chosen_and_a_trial_changes_nothing(sfworker: Command, redis: Any, bury: Bury) -> None:
    bury(job("e-1"), job("e-2"), job("e-3"))
    before = owners(redis)
    assert sfworker("replay", "--all", "--dry-run").out == "3 would be replayed\n"
    assert (
        sfworker("replay", "--error-type", "InputDataError", "--limit", "2", "--dry-run").out == "2 would be replayed\n"
    )
    assert sfworker("dead", "purge", "--all", "--dry-run").out == "3 would be purged\n"
    assert sfworker("replay", "--all", "--older-than", "1h").out == "0 replayed\n"
    assert sfworker("dead", "purge", "--all", "--older-than", "1d").out == "0 purged\n"
    assert owners(redis) == before
    redis.hset("sf:exec:e-2", "buried", int(1000 * (time.time() - 7200)))
    assert sfworker("replay", "--all", "--older-than", "1h").out == "1 replayed\n"
    assert owners(redis) == ["@dead", "@retry", "@dead"]
    assert sfworker("dead", "purge", "--all", "--limit", "1").out == "1 purged\n"
    assert owners(redis) == ["@retry", "@dead"]


@pytest.mark.parametrize("command", [("replay", "--execution-id", "e-1"), ("dead", "purge", "e-1")])
@pytest.mark.parametrize("option", [("--limit", "1"), ("--older-than", "1h"), ("--dry-run",)])
def test_what_is_for_many_does_not_go_with_one(
    sfworker: Command, redis: Any, bury: Bury, command: tuple[str, ...], option: tuple[str, ...]
) -> None:
    bury(job("e-1"))
    outcome = sfworker(*command, *option)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"sfworker: {option[0]}: goes with --all")
    assert owners(redis) == ["@dead"]


def test_ten_thousand_are_listed_and_replayed_in_seconds(sfworker: Command, redis: Any) -> None:
    redis.xgroup_create("sf:jobs", "secretflow", "0", mkstream=True)
    with redis.pipeline(transaction=False) as pipeline:
        for number in range(10_000):
            pipeline.xadd("sf:jobs", {"envelope": json.dumps(job(f"e-{number}"))})
        ids = pipeline.execute()
    redis.xreadgroup("secretflow", "worker-1", {"sf:jobs": ">"})
    redis.xclaim("sf:jobs", "secretflow", "@dead", 0, ids, justid=True)
    began = time.monotonic()
    assert len(json.loads(sfworker("dead", "list", "--json").out)) == 10_000
    assert sfworker("dead", "show", ids[-1].decode()).code == 0
    assert "shows more than 100" in sfworker("dead", "list").out
    assert sfworker("replay", "--all").out == "10000 replayed\n"
    assert time.monotonic() - began < 60  # 4 s when nothing else is running
    assert redis.zcard("sf:retries:normal:secretflow") == 10_000


@pytest.mark.parametrize(
    "words",
    [
        ("dead",),
        ("dead", "nonsense"),
        ("dead", "show"),
        ("dead", "purge"),
        ("dead", "purge", "e-1", "--all"),
        ("replay",),
        ("replay", "--all", "--error-type", "InputDataError"),
        ("replay", "--all", "--older-than", "soon"),
        ("dead", "purge", "--all", "--limit", "0"),
    ],
)
def test_wrong_usage_is_one_sentence(sfworker: Command, words: tuple[str, ...]) -> None:
    outcome = sfworker(*words)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    "words", [("dead", "list"), ("dead", "show", "x"), ("dead", "purge", "--all"), ("replay", "--execution-id", "x")]
)
def test_redis_away_is_one_sentence(sfworker: Command, words: tuple[str, ...]) -> None:
    outcome = sfworker(*words, "--redis", "redis://localhost:1/0")
    assert (outcome.code, outcome.out) == (1, "")
    assert "Redis at redis://localhost:1/0 cannot be reached" in outcome.err
