"""What the kernel tells of processes that may end while a test looks at them."""

from __future__ import annotations

import os
from pathlib import Path


def told(pid: int, name: str) -> bytes:
    """A file of the process in /proc; nothing where the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def working_directory(pid: int) -> str:
    """The process's working directory; nothing where the process has ended."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except (FileNotFoundError, ProcessLookupError):
        return ""
