"""`sfworker run` as a newcomer, a terminal and a service manager start it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sfworker.cli.child import bound_to_this_process, stop
from tests.running_worker import envelope, until

SFWORKER = str(Path(sys.executable).with_name("sfworker"))
RUN = [SFWORKER, "run", "--embedded"]


@pytest.fixture(autouse=True)
def hang_up_is_not_ignored() -> Iterator[None]:
    """Children inherit it, and whoever runs the tests may have used `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Started:
    """A worker that a shell has started with a Redis of its own; what it prints is in files."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self._directory = directory

    def printed(self) -> str:
        return (self._directory / "out").read_text()

    def log(self) -> str:
        return (self._directory / "log").read_text() if (self._directory / "log").exists() else ""

    def until_ready(self) -> None:
        until(lambda: "ready, " in self.log() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log() + self.printed()

    def send(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def started(
    directory: Path, command: Sequence[str] = RUN, *, redirect: str = "", before: Sequence[str] = (), **environment: str
) -> Iterator[Started]:
    """The command below a shell, with `redirect` as a shell has it and `before` as the command that starts it."""
    line = f'exec "$@" {redirect}' if redirect else 'exec "$@"'
    with (directory / "out").open("wb") as out:
        process = subprocess.Popen(
            bound_to_this_process(["/bin/sh", "-c", line, "sh", *before, *command]),
            cwd=directory,
            env={**os.environ, "LOG_FILE": str(directory / "log"), **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Started(process, directory)
    finally:
        stop(process, 20)


def first_job(worker: Started) -> str:
    """The printed line for a second terminal."""
    [line] = re.findall(r"^  (echo .*)$", worker.printed(), re.MULTILINE)
    return str(line)


def test_the_printed_line_sends_a_first_job_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path) as worker:
        worker.until_ready()
        done = worker.send(first_job(worker))
        assert (done.returncode, "Hello, world!" in done.stdout) == (0, True), done
        [redis] = re.findall(r"unix://(\S+)/redis\.sock\.", worker.printed())
        assert Path(redis).stat().st_mode & 0o777 == 0o700
        os.kill(worker.process.pid, signal.SIGINT)
        assert worker.process.wait(20) == 0
    assert not Path(redis).exists()


def test_a_kept_directory_keeps_the_answers(tmp_path: Path) -> None:
    kept = [*RUN, "kept"]
    with started(tmp_path, kept) as worker:
        worker.until_ready()
        job = first_job(worker)
        assert worker.send(job).returncode == 0
        second = subprocess.run(kept, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert (second.returncode, second.stdout) == (2, "")
        assert second.stderr == "sfworker: the embedded Redis: another server uses this directory; stop it first\n"
    (tmp_path / "log").unlink()
    with started(tmp_path, kept) as worker:
        worker.until_ready()
        assert worker.send(job).returncode == 0  # answered from the first
        assert "succeeded" not in worker.log()


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    with started(tmp_path, [*RUN, "long" * 30]) as worker:
        worker.until_ready()
        assert worker.send(first_job(worker)).returncode == 0
        assert (tmp_path / ("long" * 30) / "appendonlydir").is_dir()


@pytest.mark.parametrize("redirect", [pytest.param("2>&-", marks=pytest.mark.slow), "<&- >&- 2>&-"])
def test_closed_standard_streams_take_no_job_from_it(tmp_path: Path, redirect: str) -> None:
    """The template aborted in a loop, as its sockets had got the numbers 0 to 2."""
    kept = f"{tmp_path}/kept"
    with started(tmp_path, [*RUN, kept], redirect=redirect) as worker:
        worker.until_ready()
        submit = f"{SFWORKER} submit - --wait --redis unix://{kept}/redis.sock"
        job = json.dumps(envelope({"task_type": "hello"}))
        assert worker.send(f"echo '{job}' | {submit}").returncode == 0
        assert "template process" in worker.log()
        assert worker.log().count("is ready after") == 1


def test_signals_of_scripts_that_rotate_logs_end_nothing(tmp_path: Path) -> None:
    with started(tmp_path) as worker:
        worker.until_ready()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            (tmp_path / "log").rename(tmp_path / "log.1")
            os.kill(worker.process.pid, number)
            said = f"{number.name}: {'the log file' if number == signal.SIGHUP else 'nothing to do'}"
            until(lambda: said in worker.log())  # noqa: B023 - in a new file; called within this turn
        assert worker.send(first_job(worker)).returncode == 0


@pytest.mark.parametrize("before", [[], ["nohup"]])
def test_a_closed_terminal_stops_it_in_order_unless_nohup_said_no(tmp_path: Path, before: list[str]) -> None:
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [*before, *RUN],
        cwd=tmp_path,
        # It runs no job, so no process has to import SecretFlow.
        env={
            **os.environ,
            "LOG_FILE": str(tmp_path / "log"),
            "SFWORKER_START_METHOD": "spawn",
            "SFWORKER_SPARE_PROCESSES": "0",
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    worker = Started(process, tmp_path)
    try:
        worker.until_ready()
        os.kill(process.pid, signal.SIGHUP)  # as the kernel does for the terminal's session
        if before:
            os.kill(process.pid, signal.SIGUSR1)  # is heard after it
            until(lambda: "SIGUSR1" in worker.log())
            assert "SIGHUP" not in worker.log()
        else:
            assert process.wait(20) == 0
            assert "SIGHUP: no new jobs" in worker.log()
    finally:
        stop(process, 20)
        os.close(terminal)


@pytest.mark.skipif(
    subprocess.run(["unshare", "--user", "--map-user=12345", "true"], check=False).returncode != 0,
    reason="the kernel gives no user namespaces here",
)
def test_neither_a_home_nor_a_passwd_entry_is_needed(tmp_path: Path) -> None:
    nobody = ["env", "-i", f"LOG_FILE={tmp_path}/log", "unshare", "--user", "--map-user=12345", "--map-group=12345"]
    with started(tmp_path, before=nobody) as worker:
        worker.until_ready()
        assert worker.send(first_job(worker)).returncode == 0


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_file_of_task_types_is_loaded_by_its_path(tmp_path: Path, method: str) -> None:
    """In the daemon and in party processes, whether forked or started anew; the import path stays as it is."""
    shutil.copy(Path(__file__).with_name("own_job.py"), tmp_path / "json.py")  # a name that the standard library has
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the working directory')")
    with started(tmp_path, [*RUN, "--jobs", "./json.py"], SFWORKER_START_METHOD=method) as worker:
        worker.until_ready()
        done = worker.send(first_job(worker).replace('"hello"', '"own"'))
        assert (done.returncode, "answer: 42" in done.stdout) == (0, True), done


@pytest.mark.parametrize(
    ("jobs", "sentence"),
    [
        ("greeting", "greeting cannot be imported: No module named 'greeting'; to load the file, say ./greeting.py"),
        ("./none.py", "./none.py cannot be imported: FileNotFoundError(2, 'No such file or directory')"),
        ("./greeting.py,./other/greeting.py", "cannot be imported: ImportError('another file of this name is loaded')"),
    ],
)
def test_jobs_that_cannot_be_loaded_are_named(tmp_path: Path, jobs: str, sentence: str) -> None:
    (tmp_path / "other").mkdir()
    for place in (tmp_path, tmp_path / "other"):
        (place / "greeting.py").write_text("")
    environment = {**os.environ, "SFWORKER_JOBS": jobs}
    done = subprocess.run(RUN, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_server_that_is_missing_is_said(tmp_path: Path) -> None:
    environment = {**os.environ, "SFWORKER_REDIS_SERVER": "/nowhere", "TMPDIR": str(tmp_path)}
    done = subprocess.run(RUN, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "sfworker: SFWORKER_REDIS_SERVER: not a program that can be run\n")
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_whose_path_is_too_long_for_sockets(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    command = [sys.executable, "-m", "sfworker", "run"]
    environment = {**os.environ, "SFWORKER_RUN_DIR": str(long)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert "SFWORKER_RUN_DIR: its path is too long for the sockets in it" in ended.stderr
    assert list(long.iterdir()) == []
