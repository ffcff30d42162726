"""`sfworker submit`, `watch` and `cancel`, with what a worker says written by hand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.cli.conftest import Command

ENVELOPE = {"task_id": "t", "subtask_id": "s", "execution_id": "e-1", "task_config": {"task_type": "hello"}}
USERS = Path(__file__).parents[2] / "deploy" / "users.acl"
ENDED = "2024-01-01T10:20:31.000+00:00"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """People are told their own time."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


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
    """The metadata that a worker adds, shortened."""
    say(redis, "RUNNING", "task_started")
    say(redis, "RUNNING", "progress", progress=0.5, message="epoch 5 of 10")
    metrics = {"total_seconds": 1.234}
    answer = {"message": "hello 世界", "count": 3}
    metadata = {"completed_at": ENDED}
    result = {"status": "success", "result": answer, "performance_metrics": metrics, "task_metadata": metadata}
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

    with Redis.from_url(url) as redis:
        redis.set("sf:worker:worker-1", "{}", ex=60)
        redis.hset("sf:workers:secretflow", "worker-1", "1 1")
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_submit_says_what_it_appended(sfworker: Command, redis: Any, file: str) -> None:
    outcome = sfworker("submit", file)
    assert outcome.code == 0
    [(entry_id, fields)] = redis.xrange("sf:jobs")
    assert outcome.out == f"e-1 appended as entry {entry_id.decode()}\n"
    assert json.loads(fields[b"envelope"]) == ENVELOPE
    redis.delete("sf:jobs")
    outcome = sfworker("submit", file, "--priority", "low", "--json")
    [(entry_id, _)] = redis.xrange("sf:jobs:low")
    assert json.loads(outcome.out) == {"execution_id": "e-1", "entry_id": entry_id.decode()}


def test_what_was_answered_before_is_not_sent_again(sfworker: Command, redis: Any, file: str) -> None:
    succeed(redis)
    outcome = sfworker("submit", file)
    said = "e-1 was answered on 2024-01-01 at 10:20:31 and is not run again; --new-id sends it as a new one\n"
    assert (outcome.code, outcome.out, outcome.err) == (0, said, "")
    outcome = sfworker("submit", file, "--json")
    assert json.loads(outcome.out) == {
        "execution_id": "e-1",
        "entry_id": None,
        "answered_at": ENDED,
        "status": "success",
        "already": "answered",
    }
    outcome = sfworker("submit", file, "--wait")
    assert (outcome.code, outcome.err) == (0, said)
    assert outcome.out.startswith("success after 1.23 s\n")
    answer = json.loads(sfworker("submit", file, "--wait", "--json").out)
    assert (answer["result"]["count"], answer["already"]) == (3, "answered")
    assert not redis.exists("sf:jobs")


def test_the_time_of_an_answer_of_today_is_enough(sfworker: Command, redis: Any, file: str) -> None:
    now = datetime.now().astimezone().replace(hour=20, minute=42, second=3, microsecond=0)
    redis.set("sf:result:e-1", json.dumps({"status": "failure", "task_metadata": {"completed_at": now.isoformat()}}))
    assert sfworker("submit", file).out.startswith("e-1 was answered at 20:42:03 and is not run again")
    assert sfworker("submit", file, "--wait").code == 1


def test_an_answer_that_is_not_kept_any_more_is_not_waited_for(sfworker: Command, redis: Any, file: str) -> None:
    """The worker would drop the job without a word."""
    redis.hset("sf:exec:e-1", mapping={"state": "done", "group": "secretflow"})
    for words in (("submit", file, "--wait"), ("watch", "e-1")):
        outcome = sfworker(*words)
        assert (outcome.code, outcome.out) == (1, "")
        assert "e-1 was answered; its result and events are not kept any more" in outcome.err
    say(redis, "SUCCESS", "task_succeeded")
    for words in (("submit", file, "--wait"), ("watch", "e-1")):
        outcome = sfworker(*words)
        assert (outcome.code, outcome.out.splitlines()[0]) == (0, "success")


def test_a_new_id_makes_a_new_job(sfworker: Command, redis: Any, redis_url: str, file: str) -> None:
    succeed(redis)
    outcome = sfworker("submit", file, "--new-id")
    [(entry_id, fields)] = redis.xrange("sf:jobs")
    sent = json.loads(fields[b"envelope"])
    assert sent["execution_id"].startswith("e-1-")
    assert {**sent, "execution_id": "e-1"} == ENVELOPE
    assert (outcome.code, outcome.out) == (0, f"{sent['execution_id']} appended as entry {entry_id.decode()}\n")
    assert json.loads(sfworker("submit", file, "--new-id", "--json").out)["execution_id"] != sent["execution_id"]
    outcome = sfworker("submit", file, "--new-id", "--wait", "--timeout", "0.1")
    assert outcome.code == 1
    assert re.match(r"e-1-[0-9a-f]{8} appended as entry", outcome.err)


