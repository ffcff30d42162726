"""The embedded Redis server: private, durable over a restart, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from redis import Redis

from sfworker.cli.embedded_redis import EmbeddedRedis

_PARENT = """
import sys, time
from sfworker.cli.embedded_redis import EmbeddedRedis
with EmbeddedRedis() as server:
    print(server.pid, server.socket_path.parent, flush=True)
    time.sleep(60)
"""


def _gone(pid: int, within: float = 5.0) -> bool:
    give_up = time.monotonic() + within
    while time.monotonic() < give_up:
        try:
            # A zombie of a container without an init is gone as well.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_it_is_private_and_leaves_nothing() -> None:
    with EmbeddedRedis() as server:
        assert os.stat(server.socket_path.parent).st_mode & 0o777 == 0o700
        pid = server.pid
        with Redis.from_url(server.url) as redis:
            assert redis.config_get("port") == {"port": "0"}
            assert redis.config_get("appendonly") == {"appendonly": "yes"}
    assert _gone(pid)
    assert not server.socket_path.parent.exists()


def test_data_survives_a_restart_and_a_kill() -> None:
    with EmbeddedRedis("--appendfsync", "always") as server, Redis.from_url(server.url) as redis:
        redis.set("a", "1")
        server.restart()
        redis.close()
        assert redis.get("a") == b"1"
        redis.set("a", "2")
        server.stop(grace_seconds=0)
        server.start()
        redis.close()
        assert redis.get("a") == b"2"


def test_it_dies_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().decode().split()
        parent.send_signal(signal.SIGKILL)
    assert _gone(int(pid))
    with EmbeddedRedis():
        assert not Path(directory).exists()
