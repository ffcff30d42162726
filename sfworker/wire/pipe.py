"""A stream of messages both ways between two processes of ours, one of which reads with an event loop."""

from __future__ import annotations

import asyncio
import socket

from msgspec import Struct

from sfworker.wire.frames import encode_body, read_body, with_length


class Pipe:
    """One end of a pair of Unix sockets. Messages are sent in the order of `say`, which never waits."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Pipe:
        return cls(*await asyncio.open_unix_connection(sock=end))

    def say(self, message: Struct) -> None:
        """Send a message. What the other end cannot hear any more is dropped, as `hear` tells that it is gone."""
        self.pass_on(encode_body(message))

    def pass_on(self, body: bytes) -> None:
        """Send a message that is encoded."""
        if not self._writer.is_closing():
            self._writer.write(with_length(body))

    async def hear(self) -> bytes:
        """Return the next message's body. Raises EOFError, OSError or FrameError where there is none."""
        return await read_body(self._reader)

    @property
    def unread(self) -> int:
        """Bytes that wait for the other end."""
        return self._writer.transport.get_write_buffer_size()

    def close(self) -> None:
        self._writer.close()
