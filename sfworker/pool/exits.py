"""Says in a sentence how a process ended."""

from __future__ import annotations

import signal


def sentence(status: int | None, *, memory_ran_out: bool = False) -> str:
    """Describe an exit code from `os.waitstatus_to_exitcode`, or None where nobody could see it.

    `memory_ran_out` says that the kernel has killed a process on this host for want of memory meanwhile.
    """
    if status is None:
        return "ended together with the process that started it"
    if status >= 0:
        return f"ended with exit code {status} before its execution ended"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    hint = ""
    if -status == signal.SIGKILL:
        hint = ": this machine ran out of memory" if memory_ran_out else ", perhaps for want of memory"
    return f"was killed by signal {-status} ({name}){hint}"
