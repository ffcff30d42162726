"""The actor by which Ray places a party: it starts the node's process and passes messages on, unread.

It has no share in a job, so that what a party computes with is the same with and without Ray. Where the node's process
says nothing any more, it is killed from here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from sfworker.errors import ClusterInitializationError, Failure
from sfworker.wire import entry
from sfworker.wire.frames import FrameError, encode_body
from sfworker.wire.pipe import Pipe
from sfworker.wire.ray import SILENCE_SECONDS, Ready, Unready, decode_from_node

START_SECONDS = 100.0
_KILL_AFTER = SILENCE_SECONDS - 1.0
"""Silence of the node's process after which it is killed, before the bridge gives up the host for it."""
_OF_RAY = "OMP_NUM_THREADS"
"""Variable that Ray sets in its workers where nobody else has, by the processors that an actor asks for."""


class Host:
    """One party's place on one node. All methods run on the actor's event loop."""

    def __init__(self) -> None:
        self._pipe: Pipe | None = None
        self._pid = 0
        self._bodies: list[bytes] = []
        self._arrived = asyncio.Event()
        self._ended = False
        self._reading: asyncio.Task[None] | None = None

    async def start(self, setup: bytes) -> bytes:
        """Start the node's process with an encoded `Setup` and return its answer."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = entry.command("sfworker.ray.node", str(theirs.fileno()))
            process = subprocess.Popen(  # noqa: ASYNC220 - it forks at once and ends
                command, pass_fds=[theirs.fileno()], env=_environment(), stdin=subprocess.DEVNULL
            )
        await asyncio.get_running_loop().run_in_executor(None, process.wait)
        self._pipe = await Pipe.over(ours)
        self._pipe.pass_on(setup)
        try:
            body = await asyncio.wait_for(self._pipe.hear(), START_SECONDS)
        except (EOFError, OSError, FrameError, asyncio.TimeoutError) as error:
            told = f"a node's process ended before it was ready ({type(error).__name__}); its log on the node says why"
            return encode_body(Unready(Failure.of(ClusterInitializationError(told))))
        answer = decode_from_node(body)
        if isinstance(answer, Ready):
            self._pid = answer.pid
            self._reading = asyncio.ensure_future(self._read())
        return body

    async def say(self, bodies: list[bytes]) -> None:
        """Pass messages on to the node."""
        if self._pipe is not None:
            for body in bodies:
                self._pipe.pass_on(body)

    async def hear(self) -> list[bytes]:
        """Return what the node has said since the last call, as soon as that is anything; nothing when it has ended."""
        while not self._bodies and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        bodies, self._bodies = self._bodies, []
        return bodies

    async def _read(self) -> None:
        assert self._pipe is not None  # noqa: S101
        try:
            while True:
                body = await asyncio.wait_for(self._pipe.hear(), _KILL_AFTER)
                self._bodies.append(body)
                self._arrived.set()
        except (EOFError, OSError, FrameError, asyncio.TimeoutError):
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._pipe.close()
            self._ended = True
            self._arrived.set()


def _environment() -> dict[str, str]:
    """Return this process's environment without what Ray has put into it after its start."""
    began_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    keeps = any(each.startswith(f"{_OF_RAY}=".encode()) for each in began_with)
    return {name: value for name, value in os.environ.items() if keeps or name != _OF_RAY}
