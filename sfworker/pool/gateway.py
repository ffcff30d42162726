"""Keeps this host's gateway there for a worker, which starts one where none is. Runs in the daemon.

Without the party's certificate it starts none, and takes the one that somebody else runs.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import anyio
from msgspec import Struct

from sfworker.settings import Settings
from sfworker.wire.frames import encode_frame
from sfworker.wire.gateway import Attach, Ended

_log = logging.getLogger("sfworker.pool")
PAUSE_SECONDS = 0.5
SHORTEST_LIFE = 5.0
"""A gateway that lasted shorter is started again after growing pauses."""
LONGEST_PAUSE = 30.0


class OwnGateway:
    """This worker's connection to its party's gateway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._failures = 0
        self._not_before = 0.0

    @property
    def trouble(self) -> str:
        """Sentence on why jobs with parties elsewhere cannot run, or nothing."""
        if not self._settings.has_gateway() or self._writer is not None:
            return ""
        return "the gateway does not run, so jobs with parties elsewhere wait"

    async def run(self) -> None:
        """Stay connected until cancelled, where there is to be a gateway."""
        if not self._settings.has_gateway():
            return
        try:
            while True:
                await self._stay()
                await anyio.sleep(PAUSE_SECONDS)
        finally:
            if self._writer is not None:
                self._writer.close()

    def note_end(self, execution_id: str, why: str, peers: list[str]) -> None:
        """Let `peers` that come for this execution later hear that it has ended."""
        self._send(Ended(execution_id, why, peers))

    async def _stay(self) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._settings.gateway_socket())
        except OSError:
            if self._settings.tls_certificate:
                await self._start()
            return
        self._failures = 0
        self._writer = writer
        self._send(Attach())
        try:
            await reader.read()
            _log.warning("the connection to this host's gateway has ended")
        except OSError as error:
            _log.warning("the connection to this host's gateway was lost (%s)", type(error).__name__)
        finally:
            self._writer = None
            writer.close()

    async def _start(self) -> None:
        now = anyio.current_time()
        if (self._process is not None and self._process.returncode is None) or now < self._not_before:
            return
        self._failures += 1
        self._not_before = now + min(SHORTEST_LIFE * 2 ** (self._failures - 1), LONGEST_PAUSE)
        command = (sys.executable, "-m", "sfworker", "gateway", "--while-needed")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            _log.error("the gateway could not be started (%s)", type(error).__name__)

    def _send(self, message: Struct) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode_frame(message))
