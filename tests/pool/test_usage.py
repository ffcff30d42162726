"""Memory of process groups, disk of directories, and how processors are shared out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sfworker.pool.processors import Processors
from sfworker.pool.usage import disk_above, memory_above, oom_kills
from tests.running_worker import until

HOLD = """
import os, sys, time
held = bytearray(int(sys.argv[1]))
if os.fork() == 0:  # shares all of it
    time.sleep(60)
print(flush=True)
time.sleep(60)
"""


def test_memory_that_processes_share_counts_once() -> None:
    size = 200_000_000
    command = [sys.executable, "-I", "-S", "-c", HOLD, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(1) == b"\n"
        used = memory_above(size, [holder.pid])
        assert used is not None
        assert size < used < 1.2 * size
        assert memory_above(int(1.5 * size), [holder.pid]) is None  # with what they share, they hold twice the size
        os.killpg(holder.pid, 9)
    until(lambda: memory_above(0, [holder.pid]) is None)  # the kernel takes the other one's memory down in its own time


def test_disk_counts_everything_below_once_and_follows_no_link(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "deep").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(bytes(10_000_000))
    (scratch / "link").symlink_to(tmp_path)
    (scratch / "deep" / "file").write_bytes(bytes(1_000_000))
    (scratch / "sparse").touch()
    os.truncate(scratch / "sparse", 1 << 40)
    used = disk_above(900_000, str(scratch))
    assert used is not None
    assert 1_000_000 <= used < 1_100_000
    assert disk_above(1_100_000, str(scratch)) is None
    assert disk_above(0, str(tmp_path / "gone")) is None


def test_the_kernel_counts_what_it_kills() -> None:
    assert oom_kills() >= 0


def test_processors_are_shared_out_evenly() -> None:
    there = os.sched_getaffinity(0)
    processors = Processors()
    assert {each for _ in there for each in processors.acquire(1)} == there
    first = processors.acquire(1)
    assert processors.acquire(len(there) + 5) != []
    processors.release(first)
    assert processors.acquire(1) == first
