"""Brings the parties of an execution that are elsewhere to its mesh, by this host's gateway. Runs in the daemon."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import anyio
from msgspec import Struct

from sfworker.errors import GatewayLostError
from sfworker.pool.channel import FrameChannel
from sfworker.pool.gateway import NOT_OWN, is_own
from sfworker.wire.frames import encode_frame
from sfworker.wire.gateway import (
    PING_SECONDS,
    Agreed,
    Alive,
    Close,
    Heard,
    Keep,
    Kept,
    Lost,
    Met,
    Open,
    Opened,
    PeerFrame,
    Tell,
    decode_from_gateway,
)

OPEN_SECONDS = 10.0
CONNECT_PAUSE = 0.05
MAX_TEXT = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


class Remotes:
    """The absent parties of one attempt."""

    def __init__(self, gateway: str, opened: Open, meet: Callable[[str, str], None]) -> None:
        """`meet` gets party and `traceparent` of peers that have come with one."""
        self._gateway = gateway
        self._opened = opened
        self._meet = meet
        self.names = list(opened.addresses)
        self._channel: FrameChannel | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._answered = anyio.Event()
        self._has_answered = False
        self._refusal = ""
        self._lost = False
        self._links = ""
        self._kept = anyio.Event()
        self._hear: Callable[[Heard | Agreed | Lost], None] = _ignore

    @property
    def is_lost(self) -> bool:
        """True where the gateway has ended, and all links with it."""
        return self._lost

    @property
    def has_choice(self) -> bool:
        """True where the session may be kept, and with it the links, about which `Agreed` tells."""
        return self._opened.keeps

    async def keep(self) -> str:
        """End the attempt but not its links, and return their id, which is nothing where they cannot be kept."""
        self._send(Keep())
        with anyio.move_on_after(OPEN_SECONDS):
            await self._kept.wait()
        return self._links

    async def open(self, hear: Callable[[Heard | Agreed | Lost], None]) -> None:
        """Open the sockets that stand in for the parties, and begin to call them. Raises GatewayLostError."""
        self._hear = hear
        try:
            with anyio.fail_after(OPEN_SECONDS):
                while not self._has_answered:  # one that is being replaced closes without an answer
                    await self._connect()
                    await self._answered.wait()
        except OSError as error:
            raise GatewayLostError(f"this host's gateway does not answer ({type(error).__name__})") from None
        if self._refusal:
            raise GatewayLostError(self._refusal)

    async def say_alive(self) -> None:
        """Let the peers hear that this worker is alive, until cancelled."""
        while True:
            self._send(Alive())
            await anyio.sleep(PING_SECONDS)

    def tell(self, frame: PeerFrame) -> None:
        """Tell the peers' workers. Where the gateway is gone, it says so by itself."""
        self._send(Tell(frame))

    def close(self) -> None:
        """End it in order."""
        self._send(Close())
        if self._channel is not None:
            self._channel.close()
        self._socket.close()

    async def _connect(self) -> None:
        """Connect and send the first message."""
        if self._channel is not None:
            self._channel.close()
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        while True:
            try:
                self._socket.connect(self._gateway)
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):  # it is being started, or is busy
                await anyio.sleep(CONNECT_PAUSE)
            else:
                break
        if not is_own(self._socket):
            raise GatewayLostError(NOT_OWN)
        self._answered = anyio.Event()
        self._channel = FrameChannel(self._socket, self._hear_body, self._hear_end, lambda error: self._hear_end())
        self._send(self._opened)

    def _send(self, message: Struct) -> None:
        body = encode_frame(message)
        try:
            if self._channel is not None and self._socket.send(body) != len(body):
                self._hear_end()  # it has not read for long
        except OSError:
            self._hear_end()

    def _hear_body(self, body: bytes) -> None:
        match decode_from_gateway(body):
            case Opened(why):
                self._refusal = why
                self._has_answered = True
                self._answered.set()
            case Met(party, traceparent):
                self._meet(party, traceparent)
            case Kept(links):
                self._links = links
                self._kept.set()
            case Heard() | Agreed() | Lost() as heard:
                self._hear(heard)

    def _hear_end(self) -> None:
        self._answered.set()
        self._kept.set()
        if self._lost or self._refusal or not self._has_answered:
            return
        self._lost = True
        for name in self.names:
            self._hear(Lost(name, "cannot be heard, as this host's gateway ended", met=False, returns=True))


def cleaned(text: str) -> str:
    """Return a stranger's sentence without what could act on a terminal or a log, and not too long."""
    return _CONTROL.sub(" ", text)[:MAX_TEXT]


def _ignore(heard: Heard | Agreed | Lost) -> None:
    pass
