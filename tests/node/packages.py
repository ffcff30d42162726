"""The web side's own tools, as npm installs them: Ajv, json-schema-to-typescript, react-jsonschema-form, redis."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
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


def install(lock: Path, directory: Path) -> Node:
    """Install into `directory` what the lock in another one names."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock / name, directory)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Node(directory)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """The packages are installed once per test run, for all of its processes, among its temporary files."""
    own = tmp_path_factory.getbasetemp()
    directory = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "npm"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            install(HERE, directory)
            (directory / "done").touch()
    return Node(directory)