@pytest.mark.parametrize(
    ("state", "words"), [("running", "runs"), ("retry", "waits for its next attempt"), (None, "is queued")]
)
def test_what_has_not_ended_is_not_run_twice(
    sfworker: Command, redis: Any, file: str, state: str | None, words: str
) -> None:
    sfworker("submit", file)
    if state is not None:
        redis.hset("sf:exec:e-1", mapping={"state": state, "group": "secretflow"})
    outcome = sfworker("submit", file)
    assert outcome.code == 0
    told = f"; an earlier job of this id {words}, and only one of the two is run; --new-id sends it as a new one\n"
    assert outcome.out.endswith(told)
    told_in_json = {"running": "running", "retry": "waiting", None: "queued"}[state]
    assert json.loads(sfworker("submit", file, "--json").out)["already"] == told_in_json
    assert redis.xlen("sf:jobs") == 3
    say(redis, "RUNNING", "task_started")
    assert "e-1 RUNNING task_started" in sfworker("submit", file, "--wait", "--timeout", "0.2").err


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


def test_watch_prints_the_result_as_submit_does(sfworker: Command, redis: Any, file: str) -> None:
    succeed(redis)
    outcome = sfworker("watch", "e-1")
    assert outcome.out == "success after 1.23 s\n  message: hello 世界\n  count: 3\n"
    assert outcome.out == sfworker("submit", file, "--wait").out


def test_watch_of_a_failure_names_it_and_ends_with_1(sfworker: Command, redis: Any) -> None:
    fail(redis)
    outcome = sfworker("watch", "e-1")
    assert outcome.code == 1
    assert "keys: missing" in outcome.err
    assert outcome.out == "failure: keys: missing (ParameterValidationError)\n"


def test_watch_of_a_cancelled_one_ends_with_1(sfworker: Command, redis: Any) -> None:
    say(redis, "CANCELLED", "task_cancelled")
    outcome = sfworker("watch", "e-1")
    assert (outcome.code, outcome.out) == (1, "cancelled\n")


def test_watch_prints_lines_of_json(sfworker: Command, redis: Any) -> None:
    fail(redis)
    outcome = sfworker("watch", "e-1", "--json")
    assert [json.loads(line)["status"] for line in outcome.out.splitlines()] == ["RUNNING", "FAILURE", "failure"]
    assert outcome.err == ""


def test_watch_gives_up_after_its_time(sfworker: Command, redis: Any) -> None:
    say(redis, "RUNNING", "task_started")
    outcome = sfworker("watch", "e-1", "--timeout", "0.2")
    assert outcome.code == 1
    assert "e-1 has not ended after 0.2 s" in outcome.err


def test_watch_waits_for_no_job_that_nobody_knows(sfworker: Command, redis: Any) -> None:
    succeed(redis)
    outcome = sfworker("watch", "e-9")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "sfworker: no job e-9 is known here\n")


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "-0.0", "soon", "1e999"])
@pytest.mark.parametrize("words", [("watch", "e-1"), ("submit", "-", "--wait")])
def test_a_time_limit_is_a_number_above_0(sfworker: Command, words: tuple[str, ...], value: str) -> None:
    outcome = sfworker(*words, "--timeout", value)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert f"--timeout: {value} is not a number of seconds above 0" in outcome.err


# --- nobody to run it, and Ctrl-C

NOBODY = "no worker serves group secretflow now"


def serve(redis: Any, group: str, worker: str) -> None:
    redis.xgroup_create("sf:jobs", group, "0", mkstream=True)
    redis.xgroup_createconsumer("sf:jobs", group, worker)
    redis.set(f"sf:worker:{worker}", "{}", ex=60)
    redis.hset(f"sf:workers:{group}", worker, "1 1")


@pytest.mark.parametrize("command", ["submit", "watch"])
def test_a_missing_worker_is_told(sfworker: Command, redis: Any, file: str, command: str) -> None:
    def told(*more: str) -> str:
        words = ("submit", file, "--wait") if command == "submit" else ("watch", "e-1")
        return sfworker(*words, "--timeout", "0.5", *more).err

    sfworker("submit", file)
    assert NOBODY in told()
    serve(redis, "other", "worker-1")
    assert NOBODY in told()
    assert "no worker serves" not in told("--group", "other")
    redis.hset("sf:exec:e-1", mapping={"state": "running", "group": "other"})
    assert "no worker serves" not in told()  # that is where it runs
    redis.delete("sf:exec:e-1")
    redis.hset("sf:workers:secretflow", "worker-2", "1 1")
    assert NOBODY in told()  # it has no heartbeat
    redis.set("sf:worker:worker-2", "{}", ex=60)
    assert "no worker serves" not in told()


