"""Runs the Lua scripts for the daemon. Concurrent calls share one round trip.

A state change costs Redis a few dozen microseconds and Python about as many per round trip, so under load the round
trips are what limits a worker. Calls wait for nothing while few trips are under way; beyond that, whatever is queued
when one is back goes next. So Redis works on one trip while this process works on the answers to another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import anyio
from redis.exceptions import ConnectionError as AwayError
from redis.exceptions import NoScriptError

from sfworker.broker.pipe import Command, Pipe

NAMES = (
    *("take", "sweep", "start", "progress", "wrote", "finish", "retry", "bury", "release", "lost"),
    *("renew", "disown", "withdraw", "cancel_queued", "restore", "tidy", "leave", "replay", "purge", "mend"),
)
LARGEST_BATCH = 8
"""Calls of a trip, few enough that the first answers are worked on while Redis is busy with the others."""
MOST_TRIPS = 4
"""Trips under way at once."""


@dataclass(frozen=True, slots=True)
class _Script:
    source: str
    sha: str


def _read(name: str) -> _Script:
    directory = files("sfworker.broker") / "lua"
    source = (directory / "prelude.lua").read_text() + (directory / f"{name}.lua").read_text()
    return _Script(source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324 - the id that Redis gives a script


def ids(names: Iterable[str] = NAMES) -> list[str]:
    """Return the id that Redis gives each script, which is all that the user `worker` of deploy/users.acl may run."""
    return [_read(name).sha for name in names]


@dataclass(slots=True, eq=False)
class _Call:
    name: str
    keys: tuple[str, ...]
    arguments: tuple[Any, ...]
    turn: anyio.Event | None = None
    """Set when it is answered or has to carry a batch. None where it had not to wait."""
    batch: list[_Call] = field(default_factory=list)
    """The calls that it carries to Redis, itself among them."""
    reply: Any = None


class Scripts:
    """Calls scripts by name, as in `await scripts.call("finish", keys, ...)`. A round trip takes up to `timeout` s."""

    def __init__(self, pipe: Pipe, timeout: float) -> None:
        self._pipe = pipe
        self._timeout = timeout
        self._scripts = {name: _read(name) for name in NAMES}
        self._queued: list[_Call] = []
        """Calls that no trip has room for; so it is empty unless MOST_TRIPS are under way."""
        self._trips = 0

    async def call(self, name: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        """Return the script's reply. Raises RedisError; after a lost connection the script may have run or not."""
        call = _Call(name, keys, arguments)
        if self._trips < MOST_TRIPS:
            self._trips += 1
            call.batch.append(call)
        else:
            self._queued.append(call)
            # All of a trip are woken at once. One by one, as by a lock, the last of many would hear of it only after as
            # many turns of the event loop, which are long where it has much to do.
            call.turn = anyio.Event()
        try:
            if call.turn is not None:
                await call.turn.wait()
        except BaseException:
            if call in self._queued:
                self._queued.remove(call)
            raise
        finally:  # also where it is cancelled just when it is to go
            await self._carry(call.batch)
        if isinstance(call.reply, Exception):
            raise call.reply
        return call.reply

    async def _carry(self, batch: list[_Call]) -> None:
        """Make one round trip with calls, none of which is there where another one carries them."""
        if not batch:
            return
        replies: Sequence[Any] = [AwayError("the call that carried this one was cancelled")] * len(batch)
        try:
            with anyio.CancelScope(shield=True):  # others' calls are on board; the time-out bounds it
                replies = await self._replies(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, each call on board has to hear of it
            replies = [error] * len(batch)
        finally:
            for call, reply in zip(batch, replies, strict=True):
                call.reply = reply
                if call.turn is not None:
                    call.turn.set()
            self._end_trip()

    def _end_trip(self) -> None:
        """Let the calls that are queued go in place of the trip that has ended."""
        if not self._queued:
            self._trips -= 1
            return
        batch, self._queued = self._queued[:LARGEST_BATCH], self._queued[LARGEST_BATCH:]
        batch[0].batch = batch
        if batch[0].turn is not None:
            batch[0].turn.set()

    async def _replies(self, batch: list[_Call]) -> list[Any]:
        replies = await self._pipe.send([self._command(call) for call in batch], self._timeout)
        missing = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:  # a server that was restarted, or another one; those calls have not run
            await self._pipe.send([("SCRIPT", "LOAD", it.source) for it in self._scripts.values()], self._timeout)
            again = await self._pipe.send([self._command(batch[n]) for n in missing], self._timeout)
            for n, reply in zip(missing, again, strict=True):
                replies[n] = reply
        return replies

    def _command(self, call: _Call) -> Command:
        return ("EVALSHA", self._scripts[call.name].sha, len(call.keys), *call.keys, *call.arguments)
