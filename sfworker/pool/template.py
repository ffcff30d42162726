"""The template process, seen from the daemon: ask it to fork, hear what it reaps. See `sfworker.party.template`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import re
import socket
from contextlib import ExitStack
from itertools import count
from signal import SIGKILL

import anyio
from anyio.abc import Process
from msgspec import Struct

from sfworker.pool.channel import LineChannel
from sfworker.pool.exits import sentence
from sfworker.pool.party_process import PartyProcess
from sfworker.settings import Settings
from sfworker.wire import entry
from sfworker.wire.frames import Exited, Fork, Forked, Ready, Signal, decode_template_frame, encode_body

_log = logging.getLogger("sfworker.pool")
_LARGEST_MESSAGE = 65_536
SEND_PAUSE = 0.01
# Python's small objects in large pages: a fork then copies page tables for them by the megabyte instead of by 4 KiB,
# which more than halves what a party process costs to start and to end (5.9 to 2.2 ms, 15 to 5.7 ms with its end).
_LARGE_PAGES = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# What a job may know of the worker's environment, which holds Redis's password and headers of collectors.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TZDIR|TMPDIR|VIRTUAL_ENV"
    r"|(LC|LD|PYTHON|OMP|KMP|OPENBLAS|MKL|NUMEXPR|MALLOC|XLA|JAX|ARROW)_?[A-Z0-9_]*"
)


class Template:
    """One template process, from `start` to `stop`; a new one is made where it dies."""

    def __init__(self, settings: Settings, run_dir: str) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._numbers = count(1)
        self._forking: dict[int, PartyProcess] = {}
        self._running: dict[int, PartyProcess] = {}
        self._control: socket.socket | None = None
        self._process: Process | None = None
        self._lines: LineChannel | None = None
        self.ready = anyio.Event()
        self.lost = anyio.Event()

    async def start(self) -> None:
        """Start it; forks may be asked for at once, and happen when `ready` is set.

        Where it cannot be started, which raises OSError or RuntimeError, it is lost.
        """
        try:
            await self._start()
        except (OSError, RuntimeError):
            await self.stop()
            raise

    async def _start(self) -> None:
        with ExitStack() as handed_over:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            handed_over.enter_context(theirs)
            self._control.setblocking(False)
            log_read, log_write = os.pipe()
            handed_over.callback(os.close, log_write)
            self._lines = LineChannel(log_read, _log_template_line)
            arguments = ["--control", str(theirs.fileno()), "--daemon", str(os.getpid()), "--run-dir", self._run_dir]
            arguments += ["--start-method", self._settings.start_method, "--jobs", json.dumps(self._settings.jobs)]
            self._process = await anyio.open_process(
                entry.command("sfworker.party.template", *arguments),
                pass_fds=[theirs.fileno()],
                env=job_environment(self._settings)
                | _LARGE_PAGES
                | {"TMPDIR": self._run_dir},  # what imports leave goes with it
                stdin=None,
                stdout=log_write,
                stderr=log_write,
                start_new_session=True,
            )
        asyncio.get_running_loop().add_reader(self._control, self._readable, self._control)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def fork(self) -> PartyProcess:
        """A new party process, on its way. Raises OSError where the template is gone."""
        process = PartyProcess(next(self._numbers))
        self._send(Fork(process.number), process)
        if self.lost.is_set():
            process.close()
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self._forking[process.number] = process
        return process

    def signal(self, process: PartyProcess, number: int, *, whole_group: bool) -> None:
        """Signal a party process, or its whole process group, if it still runs."""
        if process.ended.is_set() or self.lost.is_set():
            return
        if process.pid is not None:
            self._send(Signal(process.pid, number, whole_group))
        elif number == SIGKILL:
            process.doomed = True

    def kill(self) -> None:
        """For one that does not do as it is told any more: it dies, and its party processes with it."""
        if self._process is None or self.lost.is_set():
            return
        _log.error("the template process %s does not end its party processes; it is killed", self.pid)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._lose()

    async def stop(self) -> None:
        """End it with everything it forked."""
        self._lose()  # closes the control socket, which is how it knows
        if self._process is not None:
            with anyio.move_on_after(5.0) as overdue:
                await self._process.wait()
            if overdue.cancelled_caught:
                self._process.kill()
                await self._process.wait()
        if self._lines is not None:
            self._lines.close()

    async def wait(self) -> str:
        """Wait for its end; returns how it ended."""
        await self.lost.wait()
        if self._process is None:
            return sentence(None)
        return sentence(await self._process.wait())

    def _send(self, frame: Struct, process: PartyProcess | None = None) -> None:
        """`process` is the one whose descriptors go with it."""
        if self._control is not None and not self.lost.is_set():
            descriptors = [] if process is None else [process.theirs.fileno(), process.their_log]
            try:
                socket.send_fds(self._control, [encode_body(frame)], descriptors)
            except ConnectionError:
                self._lose()
            except OSError:  # it is busy with many others' messages, or the kernel holds as many as it wants to
                asyncio.get_running_loop().call_later(SEND_PAUSE, self._send, frame, process)
                return
        if process is not None:
            process.handed_over()

    def _readable(self, control: socket.socket) -> None:
        try:
            body = control.recv(_LARGEST_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            body = b""
        if not body:
            self._lose()
            return
        frame = decode_template_frame(body)
        if isinstance(frame, Ready):
            _log.info("template process %s is ready after %.1f s", self.pid, frame.import_seconds)
            self.ready.set()
        elif isinstance(frame, Forked):
            process = self._forking.pop(frame.number)
            if frame.pid:
                process.pid = frame.pid
                self._running[frame.pid] = process
                if process.doomed:
                    self._send(Signal(frame.pid, SIGKILL, True))
            else:
                process.has_ended(None)
        elif isinstance(frame, Exited) and (ended := self._running.pop(frame.pid, None)):
            ended.has_ended(frame.status)

    def _lose(self) -> None:
        """It is gone, and its party processes die with it."""
        if self.lost.is_set():
            return
        self.lost.set()
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
        for process in [*self._forking.values(), *self._running.values()]:
            if process.pid is not None:
                # The party process dies with the template, but what it started itself does not. As long as one of its
                # group lives, the group's number is nobody else's.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, SIGKILL)
            process.has_ended(None)
        self._forking.clear()
        self._running.clear()


def job_environment(settings: Settings) -> dict[str, str]:
    """Return what a job may know of the worker's environment."""
    asked = settings.job_environment
    return {name: each for name, each in os.environ.items() if name in asked or _PASSED_ON.fullmatch(name)}


def _log_template_line(line: bytes) -> None:
    from sfworker.logs import party_line

    party_line(line, party="template", verbatim=True)
