"""Runs the Lua scripts; calls that are made at the same time share one round trip.

A state change costs Redis a few dozen microseconds and Python about as many per round trip, so under load the round
trips are what limits a worker. Calls wait for nothing: whatever is queued when the previous trip is back goes next.
"""

from __future__ import annotations

import hashlib
from asyncio import Future, get_running_loop
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

NAMES = ("start", "progress", "finish", "retry", "bury", "release", "take", "sweep", "renew", "tidy")
LARGEST_BATCH = 256


@dataclass(frozen=True, slots=True)
class _Script:
    source: str
    sha: str


def _read(name: str) -> _Script:
    directory = files("sfworker.broker") / "lua"
    source = (directory / "prelude.lua").read_text() + (directory / f"{name}.lua").read_text()
    return _Script(source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324 - the id that Redis gives a script


@dataclass(slots=True)
class _Call:
    name: str
    keys: tuple[str, ...]
    arguments: tuple[Any, ...]
    reply: Future[Any] = field(default_factory=lambda: get_running_loop().create_future())


class Scripts:
    """`await scripts.call("finish", keys, arguments)` while `run` is running."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = {name: _read(name) for name in NAMES}
        self._queued: list[_Call] = []
        self._wake = anyio.Event()

    async def call(self, name: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        """The script's reply. Raises RedisError; after a lost connection the script may have run or not."""
        call = _Call(name, keys, arguments)
        self._queued.append(call)
        self._wake.set()
        return await call.reply

    async def run(self) -> None:
        """Carry calls to Redis until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._queued:
                batch, self._queued = self._queued[:LARGEST_BATCH], self._queued[LARGEST_BATCH:]
                await self._carry([call for call in batch if not call.reply.done()])

    async def _carry(self, batch: list[_Call]) -> None:
        try:
            replies = await self._send(batch)
            missing = [call for call, reply in zip(batch, replies, strict=True) if isinstance(reply, NoScriptError)]
            if missing:  # a server that was restarted, or another one; those calls have not run
                await self._load()
                again = dict(zip(map(id, missing), await self._send(missing), strict=True))
                replies = [again.get(id(call), reply) for call, reply in zip(batch, replies, strict=True)]
        except (RedisError, OSError) as error:
            replies = [error] * len(batch)
        for call, reply in zip(batch, replies, strict=True):
            if call.reply.done():  # cancelled by whoever called
                continue
            if isinstance(reply, Exception):
                call.reply.set_exception(reply)
            else:
                call.reply.set_result(reply)

    async def _send(self, batch: list[_Call]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for call in batch:
            script = self._scripts[call.name]
            pipeline.execute_command("EVALSHA", script.sha, len(call.keys), *call.keys, *call.arguments)
        return list(await pipeline.execute(raise_on_error=False))

    async def _load(self) -> None:
        for script in self._scripts.values():
            await self._redis.script_load(script.source)
