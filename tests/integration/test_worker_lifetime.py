"""Workers that are killed, paused, stopped and cut off from Redis; each test has workers and a server of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as AwayError

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.integration.exported import incidents
from tests.running_worker import RunningWorker, envelope, kill, until

LEASE = 1.5
StartWorker = Callable[..., RunningWorker]


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis("--appendfsync", "always") as server:
        yield server


@pytest.fixture
def start_worker(redis: EmbeddedRedis, tmp_path: Path) -> Iterator[StartWorker]:
    """`start_worker("a")`: a worker with a short lease, stopped at the end."""
    with ExitStack() as stack:

        def start(name: str = "a", **settings: Any) -> RunningWorker:
            directory = tmp_path / name
            directory.mkdir()
            values = {"lease_seconds": str(LEASE), "worker_hostname": name, **settings}
            return stack.enter_context(RunningWorker(redis.url, directory, **values))

        yield start


def act(action: str, **parameters: Any) -> dict[str, Any]:
    options = {"max_retries": 3, "retry_delay": 0}
    return envelope({"task_type": "act_alone", "action": action, **parameters}, options=options)


def results(worker: RunningWorker, execution_id: str) -> list[str]:
    return [result["status"] for result in worker.said(execution_id, "result")]


def nobody_owns_anything(worker: RunningWorker) -> bool:
    return not any(consumer["pending"] for consumer in worker.redis.xinfo_consumers("sf:jobs", "secretflow"))


def test_a_killed_workers_job_runs_on_another_and_is_answered_once(start_worker: StartWorker) -> None:
    first = start_worker("first")
    execution_id = first.send(act("hang", attempts=1))
    first.until_said(execution_id, "task_started")
    until(first.parties_with_children)
    left = first.processes()
    second = start_worker("second")
    first.kill()
    final = second.until_ended(execution_id)
    assert (final["status"], final["attempt"]) == ("SUCCESS", 2)
    assert final["worker_id"].startswith("second-")
    assert results(second, execution_id) == ["success"]
    assert nobody_owns_anything(second)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
    until(lambda: not list(first.run_dir.iterdir()))


@pytest.mark.slow
def test_at_default_settings_a_killed_workers_job_runs_elsewhere_within_20_seconds(start_worker: StartWorker) -> None:
    first = start_worker("first", lease_seconds="")
    execution_id = first.send(act("hang", attempts=1))
    first.until_said(execution_id, "task_started")
    second = start_worker("second", lease_seconds="")
    first.kill()
    killed = time.time()
    final = second.until_ended(execution_id)
    starts = [event["timestamp"] for event in second.said(execution_id) if event["stage"] == "task_started"]
    seconds = datetime.fromisoformat(starts[-1]).timestamp() - killed
    print(f"runs elsewhere {seconds:.1f} s after the kill -9 of its worker")
    assert seconds < 20
    assert (final["status"], final["attempt"]) == ("SUCCESS", 2)
    assert results(second, execution_id) == ["success"]
    assert nobody_owns_anything(second)


def test_a_worker_that_is_killed_with_its_template_leaves_a_directory_to_the_next(start_worker: StartWorker) -> None:
    first = start_worker("first")
    template, processes = first.template(), first.processes()
    os.kill(template, signal.SIGSTOP)  # so that it cannot tidy up
    first.kill()
    kill(template)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
    assert len(list(first.run_dir.iterdir())) == 1
    second = start_worker("second", run_dir=str(first.run_dir))
    assert len(list(first.run_dir.iterdir())) == 1
    second.stop()
    assert list(first.run_dir.iterdir()) == []


def test_a_worker_that_was_paused_past_its_lease_kills_its_computation_and_publishes_nothing(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    addresses = [f"unix:{tmp_path}/{name}.health" for name in ("paused", "other")]
    paused = start_worker("paused", concurrency="2", health=addresses[0])
    hanging, ending = [paused.send(act("hang", attempts=1)), paused.send(act("report", seconds=4.0))]
    for execution_id in (hanging, ending):
        paused.until_said(execution_id, "task_started")
    others = {paused.template(), paused.nursery()}
    computing = set(until(paused.parties_with_children)) | (paused.processes() - paused.parties() - others)
    os.kill(paused.process.pid, signal.SIGSTOP)
    try:
        other = start_worker("other", concurrency="2", health=addresses[1])
        for execution_id in (hanging, ending):
            final = other.until_ended(execution_id)
            assert (final["attempt"], final["worker_id"].startswith("other-")) == (2, True)
        assert all(Path(f"/proc/{pid}").exists() for pid in computing)
    finally:
        os.kill(paused.process.pid, signal.SIGCONT)
    until(lambda: "the lease was lost; the computation was ended and nothing is published" in paused.log())
    until(lambda: paused.log().count("the lease was lost") == 2)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in computing))
    assert [results(other, execution_id) for execution_id in (hanging, ending)] == [["success"], ["success"]]
    assert paused.run(act("succeed"))["status"] == "success"  # it goes on working
    assert incidents(addresses[0]).items() >= {"lease_late": 1, "lease_lost": 2}.items()
    assert incidents(addresses[1]) == {"reclaim": 2}


@pytest.mark.parametrize("how", [pytest.param("restarted", marks=pytest.mark.slow), "killed"])
def test_redis_goes_away_in_mid_job_and_comes_back(start_worker: StartWorker, redis: EmbeddedRedis, how: str) -> None:
    worker = start_worker()
    execution_id = worker.send(act("report", seconds=1.0))
    worker.until_said(execution_id, "task_started")
    redis.stop(5.0 if how == "restarted" else 0.0)
    time.sleep(1.5)  # the job ends meanwhile: its outcome has to be kept
    redis.start()
    assert _patiently(lambda: worker.until_ended(execution_id))["status"] == "SUCCESS"
    assert results(worker, execution_id) == ["success"]
    assert worker.run(act("succeed"))["status"] == "success"
    assert nobody_owns_anything(worker)


def test_the_group_is_made_again_after_flushall_and_reads_from_the_start(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.redis.flushall()
    assert worker.run(act("succeed"))["status"] == "success"
    assert "the consumer group is gone" in worker.log()


def test_a_job_whose_payload_was_deleted_is_reported_as_lost(start_worker: StartWorker, redis: EmbeddedRedis) -> None:
    with Redis.from_url(redis.url) as client:
        client.xgroup_create("sf:jobs", "secretflow", id="0", mkstream=True)
        entry_id: Any = client.xadd("sf:jobs", {"envelope": "{}"})
        client.xreadgroup("secretflow", "a worker that died", {"sf:jobs": ">"})
        client.xdel("sf:jobs", entry_id)
    worker = start_worker()
    final = worker.until_ended(entry_id.decode())
    assert (final["error_type"], final["message_id"]) == ("JobLostError", entry_id.decode())


def test_a_template_that_dies_is_replaced_and_its_job_runs_again(start_worker: StartWorker) -> None:
    worker = start_worker()
    execution_id = worker.send(act("hang", attempts=1))
    worker.until_said(execution_id, "task_started")
    until(worker.parties_with_children)
    started_by_the_job = worker.processes() - worker.parties() - {worker.template(), worker.nursery()}
    kill(worker.template())
    final = worker.until_ended(execution_id)
    assert worker.log().count("SecretFlow is imported") == 1  # the next template is a fork
    assert (final["status"], final["attempt"]) == ("SUCCESS", 2)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started_by_the_job))
    assert "RETRY" not in [event["status"] for event in worker.said(execution_id)]  # no attempt is used up
    worker.until_clean()


def test_a_nursery_that_dies_takes_nothing_along_and_is_replaced(start_worker: StartWorker) -> None:
    worker = start_worker()
    execution_id = worker.send(act("report", seconds=2.0))
    worker.until_said(execution_id, "task_started")
    template, nursery = worker.template(), worker.nursery()
    kill(nursery)
    assert worker.until_ended(execution_id)["attempt"] == 1
    assert worker.run(act("succeed"))["status"] == "success"  # in a fork of the template that is left
    until(lambda: worker.log().count("SecretFlow is imported") == 2, 60)
    execution_id = worker.send(act("hang", attempts=1))
    worker.until_said(execution_id, "task_started")
    kill(template)
    final = worker.until_ended(execution_id)
    assert (final["status"], final["attempt"]) == ("SUCCESS", 2)
    worker.until_clean()
    kill(worker.nursery())
    worker.kill()
    until(lambda: list(worker.run_dir.iterdir()) == [])  # the template has removed it, whose nursery was gone


def test_sigterm_lets_running_jobs_finish_and_takes_no_more(start_worker: StartWorker) -> None:
    worker = start_worker(drain_timeout="20")
    execution_id = worker.send(act("report", seconds=1.5))
    worker.until_said(execution_id, "task_started")
    worker.process.terminate()
    until(lambda: "no new jobs" in worker.log())
    late = worker.send(act("succeed"))
    assert worker.process.wait(20) == 0
    assert results(worker, execution_id) == ["success"]
    assert worker.said(late) == []
    assert [c["name"] for c in worker.redis.xinfo_consumers("sf:jobs", "secretflow")] in ([], [b"@retry"])
    assert worker.redis.keys("sf:worker:*") == []
    assert list(worker.run_dir.iterdir()) == []
    worker.start()
    assert worker.until_ended(late)["status"] == "SUCCESS"


def test_what_does_not_finish_in_time_is_given_to_others_without_using_up_an_attempt(
    start_worker: StartWorker,
) -> None:
    worker, other = start_worker("first", drain_timeout="0.5"), start_worker("second", drain_timeout="30")
    other.process.send_signal(signal.SIGSTOP)
    job = act("hang", attempts=1)
    job["options"]["max_retries"] = 0
    execution_id = worker.send(job)
    worker.until_said(execution_id, "task_started")
    other.process.send_signal(signal.SIGCONT)
    worker.process.terminate()
    assert worker.process.wait(20) == 0
    final = other.until_ended(execution_id, 5.0)
    assert (final["status"], final["attempt"]) == ("SUCCESS", 2)
    assert results(other, execution_id) == ["success"]


def test_a_job_that_its_soft_time_limit_does_not_end_is_given_to_others(start_worker: StartWorker) -> None:
    worker = start_worker(drain_timeout="1")
    job = act("stubborn")
    job["options"] |= {"max_retries": 0, "soft_time_limit": 0.5, "time_limit": 60}
    execution_id = worker.send(job)
    worker.until_said(execution_id, "task_started")
    worker.process.terminate()
    assert worker.process.wait(20) == 0
    assert worker.said(execution_id, "result") == []
    record = worker.redis.hgetall(f"sf:exec:{execution_id}")
    assert (record[b"releases"], record[b"crashes"]) == (b"1", b"0")


def test_a_job_that_its_soft_time_limit_does_not_end_is_killed_when_its_lease_is_lost(
    start_worker: StartWorker,
) -> None:
    worker = start_worker()
    job = act("stubborn")
    job["options"] |= {"soft_time_limit": 0.5, "time_limit": 60}
    began = time.monotonic()
    worker.until_said(worker.send(job), "task_started")
    until(lambda: time.monotonic() > began + 1.0)
    [pending] = worker.redis.xpending_range("sf:jobs", "secretflow", "-", "+", 10)
    worker.redis.xclaim("sf:jobs", "secretflow", "another", 0, [pending["message_id"]])
    until(lambda: "the lease was lost; the computation was ended" in worker.log())


def test_a_second_signal_does_not_wait(start_worker: StartWorker) -> None:
    worker = start_worker(drain_timeout="600")
    execution_id = worker.send(act("hang"))
    worker.until_said(execution_id, "task_started")
    worker.process.terminate()
    until(lambda: "no new jobs" in worker.log())
    worker.process.terminate()
    assert worker.process.wait(10) == 0
    assert worker.redis.xpending("sf:jobs", "secretflow")["consumers"] == [{"name": b"@retry", "pending": 1}]


def _patiently(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`look`, again while Redis is loading its file."""

    def once() -> dict[str, Any] | None:
        try:
            return look()
        except AwayError:
            return None

    found = until(once)
    assert found is not None
    return found
