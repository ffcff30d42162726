"""Serves HTTP to whoever asks, who may be anybody: connections are short and few, and nonsense is answered in silence.

A connection is for one request, as handlers force each to be closed, and is cut off where it takes too long.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

_HEAD_BYTES = 8192
# What aiohttp logs of a client is a traceback for each nonsense that one sends.
_silent = logging.getLogger("sfworker.serving")
_silent.disabled = True


@asynccontextmanager
async def answering(http: web.Server, listener: socket.socket, seconds: float, most: int) -> AsyncIterator[None]:
    """Answer requests on `listener` during the block, each within `seconds` and at most so many at once."""
    loop = asyncio.get_running_loop()

    def connect() -> _Connection:
        return _Connection(http, loop, seconds, most)

    create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
    server = await create(connect, sock=listener)
    try:
        yield
    finally:
        server.close()
        for connection in http.connections:
            _cut_off(connection)
        await http.shutdown(0)


class _Connection(web.RequestHandler):
    """A client's connection, which is cut off in time, or at once where there are too many."""

    __slots__ = ("_most", "_seconds")

    def __init__(self, http: web.Server, loop: asyncio.AbstractEventLoop, seconds: float, most: int) -> None:
        super().__init__(
            http,
            loop=loop,
            logger=_silent,
            access_log=_silent,
            tcp_keepalive=False,
            max_line_size=_HEAD_BYTES,
            max_field_size=_HEAD_BYTES,
            lingering_time=0,
        )
        self._seconds, self._most = seconds, most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        is_crowd = len(self._manager.connections) > self._most if self._manager else True
        asyncio.get_running_loop().call_later(0.0 if is_crowd else self._seconds, _cut_off, self)


def _cut_off(connection: web.RequestHandler) -> None:
    # Not `force_close`, which waits until the client has read what is on its way.
    if connection.transport is not None:
        connection.transport.abort()
