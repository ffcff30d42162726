"""The web side's own tools, as npm installs them: Ajv, json-schema-to-typescript, react-jsonschema-form, redis."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class Node:
    """Runs scripts with the packages of `package-lock.json`."""

    def __init__(self, packages: Path) -> None:
        self.packages = packages

    def run(self, script: Path, given: Any, *arguments: str) -> Any:
        """What a script answers to `given` on its stdin; None where it answers nothing."""
        done = subprocess.run(
            ["node", str(script), *arguments],
            input=json.dumps(given),
            env={**os.environ, "NODE_PATH": str(self.packages / "node_modules"), "NODE_ENV": "development"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout else None


@contextmanager
def installed(lock: Path) -> Iterator[Node]:
    """Install what a directory's lock names, outside the tree, and remove it again."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    with tempfile.TemporaryDirectory(prefix="sfworker-npm-") as directory:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(lock / name, directory)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        yield Node(Path(directory))


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """The packages are installed once per test run."""
    with installed(HERE) as packages:
        yield packages
