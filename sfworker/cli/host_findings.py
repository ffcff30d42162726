"""`sfworker doctor`, this machine's part: Python, SecretFlow, the data roots and the run directory."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sfworker.cli.findings import Finding, error, ok, warning
from sfworker.pool.roots import refusal
from sfworker.pool.run_dir import LONGEST_PARENT
from sfworker.settings import Settings, unknown_variables, variable

IMPORT_SECONDS = 180.0
LITTLE_DISK = 2 << 30
TOO_LITTLE_DISK = 256 << 20
_IMPORT = "import secretflow, spu; print(secretflow.__version__)"


def variables() -> Iterator[Finding]:
    """Yield a finding for each variable that looks like a setting and is none."""
    for sentence in unknown_variables():
        yield warning("settings", sentence, "correct its name, or remove it")


def python() -> Finding:
    version = platform.python_version()
    if version.startswith("3.10."):
        return ok("python", version)
    return error("python", f"{version}; a worker needs 3.10, as SecretFlow has wheels for no other", "use Python 3.10")


def secretflow() -> Finding:
    """Import it in a process of its own, because the daemon's side never does."""
    if importlib.util.find_spec("secretflow") is None:
        return error("secretflow", "not installed; no worker runs here", "`pip install 'sfworker[worker]'` brings it")
    remedy = "install the locked requirements again; the Python that runs sfworker has to be that environment's"
    try:
        # With our own module path, as `-c` puts the working directory first.
        code = f"import sys; sys.path[:] = {sys.path!r}; {_IMPORT}"
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return error("secretflow", f"its import takes more than {IMPORT_SECONDS:.0f} s", "is this machine overloaded?")
    if done.returncode == 0:
        return ok("secretflow", f"{done.stdout.decode(errors='replace').split()[-1]} imports")
    said = done.stderr.decode(errors="replace").strip().splitlines()
    last = said[-1] if said else f"exit code {done.returncode}"
    return error("secretflow", f"cannot be imported: {last}", remedy)


def data_roots(settings: Settings) -> Iterator[Finding]:
    """Each root's finding. Roots are named by their place in the setting."""
    name = variable("data_roots")
    parties = list(settings.data_roots) if isinstance(settings.data_roots, dict) else [""]
    for party in parties:
        roots = settings.roots_of(party)
        whose = f" of {party}" if party else ""
        if not roots:
            yield error("data roots", f"{name} gives no directory{whose}", f"add one to {name}")
        for number, root in enumerate(roots, 1):
            which = f"root {number}{whose}"
            if what := refusal(Path(os.path.realpath(root)), settings):
                yield error("data roots", f"{which} is {what}", f"name another directory in {name}")
            elif not os.path.lexists(root) and os.path.isdir(os.path.dirname(root)):
                yield ok("data roots", f"{which} is made when a worker starts")
            elif not os.path.isdir(root):
                yield error("data roots", f"{which} is no directory", f"create it, or correct {name}")
            elif not os.access(root, os.R_OK | os.X_OK):
                yield error("data roots", f"{which} cannot be read by this user", "change its owner or permissions")
            elif not os.access(root, os.W_OK):
                yield warning(
                    "data roots",
                    f"{which} cannot be written by this user, so no job can save its output there",
                    "change its owner or permissions, unless it only holds inputs",
                )
            else:
                yield ok("data roots", f"{which} can be read and written")


def run_dir(settings: Settings) -> Iterator[Finding]:
    name = variable("run_dir")
    try:
        with tempfile.TemporaryDirectory(prefix="sfworker-doctor-", dir=settings.run_dir):
            pass
    except OSError as failure:
        yield error("run directory", f"cannot be written ({failure.strerror})", f"create it, or set {name}")
        return
    length = len(os.fsencode(os.path.realpath(settings.run_dir)))
    if length > LONGEST_PARENT:
        yield error(
            "run directory",
            f"its path is {length} bytes long, too long for the sockets in it",
            f"set {name} to a directory with a path of at most {LONGEST_PARENT} bytes",
        )
    else:
        yield ok("run directory", "can be written")
    free = shutil.disk_usage(settings.run_dir).free
    said = f"{free / 2**30:.1f} GiB free for scratch files"
    remedy = f"free some, or set {name} to a larger local disk"
    if free < TOO_LITTLE_DISK:
        yield error("disk", said, remedy)
    elif free < LITTLE_DISK:
        yield warning("disk", said, remedy)
    else:
        yield ok("disk", said)
