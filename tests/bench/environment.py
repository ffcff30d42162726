"""Makes a Python environment for a comparison, from a file of pins."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path


def make_environment(directory: Path, pins: Path) -> str:
    """Make the environment in `directory` and return its interpreter. Raises CalledProcessError without an index."""
    venv.create(directory, with_pip=True)
    python = str(directory / "bin" / "python")
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--requirement",
    ]
    subprocess.run([python, *install, str(pins)], check=True)
    return python
