"""What a worker answers when it is asked how it is; and that it gets well again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.listening import ask
from tests.integration.exported import incidents
from tests.running_worker import RunningWorker, envelope, kill, until

LEASE = 1.5
READY = {"state": "ready", "reason": ""}


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis("--appendfsync", "no") as server:
        yield server


def asked(address: str, path: str = "/readyz") -> tuple[int, dict[str, str]]:
    status, body = ask(address, path)
    return status, json.loads(body)


def state(address: str) -> str:
    """What `/readyz` says; nothing before anybody listens."""
    try:
        status, said = asked(address)
    except OSError:
        return ""
    assert status == (200 if said["state"] == "ready" else 503)
    assert (said["reason"] == "") == (said["state"] == "ready")
    return said["state"]


@contextmanager
def starting(worker: RunningWorker) -> Iterator[Callable[[], None]]:
    """A worker that has just been started; gives what waits until it is ready."""
    with ThreadPoolExecutor(1) as threads:  # as long as the worker, which dies with the thread that has started it
        started = threads.submit(worker.start)
        try:
            yield started.result
        finally:
            worker.stop()
            worker.redis.close()


def act(action: str, **parameters: Any) -> dict[str, Any]:
    return envelope({"task_type": "act_alone", "action": action, **parameters})


def test_each_state_from_the_start_to_the_end(redis: EmbeddedRedis, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/health"
    with socket.socket(socket.AF_UNIX) as left:  # by a worker that was killed
        left.bind(str(tmp_path / "health"))
    worker = RunningWorker(
        redis.url, tmp_path, health=address, lease_seconds=str(LEASE), drain_timeout="30", spare_processes="0"
    )
    with starting(worker) as until_ready:
        assert until(lambda: state(address)) == "starting"
        assert asked(address, "/healthz") == (200, {"state": "alive", "reason": ""})
        until_ready()
        until(lambda: state(address) == "ready")

        redis.stop(5.0)
        until(lambda: state(address) == "redis_away")
        assert asked(address, "/healthz")[0] == 200
        redis.start()
        until(lambda: state(address) == "ready")

        os.kill(worker.template(), signal.SIGKILL)
        until(lambda: incidents(address).get("template_restart") == 1)
        until(lambda: state(address) == "ready", 60)
        assert incidents(address).keys() == {"reconnect", "template_restart"}

        execution_id = worker.send(act("report", seconds=1.0))
        worker.until_said(execution_id, "task_started")
        assert state(address) == "ready"  # a worker that is busy is not ill
        worker.process.terminate()
        until(lambda: state(address) == "draining", 1)
        assert asked(address, "/healthz")[0] == 200
        assert worker.process.wait(20) == 0
        assert not (tmp_path / "health").exists()


def test_redis_that_hangs_is_away(redis: EmbeddedRedis, tmp_path: Path) -> None:
    """It accepts connections and says nothing, while a job runs and nothing but its lease asks for anything."""
    address = f"unix:{tmp_path}/health"
    with RunningWorker(redis.url, tmp_path, health=address, lease_seconds=str(LEASE)) as worker:
        worker.until_said(worker.send(act("hang")), "task_started")
        assert state(address) == "ready"
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            until(lambda: state(address) == "redis_away", 15)
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        until(lambda: state(address) == "ready")
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGTERM)


def test_a_template_that_dies_at_once_again_and_again(
    redis: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started again with growing pauses, the worker says so, and it recovers by itself."""
    crash_while, address = tmp_path / "crash", f"unix:{tmp_path}/health"
    crash_while.touch()
    monkeypatch.setenv("CRASH_WHILE", str(crash_while))
    worker = RunningWorker(
        redis.url, tmp_path, health=address, jobs="tests.crashing_job,tests.acting_job", job_environment="CRASH_WHILE"
    )
    with starting(worker) as until_ready:
        until(lambda: "2 times in a row" in worker.log(), 30)
        job = worker.send(act("succeed"))
        status, said = asked(address)
        assert (status, said["state"]) == (503, "template_lost")
        assert said["reason"].startswith("the nursery process ended with exit code 7")
        assert asked(address, "/healthz")[0] == 200
        assert "it is started again in 0.4 s" in worker.log()
        crash_while.unlink()
        until_ready()
        assert worker.until_ended(job)["status"] == "SUCCESS"
        assert state(address) == "ready"


def test_a_template_that_hangs_is_replaced_when_a_job_has_to_end(redis: EmbeddedRedis, tmp_path: Path) -> None:
    with RunningWorker(redis.url, tmp_path, cancel_grace_seconds="0.5") as worker:
        execution_id = worker.send(act("hang"))
        worker.until_said(execution_id, "task_started")
        until(worker.parties_with_children)
        template, computing = worker.template(), worker.processes() - {worker.nursery()}
        os.kill(template, signal.SIGSTOP)
        worker.redis.set(f"sf:cancel:{execution_id}", "1")
        worker.redis.publish("sf:control", execution_id)
        assert worker.until_ended(execution_id, 20)["status"] == "CANCELLED"
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in computing))
        assert worker.run(act("succeed"))["status"] == "success"
        worker.until_clean()


