"""Holds one connection to Redis and sends raw commands over it, several in one round trip.

It is below redis-py's client, whose packing, streams and look at the connection before each use take longer than a
state change does. Connecting, TLS and authentication are redis-py's; what the server says then is parsed as it arrives.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
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
    """Sends commands, as in `replies = await pipe.send([("GET", "a"), ("GET", "b")], timeout)`, for many tasks.

    `redis` is a client without a time-out on its socket: a round trip as a whole has one.
    """

    def __init__(self, redis: Redis) -> None:
        self._connection: AbstractConnection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._connecting = anyio.Lock()
        self._line: _Line | None = None

    async def send(self, commands: list[Command], timeout: float) -> list[Any]:
        """Return each command's reply, or the ResponseError that the server answered with.

        Raises redis' ConnectionError or TimeoutError where the connection is lost, or silent for `timeout` seconds, and
        where none is made in as many; the commands may then have run or not, as those of other tasks that wait. The
        next call connects again.
        """
        packed = b"".join(map(hiredis.pack_command, commands))
        line = self._line
        if line is None or line.is_lost:
            line = await self._connect(timeout)
        try:
            replies = await line.exchange(packed, len(commands), timeout)
        except BaseException:  # also where it is cancelled, unless others wait on this line; then its reply is dropped
            if not line.is_awaited:
                await self._leave(line)
            raise
        if any(isinstance(reply, ResponseError) and is_to_leave(reply) for reply in replies):
            await self._leave(line)
        return replies

    async def close(self) -> None:
        self._line = None
        await self._connection.disconnect(nowait=True)

    async def _leave(self, line: _Line) -> None:
        if self._line is line:  # and not one that another task has made since
            await self.close()

    async def _connect(self, timeout: float) -> _Line:
        try:
            with anyio.fail_after(timeout):
                async with self._connecting:
                    if self._line is None or self._line.is_lost:
                        self._line = await self._made()
                    return self._line
        except TimeoutError:
            raise AnswerTimeoutError("no answer in time") from None

    async def _made(self) -> _Line:
        await self.close()
        try:
            await self._connection.connect()  # type: ignore[no-untyped-call, unused-ignore]
        except BaseException:
            await self.close()
            raise
        writer: asyncio.StreamWriter = self._connection._writer  # type: ignore[assignment]
        return _Line(cast(asyncio.Transport, writer.transport))


@dataclass(slots=True, eq=False)
class _Exchange:
    lacking: int
    """Replies that are yet to come."""
    all_there: asyncio.Future[None]
    replies: list[Any] = field(default_factory=list)


class _Line(asyncio.Protocol):
    """Takes over a transport, and hears of its end for the protocol that had it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_MORE
        )
        self._transport = transport
        self._former = transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._exchanges: deque[_Exchange] = deque()
        """Those under way, in the order in which the server answers."""
        self.is_lost = False
        transport.set_protocol(self)

    @property
    def is_awaited(self) -> bool:
        """Return whether anybody still waits for replies."""
        return any(not exchange.all_there.done() for exchange in self._exchanges)

    async def exchange(self, packed: bytes, count: int, timeout: float) -> list[Any]:
        """Send commands and return the replies to them, of which there are `count`."""
        exchange = _Exchange(count, self._loop.create_future())
        self._exchanges.append(exchange)
        self._transport.write(packed)
        overdue = self._loop.call_later(timeout, self._fail, AnswerTimeoutError("no answer in time"))
        try:
            await exchange.all_there
        finally:
            overdue.cancel()
        return exchange.replies

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while self._exchanges and (reply := self._reader.gets()) is not _MORE:
                if isinstance(reply, AwayError):  # as a server says it that is still loading
                    raise reply
                exchange = self._exchanges[0]
                exchange.replies.append(reply)
                exchange.lacking -= 1
                if not exchange.lacking:
                    self._exchanges.popleft()
                    if not exchange.all_there.done():  # nobody waits where it was cancelled
                        exchange.all_there.set_result(None)
        except RedisError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._fail(AwayError("the server has closed the connection"))
        self._former.connection_lost(exc)

    def _fail(self, error: RedisError) -> None:
        """End all that is under way, as no reply can be told from another's any more."""
        while self._exchanges:
            exchange = self._exchanges.popleft()
            if not exchange.all_there.done():
                exchange.all_there.set_exception(error)
