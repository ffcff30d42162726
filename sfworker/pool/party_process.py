"""A party process, seen from the daemon. It serves one execution and is never used again."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import anyio
from msgspec import Struct

from sfworker.pool.channel import FrameChannel, LineChannel


class PartyProcess:
    """Exists from the moment it is asked for; `pid` follows when the template has forked it.

    Until `assign` is called, what it says waits in its socket and its pipe.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid: int | None = None
        self.exit_status: int | None = None
        """As `os.waitstatus_to_exitcode`; None before `ended`, and where the template died with it."""
        self.ended = anyio.Event()
        self.doomed = False
        """It was to be killed before the template had said which process it is."""
        self._ours, self.theirs = socket.socketpair()
        self._log, self.their_log = os.pipe()
        self._frames: FrameChannel | None = None
        self._lines: LineChannel | None = None
        self._on_end: Callable[[], None] = _nobody_listens

    def handed_over(self) -> None:
        """The template has its ends now; keeping ours of them open would hide the process's end."""
        self.theirs.close()
        os.close(self.their_log)

    def has_ended(self, status: int | None) -> None:
        """The template says so, or is gone itself."""
        self.exit_status = status
        self.ended.set()
        self._on_end()

    def assign(
        self, on_body: Callable[[bytes], None], on_end: Callable[[], None], on_line: Callable[[bytes], None]
    ) -> None:
        """Begin to listen. `on_end` is called when its socket closes and again when it has ended."""
        self._on_end = on_end
        self._frames = FrameChannel(self._ours, on_body, on_end)
        self._lines = LineChannel(self._log, on_line)

    async def send(self, frame: Struct) -> None:
        """Raises OSError where the process is gone."""
        if self._frames is not None:
            await self._frames.send(frame)

    def dismiss(self) -> None:
        """Let it go: it leaves by itself when its socket is closed."""
        if self._frames is not None:
            self._frames.close()
        else:
            self._ours.close()

    def close(self) -> None:
        """Let it go, and read the last it said. After it has ended."""
        self.dismiss()
        if self._lines is not None:
            self._lines.close()
        elif self._log >= 0:
            os.close(self._log)
            self._log = -1


def _nobody_listens() -> None:
    pass
