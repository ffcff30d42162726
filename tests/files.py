"""Looks at files that processes make and remove meanwhile."""

from __future__ import annotations

import os
from pathlib import Path


def below(directory: Path) -> list[Path]:
    """Return everything below a directory, where `Path.rglob` raises if a directory goes while it looks."""
    return [Path(parent, name) for parent, folders, files in os.walk(directory) for name in (*folders, *files)]
