"""Reads frames and log lines of child processes in the daemon, by the event loop's own readiness callbacks.

A callback per readable socket, instead of a task per stream, is what keeps the way from a party process's outcome to
the published result below a millisecond.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from sfworker.wire.frames import MAX_FRAME_BYTES, FrameError, FrameSplitter, encode_frame

_CHUNK = 1 << 18
_TURN = 1 << 9
"""Bytes of short frames that are read at a time. A process that tells more than can be heard then holds up neither
the others nor the renewal of leases: it waits, as its socket is full."""
_LONGEST_LINE = 1 << 16


class Listeners(NamedTuple):
    """Holds whom to call with what a party process says, and with its end.

    `on_end` is called when its socket closes and again when the process has ended, `on_nonsense` where it says what no
    party process may say.
    """

    on_body: Callable[[bytes], None]
    on_end: Callable[[], None]
    on_nonsense: Callable[[FrameError], None]
    on_line: Callable[[bytes], None]


class FrameChannel:
    """Holds the daemon's end of a process's frame socket.

    `on_nonsense` is told why nothing more is read, where `on_body` raises FrameError or a frame is over `longest`.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_body: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_nonsense: Callable[[FrameError], None],
        longest: int = MAX_FRAME_BYTES,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_body = on_body
        self._on_end = on_end
        self._on_nonsense = on_nonsense
        self._splitter = FrameSplitter(longest)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    async def send(self, frame: Struct) -> None:
        """Send a frame. Raises OSError where the process is gone."""
        await self._loop.sock_sendall(self._sock, encode_frame(frame))

    def close(self) -> None:
        """Close the socket, by which the process learns that it may go."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(min(max(_TURN, self._splitter.lacking), _CHUNK))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            for body in self._splitter.feed(data):
                self._on_body(body)
        except FrameError as error:
            self._loop.remove_reader(self._sock)
            self._on_nonsense(error)
            return
        if not data:
            self._loop.remove_reader(self._sock)
            self._on_end()


class LineChannel:
    """Holds the daemon's end of a process's output pipe and calls `on_line` for each line, cut at 64 KiB."""

    def __init__(self, descriptor: int, on_line: Callable[[bytes], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self.on_line = on_line
        self._received = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._readable)

    def read(self) -> None:
        """Read what is there now."""
        if self._descriptor >= 0:
            self._readable()

    def close(self) -> None:
        """Read the rest of the output and close the pipe."""
        self.read()
        if self._descriptor >= 0:
            self._end()

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        *lines, rest = self._received.split(b"\n")
        if len(rest) > _LONGEST_LINE or (rest and not data):
            lines.append(rest)
            rest = bytearray()
        self._received = rest
        for line in lines:
            if line:
                self.on_line(bytes(line))
        if not data:
            self._end()

    def _end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
