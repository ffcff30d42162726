"""Command lines that are printed to be copied: `sfworker` as this process was started, and a first job."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys

import msgspec


def command() -> str:
    """Return the words that start `sfworker` from the working directory, quoted for a shell."""
    started = sys.argv[0]
    if os.path.basename(started) != "sfworker":
        return f"{shlex.quote(_near(sys.executable))} -m sfworker"
    found = shutil.which("sfworker")
    if found is not None and os.path.samefile(found, started):
        return "sfworker"
    return shlex.quote(_near(started))


def first_job(redis_url: str) -> str:
    """Return the command line that sends `hello` to the worker at `redis_url` and waits for its answer."""
    job = {
        "task_id": "t",
        "subtask_id": "s",
        "execution_id": f"first-{secrets.token_hex(2)}",  # answered once, so another one for each start
        "sf_init_config": {},
        "task_config": {"task_type": "hello"},
    }
    envelope = shlex.quote(msgspec.json.encode(job).decode())
    return f"echo {envelope} | {command()} submit - --wait --redis {shlex.quote(redis_url)}"


def _near(program: str) -> str:
    """The path of a program, relative where it lies below the working directory."""
    absolute = os.path.abspath(program)
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith(os.pardir) else relative
