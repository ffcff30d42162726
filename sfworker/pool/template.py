"""Nursery and template, seen from the daemon: it asks them to fork and hears what they reap.

`sfworker.party.template` is their own side.
"""

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
from sfworker.wire.frames import (
    Exited,
    Fork,
    Forked,
    Ready,
    Signal,
    TemplateFrame,
    decode_template_frame,
    encode_body,
)

_log = logging.getLogger("sfworker.pool")
_LARGEST_MESSAGE = 65_536
SEND_PAUSE = 0.01
_STOP_SECONDS = 5.0
_TOLD_SECONDS = 0.5
"""Longest wait for the nursery to tell how a template has ended."""
# Python's small objects in large pages: a fork then copies page tables for them by the megabyte instead of by 4 KiB,
# which more than halves what a party process costs to start and to end (5.9 to 2.2 ms, 15 to 5.7 ms with its end).
# And no more heaps than processors, as what is free in one is not used for another: a party of ss_xgb with 10,000 rows
# then takes 460 MB where it took 620, in the same time.
_HEAP = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": f"glibc.malloc.hugetlb=1:glibc.malloc.arena_max={max(2, os.cpu_count() or 2)}",
}
# What a job may know of the worker's environment, which holds Redis's password and headers of collectors.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TZDIR|TMPDIR|VIRTUAL_ENV"
    r"|(LC|LD|PYTHON|OMP|KMP|OPENBLAS|MKL|NUMEXPR|MALLOC|XLA|JAX|ARROW)_?[A-Z0-9_]*"
)


