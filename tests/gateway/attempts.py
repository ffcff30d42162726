"""Attempts without a worker or a party process: the test speaks to gateways as these do."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec import Struct

from sfworker.settings import Settings, load, variable
from sfworker.wire.frames import encode_frame, receive_body
from sfworker.wire.gateway import CHANNELS, Alive, Ask, Close, Open, Terms, decode_from_gateway, decode_state
from tests.gateway.sites import Site, Sites


@contextmanager
def gateways_alone(
    directory: Path, parties: list[str], *, started: list[str] | None = None, **settings: Any
) -> Iterator[Sites]:
    """Sites whose gateways run, all or those of `started`, and whose workers do not."""
    sites = Sites(directory, parties, **settings)
    try:
        for party in parties if started is None else started:
            sites[party].start_gateway()
        yield sites
    finally:
        sites.__exit__(None, None, None)


def settings_of(site: Site) -> Settings:
    return load({variable(name): str(value) for name, value in site.settings.items()})


def open_streams(site: Site) -> int:
    """How many streams a site's gateway has with its peers."""
    asking = Connection(site)
    asking.send(Ask())
    state = decode_state(asking.body() or b"")
    asking.close()
    return sum(peer.open_streams for peer in state.peers)


class Connection:
    """A worker's connection to its gateway."""

    def __init__(self, site: Site) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(settings_of(site).gateway_socket())

    def send(self, message: Struct) -> None:
        self._socket.sendall(encode_frame(message))

    def body(self) -> bytes | None:
        return receive_body(self._socket)

    def next(self) -> Any:
        """The gateway's next message, or None where it has closed the connection."""
        body = self.body()
        return None if body is None else decode_from_gateway(body)

    def close(self) -> None:
        self._socket.close()


class Attempt(Connection):
    """An attempt that is open, whose party listens on its channels and echoes what comes, and says that it lives.

    What comes is not read before `reads` is set.
    """

    def __init__(self, site: Site, execution_id: str, parties: list[str], **changes: Any) -> None:
        super().__init__(site)
        self.reads = threading.Event()
        self.reads.set()
        self.directory = Path(tempfile.mkdtemp())
        self.rank = parties.index(site.party)
        peers = settings_of(site).peers
        parts: dict[str, Any] = {
            "execution_id": execution_id,
            "directory": str(self.directory),
            "replays": 0,
            "settings": settings_of(site).of_gateway(),
            "terms": Terms(parties=parties, task_type="psi", parameters="0" * 64, devices="0" * 64),
            "has_spu": True,
            "addresses": {party: peers[party] for party in parties if party != site.party},
        }
        self._ended = threading.Event()
        self._listeners = [self._listen(channel) for channel in CHANNELS[:2]]
        self.send(Open(**{**parts, **changes}))
        self.opened = self.next()
        threading.Thread(target=self._say_alive, daemon=True).start()

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def stream(self, rank: int, channel: str = "fed") -> socket.socket:
        """A link of this party to that of `rank`."""
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(20)
        made.connect(str(self.directory / f"{channel}-{rank}.sock"))
        return made

    def end(self, *, in_order: bool = True) -> None:
        self._ended.set()
        try:
            if in_order:
                self.send(Close())
        except OSError:
            pass
        for listener in self._listeners:
            listener.close()
        self.close()
        shutil.rmtree(self.directory)

    def _say_alive(self) -> None:
        while not self._ended.wait(0.5):
            try:
                self.send(Alive())
            except OSError:
                return

    def _listen(self, channel: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / f"{channel}-{self.rank}.sock"))
        listener.listen(256)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(connection, self.reads), daemon=True).start()


def _echo(connection: socket.socket, may_read: threading.Event) -> None:
    with connection:
        try:
            while may_read.wait() and (data := connection.recv(1 << 16)):
                connection.sendall(data)
        except OSError:
            pass


def echoed(stream: socket.socket, data: bytes = b"hello") -> bool:
    """Whether the other party has got `data` and sent it back."""
    stream.sendall(data)
    back = b""
    until = time.monotonic() + 20
    while len(back) < len(data) and time.monotonic() < until:
        back += stream.recv(1 << 16)
    return back == data
