"""Answers over HTTP whether the daemon's event loop lives and whether it could claim a job now.

    GET /healthz   200 while the event loop answers
    GET /readyz    200 where a job could be claimed now, or a free slot is all that is missing; else 503

Both answer `{"state": ..., "reason": ...}`. `python -m sfworker.daemon.health` asks, as a container's health check.
"""

from __future__ import annotations

import argparse
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from sfworker.errors import SettingsError
from sfworker.settings import load, variable

if TYPE_CHECKING:
    from sfworker.pool.pool import Pool
    from sfworker.telemetry import Telemetry

_UNIX = "unix:"
SECONDS = 5.0
"""Longest time for a client, and for a silence of Redis beyond the waits of the worker's own loops."""
CONNECTIONS = 64


class State(Struct, frozen=True):
    """Body of an answer."""

    state: Literal["alive", "ready", "starting", "template_lost", "redis_away", "misplaced_keys", "draining"]
    reason: str = ""


class Readiness:
    """Tells whether the worker could claim a job now, by how its own dealings with the template and Redis went."""

    def __init__(self, pool: Pool, lease_seconds: float, telemetry: Telemetry) -> None:
        self.draining = False
        self._telemetry = telemetry
        self._pool = pool
        # Where every slot is taken, the renewals of leases are all that asks Redis for anything.
        self._patience = lease_seconds / 3 + SECONDS
        self._failed_at: dict[str, float] = {}
        self._answered_at: float | None = None
        self._misplaced = ""
        self._serves = True

    def redis_answered(self, asked_by: str) -> None:
        if self._failed_at.pop(asked_by, None) is not None and not self._failed_at:
            self._telemetry.count("reconnect")
        self._answered_at = time.monotonic()

    def redis_failed(self, asked_by: str) -> None:
        self._failed_at[asked_by] = time.monotonic()

    def misplaced(self, sentences: list[str], *, serves: bool) -> None:
        """Note what was found in the place of keys, and whether jobs can be taken all the same."""
        self._misplaced, self._serves = "; ".join(sentences), serves

    def state(self) -> State:
        """Return the state as it is known, without asking Redis or the template."""
        if self.draining:
            return State("draining", "the worker was told to stop and takes no new jobs")
        if self._pool.trouble:
            return State("template_lost", self._pool.trouble)
        if not self._pool.is_ready:
            return State("starting", "the template process imports SecretFlow")
        return self._state_of_redis(time.monotonic() - self._patience)

    def _state_of_redis(self, lately: float) -> State:
        if any(failed_at > lately for failed_at in self._failed_at.values()):
            return State("redis_away", "Redis is away or refuses")
        if self._answered_at is None:
            return State("starting", "Redis has not answered yet")
        if self._answered_at < lately:
            return State("redis_away", f"Redis has been silent for more than {self._patience:.0f} s")
        return State("ready" if self._serves else "misplaced_keys", self._misplaced or self._pool.gateway.trouble)


@contextmanager
def listening(address: str) -> Iterator[socket.socket | None]:
    """Open a socket that listens at `address`, None where that is empty. Raises SettingsError where it cannot."""
    if not address:
        yield None
        return
    try:
        listener = _bind(address)
    except OSError as error:
        raise SettingsError(f"{variable('health')}: cannot listen there ({error.strerror or error})") from None
    with listener:
        try:
            yield listener
        finally:
            if address.startswith(_UNIX):
                os.unlink(address.removeprefix(_UNIX))


def ask(address: str, path: str) -> tuple[int, str]:
    """Return the status and body that the worker at `address` answers. Raises SettingsError or OSError."""
    family, where = _parse(address)
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS)
        client.connect(where)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: worker\r\n\r\n".encode())
        answer = b""
        while chunk := client.recv(8192):
            answer += chunk
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    words = head.split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise OSError("no HTTP answer")
    return int(words[1]), body.strip()


def main() -> int:
    """Ask a worker and print its answer. Returns exit code 0 where the status is 200, else 1."""
    parser = argparse.ArgumentParser(prog="python -m sfworker.daemon.health", description="Ask a worker how it is.")
    parser.add_argument("address", nargs="?", help=f"HOST:PORT or unix:/PATH (default: {variable('health')})")
    parser.add_argument("--live", action="store_true", help="ask only whether it lives, not whether it is ready")
    arguments = parser.parse_args()
    try:
        address = arguments.address or load().health
        if not address:
            raise SettingsError(f"{variable('health')}: not set, so the worker does not say how it is")
        status, body = ask(address, "/healthz" if arguments.live else "/readyz")
    except SettingsError as error:
        print(error)
        return 1
    except OSError as error:
        print(f"the worker does not answer ({error.strerror or error})")
        return 1
    print(body)
    return 0 if status == HTTPStatus.OK else 1


def _bind(address: str) -> socket.socket:
    family, where = _parse(address)
    if isinstance(where, str):
        _remove_abandoned(where)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def _parse(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if address.startswith(_UNIX):
        return socket.AF_UNIX, address.removeprefix(_UNIX)
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise SettingsError(f"{variable('health')}: neither HOST:PORT nor unix:/PATH")
    return (socket.AF_INET6 if host.startswith("[") else socket.AF_INET), (host.strip("[]"), int(port))


def _remove_abandoned(path: str) -> None:
    """Remove the socket of a worker that was killed. Raises OSError where a living process listens on it."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return  # a file of somebody's, which must not be removed; binding will fail and say so
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(SECONDS)
            client.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    raise OSError("another process listens there")


if __name__ == "__main__":
    sys.exit(main())