class _Forker:
    """The daemon's end of a process that forks others."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._control: socket.socket | None = None
        self.ready = anyio.Event()
        self.lost = anyio.Event()

    def _listen(self) -> socket.socket:
        """Listen to it, and return its own end of the control socket."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control, self._readable, self._control)
        return theirs

    def _send(self, frame: Struct, child: PartyProcess | Template | None = None) -> None:
        """`child` is the one whose descriptors go with it."""
        if self._control is not None and not self.lost.is_set():
            descriptors = [] if child is None else [child.theirs.fileno(), child.their_log]
            try:
                socket.send_fds(self._control, [encode_body(frame)], descriptors)
            except ConnectionError:
                self._lose()
            except OSError:  # it is busy with many others' messages, or the kernel holds as many as it wants to
                asyncio.get_running_loop().call_later(SEND_PAUSE, self._send, frame, child)
                return
        if child is not None:
            child.handed_over()

    def _readable(self, control: socket.socket) -> None:
        try:
            body = control.recv(_LARGEST_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            body = b""
        if body:
            self._hear(decode_template_frame(body))
        else:
            self._lose()

    def _hear(self, frame: TemplateFrame) -> None:
        raise NotImplementedError

    def _lose(self) -> None:
        """Note that it is gone, once."""
        if not self.lost.is_set():
            self.lost.set()
            if self._control is not None:
                asyncio.get_running_loop().remove_reader(self._control)
                self._control.close()


class Nursery(_Forker):
    """The process that imports SecretFlow and forks templates. `ready` is set when it can."""

    def __init__(self, settings: Settings, run_dir: str, ready: anyio.Event) -> None:
        super().__init__()
        self.ready = ready
        self._settings = settings
        self._run_dir = run_dir
        self._templates: dict[int, Template] = {}
        self._process: Process | None = None
        self._lines: LineChannel | None = None
        self._began = anyio.current_time()

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
            theirs = handed_over.enter_context(self._listen())
            log_read, log_write = os.pipe()
            handed_over.callback(os.close, log_write)
            self._lines = LineChannel(log_read, _log_template_line)
            arguments = ["--control", str(theirs.fileno()), "--daemon", str(os.getpid()), "--run-dir", self._run_dir]
            arguments += ["--start-method", self._settings.start_method, "--jobs", json.dumps(self._settings.jobs)]
            arguments += ["--log-level", self._settings.party_log_level]
            self._process = await anyio.open_process(
                entry.command("sfworker.party.template", *arguments),
                pass_fds=[theirs.fileno()],
                env=job_environment(self._settings)
                | _HEAP
                | {"TMPDIR": self._run_dir},  # what imports leave goes with it
                stdin=None,
                stdout=log_write,
                stderr=log_write,
                start_new_session=True,
            )

    def fork(self, template: Template) -> None:
        """Ask for a process that is `template`, which is lost where the nursery is before it has forked it."""
        self._templates[number := next(self._numbers)] = template
        self._send(Fork(number), template)

    def kill(self, template: int) -> None:
        """Kill one of its templates, of which it knows whether they still run."""
        if not self.lost.is_set():
            self._send(Signal(template, SIGKILL, False))
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(template, SIGKILL)

    async def stop(self) -> None:
        """End it, after the templates."""
        self._lose()  # closes the control socket, which is how it knows
        if self._process is not None:
            with anyio.move_on_after(_STOP_SECONDS) as overdue:
                await self._process.wait()
            if overdue.cancelled_caught:
                self._process.kill()
                await self._process.wait()
        if self._lines is not None:
            self._lines.close()

    async def wait(self) -> str:
        """Wait for its end; returns how it ended."""
        await self.lost.wait()
        return sentence(await self._process.wait() if self._process else None)

    def _hear(self, frame: TemplateFrame) -> None:
        match frame:
            case Ready():
                _log.info("SecretFlow is imported after %.1f s", anyio.current_time() - self._began)
                self.ready.set()
            case Forked(number, pid) if not pid:
                self._templates.pop(number).has_ended(None)
            case Forked(number, pid):
                self._templates[number].pid = pid
            case Exited(pid, status):
                for number, template in list(self._templates.items()):
                    if template.pid == pid:
                        del self._templates[number]
                        template.has_ended(status)


class Template(_Forker):
    """One template process, from `start` to `stop`; a new one is made where it dies."""

    def __init__(self, nursery: Nursery) -> None:
        super().__init__()
        self.pid: int | None = None
        self._nursery = nursery
        self._forking: dict[int, PartyProcess] = {}
        self._running: dict[int, PartyProcess] = {}
        self._lines: LineChannel | None = None
        self._exit_status: int | None = None
        self._ended = anyio.Event()
        self.their_log = -1
        self._began = anyio.current_time()

    def start(self) -> None:
        """Start it; forks may be asked for at once, and happen when `ready` is set. Raises OSError."""
        self.theirs = self._listen()
        log_read, self.their_log = os.pipe()
        self._lines = LineChannel(log_read, _log_template_line)
        self._nursery.fork(self)

    def handed_over(self) -> None:
        """Close our copies of the descriptors that the nursery has got, as they would hide the process's end."""
        self.theirs.close()
        os.close(self.their_log)

    def has_ended(self, status: int | None) -> None:
        """Note its end, as the nursery has reported it."""
        self._exit_status = status
        self._ended.set()
        self._lose()

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
        if self.lost.is_set():
            return
        _log.error("the template process %s does not end its party processes; it is killed", self.pid)
        self._kill()
        self._lose()

    async def stop(self) -> None:
        """End it with everything it forked."""
        self._lose()  # closes the control socket, which is how it knows
        with anyio.move_on_after(_STOP_SECONDS) as overdue:
            await self._until_ended()
        if overdue.cancelled_caught:
            self._kill()
        if self._lines is not None:
            self._lines.close()

    async def wait(self) -> str:
        """Wait for its end; returns how it ended."""
        await self.lost.wait()
        with anyio.move_on_after(_TOLD_SECONDS):
            await self._until_ended()
        return sentence(self._exit_status)

    async def _until_ended(self) -> None:
        """Wait until the nursery has reaped it, or is lost and cannot tell."""
        async with anyio.create_task_group() as tasks:
            for event in (self._ended, self._nursery.lost):
                tasks.start_soon(_cancel_after, event, tasks.cancel_scope)

    def _kill(self) -> None:
        if self.pid is not None:
            self._nursery.kill(self.pid)

    def _hear(self, frame: TemplateFrame) -> None:
        match frame:
            case Ready(pid):
                self.pid = pid
                _log.info("template process %s is ready after %.1f s", pid, anyio.current_time() - self._began)
                self.ready.set()
            case Forked(number, pid):
                process = self._forking.pop(number)
                if not pid:
                    process.has_ended(None)
                    return
                process.pid = pid
                self._running[pid] = process
                if process.doomed:
                    self._send(Signal(pid, SIGKILL, True))
            case Exited(pid, status):
                if ended := self._running.pop(pid, None):
                    ended.has_ended(status)

    def _lose(self) -> None:
        """Note that it is gone, and its party processes with it."""
        super()._lose()
        for process in [*self._forking.values(), *self._running.values()]:
            if process.pid is not None:
                # The party process dies with the template, but what it started itself does not. As long as one of its
                # group lives, the group's number is nobody else's.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, SIGKILL)
            process.has_ended(None)
        self._forking.clear()
        self._running.clear()


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def job_environment(settings: Settings) -> dict[str, str]:
    """Return what a job may know of the worker's environment."""
    asked = settings.job_environment
    return {name: each for name, each in os.environ.items() if name in asked or _PASSED_ON.fullmatch(name)}


def _log_template_line(line: bytes) -> None:
    from sfworker.logs import party_line

    party_line(line, party="template", verbatim=True)
