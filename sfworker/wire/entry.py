"""Starts our processes: the command by which one starts another, with the same interpreter and module path.

`python -m` and `python -c` would put the working directory in front of the path. It holds the parties' files, so an
output named `numpy.py` would be imported.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

_BOOT = "import sys; sys.path[:] = sys.argv.pop(1).split({separator!r}); from {module} import main; sys.exit(main())"


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs `main` of a module."""
    boot = _BOOT.format(separator=os.pathsep, module=module)
    return [sys.executable, "-c", boot, os.pathsep.join(sys.path), *arguments]


def leave_no_core() -> None:
    """Let no core file hold what is in the memory of this process and of those that it starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a program that takes cores, as systemd's, gets them whatever the limit
        Path("/proc/self/coredump_filter").write_text("0")
