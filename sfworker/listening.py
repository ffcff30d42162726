"""Listens where worker and gateway say how they are, and asks them. What answers is `sfworker.serving`."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct

from sfworker.errors import SettingsError
from sfworker.settings import variable

_UNIX = "unix:"
SECONDS = 5.0
"""Longest time for a client."""
CONNECTIONS = 64


class State(Struct, frozen=True):
    """Body of an answer."""

    state: Literal[
        "alive",
        "ready",
        "starting",
        "template_lost",
        "redis_away",
        "misplaced_keys",
        "certificate_not_good",
        "draining",
    ]
    reason: str = ""


@contextmanager
def listening(address: str, setting: str = "health") -> Iterator[socket.socket | None]:
    """Open a socket that listens at `address`, None where that is empty.

    Raises SettingsError, which names the setting, where it cannot.
    """
    if not address:
        yield None
        return
    try:
        listener = _bind(address, setting)
    except OSError as error:
        raise SettingsError(f"{variable(setting)}: cannot listen there ({error.strerror or error})") from None
    with listener:
        try:
            yield listener
        finally:
            if address.startswith(_UNIX):
                os.unlink(address.removeprefix(_UNIX))


def ask(address: str, path: str) -> tuple[int, str]:
    """Return the status and body that the worker or gateway at `address` answers. Raises SettingsError or OSError."""
    family, where = _parse(address, "health")
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


def _bind(address: str, setting: str) -> socket.socket:
    family, where = _parse(address, setting)
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


def _parse(address: str, setting: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if address.startswith(_UNIX):
        return socket.AF_UNIX, address.removeprefix(_UNIX)
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise SettingsError(f"{variable(setting)}: neither HOST:PORT nor unix:/PATH")
    return (socket.AF_INET6 if host.startswith("[") else socket.AF_INET), (host.strip("[]"), int(port))


def _remove_abandoned(path: str) -> None:
    """Remove the socket of a process that was killed. Raises OSError where a living process listens on it."""
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
