"""Values of another type in the place of each key that the worker uses: other streams are served, and it says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sfworker.broker.keys import Keys
from sfworker.cli import main
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.daemon import health
from tests.network import free_ports
from tests.running_worker import RunningWorker, envelope, until

KEYS = Keys()
GROUP = "secretflow"
BOOKS = {
    **{KEYS.retries(stream, GROUP): "zset" for stream in KEYS.job_streams()},
    KEYS.answers(GROUP): "hash",
    KEYS.workers(GROUP): "hash",
}


def act(action: str, *, options: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    return envelope({"task_type": "act_alone", "action": action, **parameters}, options=options or {})


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis("--appendfsync", "no") as server:
        yield server


@pytest.fixture(scope="module")
def long_lived(server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    values = {"lease_seconds": "1.5", "concurrency": "2", "health": f"127.0.0.1:{free_ports(1)[0]}"}
    directory = tmp_path_factory.mktemp("worker")
    with RunningWorker(server.url, directory, **values) as worker:
        worker.health = values["health"]  # type: ignore[attr-defined]
        yield worker


@pytest.fixture
def worker(long_lived: RunningWorker) -> Iterator[RunningWorker]:
    """Serves all streams after each test, and is the same process."""
    process = long_lived.process.pid
    yield long_lived
    sent = [long_lived.send(act("succeed"), stream) for stream in KEYS.job_streams()]
    assert [long_lived.until_ended(each)["status"] for each in sent] == ["SUCCESS"] * 3
    assert long_lived.process.pid == process
    until(lambda: ready(long_lived) == (200, ""))


def ready(worker: RunningWorker) -> tuple[int, str]:
    status, body = health.ask(worker.health, "/readyz")  # type: ignore[attr-defined]
    return status, json.loads(body)["reason"]


def put(worker: RunningWorker, key: str, kind: str) -> None:
    """A value of this type in the place of the key, in one step."""
    with worker.redis.pipeline(transaction=True) as step:
        step.delete(key)
        if kind == "string":
            step.set(key, "x")
        elif kind == "hash":
            step.hset(key, "x", "x")
        else:
            step.rpush(key, "x")
        step.execute()


def said(words: list[str], server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]) -> str:
    main([*words, "--redis", server.url])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.attack("Redis")
@pytest.mark.parametrize(("stream", "kind"), [("sf:jobs:high", "string"), ("sf:jobs", "hash"), ("sf:jobs:low", "list")])
def test_other_streams_are_served(
    worker: RunningWorker, server: EmbeddedRedis, capsys: pytest.CaptureFixture[str], stream: str, kind: str
) -> None:
    put(worker, stream, kind)
    others = [worker.send(act("succeed"), other) for other in KEYS.job_streams() if other != stream]
    assert [worker.until_ended(each)["status"] for each in others] == ["SUCCESS"] * 2
    sentence = f"{stream} holds a {kind} instead of a stream, so its jobs are not taken; remove that key"
    until(lambda: ready(worker) == (200, sentence))
    assert sentence in worker.log()
    assert sentence in said(["status"], server, capsys)
    assert sentence in said(["doctor", "--quick"], server, capsys)
    assert sentence in json.loads(said(["status", "--json"], server, capsys))["misplaced"]
    assert "no job" in said(["dead", "list"], server, capsys).lower()
    worker.redis.delete(stream)


@pytest.mark.attack("Redis")
def test_an_outcome_waits_for_the_results_stream(
    worker: RunningWorker, server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    execution_id = worker.send(act("report", seconds=1.0))
    worker.until_said(execution_id, "task_started")
    put(worker, KEYS.results, "string")
    queued = worker.send(act("succeed"))
    sentence = "sf:results holds a string instead of a stream, so no job is taken and outcomes wait; remove that key"
    until(lambda: ready(worker) == (503, sentence))
    assert sentence in said(["status"], server, capsys)
    assert sentence in said(["doctor", "--quick"], server, capsys)
    assert main(["watch", execution_id, "--redis", server.url]) == 1
    assert "a key holds a value of the wrong type; `sfworker doctor` names it" in capsys.readouterr().err
    until(lambda: "waits" in worker.log().rpartition(sentence)[2])  # the outcome is there
    assert worker.redis.get(KEYS.result(execution_id)) is None
    assert worker.redis.xpending("sf:jobs", GROUP)["pending"] >= 1
    worker.redis.delete(KEYS.results)
    for each in (execution_id, queued):
        assert worker.until_ended(each)["status"] == "SUCCESS"
        assert [result["task_metadata"]["attempt"] for result in worker.said(each, "result")] == [1]


@pytest.mark.attack("Redis")
@pytest.mark.parametrize("key", BOOKS)
def test_the_groups_own_books_are_built_again(
    worker: RunningWorker, server: EmbeddedRedis, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """While jobs run, wait for a retry, end and fail for good."""
    stream = next((each for each in KEYS.job_streams() if key == KEYS.retries(each, GROUP)), "sf:jobs")
    retried = worker.send(act("raise", attempts=1, options={"max_retries": 1, "retry_delay": 1}), stream)
    worker.until_said(retried, "task_retrying")
    running = worker.send(act("report", seconds=1.0), stream)
    worker.until_said(running, "task_started")
    put(worker, key, "string")
    until(lambda: f"{key} holds a string instead of a {BOOKS[key]}, which the worker replaces" in worker.log())
    buried = worker.send(act("raise_final"), stream)
    for execution_id, status in ((running, "SUCCESS"), (buried, "FAILURE")):
        assert worker.until_ended(execution_id)["status"] == status
        assert len(worker.said(execution_id, "result")) == 1
    assert worker.redis.type(key) in (b"none", BOOKS[key].encode())
    if "retries" not in key:  # else it waits for the next look at due times, a minute at most
        assert worker.until_ended(retried)["attempt"] == 2
    main(["replay", "--execution-id", buried, "--redis", server.url])
    until(lambda: len(worker.said(buried, "result")) == 2)
    main(["dead", "purge", buried, "--redis", server.url])
    capsys.readouterr()


@pytest.mark.attack("Redis")
@pytest.mark.parametrize("name", ["execution", "cancel", "result"])
def test_what_belongs_to_one_execution(worker: RunningWorker, name: str) -> None:
    execution_id = worker.send(act("report", seconds=1.0))
    worker.until_said(execution_id, "task_started")
    put(worker, getattr(KEYS, name)(execution_id), "list")
    final = worker.until_ended(execution_id)
    assert final["status"] == ("CANCELLED" if name == "cancel" else "SUCCESS")
    assert len(worker.said(execution_id, "result")) == 1
    assert worker.redis.type(KEYS.result(execution_id)) == b"string"
    # And before it begins.
    job = act("succeed")
    put(worker, getattr(KEYS, name)(job["execution_id"]), "list")
    assert worker.until_ended(worker.send(job))["status"] == ("CANCELLED" if name == "cancel" else "SUCCESS")


def test_a_queued_job_with_a_mark_of_another_type_is_cancelled(worker: RunningWorker) -> None:
    running = [worker.send(act("hang")) for _ in range(2)]
    for each in running:
        worker.until_said(each, "task_started")
    queued = worker.send(act("succeed"))
    put(worker, KEYS.cancel(queued), "list")
    worker.redis.publish(KEYS.control, queued)
    assert worker.until_ended(queued)["status"] == "CANCELLED"
    for each in running:
        worker.redis.set(KEYS.cancel(each), "1")
        worker.redis.publish(KEYS.control, each)
        assert worker.until_ended(each)["status"] == "CANCELLED"


def test_a_heartbeat_of_another_type_is_written_over(worker: RunningWorker) -> None:
    [key] = worker.redis.keys("sf:worker:*")
    put(worker, key.decode(), "list")
    until(lambda: worker.redis.type(key) == b"string")


@pytest.mark.parametrize("stream", KEYS.job_streams())
def test_a_group_is_made_again(worker: RunningWorker, stream: str) -> None:
    """Of an idle stream, of one whose job runs, and of one that is deleted and sent to at once."""
    worker.redis.xgroup_destroy(stream, GROUP)
    running = worker.send(act("report", seconds=0.5), stream)
    worker.until_said(running, "task_started")
    worker.redis.xgroup_destroy(stream, GROUP)
    assert worker.until_ended(running)["status"] == "SUCCESS"
    assert len(worker.said(running, "result")) == 1
    worker.redis.delete(stream)
    assert worker.until_ended(worker.send(act("succeed"), stream))["status"] == "SUCCESS"


@pytest.mark.attack("Redis")
def test_a_worker_starts_beside_misplaced_keys(tmp_path: Path) -> None:
    with EmbeddedRedis("--appendfsync", "no") as server:
        worker = RunningWorker(server.url, tmp_path, spare_processes="0")
        for key in (KEYS.jobs("high"), *BOOKS):
            put(worker, key, "list")
        with worker:
            assert worker.run(act("succeed"))["status"] == "success"
