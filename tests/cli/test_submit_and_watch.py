"""`sfworker submit`, `watch` and `cancel`, with what a worker says written by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.cli.conftest import Command

ENVELOPE = {"task_id": "t", "subtask_id": "s", "execution_id": "e-1", "task_config": {"task_type": "hello"}}


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(ENVELOPE))
    return str(path)


def say(redis: Any, status: str, stage: str, result: Any = None, **more: Any) -> None:
    event = {"execution_id": "e-1", "status": status, "stage": stage, "timestamp": "2024-01-01T10:20:30.400+00:00"}
    payload = json.dumps({**event, **more})
    step = redis.pipeline(transaction=True)
    step.xadd("sf:results", {"kind": "status", "execution_id": "e-1", "payload": payload})
    if result is not None:
        step.set("sf:result:e-1", json.dumps(result))
    step.execute()


def succeed(redis: Any) -> None:
    say(redis, "RUNNING", "task_started")
    say(redis, "RUNNING", "progress", progress=0.5, message="epoch 5 of 10")
    metrics = {"total_seconds": 1.234}
    answer = {"message": "hello 世界", "count": 3}
    result = {"status": "success", "result": answer, "performance_metrics": metrics}
    say(redis, "SUCCESS", "task_succeeded", result=result)


def fail(redis: Any) -> None:
    say(redis, "RUNNING", "task_started")
    result = {"status": "failure", "result": None, "error": "keys: missing", "error_type": "ParameterValidationError"}
    say(redis, "FAILURE", "task_failed_final", result=result, error="keys: missing")


def answer_first_job(url: str) -> threading.Thread:
    """A worker that answers the next job on sf:jobs."""

    def work() -> None:
        with Redis.from_url(url) as redis:
            redis.xread({"sf:jobs": "0"}, block=10_000, count=1)
            succeed(redis)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_submit_says_what_it_appended(sfworker: Command, redis: Any, file: str) -> None:
    outcome = sfworker("submit", file)
    assert outcome.code == 0
    [(entry_id, fields)] = redis.xrange("sf:jobs")
    assert outcome.out == f"e-1 appended as entry {entry_id.decode()}\n"
    assert json.loads(fields[b"envelope"]) == ENVELOPE
    outcome = sfworker("submit", file, "--priority", "low", "--json")
    [(entry_id, _)] = redis.xrange("sf:jobs:low")
    assert json.loads(outcome.out) == {"execution_id": "e-1", "entry_id": entry_id.decode()}


def test_submit_and_wait_shows_events_on_stderr_and_the_result_on_stdout(
    sfworker: Command, redis_url: str, file: str
) -> None:
    worker = answer_first_job(redis_url)
    outcome = sfworker("submit", file, "--wait", "--timeout", "10")
    worker.join()
    assert outcome.code == 0
    assert outcome.out == "success after 1.23 s\n  message: hello 世界\n  count: 3\n"
    assert outcome.err.splitlines() == [
        "10:20:30.400 e-1 RUNNING task_started: started",
        "10:20:30.400 e-1 RUNNING progress  50%: epoch 5 of 10",
        "10:20:30.400 e-1 SUCCESS task_succeeded: done",
    ]


def test_submit_and_wait_prints_the_result_as_json(sfworker: Command, redis_url: str, file: str) -> None:
    worker = answer_first_job(redis_url)
    outcome = sfworker("submit", file, "--wait", "--json", "--timeout", "10")
    worker.join()
    assert json.loads(outcome.out)["result"] == {"message": "hello 世界", "count": 3}


@pytest.mark.parametrize("content", ["", "not JSON", "[1]", '"text"', "\udcff"])
def test_submit_refuses_what_is_no_json_object(sfworker: Command, tmp_path: Path, redis: Any, content: str) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    outcome = sfworker("submit", str(path))
    assert outcome.code == 2
    assert f"{path}: holds no JSON object" in outcome.err
    assert not redis.exists("sf:jobs")


def test_submit_needs_a_file_and_an_execution_id(sfworker: Command, tmp_path: Path, redis: Any) -> None:
    outcome = sfworker("submit", str(tmp_path / "missing.json"))
    assert (outcome.code, outcome.out) == (2, "")
    (tmp_path / "job.json").write_text("{}")
    outcome = sfworker("submit", str(tmp_path / "job.json"))
    assert outcome.code == 2
    assert "execution_id" in outcome.err
    assert not redis.exists("sf:jobs")


def test_watch_ends_with_0_only_on_success(sfworker: Command, redis: Any) -> None:
    succeed(redis)
    assert sfworker("watch", "e-1").code == 0


def test_watch_of_a_failure_names_it_and_ends_with_1(sfworker: Command, redis: Any) -> None:
    fail(redis)
    outcome = sfworker("watch", "e-1")
    assert outcome.code == 1
    assert "keys: missing" in outcome.err


def test_watch_of_a_cancelled_one_ends_with_1(sfworker: Command, redis: Any) -> None:
    say(redis, "CANCELLED", "task_cancelled")
    assert sfworker("watch", "e-1").code == 1


def test_watch_prints_lines_of_json(sfworker: Command, redis: Any) -> None:
    fail(redis)
    outcome = sfworker("watch", "e-1", "--json")
    assert [json.loads(line)["status"] for line in outcome.out.splitlines()] == ["RUNNING", "FAILURE"]
    assert outcome.err == ""


def test_watch_gives_up_after_its_time(sfworker: Command) -> None:
    outcome = sfworker("watch", "e-1", "--timeout", "0.2")
    assert outcome.code == 1
    assert "e-1 has not ended after 0.2 s" in outcome.err


def test_identifiers_and_messages_are_no_markup(sfworker: Command, redis: Any) -> None:
    say(redis, "FAILURE", "task_failed_final", result={"status": "failure"}, error="[bold]x[/bold] :smile:")
    assert "[bold]x[/bold] :smile:" in sfworker("watch", "e-1").err


def test_cancel_asks_once_and_leaves_ended_ones_alone(sfworker: Command, redis: Any) -> None:
    outcome = sfworker("cancel", "e-1")
    assert (outcome.code, outcome.out) == (0, "e-1: asked to stop\n")
    assert redis.get("sf:cancel:e-1") == b"1"
    redis.delete("sf:cancel:e-1")
    succeed(redis)
    outcome = sfworker("cancel", "e-1")
    assert (outcome.code, outcome.out) == (1, "e-1: has ended already, nothing changed\n")
    assert not redis.exists("sf:cancel:e-1")
