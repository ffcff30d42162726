"""Represents a party process in the daemon. It serves one execution, or several where its session is kept."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable

import anyio
from msgspec import Struct

from sfworker.pool.channel import FrameChannel, LineChannel, Listeners
from sfworker.pool.exits import sentence
from sfworker.pool.outputs import require_own
from sfworker.wire.frames import Keeping, Making, Staging


class PartyProcess:
    """Controls a party process from the moment it is asked for. `pid` follows when the template has forked it.

    Its frames and log lines wait in its socket and its pipe until `assign` is called.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid: int | None = None
        self.exit_status: int | None = None
        """Exit code by `os.waitstatus_to_exitcode`. None before `ended`, and where the template died with it."""
        self.ended = anyio.Event()
        self.doomed = False
        """True where it was to be killed before the template had told its pid, by which it is then killed."""
        self._ours, self.theirs = socket.socketpair()
        self._log, self.their_log = os.pipe()
        self._frames: FrameChannel | None = None
        self._lines: LineChannel | None = None
        self._on_end: Callable[[], None] = _nobody_listens

    def handed_over(self) -> None:
        """Close our copies of the descriptors that the template has got, as they would hide the process's end."""
        self.theirs.close()
        os.close(self.their_log)

    def how_it_ended(self, *, memory_ran_out: bool) -> str:
        """Describe its end in words behind its name."""
        return sentence(self.exit_status, memory_ran_out=memory_ran_out)

    def has_ended(self, status: int | None) -> None:
        """Note the end of the process, as the template has reported it or because the template is gone."""
        self.exit_status = status
        self.ended.set()
        self._on_end()

    @property
    def is_lost(self) -> bool:
        return self.ended.is_set()

    def assign(self, listeners: Listeners, longest_frame: int) -> None:
        """Begin to listen, in the place of who did before."""
        self.read_lines()  # of the execution before
        on_body, self._on_end, on_nonsense, on_line = listeners
        self._frames = FrameChannel(self._ours, on_body, self._on_end, on_nonsense, longest_frame)
        if self._lines is None:
            self._lines = LineChannel(self._log, on_line)
        self._lines.on_line = on_line

    def read_lines(self) -> None:
        """Read the lines that it has written until now."""
        if self._lines is not None:
            self._lines.read()

    def require_own(self, frame: Making | Staging | Keeping, roots: Iterable[str]) -> None:
        """Raise FrameError where a frame names a path that no job makes beneath these roots."""
        require_own(frame, roots)

    async def send(self, frame: Struct) -> None:
        """Send a frame. Raises OSError where the process is gone."""
        if self._frames is not None:
            await self._frames.send(frame)

    def dismiss(self) -> None:
        """Close the socket, at which the process leaves by itself."""
        if self._frames is not None:
            self._frames.close()
        else:
            self._ours.close()

    def close(self) -> None:
        """Read the last log lines and close everything, after the process has ended."""
        self.dismiss()
        if self._lines is not None:
            self._lines.close()
        elif self._log >= 0:
            os.close(self._log)
            self._log = -1


def _nobody_listens() -> None:
    pass