def test_nobody_is_missed_by_a_job_that_has_ended(sfworker: Command, redis: Any) -> None:
    succeed(redis)
    assert NOBODY not in sfworker("watch", "e-1").err


@pytest.mark.parametrize("command", ["submit", "watch"])
def test_after_ctrl_c_the_job_goes_on(redis: Any, redis_url: str, file: str, command: str) -> None:
    redis.xadd("sf:jobs", {"envelope": json.dumps(ENVELOPE)})
    say(redis, "RUNNING", "task_started")
    words = [command, "e-1"] if command == "watch" else [command, file, "--wait"]
    with subprocess.Popen(
        [sys.executable, "-m", "sfworker", *words, "--redis", redis_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        said = ""
        while "task_started" not in said:
            said = process.stderr.readline()
            assert said, "it has ended"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert re.search(r"e-1 goes on without this command; `.*sfworker cancel e-1 --redis unix:.*` cancels it", errors)
    assert "Traceback" not in errors
    assert not redis.exists("sf:cancel:e-1")


# --- as the user web, who may not read the workers' keys


@pytest.fixture
def as_web(
    sfworker: Command, redis: Any, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    [line] = [line for line in USERS.read_text().splitlines() if line.startswith("user web ")]
    rules = [rule for rule in line.split()[2:] if not rule.startswith("#")]
    redis.execute_command("ACL", "SETUSER", "web", "reset", *rules, ">word")
    monkeypatch.setenv("REDIS_URL", f"unix://web:word@{redis_server.socket_path}")
    yield sfworker
    redis.execute_command("ACL", "DELUSER", "web")


def test_the_web_side_is_told_what_it_may_know(as_web: Command, redis: Any, file: str) -> None:
    assert as_web("submit", file).out.startswith("e-1 appended as entry")
    outcome = as_web("watch", "e-1", "--timeout", "0.5")
    assert outcome.code == 1
    assert "e-1 has not ended" in outcome.err
    assert "no worker serves" not in outcome.err
    outcome = as_web("cancel", "e-1")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "e-1 has not begun, if it was sent, and is being cancelled\n"
    say(redis, "RUNNING", "task_started")
    assert as_web("cancel", "e-1").out == "e-1 runs and is being cancelled\n"
    succeed(redis)
    assert as_web("watch", "e-1").code == 0
    assert "was answered" in as_web("submit", file).out
    assert "there is nothing to cancel" in as_web("cancel", "e-1").err


@pytest.mark.attack("Redis")
def test_the_web_side_may_neither_replay_nor_look(as_web: Command) -> None:
    for words in (("status",), ("dead", "list"), ("replay", "--all")):
        outcome = as_web(*words)
        assert (outcome.code, outcome.out) == (1, "")
        assert "refuses" in outcome.err


@pytest.mark.attack("terminal")
def test_identifiers_and_messages_are_no_markup(sfworker: Command, redis: Any) -> None:
    say(redis, "FAILURE", "task_failed_final", result={"status": "failure"}, error="[bold]x[/bold] :smile:")
    assert "[bold]x[/bold] :smile:" in sfworker("watch", "e-1").err


def test_cancel_says_what_it_cancels(sfworker: Command, redis: Any, file: str) -> None:
    sfworker("submit", file)
    serve(redis, "secretflow", "worker-1")
    outcome = sfworker("cancel", "e-1")
    assert (outcome.code, outcome.out, outcome.err) == (0, "e-1 is queued and is being cancelled\n", "")
    assert redis.get("sf:cancel:e-1") == b"1"
    redis.hset("sf:exec:e-1", mapping={"state": "running", "group": "secretflow"})
    redis.delete("sf:worker:worker-1")
    outcome = sfworker("cancel", "e-1")
    assert (outcome.code, outcome.out) == (0, "e-1 runs and is being cancelled\n")
    assert outcome.err == f"{NOBODY}; the next one cancels it\n"


def test_cancel_leaves_ended_ones_alone(sfworker: Command, redis: Any) -> None:
    succeed(redis)
    outcome = sfworker("cancel", "e-1")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "sfworker: e-1 was answered on 2024-01-01 at 10:20:31, so there is nothing to cancel\n"
    redis.delete("sf:result:e-1", "sf:results")
    redis.hset("sf:exec:e-1", mapping={"state": "dead", "group": "secretflow"})
    assert sfworker("cancel", "e-1").err == "sfworker: e-1 was answered, so there is nothing to cancel\n"
    assert not redis.exists("sf:cancel:e-1")


def test_cancel_of_one_that_nobody_knows_holds_for_a_day(sfworker: Command, redis: Any) -> None:
    outcome = sfworker("cancel", "e-9")
    said = "sfworker: no job e-9 is known here; if it is sent within a day, it is cancelled\n"
    assert (outcome.code, outcome.out, outcome.err) == (1, "", said)
    assert 86_000 < redis.ttl("sf:cancel:e-9") <= 86_400
