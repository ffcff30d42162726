"""The nursery imports SecretFlow once and forks the template, which forks party processes on demand, in milliseconds.

    daemon --Fork + two file descriptors--> nursery --fork--> template
           --Fork + two file descriptors------------------------> template --fork--> party process
           <--Ready, Forked, Exited-------- of both

A template that is lost is replaced as fast as it is forked, where importing anew would take seconds. One that has lost
its nursery serves on. Neither runs SecretFlow code, keeps a JAX client or makes a gRPC call, so that forking stays
safe. When the daemon's end of its control socket is closed, a template kills every party process and leaves, and the
nursery follows its template. Where that is because the daemon is gone, they remove the run directory first.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import warnings
from abc import ABC, abstractmethod
from pathlib import Path

from msgspec import Struct

from sfworker.wire import entry
from sfworker.wire.frames import Exited, Fork, Forked, Ready, decode_template_command, encode_body

_PR_SET_PDEATHSIG = 1
# Computations leave the daemon and Redis their turns, and where memory runs out the kernel takes them first.
_NICENESS = 5
_OOM_SCORE = b"500"
_END_SECONDS = 4.0
"""Longest wait for a template to end its party processes, shorter than the daemon's for the nursery."""
_libc = ctypes.CDLL(None, use_errno=True)


class _Forker(ABC):
    """Forks and reaps; `control` keeps message boundaries (SOCK_SEQPACKET)."""

    def __init__(self, control: socket.socket, arguments: argparse.Namespace) -> None:
        self._control = control
        self._arguments = arguments
        self._children: set[int] = set()
        self._last_status = 0
        """Of the child that was reaped last, as `os.waitpid` gives it."""

    def run(self) -> None:
        """Serve the daemon until it is gone; then no child is left."""
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        self._say(Ready(os.getpid()))
        while True:
            readable, _, _ = select.select([self._control, wake_read], [], [])
            if wake_read in readable:
                wake_read.recv(4096)
                self._reap()
            if self._control in readable and not self._obey():
                break
        self._leave()

    @abstractmethod
    def _become(self, parent: int, descriptor: int) -> None:
        """Be the child, which has got a socket."""

    @abstractmethod
    def _leave(self) -> None:
        """End every child, and remove the run directory where the daemon is gone."""

    def _remove_run_dir(self) -> None:
        if _is_gone(self._arguments.daemon):
            shutil.rmtree(self._arguments.run_dir, ignore_errors=True)

    def _obey(self) -> bool:
        try:
            body, descriptors, _, _ = socket.recv_fds(self._control, 65_536, 2)
        except ConnectionResetError:
            return False
        if not body:
            return False
        command = decode_template_command(body)
        if isinstance(command, Fork):
            self._fork(command.number, *descriptors)
        elif command.pid in self._children:  # a reaped child's number may already be somebody else's
            (os.killpg if command.whole_group else os.kill)(command.pid, command.signal)
        return True

    def _fork(self, number: int, descriptor: int, log: int) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no memory or no process left: that job fails, not every job that runs here
            os.close(descriptor)
            os.close(log)
            self._say(Forked(number, 0))
            return
        if pid == 0:
            try:
                os.setpgid(0, 0)
                signal.set_wakeup_fd(-1)
                self._control.close()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)
                self._become(parent, descriptor)
            finally:  # never back into this loop
                os._exit(1)
        os.close(descriptor)
        os.close(log)
        # From both sides, so that neither has to wait for the other.
        with contextlib.suppress(PermissionError):  # a child that runs another program already (spawn) has done it
            os.setpgid(pid, pid)
        self._children.add(pid)
        self._say(Forked(number, pid))

    def _say(self, frame: Struct) -> None:
        # A daemon that has just died cannot hear it; that the socket is closed is noticed, and acted on, in `run`.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(encode_body(frame))

    def _reap(self) -> None:
        while self._children:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            pid = ended.si_pid
            if pid in self._children:
                # What it started itself (PSI runs `sort`) must not outlive it. Until the child is reaped its number,
                # and so the group's, cannot be anybody else's.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            _, self._last_status = os.waitpid(pid, 0)
            if pid in self._children:
                self._children.remove(pid)
                self._say(Exited(pid, os.waitstatus_to_exitcode(self._last_status)))


class Template(_Forker):
    """Forks party processes."""

    def _become(self, parent: int, descriptor: int) -> None:
        os.nice(_NICENESS)
        _come_first_where_memory_ends()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # else whatever a job starts would ignore it, too
        if self._arguments.start_method == "spawn":
            os.dup2(descriptor, 3)
            os.execv(sys.executable, entry.command("sfworker.party.process", self._arguments.jobs))
        from sfworker.party.process import serve

        serve(socket.socket(fileno=descriptor))

    def _leave(self) -> None:
        for pid in self._children:
            os.killpg(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)
        self._remove_run_dir()


class Nursery(_Forker):
    """Forks templates, of which one serves at a time. It does nothing else, so that it outlives them."""

    def _become(self, parent: int, descriptor: int) -> None:
        Template(socket.socket(fileno=descriptor), self._arguments).run()
        os._exit(0)

    def _leave(self) -> None:
        for pid in self._children:  # which hear, too, that the daemon is gone
            ended = os.pidfd_open(pid)
            if not select.select([ended], [], [], _END_SECONDS)[0]:
                os.kill(pid, signal.SIGKILL)
            _, self._last_status = os.waitpid(pid, 0)
        if self._last_status == 0:  # else what its parties had started may run, which the next worker finds by it
            self._remove_run_dir()


def main() -> None:
    """Entry of the nursery, which the daemon starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--daemon", type=int, required=True)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--start-method", required=True)
    parser.add_argument("--jobs", default="[]")
    parser.add_argument("--log-level", required=True)
    arguments = parser.parse_args()
    # Ctrl-C in a terminal reaches the whole foreground group; only the daemon decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    entry.leave_no_core()  # it holds a party's data
    # It is right in general. Here nothing of JAX is left before the fork: `forget_jax_client`.
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
    if arguments.start_method == "fork":
        from sfworker.party import process  # noqa: F401 - so that forks have them
        from sfworker.party.logging import set_levels
        from sfworker.party.preload import forget_jax_client, import_secretflow, warm_up
        from sfworker.party.task_dispatcher import load_jobs

        import_secretflow()
        from sfworker.session import cluster_initializer, device_manager, renewing  # noqa: F401 - so that forks have them

        load_jobs(json.loads(arguments.jobs))
        forget_jax_client()
        warm_up()
        set_levels(arguments.log_level)
        # Without this, the first garbage collection of each child would copy every page it shares with the template.
        gc.collect()
        gc.freeze()
    Nursery(socket.socket(fileno=arguments.control), arguments).run()


def _come_first_where_memory_ends() -> None:
    """Raise this process' OOM score, with few calls: what they touch is copied in each fork."""
    with contextlib.suppress(OSError):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(score, _OOM_SCORE)
        finally:
            os.close(score)


def _is_gone(pid: int) -> bool:
    """Also while it is ending: it has closed its sockets then, and before that let go its memory with its arguments."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
