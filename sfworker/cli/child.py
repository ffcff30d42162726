"""Child processes of `sfworker demo`, of the tests and of the benchmarks: they die with whoever started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

# Runs in the child before the program proper, so that nothing has to run between fork and exec (a thread's lock may be
# held there). The signal survives exec; a parent that is already gone is noticed by its id.
_PRELUDE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


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
