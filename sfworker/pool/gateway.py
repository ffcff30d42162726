"""Keeps this host's gateway there for a worker, which starts one where none is. Runs in the daemon.

Without the party's certificate it starts none, and takes the one that somebody else runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections import OrderedDict

import anyio
import msgspec
from msgspec import Struct

from sfworker.settings import Settings, variable
from sfworker.wire import entry
from sfworker.wire.frames import FrameError, encode_frame, read_body
from sfworker.wire.gateway import MAX_MESSAGE_BYTES, Attach, Ended, Opened, Standing, decode_standing

_log = logging.getLogger("sfworker.pool")
PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 5.0
SHORTEST_LIFE = 5.0
"""A gateway that lasted shorter is started again after growing pauses."""
LONGEST_PAUSE = 30.0
MAX_ENDS = 1000
"""Executions of which a gateway that comes later is told that they have ended."""
NOT_OWN = (
    f"the gateway's socket is another user's; give it a directory of this user's own, with permissions 0700 "
    f"({variable('gateway_dir')})"
)
"""Sentence on a gateway that must not be used."""
_CREDENTIALS = struct.Struct("3i")


class OwnGateway:
    """This worker's connection to its party's gateway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        """The gateway that this worker has started last and was not connected to yet."""
        self._ends: OrderedDict[str, Ended] = OrderedDict()
        self._failures = 0
        self._not_before = 0.0
        self._told = ""
        self._refusal = ""

    @property
    def trouble(self) -> str:
        """Sentence on why jobs with parties elsewhere cannot run, or nothing. Others can."""
        if not self._settings.has_gateway():
            return ""
        if self._writer is None:
            return f"{self._refusal or 'the gateway does not run'}; jobs with parties elsewhere wait"
        return self._told

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

    def note_end(self, ended: Ended) -> None:
        """Let peers that come for this execution later hear that it has ended, of the next gateway too."""
        self._ends[ended.execution_id] = ended
        if len(self._ends) > MAX_ENDS:
            self._ends.popitem(last=False)
        self._send(ended)

    def note_begin(self, execution_id: str) -> None:
        """Forget that an execution has ended, as it was let run again."""
        self._ends.pop(execution_id, None)

    async def _stay(self) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._settings.gateway_socket())
        except OSError:
            if self._settings.tls_certificate:
                await self._start()
            return
        if not is_own(writer.get_extra_info("socket")):
            self._refuse(NOT_OWN)
            writer.close()
            return
        try:
            writer.write(encode_frame(Attach(self._settings.of_gateway())))
            with anyio.fail_after(ANSWER_SECONDS):
                answer = await _read(reader)
            if isinstance(answer, Opened) and answer.why:
                self._refuse(answer.why)
                return
            self._failures = 0
            self._process = None  # which may still finish its executions when the next one is needed
            self._refusal = ""
            self._writer = writer
            for ended in self._ends.values():
                self._send(msgspec.structs.replace(ended, again=True))
            while True:
                if isinstance(message := await _read(reader), Standing):
                    self._told = message.trouble
        except EOFError:
            _log.warning("the connection to this host's gateway has ended")
        except (OSError, FrameError, msgspec.DecodeError) as error:
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
        environment = {name: value for name, value in os.environ.items() if name != variable("redis_url")}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *entry.command("sfworker.cli", "gateway", "--while-needed"),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            _log.error("the gateway could not be started (%s)", type(error).__name__)

    def _refuse(self, why: str) -> None:
        """Note why the gateway that is there is not used."""
        if why != self._refusal:
            _log.error("%s", why)
        self._refusal = why

    def _send(self, message: Struct) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode_frame(message))


async def _read(reader: asyncio.StreamReader) -> Opened | Standing:
    message: Opened | Standing = decode_standing(await read_body(reader, MAX_MESSAGE_BYTES))
    return message


def is_own(connection: socket.socket) -> bool:
    """Return whether the other end of a Unix connection is a process of this user.

    In a directory that others may write to, anybody could have put the socket there.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return bool(uid == os.getuid())
