"""Jobs that fail for good and live again, and jobs that are cancelled while they wait, with real workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli import main
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.client import SyncClient
from tests.running_worker import RunningWorker, envelope, kill, until

LEASE = 1.5
StartWorker = Callable[..., RunningWorker]


@pytest.fixture
def client(own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncClient]:
    """The web side of the shared worker, where the command line looks, too."""
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    with SyncClient(own_redis.url) as client:
        yield client


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis("--appendfsync", "no") as server:
        monkeypatch.setenv("REDIS_URL", server.url)  # for the command line
        yield server


@pytest.fixture
def start_worker(redis: EmbeddedRedis, tmp_path: Path) -> Iterator[StartWorker]:
    with ExitStack() as stack:

        def start(name: str = "a", **settings: Any) -> RunningWorker:
            directory = tmp_path / name
            directory.mkdir()
            values = {"lease_seconds": str(LEASE), "worker_hostname": name, "spare_processes": "0", **settings}
            return stack.enter_context(RunningWorker(redis.url, directory, **values))

        yield start


def act(action: str, *, options: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    return envelope({"task_type": "act_alone", "action": action, **parameters}, options=options or {})


def stages(worker: RunningWorker, execution_id: str) -> list[str]:
    return [event["stage"] for event in worker.said(execution_id) if event["stage"] != "cluster_ready"]


def results(worker: RunningWorker, execution_id: str) -> list[str]:
    return [result["status"] for result in worker.said(execution_id, "result")]


def owners(worker: RunningWorker) -> list[str]:
    """Who owns the pending entries, in their order."""
    return [entry["consumer"].decode() for entry in worker.redis.xpending_range("sf:jobs", "secretflow", "-", "+", 99)]


def block(worker: RunningWorker) -> list[str]:
    """Take every slot of the shared worker."""
    blocking = [worker.send(act("hang")) for _ in range(2)]
    for execution_id in blocking:
        worker.until_said(execution_id, "task_started")
    return blocking


def shown(execution_id: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["dead", "show", execution_id, "--json"]) == 0
    described: dict[str, Any] = json.loads(capsys.readouterr().out)
    return described


def test_a_dead_job_is_seen_replayed_and_succeeds(
    worker: RunningWorker, client: SyncClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = act("raise", until=str(tmp_path / "mended"), options={"max_retries": 1, "retry_delay": 0})
    execution_id = worker.send(job)
    worker.until_said(execution_id, "task_failed_final")
    life = stages(worker, execution_id)

    assert main(["dead", "list", "--json"]) == 0
    listed = {job["execution_id"]: job["error"] for job in json.loads(capsys.readouterr().out)}
    assert listed[execution_id] == "told to raise; a retry may help"
    about = shown(execution_id, capsys)
    assert about["envelope"] == job
    assert [(at["attempt"], at["outcome"]) for at in about["history"]] == [(1, "retrying"), (2, "failed")]
    assert {at["worker_id"] for at in about["history"]} == {worker.said(execution_id)[0]["worker_id"]}

    assert main(["replay", "--execution-id", execution_id]) == 0
    until(lambda: len(results(worker, execution_id)) == 2)  # it fails as before
    assert stages(worker, execution_id) == [*life, "task_replayed", *life]
    assert [(at["attempt"], at["replays"]) for at in shown(execution_id, capsys)["history"]] == [
        (1, 0),
        (2, 0),
        (1, 1),
        (2, 1),
    ]

    (tmp_path / "mended").touch()
    assert client.wait(execution_id, 5)["status"] == "failure"
    assert main(["dead", "replay", execution_id]) == 0
    assert main(["dead", "replay", execution_id]) == 1  # once
    assert client.wait(execution_id, 30)["status"] == "success"
    assert [event["stage"] for event in client.events(execution_id)][-1] == "task_succeeded"
    assert results(worker, execution_id) == ["failure", "failure", "success"]
    final = stages(worker, execution_id)[2 * len(life) + 1 :]
    assert final[0] == "task_replayed"
    assert final[1] == "task_started"
    assert final[-1] == "task_succeeded"
    assert final.count("task_replayed") == 1
    assert worker.said(execution_id)[-1]["attempt"] == 1
    assert worker.redis.xrange("sf:jobs", about["entry_id"], about["entry_id"]) == []
    assert main(["dead", "show", execution_id]) == 1


@pytest.mark.usefixtures("client")
def test_an_unreadable_envelope_is_replayed_and_answered_again(worker: RunningWorker) -> None:
    entry_id = worker.send(b"no envelope")
    worker.until_said(entry_id, "task_failed_final")
    assert main(["dead", "replay", entry_id]) == 0
    until(lambda: len(results(worker, entry_id)) == 2)
    assert stages(worker, entry_id) == ["task_failed_final", "task_replayed", "task_failed_final"]
    assert main(["dead", "purge", entry_id]) == 0
    assert worker.redis.xrange("sf:jobs", entry_id, entry_id) == []


def test_the_dead_and_the_waiting_outlive_worker_and_due_times(
    start_worker: StartWorker, redis: EmbeddedRedis, tmp_path: Path
) -> None:
    worker = start_worker()
    dead = worker.send(act("raise_final", until=str(tmp_path / "mended")))
    waiting = worker.send(act("raise", attempts=1, options={"max_retries": 1, "retry_delay": 3600}))
    worker.until_said(dead, "task_failed_final")
    worker.until_said(waiting, "task_retrying")
    worker.kill()
    time.sleep(LEASE)
    assert owners(worker) == ["@dead", "@retry"]
    worker.redis.delete("sf:retries:normal:secretflow")  # as a failover may lose it
    (tmp_path / "mended").touch()
    assert main(["replay", "--all"]) == 0
    assert owners(worker) == ["@retry", "@retry"]
    worker.start()
    for execution_id in (dead, waiting):
        until(lambda execution_id=execution_id: results(worker, execution_id)[-1:] == ["success"], 30)  # type: ignore[misc]
    assert results(worker, waiting) == ["success"]
    assert results(worker, dead) == ["failure", "success"]
    assert owners(worker) == []


def test_a_killed_workers_attempt_is_in_the_history(
    start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start_worker("first")
    execution_id = first.send(act("hang", options={"soft_time_limit": 2, "time_limit": 20}))
    first.until_said(execution_id, "task_started")
    first.kill()
    second = start_worker("second")
    second.until_said(execution_id, "task_failed_final")
    crashed, failed = shown(execution_id, capsys)["history"]
    assert crashed["worker_id"].startswith("first-")
    assert (crashed["outcome"], crashed["error_type"]) == ("crashed", None)
    assert failed["worker_id"].startswith("second-")
    assert (failed["outcome"], failed["error_type"]) == ("failed", "SoftTimeLimitExceededError")


def test_a_template_that_dies_is_a_crash_in_the_history(
    start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = start_worker(max_crashes="1")
    execution_id = worker.send(act("hang"))
    worker.until_said(execution_id, "task_started")
    until(worker.parties_with_children)
    kill(worker.template())
    final = worker.until_said(execution_id, "task_failed_final")
    assert final["error_type"] == "CrashLoopError"
    described = shown(execution_id, capsys)
    assert [(at["attempt"], at["outcome"]) for at in described["history"]] == [(1, "crashed")]
    assert described["error_type"] == "CrashLoopError"


# --- cancelling


def test_one_that_waits_is_cancelled_at_once_even_where_no_slot_is_free(
    worker: RunningWorker, client: SyncClient
) -> None:
    waiting = worker.send(act("raise", options={"max_retries": 3, "retry_delay": 3600}))
    worker.until_said(waiting, "task_retrying")
    blocking = block(worker)
    began = time.monotonic()
    assert client.cancel(waiting)
    assert client.wait(waiting, 10)["status"] == "cancelled"
    assert time.monotonic() - began < 2.0
    assert stages(worker, waiting)[-2:] == ["task_retrying", "task_cancelled"]
    assert results(worker, waiting) == ["cancelled"]
    assert not client.cancel(waiting)
    for execution_id in blocking:
        assert client.cancel(execution_id)
        assert client.wait(execution_id, 10)["status"] == "cancelled"
    assert worker.redis.keys("sf:cancel:*") == []


def test_a_cancelled_one_among_the_queued_is_never_run(worker: RunningWorker, client: SyncClient, data: Path) -> None:
    blocking = block(worker)
    queued = worker.send(act("succeed", output_paths={"alice": str(data / "written")}))
    assert client.cancel(queued)
    assert client.wait(queued, 10)["status"] == "cancelled"  # though no slot is free
    for execution_id in blocking:
        client.cancel(execution_id)
    assert worker.run(act("succeed"))["status"] == "success"
    assert stages(worker, queued) == ["task_cancelled"]
    assert not (data / "written").exists()


def test_cancelling_a_dead_or_finished_one_changes_nothing(
    worker: RunningWorker, client: SyncClient, tmp_path: Path
) -> None:
    dead = worker.send(act("raise_final", until=str(tmp_path / "mended")))
    worker.until_said(dead, "task_failed_final")
    done = act("succeed")
    worker.run(done)
    assert not client.cancel(dead)
    worker.redis.delete(f"sf:result:{dead}")  # as when it has expired
    for execution_id in (dead, done["execution_id"]):
        before = worker.said(execution_id)
        worker.redis.set(f"sf:cancel:{execution_id}", "1")
        worker.redis.publish("sf:control", execution_id)
        until(lambda execution_id=execution_id: not worker.redis.exists(f"sf:cancel:{execution_id}"))  # type: ignore[misc]
        assert worker.said(execution_id) == before
    (tmp_path / "mended").touch()
    assert main(["replay", "--execution-id", dead]) == 0
    until(lambda: results(worker, dead) == ["failure", "success"])
