"""Small disks for tests: file systems in memory, where this user may mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def mounted(directory: Path, size: int, *options: str) -> Iterator[Path]:
    """Make `directory` a disk of `size` bytes. Skips the test where this user may not."""
    directory.mkdir(parents=True, exist_ok=True)
    chosen = ",".join([f"size={size}", *options])
    if subprocess.run(["mount", "-t", "tmpfs", "-o", chosen, "test", directory], check=False).returncode:
        pytest.skip("this user may not mount file systems")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def remount(directory: Path, *options: str) -> None:
    """Change the options of a mounted disk."""
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), directory], check=True)
