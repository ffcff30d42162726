"""Logs of single executions: what is in them, their bounds, and `sfworker logs`, which prints them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from sfworker import job_logs, logs
from sfworker.cli import main
from sfworker.errors import SettingsError
from sfworker.job_logs import FILE_BYTES, JobLogs, log_file_of
from sfworker.settings import Settings
from tests.integration.test_execution import act
from tests.running_worker import RunningWorker, until

log = logging.getLogger("sfworker.test")


def settings(directory: Path, **more: object) -> Settings:
    return msgspec.convert({"redis_url": "redis://:pass4711-4711@h/0", "job_logs": str(directory), **more}, Settings)


def messages(file: Path) -> list[str]:
    return [json.loads(line)["message"] for line in file.read_text().splitlines()]


def test_lines_about_an_execution_are_in_its_file_alone(tmp_path: Path) -> None:
    with logs.configure(settings(tmp_path)):
        log.info("of nobody")
        for execution_id in ("e-1", "e-2"):
            with logs.ids(execution_id=execution_id, task_id="t"):
                log.info("of %s with pass4711-4711", execution_id)
                logs.party_line(b"a row: 4711-4711", party="alice")
    assert messages(tmp_path / "e-1.log")[0] == "of e-1 with ***"
    assert "4711-4711" not in (tmp_path / "e-1.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e-1.log", "e-2.log"]
    assert (tmp_path / "e-1.log").stat().st_mode & 0o111 == 0


@pytest.mark.parametrize(
    "execution_id", ["../../etc/x", "a/b", "..", ".hidden", "~x", "", "x" * 5000, "世界", "\ud800", "\0"]
)
def test_no_id_leads_out_of_the_directory(tmp_path: Path, execution_id: str) -> None:
    JobLogs(settings(tmp_path / "logs")).write(execution_id, "line")
    [file] = (tmp_path / "logs").iterdir()
    assert file.name.startswith("~")
    assert (list(tmp_path.iterdir()), file.read_text()) == ([tmp_path / "logs"], "line\n")


def test_a_link_in_the_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "e-1.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        JobLogs(settings(tmp_path / "logs")).write("e-1", "line")
    assert not (tmp_path / "elsewhere").exists()


def test_a_log_is_bounded_and_says_that_there_was_more(tmp_path: Path) -> None:
    kept = JobLogs(settings(tmp_path))
    for _ in range(3 + FILE_BYTES // 100_000):
        kept.write("e-1", "x" * 100_000)
    file = log_file_of(str(tmp_path), "e-1")
    assert file.stat().st_size == FILE_BYTES + 1
    assert file.read_text().count("this log is full") == 1


def test_old_logs_are_removed_and_other_files_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = JobLogs(settings(tmp_path, job_logs_kept=3, retention=3600))
    (tmp_path / "notes.txt").write_text("mine")
    for age in (10, 20, 30, 40, 7200):
        file = log_file_of(str(tmp_path), f"e-{age}")
        file.touch()
        os.utime(file, (time.time() - age, time.time() - age))
    kept.write("e-0", "line")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e-0.log", "e-10.log", "e-20.log", "notes.txt"]
    monkeypatch.setattr(job_logs, "_LOOK_SECONDS", -1.0)
    monkeypatch.setattr(kept, "_seconds", 0.0)
    time.sleep(0.01)
    kept.write("e-1", "line")
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "notes.txt"


def test_a_directory_that_cannot_be_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="SFWORKER_JOB_LOGS: no files can be made there"):
        JobLogs(settings(tmp_path / "file" / "logs"))


def test_a_log_that_cannot_be_written_costs_no_other_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e-1.log").mkdir()
    with logs.configure(settings(tmp_path)), logs.ids(execution_id="e-1"):
        said: list[str] = []

        def hear(words: str) -> bool:
            said.append(capfd.readouterr().err)
            return words in "".join(said)

        log.info("line 1")
        until(lambda: hear("logs of executions cannot be written"))
        log.info("line 2")
        until(lambda: hear("line 2"))
    assert "".join(said).count("logs of executions cannot be written") == 1


def test_a_real_job_is_followed_to_its_end(redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "logs"
    environment = {**os.environ, "REDIS_URL": redis_url, "SFWORKER_JOB_LOGS": str(directory)}
    command = [sys.executable, "-m", "sfworker", "logs"]
    with RunningWorker(redis_url, tmp_path / "worker", job_logs=str(directory)) as worker:
        execution_id = worker.send(act("raise_foreign", at="bob"))
        followed = subprocess.run(
            [*command, execution_id, "--follow"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        once = subprocess.run(
            [*command, execution_id, "--json"], env=environment, capture_output=True, text=True, check=True
        )
        lines = [json.loads(line) for line in once.stdout.splitlines()]
        assert {line["execution_id"] for line in lines} == {execution_id}
        assert lines[0]["message"] == "attempt 1 of a act job begins"
        assert "failed for good" in lines[-1]["message"]
        assert {line.get("party") for line in lines} >= {None, "bob"}
        shown = followed.stdout.splitlines()
        assert "failed for good" in shown[-1]
        assert "customer 4711" not in followed.stdout + once.stdout
    for words in (["logs", "nobody"], ["logs", "nobody", "--json"]):
        missing = subprocess.run([*command[:3], *words], env=environment, capture_output=True, text=True, check=False)
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "no log of nobody is kept on this host" in missing.stderr


def test_without_the_setting_it_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SFWORKER_JOB_LOGS", raising=False)
    assert main(["logs", "e-1"]) == 2
    assert capsys.readouterr().err.startswith("sfworker: SFWORKER_JOB_LOGS: names no directory here")


def test_what_could_steer_a_terminal_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    JobLogs(settings(tmp_path)).write(
        "e-1", json.dumps({"message": "\x1b[2J\u202e", "exception": "a\n\x9bb", "n": "\r"})
    )
    monkeypatch.setenv("SFWORKER_JOB_LOGS", str(tmp_path))
    assert main(["logs", "e-1"]) == 0
    out = capsys.readouterr().out
    assert all(each.isprintable() or each == "\n" for each in out)
    assert "\\x1b[2J" in out
