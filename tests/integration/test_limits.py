"""What an execution may use, and what it can rely on, seen from Redis and from the process table."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.running_worker import RunningWorker, envelope, until

STALL = 3.0
RUNTIME = {"protocol": "SEMI2K", "field": "FM128"}


def act(action: str, *, alone: bool = False, **options: Any) -> dict[str, Any]:
    return envelope({"task_type": "act_alone" if alone else "act", "action": action}, options=options)


@pytest.mark.attack("limits")
def test_a_job_that_allocates_without_end_is_ended(worker: RunningWorker) -> None:
    job = act("allocate", memory_limit_bytes=500_000_000, max_retries=3)
    execution_id = worker.send(job)
    worker.until_said(execution_id, "devices_ready")
    until(worker.parties_with_children)
    final = worker.until_ended(execution_id, 10)
    assert (final["error_type"], final["retryable"]) == ("MemoryLimitExceededError", False)
    sentence = r"the job used (\d+) bytes of memory, its limit is 500000000; raise options\.memory_limit_bytes"
    said = re.fullmatch(sentence, final["error"])
    assert said, final["error"]
    # Two children of 300 MB, and what is not shared with the template of two party processes.
    assert 500_000_000 < int(said[1]) < 1_100_000_000


def test_what_is_shared_with_the_template_counts_once(worker: RunningWorker) -> None:
    execution_id = worker.send(act("report", memory_limit_bytes=400_000_000))
    worker.until_said(execution_id, "progress")
    time.sleep(1.5)
    worker.redis.set(f"sf:cancel:{execution_id}", "1")
    worker.redis.publish("sf:control", execution_id)
    assert worker.until_ended(execution_id)["status"] == "CANCELLED"


@pytest.mark.attack("limits")
@pytest.mark.parametrize("alone", [False, True])
def test_a_job_that_fills_the_disk_is_ended(worker: RunningWorker, alone: bool) -> None:
    result = worker.run(act("fill_scratch", alone=alone, scratch_limit_bytes=50_000_000, max_retries=3), 15)
    assert result["error_type"] == "ScratchLimitExceededError"
    assert "its limit is 50000000; raise options.scratch_limit_bytes" in result["error"]
    assert result["task_metadata"]["attempt"] == 1


def test_a_forked_process_computes_with_threads_of_its_own(worker: RunningWorker) -> None:
    assert worker.run(act("multiply", alone=True), 20)["status"] == "success"


def test_a_job_computes_on_as_many_processors_as_it_was_granted(worker: RunningWorker) -> None:
    assert worker.run(act("multiply", threads=1))["result"]["processors"] == 1
    job = envelope({"task_type": "health_check"}, options={"threads": 1})
    job["spu_config"] = {"cluster_def": {"runtime_config": RUNTIME}}
    assert worker.run(job)["status"] == "success"


def test_a_job_that_has_expired_never_runs_again(worker: RunningWorker) -> None:
    job = envelope(
        {"task_type": "act", "action": "raise"}, options={"max_retries": 3, "retry_delay": 1.5, "expires_at": 0}
    )
    job["options"]["expires_at"] = time.time() + 1.0
    result = worker.run(job)
    assert result["error_type"] == "ExpiredError"
    assert [event["stage"] for event in worker.said(job["execution_id"])].count("task_started") == 1


class TestWhatTheWorkerGrants:
    @pytest.fixture(scope="class")
    @staticmethod
    def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
        directory: Path = tmp_path_factory.mktemp("strict")
        limits = {"memory_limit_bytes": "400000000", "max_memory_limit_bytes": "2000000000"}
        limits |= {"max_scratch_limit_bytes": "1000000", "max_threads": "1", "stall_seconds": str(STALL)}
        with EmbeddedRedis() as redis, RunningWorker(redis.url, directory, **limits) as worker:
            yield worker

    @pytest.mark.parametrize(
        "options", [{"memory_limit_bytes": 2_000_000_001}, {"scratch_limit_bytes": 1_000_001}, {"threads": 2}]
    )
    def test_more_is_refused(self, strict: RunningWorker, options: dict[str, Any]) -> None:
        result = strict.run(act("succeed", **options))
        [(name, amount)] = options.items()
        bound = f"{amount - 1} (SFWORKER_MAX_{name.upper()})"
        assert result["error_type"] == "ParameterValidationError"
        assert result["error"] == f"options.{name}: {amount}, but this worker grants at most {bound}"

    def test_without_options_the_workers_own_count(self, strict: RunningWorker) -> None:
        assert strict.run(act("succeed"))["result"]["processors"] == 1
        result = strict.run(act("allocate"))
        assert result["error_type"] == "MemoryLimitExceededError"
        assert result["error"].endswith("raise options.memory_limit_bytes (at most 2000000000 here)")
        result = strict.run(act("fill_scratch"))
        assert result["error"].endswith("no more is granted by this worker (SFWORKER_MAX_SCRATCH_LIMIT_BYTES)")

    def test_parties_that_wait_for_each_other_are_ended(self, strict: RunningWorker) -> None:
        job = act("hang", max_retries=1, retry_delay=0)
        job["task_config"]["attempts"] = 1
        result = strict.run(job, 30)
        assert (result["status"], result["task_metadata"]["attempt"]) == ("success", 2)
        [retry] = [event for event in strict.said(job["execution_id"]) if event["status"] == "RETRY"]
        sentence = f"no process of the job computed anything for {STALL:g} s (SFWORKER_STALL_SECONDS)"
        assert (retry["error_type"], retry["error"]) == ("StalledError", sentence)

    def test_one_that_computes_is_not_ended(self, strict: RunningWorker) -> None:
        job = act("compute")
        job["task_config"] |= {"at": "alice", "seconds": 2 * STALL}
        job["task_config"]["attempts"] = 1
        assert strict.run(job, 60)["status"] == "success"
