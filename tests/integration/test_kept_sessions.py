"""Sessions that serve several jobs: whom they serve, what is left of a job for the next one, and when they end."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.running_worker import PARTIES, RunningWorker, envelope, kill, until

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM64"}}}
LASTING = [
    "thread",
    "process",
    "file",
    "mapping",
    "module",
    "list",
    "limit",
    "device object",
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("daemonized process", "socket", "pipe", "replaced module", "global", "class", "function")
    ),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("builtin", "niceness")),
]
SEED = 4711
JOBS = "tests.acting_job,tests.drawing_job,tests.marking_job"


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    """A worker whose sessions serve up to eight jobs."""
    directory = tmp_path_factory.mktemp("kept")
    settings = {"session_jobs": "8", "tenants": "acme,umbra", "cancel_grace_seconds": "0.5"}
    with EmbeddedRedis() as redis, RunningWorker(redis.url, directory, jobs=JOBS, **settings) as worker:
        yield worker


def reuse(task: dict[str, Any], **more: Any) -> dict[str, Any]:
    options = {"session": "reuse", **more.pop("options", {})}
    return envelope(task, **{"spu_config": SPU, "options": options, **more})


def act(action: str = "succeed", **more: Any) -> dict[str, Any]:
    return reuse({"task_type": "act", "action": action}, **more)


def place(result: dict[str, Any]) -> int:
    """The job's place in its session."""
    assert result["status"] == "success", result
    return int(result["task_metadata"].get("session_job", 1))


def test_a_session_serves_so_many_jobs_in_the_same_processes(keeping: RunningWorker) -> None:
    keeping.run(act("raise"))  # after which none is kept
    results = [keeping.run(act()) for _ in range(9)]
    assert [place(result) for result in results] == [1, 2, 3, 4, 5, 6, 7, 8, 1]
    pids = [result["result"]["pid"] for result in results]
    assert len(set(pids[:8])) <= 2  # it is the first party's that answers
    assert pids[8] not in pids[:8]
    stages = [event["stage"] for event in keeping.said(results[7]["task_metadata"]["execution_id"])]
    assert stages == ["task_started", "cluster_ready", "devices_ready", "task_succeeded"]
    metrics = results[7]["performance_metrics"]
    assert 0 < metrics["cluster_init_seconds"] < 0.05
    assert metrics["peak_rss_bytes"].keys() == set(PARTIES)


def test_what_a_job_leaves_is_removed_before_the_next_one(keeping: RunningWorker) -> None:
    fresh = keeping.run(envelope({"task_type": "look"}, spu_config=SPU))
    marked = keeping.run(reuse({"task_type": "mark", "seed": SEED}))
    looked = keeping.run(reuse({"task_type": "look"}))
    assert place(looked) == place(marked) + 1
    assert looked["result"]["found"] == fresh["result"]["found"]
    assert looked["result"]["found"]["alice"]["spu"] == []
    of_seed = [random.Random(SEED).random(), float(np.random.RandomState(SEED).random_sample())]
    drawn = [*looked["result"]["drawn"].values(), *fresh["result"]["drawn"].values(), of_seed]
    assert all(len({numbers[each] for numbers in drawn}) == 5 for each in (0, 1))
    lines = [line for line in map(json.loads, keeping.log().splitlines()) if line["message"] == "looks"]
    ids = [result["task_metadata"]["execution_id"] for result in (fresh, looked)]
    assert sorted((line["execution_id"], line["party"]) for line in lines) == sorted(
        (each, party) for each in ids for party in PARTIES
    )


@pytest.mark.parametrize("kind", LASTING)
def test_where_something_remains_no_other_job_is_served(keeping: RunningWorker, kind: str) -> None:
    told = keeping.log().count("a session is not kept")
    assert keeping.run(reuse({"task_type": "mark", "kind": kind}))["status"] == "success"
    until(lambda: keeping.log().count("a session is not kept") > told)


@pytest.mark.parametrize("action", ["raise", "kill", "stubborn"])
def test_no_other_job_is_served_after_an_error_or_a_limit(keeping: RunningWorker, action: str) -> None:
    before = keeping.run(act())
    failed = keeping.run(act(action, options={"soft_time_limit": 0.2, "time_limit": 0.4}))
    assert failed["status"] == "failure"
    after = keeping.run(act())
    assert place(after) == 1
    assert after["result"]["pid"] != before["result"]["pid"]


def test_nor_after_a_cancel(keeping: RunningWorker) -> None:
    job = act("hang")
    keeping.send(job)
    keeping.until_said(job["execution_id"], "devices_ready")
    keeping.redis.set(f"sf:cancel:{job['execution_id']}", 1, ex=60)
    keeping.redis.publish("sf:control", job["execution_id"])
    assert keeping.until_ended(job["execution_id"])["status"] == "CANCELLED"
    assert place(keeping.run(act())) == 1


