"""The halves of streams, which carry bytes between a Unix socket and a TLS connection without looking at them.

    party process --unix--> Half <-> Half ==TLS==> Half <-> Half --unix--> party process

A half first takes messages, as the preface of a stream is one, and then may be joined with another.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from msgspec import Struct

from sfworker.gateway.accounts import PeerAccount
from sfworker.wire.frames import FrameError, FrameSplitter, encode_frame

HELD_BYTES = 1 << 18
"""Bytes that wait for a slow reader before no more are read for it."""
CLOSE_SECONDS = 1.0
"""Time by which the end of a peer's stream reaches a party process later than it came.

The reason for the end travels beside it, and would otherwise come after the crash that it causes.
"""

KEEP_ALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 6}
"""Seconds of idleness before the kernel asks whether the peer is there, between questions, and how many it asks."""


class Half(asyncio.Protocol):
    """One end of a connection.

    `on_message` gets the bodies of messages of at most `longest` bytes until `join` or `hold` is called.
    """

    def __init__(
        self, on_message: Callable[[bytes], None] | None, on_end: Callable[[], None], longest: int = 0
    ) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._splitter = FrameSplitter(longest)
        self._held = bytearray()
        self._on_first: Callable[[], None] | None = None
        self._other: Half | None = None
        self.spoke_nonsense = False
        """True where it was closed here, because of what came."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HELD_BYTES)

    def send(self, message: Struct) -> None:
        self._write(encode_frame(message))

    def hold(self, on_first: Callable[[], None] | None = None) -> None:
        """Take no more messages. What comes now waits for `join`; `on_first` hears that something does."""
        self._on_message, self._on_first = None, on_first
        self._pause(on_first is None)

    def join(self, other: Half) -> None:
        """Carry bytes between this half and `other` from now on, those that came before included."""
        for one, another in ((self, other), (other, self)):
            one._on_message, one._other = None, another
            one._pause(False)
        for one, another in ((self, other), (other, self)):  # a reader that is full by this pauses the writer again
            another._write(one._splitter.rest() + one._held)
            one._held.clear()
            if one.is_closed:
                another.close()

    @property
    def is_cut(self) -> bool:
        """True where it was joined and is closed, or what it was joined with."""
        return self._other is not None and (self.is_closed or self._other.is_closed)

    @property
    def is_closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Close it after what was written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other._write(data)
        elif self._on_message is None:
            self._held += data
            self._pause(True)
            if self._on_first is not None:
                on_first, self._on_first = self._on_first, None
                on_first()
        else:
            self._split(data)

    def eof_received(self) -> bool:
        return False  # closed both ways, after what was written

    def connection_lost(self, error: Exception | None) -> None:
        other = self._other
        if other is not None and not other.is_closed:
            self._end_of(other)
        self._on_end()

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other._pause(True)

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other._pause(False)

    def _end_of(self, other: Half) -> None:
        other.close()

    def _split(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                if self._on_message is not None:
                    self._on_message(body)
                if self._on_message is None:  # what follows is no message
                    return
        except FrameError:
            self.spoke_nonsense = True
            self._hear_nonsense()

    def _hear_nonsense(self) -> None:
        self.abort()

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():  # uvloop raises for a closed one
            self._transport.write(data)

    def _pause(self, paused: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


class RemoteHalf(Half):
    """The half of a stream that a peer may end at any time. Its bytes are counted on the peer's account."""

    account: PeerAccount | None = None
    _is_counted = False

    def count(self) -> None:
        """Count it among the peer's open streams until it ends."""
        if self.account is not None and not self._is_counted and not self.is_closed:
            self._is_counted = True
            self.account.open_streams += 1

    def data_received(self, data: bytes) -> None:
        if self.account is not None:
            self.account.received += len(data)
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_counted and self.account is not None:
            self.account.open_streams -= 1
        super().connection_lost(error)

    def _write(self, data: bytes) -> None:
        if self.account is not None and not self.is_closed:
            self.account.sent += len(data)
        super()._write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # A link may be idle while its job computes, and walls forget idle connections without a word.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def _end_of(self, other: Half) -> None:
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, other.close)