def test_what_a_job_started_is_ended_by_the_next_worker_where_daemon_and_template_died(
    redis: EmbeddedRedis, tmp_path: Path
) -> None:
    with RunningWorker(redis.url, tmp_path, lease_seconds=str(LEASE)) as worker:
        worker.until_said(worker.send(act("hang", attempts=1)), "task_started")
        until(worker.parties_with_children)
        template, nursery = worker.template(), worker.nursery()
        processes, parties = worker.processes(), worker.parties()
        [orphan] = processes - parties - {template, nursery}  # in this order: a new spare may appear between the two
        os.kill(template, signal.SIGSTOP)  # so that it cannot tidy up
        worker.kill()
        kill(template)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in parties))
        assert Path(f"/proc/{orphan}").exists()
        worker.start()
        until(lambda: not Path(f"/proc/{orphan}").exists())


class TestRequests:
    @pytest.fixture(scope="class")
    @staticmethod
    def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        directory: Path = tmp_path_factory.mktemp("health")
        # It runs no job, so no process has to import SecretFlow.
        settings = {"start_method": "spawn", "spare_processes": "0"}
        with EmbeddedRedis() as redis, RunningWorker(redis.url, directory, health=address, **settings):
            until(lambda: state(address) == "ready")
            yield address

    @staticmethod
    def said(address: str, request: bytes) -> bytes:
        """Everything that is answered to a request, until the worker closes the connection."""
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as client:
            answer = b""
            with suppress(ConnectionResetError, BrokenPipeError):  # it had heard enough
                client.sendall(request)
                while chunk := client.recv(65_536):
                    answer += chunk
            return answer

    def test_an_answer_is_plain_http(self, address: str) -> None:
        head, _, body = self.said(address, b"GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert json.loads(body) == READY

    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
            (b"GET /healthz/../readyz HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
            (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc", b"405"),
            (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),
            (b"\xff\xfe\x00\r\n\r\n", b"400"),
            (b"GET /healthz\r\n\r\n", b"400"),
            (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", b"400"),
            (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 2000, b"400"),
            (b"GET /healthz HTTP/1.1\r\nA: " + b"b" * 90_000, b"400"),
        ],
    )
    def test_garbage_is_refused(self, address: str, request_bytes: bytes, status: bytes) -> None:
        assert self.said(address, request_bytes)[9:12] == status
        assert asked(address) == (200, READY)

    def test_an_endless_request_is_cut_off(self, address: str) -> None:
        assert self.said(address, b"x" * 50_000_000)[9:12] in {b"400", b""}
        assert asked(address) == (200, READY)

    def test_those_who_say_nothing_keep_nobody_waiting(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        silent = [socket.create_connection((host, int(port)), 10) for _ in range(200)]
        began = time.monotonic()
        until(lambda: state(address) == "ready", 8)
        silent[0].sendall(b"GET /healthz")
        for each in silent:
            with suppress(ConnectionResetError):
                assert each.recv(1) == b""
            each.close()
        assert time.monotonic() - began < 9

    def test_those_who_ask_for_metrics_and_do_not_read_are_cut_off(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        greedy = [socket.create_connection((host, int(port)), 10) for _ in range(50)]
        for each in greedy:
            each.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert b"sfworker_slots_free" in self.said(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked(address) == (200, READY)
        for each in greedy:
            with suppress(ConnectionResetError):
                while each.recv(1 << 16):
                    pass
            each.close()

    def test_the_command_prints_and_exits(self, address: str, tmp_path: Path) -> None:
        def command(*arguments: str, **variables: str) -> tuple[int, str]:
            found = subprocess.run(
                [sys.executable, "-m", "sfworker.daemon.health", *arguments],
                env={"PATH": os.environ["PATH"], **variables},
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
            assert found.stderr == ""
            return found.returncode, found.stdout.strip()

        assert command(address) == (0, json.dumps(READY, separators=(",", ":")))
        assert command("--live", SFWORKER_HEALTH=address) == (0, '{"state":"alive","reason":""}')
        assert command() == (1, "SFWORKER_HEALTH: not set, so the worker does not say how it is")
        assert command("here") == (1, "SFWORKER_HEALTH: neither HOST:PORT nor unix:/PATH")
        assert command(f"unix:{tmp_path}/none") == (1, "the worker does not answer (No such file or directory)")


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("8080", "neither HOST:PORT nor unix:/PATH"),
        ("localhost:99999", "neither HOST:PORT nor unix:/PATH"),
        ("unix:{directory}/missing/health", "cannot listen there (No such file or directory)"),
        ("unix:{directory}/file", "cannot listen there (Address already in use)"),
        ("unix:{directory}/taken", "cannot listen there (another process listens there)"),
    ],
)
def test_a_worker_that_cannot_listen_says_so(tmp_path: Path, address: str, error: str) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "taken"))
        taken.listen()
        variables = {"SFWORKER_HEALTH": address.format(directory=tmp_path), "SFWORKER_RUN_DIR": str(tmp_path)}
        found = subprocess.run(
            [sys.executable, "-m", "sfworker", "run"],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert (found.returncode, found.stderr.splitlines()[-1]) == (2, f"sfworker: SFWORKER_HEALTH: {error}")
