"""How a process ended, as a sentence."""

from __future__ import annotations

import signal


def sentence(status: int | None) -> str:
    """From an exit code as `os.waitstatus_to_exitcode` gives it; None where nobody could see it."""
    if status is None:
        return "ended together with the process that started it"
    if status >= 0:
        return f"ended with exit code {status} before it reported an outcome"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    hint = "; if nobody killed it, this machine ran out of memory" if -status == signal.SIGKILL else ""
    return f"was killed by signal {-status} ({name}){hint}"
