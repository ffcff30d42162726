"""Holds the private directory in which workers find their gateway, and a gateway the one before it."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sfworker.errors import SettingsError
from sfworker.settings import Settings, variable
from sfworker.wire.frames import encode_frame
from sfworker.wire.gateway import CONTROL, GiveWay

GIVE_WAY_SECONDS = 10.0
"""Longest wait for a gateway that a worker has started to let go of its place."""
_LOOK_SECONDS = 0.05


class Place:
    """The private directory of the sockets, which one gateway has at a time."""

    def __init__(self, directory: str, lock: int) -> None:
        self._directory = directory
        self._lock = lock
        self.path = f"{directory}/{CONTROL}.sock"
        """The socket at which workers find their gateway."""
        self.parting_path = f"{directory}/{secrets.token_hex(3)}.sock"  # as short as the other
        """The socket to which the next gateway passes on what comes for this one."""

    def parting(self) -> list[str]:
        """Return the sockets of gateways that were here before and finish their executions."""
        return [str(path) for path in Path(self._directory).glob("??????.sock") if str(path) != self.parting_path]

    def let_go(self) -> None:
        """Leave it to the next gateway."""
        if self._lock >= 0:
            unlink(self.path)
            os.close(self._lock)
            self._lock = -1


@contextmanager
def own_place(settings: Settings, *, while_needed: bool) -> Iterator[Place]:
    """Make and lock the private directory of the sockets, for the block at most. Raises SettingsError.

    A gateway that a worker has started gives way to one that nobody has, and is waited for.
    """
    directory = os.path.dirname(settings.gateway_socket())
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SettingsError(f"{variable('gateway_dir')}: cannot be used ({error.strerror})") from None
    try:
        found = os.stat(directory)
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise SettingsError(f"{variable('gateway_dir')}: has to be this user's own, with permissions 0700")
        if not _locked(lock) and (while_needed or not _given_way(lock, settings.gateway_socket())):
            raise SettingsError(f"{variable('gateway_dir')}: a gateway of this party runs there already")
    except SettingsError:
        os.close(lock)
        raise
    place = Place(directory, lock)
    unlink(place.path)  # left by a gateway that was killed
    try:
        yield place
    finally:
        place.let_go()
        unlink(place.parting_path)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _given_way(lock: int, path: str) -> bool:
    """Ask the gateway at `path` to give way, and wait until it has.

    One that has the place and does not listen yet is asked when it does.
    """
    give_up = time.monotonic() + GIVE_WAY_SECONDS
    while True:
        was_asked = _ask_to_give_way(path)
        if _locked(lock):
            return True
        if was_asked or time.monotonic() > give_up:
            return False
        time.sleep(_LOOK_SECONDS)


def _ask_to_give_way(path: str) -> bool:
    """Return whether a gateway was there to be asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(GIVE_WAY_SECONDS)
        try:
            asking.connect(path)
        except OSError:
            return False
        with suppress(OSError):  # it ended meanwhile
            asking.sendall(encode_frame(GiveWay()))
            asking.recv(1)  # ends when it has let go, or will not
    return True


def unlink(path: str) -> None:
    """Remove a socket, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)