def test_only_jobs_that_are_alike_share_a_session(keeping: RunningWorker) -> None:
    keeping.run(act("raise"))
    others = [
        act(),
        act(spu_config={"cluster_def": {"runtime_config": {"protocol": "CHEETAH", "field": "FM64"}}}),
        act(sf_init_config={"parties": [*PARTIES, "carol"]}),
        act(sf_init_config={"parties": PARTIES[::-1]}),
        act(options={"threads": 1}),
        act(heu_config={"mode": "PHEU", "schema": "ou", "key_size": 2048}),
        envelope({"task_type": "act"}, spu_config=SPU),
    ]
    assert [place(keeping.run(job)) for job in others] == [1] * len(others)


def test_a_correlation_shares_none_with_what_needs_another_kind_of_link(keeping: RunningWorker) -> None:
    data = keeping.log_file.parent / "links"
    data.mkdir()
    (data / "alice.csv").write_text("id,a\n" + "".join(f"{n},{n}\n" for n in range(9)))
    (data / "bob.csv").write_text("id,b\n" + "".join(f"{n},{n * n}\n" for n in range(9)))
    paths = {party: f"{data}/{party}.csv" for party in PARTIES}
    task = {"task_type": "pearson_correlation", "input_paths": paths, "keys": {party: ["id"] for party in PARTIES}}
    correlation = {**reuse(task), "spu_config": {"cluster_def": {"runtime_config": {"protocol": "SEMI2K"}}}}
    other = {**act(), "spu_config": correlation["spu_config"]}
    places = [place(keeping.run({**job, "execution_id": secrets.token_hex(8)})) for job in (correlation, other) * 2]
    assert places == [1, 1, 1, 1]


def test_tenants_share_none(keeping: RunningWorker) -> None:
    pids = []
    for tenant in ("acme", "umbra", "acme"):
        job = act()
        keeping.send(job, f"sf:tenant:{tenant}:jobs")
        key = f"sf:tenant:{tenant}:result:{job['execution_id']}"
        result = json.loads(until(lambda key=key: keeping.redis.get(key), 30))  # type: ignore[misc]
        assert place(result) == 1
        pids.append(result["result"]["pid"])
    assert len(set(pids)) == 3


def test_a_session_that_died_while_it_waited_serves_nobody(keeping: RunningWorker) -> None:
    pid = keeping.run(act())["result"]["pid"]
    kill(pid)
    until(lambda: pid not in keeping.processes())
    assert place(keeping.run(act())) == 1


@pytest.mark.slow
def test_what_is_random_differs_between_jobs_of_a_session(keeping: RunningWorker) -> None:
    keeping.run(act("raise"))
    results = [keeping.run(reuse({"task_type": "draw"})) for _ in range(3)]
    assert [place(result) for result in results] == [1, 2, 3]
    drawn = [result["result"]["drawn"][party] for result in results for party in PARTIES]
    alike = {source for source in drawn[0] if len({each[source] for each in drawn}) < len(drawn)}
    assert alike == set()


@pytest.mark.slow
def test_it_ends_when_no_job_comes_and_nothing_is_left(redis_url: str, tmp_path: Path) -> None:
    settings = {"session_jobs": "8", "session_idle_seconds": "1", "jobs": JOBS}
    with RunningWorker(redis_url, tmp_path, **settings) as worker:
        assert [place(worker.run(act())) for _ in range(2)] == [1, 2]
        worker.until_clean()
        assert place(worker.run(act())) == 1


@pytest.mark.slow
def test_a_session_with_much_memory_is_not_kept(redis_url: str, tmp_path: Path) -> None:
    settings = {"session_jobs": "8", "session_memory_bytes": str(1 << 20), "jobs": JOBS}
    with RunningWorker(redis_url, tmp_path, **settings) as worker:
        assert [place(worker.run(act())) for _ in range(2)] == [1, 1]
        assert "bytes of memory" in worker.log()


@pytest.mark.slow
def test_processes_that_were_spawned_serve_several_jobs_too(redis_url: str, tmp_path: Path) -> None:
    settings = {"session_jobs": "8", "start_method": "spawn", "spare_processes": "0", "jobs": JOBS}
    with RunningWorker(redis_url, tmp_path, **settings) as worker:
        assert [place(worker.run(act(), 90)) for _ in range(2)] == [1, 2]


def test_where_sessions_are_fresh_the_result_says_so(worker: RunningWorker) -> None:
    results = [worker.run(act()) for _ in range(2)]
    assert [place(result) for result in results] == [1, 1]
    assert "SFWORKER_SESSION_JOBS" in results[1]["warnings"][0]
