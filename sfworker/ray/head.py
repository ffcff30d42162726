"""The kept local head: a Ray cluster of this host alone, on loopback, which is gone with whoever started it.

    worker --standard input, which only stays open--> head --> gcs_server, raylet --> agents, hosts
           <--one line, the address------------------   \\--> watcher

The watcher has a session of its own and blocks until its parent's, or the worker's, end of a pipe is closed, by which
the kernel tells of every death. Then it kills whatever is in the head's session, and removes the head's directory.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from sfworker.wire import entry

SLOTS = 10_000
"""Party processes of one party that Ray may place here, which is no limit: the worker has one of its own."""
STORE_BYTES = 100 << 20
"""Ray's object store, of which nothing here makes use; the least that it takes is 75 MiB."""
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else a driver takes 127.0.0.1 for this host's address in a network
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that head and drivers on 127.0.0.1 need."""
_NICENESS = {"RAY_worker_niceness": "0"}
"""Variables by which parties yield to the worker no more than in a mesh, where they have a niceness of their own."""
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
"""Configuration of a head by which a node that hangs is given up within 10 s. With Ray's own it takes a minute."""
_KILL_SECONDS = 10.0


def main() -> None:
    """Entry of the head, which leads a session."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--parties", required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    entry.leave_no_core()  # that of a party's process holds data
    watcher = watch_over_session(arguments.directory)
    os.environ.update(ENVIRONMENT | _NICENESS)
    try:
        node = _start(arguments.directory, json.loads(arguments.parties))
        os.write(1, f"{node.gcs_address}\n".encode())
        needed = {watcher} | {
            each.process.pid for name in ("gcs_server", "raylet") for each in node.all_processes[name]
        }
        while os.wait()[0] not in needed:
            pass
    except Exception:  # noqa: BLE001 - whatever it is, it is told before this process kills itself
        traceback.print_exc()
    finally:
        os.killpg(0, signal.SIGKILL)


def watch_over_session(directory: str) -> int:
    """Fork the watcher of this session, and return its process id."""
    session = os.getpid()
    closed_with_us, held = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(held)
        _watch(session, closed_with_us, directory)
    os.close(closed_with_us)
    return pid


def _watch(session: int, parent: int, directory: str) -> NoReturn:
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)  # not standard output, whose end says that all is gone
        select.select([0, parent], [], [])
        give_up = time.monotonic() + _KILL_SECONDS
        while (members := _members(session)) and time.monotonic() < give_up:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        shutil.rmtree(directory, ignore_errors=True)
        _remove_run_dir_of_dead_worker(os.path.dirname(directory))
    finally:  # never back into the head
        os._exit(0)


def _remove_run_dir_of_dead_worker(run_dir: str) -> None:
    """Remove it where it is empty and no worker holds its lock, in case the template was here first."""
    with contextlib.suppress(OSError):
        lock = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rmdir(run_dir)


def _members(session: int) -> list[int]:
    """Return the processes of a session that live. Ray gives some of its processes groups of their own."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            state, _, _, of, *_ = Path(f"/proc/{int(name)}/stat").read_text().rpartition(")")[2].split()
            if int(of) == session and state not in "ZX":
                found.append(int(name))
    return found


def _start(directory: str, parties: list[str]) -> Any:
    """Start the head's processes, and return Ray's handle on them."""
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    parameters: dict[str, Any] = {
        "node_ip_address": "127.0.0.1",  # in these words: with another name or address Ray listens everywhere
        "gcs_server_port": 0,
        "min_worker_port": 0,
        "max_worker_port": 0,
        "num_cpus": 0,
        "resources": dict.fromkeys(parties, SLOTS),
        "object_store_memory": STORE_BYTES,
        "temp_dir": directory,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "_system_config": HEALTH_CHECKS,
    }
    return Node(RayParams(**parameters), head=True, shutdown_at_exit=False, spawn_reaper=False)
