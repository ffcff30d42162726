"""The template process: imports SecretFlow once, then forks party processes on demand, in milliseconds.

    daemon --Fork + two file descriptors--> template --fork--> party process
           <--Ready, Forked, Exited--------

It runs no SecretFlow code, keeps no JAX client and makes no gRPC call itself, so that forking stays safe. When the
daemon's end of the control socket is closed it kills every party process and leaves. Where that is because the daemon
is gone, it removes the run directory first.
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
import time
import warnings
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from sfworker.wire import entry
from sfworker.wire.frames import Exited, Fork, Forked, Ready, decode_template_command, encode_body

_PR_SET_PDEATHSIG = 1
# Computations leave the daemon and Redis their turns, and where memory runs out the kernel takes them first.
_NICENESS = 5
_OOM_SCORE = "500"
_libc = ctypes.CDLL(None, use_errno=True)


class Template:
    """Forks and reaps; `control` keeps message boundaries (SOCK_SEQPACKET)."""

    def __init__(self, control: socket.socket, start_method: str, job_modules: str) -> None:
        self._control = control
        self._start_method = start_method
        self._job_modules = job_modules
        self._children: set[int] = set()

    def run(self, import_seconds: float) -> None:
        """Serve the daemon until it is gone; then no child is left."""
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        self._say(Ready(import_seconds))
        while True:
            readable, _, _ = select.select([self._control, wake_read], [], [])
            if wake_read in readable:
                wake_read.recv(4096)
                self._reap()
            if self._control in readable and not self._obey():
                break
        for pid in self._children:
            os.killpg(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

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

    def _fork(self, number: int, frames: int, log: int) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no memory or no process left: that job fails, not every job that runs here
            os.close(frames)
            os.close(log)
            self._say(Forked(number, 0))
            return
        if pid == 0:
            self._become_party(parent, frames, log)
        os.close(frames)
        os.close(log)
        # From both sides, so that neither has to wait for the other.
        with contextlib.suppress(PermissionError):  # a child that runs another program already (spawn) has done it
            os.setpgid(pid, pid)
        self._children.add(pid)
        self._say(Forked(number, pid))

    def _become_party(self, parent: int, frames: int, log: int) -> NoReturn:
        try:
            os.setpgid(0, 0)
            os.nice(_NICENESS)
            with contextlib.suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # else whatever a job starts would ignore it, too
            self._control.close()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            if self._start_method == "spawn":
                os.dup2(frames, 3)
                os.execv(sys.executable, entry.command("sfworker.party.process", self._job_modules))
            from sfworker.party.process import serve

            serve(socket.socket(fileno=frames))
        finally:  # never back into the template's loop
            os._exit(1)

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
            _, status = os.waitpid(pid, 0)
            if pid in self._children:
                self._children.remove(pid)
                self._say(Exited(pid, os.waitstatus_to_exitcode(status)))


def main() -> None:
    """Entry of the template process, which the daemon starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--daemon", type=int, required=True)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--start-method", required=True)
    parser.add_argument("--jobs", default="[]")
    arguments = parser.parse_args()
    # Ctrl-C in a terminal reaches the whole foreground group; only the daemon decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    entry.leave_no_core()  # it holds a party's data
    began = time.monotonic()
    # It is right in general. Here nothing of JAX is left before the fork: `forget_jax_client`.
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
    if arguments.start_method == "fork":
        from sfworker.party import process  # noqa: F401 - so that forks have them
        from sfworker.party.preload import forget_jax_client, import_secretflow
        from sfworker.party.task_dispatcher import load_jobs

        import_secretflow()
        from sfworker.session import cluster_initializer, device_manager, renewing  # noqa: F401 - so that forks have them

        load_jobs(json.loads(arguments.jobs))
        forget_jax_client()
        # Without this, the first garbage collection of each child would copy every page it shares with the template.
        gc.collect()
        gc.freeze()
    template = Template(socket.socket(fileno=arguments.control), arguments.start_method, arguments.jobs)
    template.run(time.monotonic() - began)
    if _is_gone(arguments.daemon):
        shutil.rmtree(arguments.run_dir, ignore_errors=True)


def _is_gone(parent: int) -> bool:
    """Also while it is ending: it has closed its sockets then, and before that let go its memory with its arguments."""
    try:
        ends = not Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:
        ends = True
    return ends or os.getppid() != parent
