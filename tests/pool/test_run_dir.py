"""The worker's directory, and what dead workers left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from sfworker.pool.run_dir import remove_abandoned, run_dir

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(60)"]


def test_it_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with run_dir(str(tmp_path)) as directory:
        assert Path(directory).stat().st_mode & 0o777 == 0o700
        (Path(directory) / "scratch").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    abandoned = tmp_path / "sfworker-run-dead"
    abandoned.mkdir()
    (abandoned / "secret-share").touch()
    elsewhere = tmp_path / "somebody-elses"
    elsewhere.mkdir()
    (tmp_path / "sfworker-run-link").symlink_to(elsewhere)
    with run_dir(str(tmp_path)) as directory:
        assert remove_abandoned(str(tmp_path)) == 0
        left = {Path(directory).name, "sfworker-run-link", "somebody-elses"}
        assert {path.name for path in tmp_path.iterdir()} == left


def test_workers_that_start_at_the_same_time_do_not_remove_each_others(tmp_path: Path) -> None:
    done = Event()

    def remove_all_the_time() -> None:
        while not done.is_set():
            remove_abandoned(str(tmp_path))

    def start_many() -> None:
        for _ in range(200):
            with run_dir(str(tmp_path)) as directory:
                os.mkdir(f"{directory}/1")

    with ThreadPoolExecutor() as threads:
        removing = threads.submit(remove_all_the_time)
        starting = [threads.submit(start_many) for _ in range(3)]
        try:
            for each in starting:
                each.result()
        finally:
            done.set()
        removing.result()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", ["working directory", "TMPDIR"])
def test_programs_that_still_run_in_an_abandoned_directory_are_ended(tmp_path: Path, by: str) -> None:
    scratch = tmp_path / "sfworker-run-dead" / "1" / "scratch-0"
    scratch.mkdir(parents=True)
    directory, environment = (scratch, None) if by == "working directory" else (None, {"TMPDIR": str(scratch)})
    with subprocess.Popen(SLEEP, cwd=directory, env=environment, stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdout.read(1) == b"\n"
        with run_dir(str(tmp_path)) as living, subprocess.Popen(SLEEP, cwd=living) as neighbour:
            assert orphan.wait(10) == -signal.SIGKILL
            assert remove_abandoned(str(tmp_path)) == 0
            assert neighbour.poll() is None
            neighbour.kill()
