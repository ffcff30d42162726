"""Holds one connection to Redis and sends raw commands over it, several in one round trip.

It is below redis-py's client, whose packing in Python and whose look at the connection before each use take longer than
a state change does; connecting, TLS, authentication and parsing stay redis-py's.
"""

from __future__ import annotations

from typing import Any

import anyio
import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as AnswerTimeoutError

Command = tuple[Any, ...]


class Pipe:
    """Sends commands for one task at a time, as in `replies = await pipe.send([("GET", "a"), ("GET", "b")], timeout)`.

    `redis` is a client without a time-out on its socket: a round trip as a whole has one.
    """

    def __init__(self, redis: Redis) -> None:
        self._connection: AbstractConnection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]

    async def send(self, commands: list[Command], timeout: float) -> list[Any]:
        """Return each command's reply, or the ResponseError that the server answered with.

        Raises redis' ConnectionError or TimeoutError where the connection is lost or silent for `timeout` seconds; the
        commands may then have run or not. The next call connects again.
        """
        try:
            with anyio.fail_after(timeout):
                packed = b"".join(map(hiredis.pack_command, commands))
                if not self._connection.is_connected:  # sending would connect, too, but without asking the sentinels
                    await self._connection.connect()  # type: ignore[no-untyped-call, unused-ignore]
                await self._connection.send_packed_command([packed], check_health=False)
                return [await self._reply() for _ in commands]
        except TimeoutError:
            raise AnswerTimeoutError("no answer in time") from None

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error
