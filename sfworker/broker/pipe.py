"""Holds one connection to Redis and sends raw commands over it, several in one round trip.

It is below redis-py's client, whose packing, streams and look at the connection before each use take longer than a
state change does. Connecting, TLS and authentication are redis-py's; what the server says then is parsed as it arrives.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import anyio
import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as AwayError
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as AnswerTimeoutError

from sfworker.broker.connection import is_to_leave

Command = tuple[Any, ...]
_MORE = object()


class Pipe:
    """Sends commands for one task at a time, as in `replies = await pipe.send([("GET", "a"), ("GET", "b")], timeout)`.

    `redis` is a client without a time-out on its socket: a round trip as a whole has one.
    """

    def __init__(self, redis: Redis) -> None:
        self._connection: AbstractConnection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._line: _Line | None = None

    async def send(self, commands: list[Command], timeout: float) -> list[Any]:
        """Return each command's reply, or the ResponseError that the server answered with.

        Raises redis' ConnectionError or TimeoutError where the connection is lost, or silent for `timeout` seconds, and
        where none is made in as many; the commands may then have run or not. The next call connects again.
        """
        packed = b"".join(map(hiredis.pack_command, commands))
        try:
            if self._line is None or self._line.is_lost:
                with anyio.fail_after(timeout):
                    self._line = await self._connect()
            replies = await self._line.exchange(packed, len(commands), timeout)
        except TimeoutError:
            await self.close()
            raise AnswerTimeoutError("no answer in time") from None
        except BaseException:  # also where it is cancelled, as the reply must not become that to the next call
            await self.close()
            raise
        if any(isinstance(reply, ResponseError) and is_to_leave(reply) for reply in replies):
            await self.close()
        return replies

    async def close(self) -> None:
        self._line = None
        await self._connection.disconnect(nowait=True)

    async def _connect(self) -> _Line:
        await self.close()
        await self._connection.connect()  # type: ignore[no-untyped-call, unused-ignore]
        writer: asyncio.StreamWriter = self._connection._writer  # type: ignore[assignment]
        return _Line(cast(asyncio.Transport, writer.transport))


class _Line(asyncio.Protocol):
    """Takes over a transport, and hears of its end for the protocol that had it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_MORE
        )
        self._transport = transport
        self._former = transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._lacking = 0
        self._replies: list[Any] = []
        self._all_there: asyncio.Future[None] | None = None
        self.is_lost = False
        transport.set_protocol(self)

    async def exchange(self, packed: bytes, count: int, timeout: float) -> list[Any]:
        """Send commands and return the replies to them, of which there are `count`."""
        self._lacking, self._replies, self._all_there = count, [], self._loop.create_future()
        self._transport.write(packed)
        overdue = self._loop.call_later(timeout, self._end, AnswerTimeoutError("no answer in time"))
        try:
            await self._all_there
        finally:
            overdue.cancel()
        return self._replies

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while self._lacking and (reply := self._reader.gets()) is not _MORE:
                self._lacking -= 1
                self._replies.append(reply)
                if isinstance(reply, AwayError):  # as a server says it that is still loading
                    raise reply
        except RedisError as error:
            self._end(error)
        else:
            if not self._lacking:
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._end(AwayError("the server has closed the connection"))
        self._former.connection_lost(exc)

    def _end(self, error: RedisError | None) -> None:
        if self._all_there is None or self._all_there.done():
            return
        if error is None:
            self._all_there.set_result(None)
        else:
            self._all_there.set_exception(error)
