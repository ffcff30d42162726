"""Processes that die with whoever started them, and what a process owes its standard streams and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType

# Runs in the child before the program proper, so that nothing has to run between fork and exec (a thread's lock may be
# held there). The signal survives exec; a parent that is already gone is noticed by its id.
_PRELUDE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 on /dev/null where whoever started this process has closed them.

    Otherwise the next sockets and pipes get these numbers, and programs take them for their input and output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115 - it was None, and stays open


def bound_to_this_process(command: list[str], signal_number: int = signal.SIGTERM) -> list[str]:
    """`command` (its first part an absolute path), to be started so that `signal_number` reaches it when we die.

    The kernel watches the *thread* that starts the child: start it from one that lives as long as the process.
    """
    return [sys.executable, "-I", "-S", "-c", _PRELUDE, str(os.getpid()), str(int(signal_number)), *command]


def stop(process: subprocess.Popen[bytes], grace_seconds: float) -> int:
    """End a child that leads its own session: TERM, `grace_seconds`, then KILL. Returns its exit code."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    # Also after a clean exit: what it left behind in its process group goes as well.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Makes SIGTERM and a closed terminal raise KeyboardInterrupt inside the block, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if before[number] is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
