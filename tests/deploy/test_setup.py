"""`make setup` where there is neither uv nor a Python 3.10: what can be fetched is, and the rest is one sentence."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.test_install import newest_python

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = "/usr/bin:/bin"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.lock", "pyproject.toml", ".python-version"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "sfworker").mkdir()
    shutil.copy(ROOT / "sfworker" / "__init__.py", tmp_path / "sfworker")
    return tmp_path


def make_setup(clone: Path, path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """With no home, and uv told not to fetch a Python, which it may be able to here."""
    variables = {"PATH": path, "HOME": str(clone / "home"), "UV_PYTHON_DOWNLOADS": "never", **environment}
    return subprocess.run(
        ["make", "setup"], cwd=clone, env=variables, capture_output=True, text=True, timeout=300, check=False
    )


def test_uv_is_fetched_and_a_missing_python_is_one_sentence(clone: Path) -> None:
    python = newest_python()
    if "3.10" in subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("no Python but 3.10 is installed here")
    (clone / "bin").mkdir()
    for name in ("python", "python3", "python3.10"):  # also what is found on the system
        (clone / "bin" / name).symlink_to(python)
    done = make_setup(clone, f"{clone}/bin:{SYSTEM}")
    assert done.returncode == 2
    assert "setup: fetching uv from the package index into .uv\n" in done.stderr
    assert "setup: no Python 3.10 here; uv fetches one into .uv\n" in done.stderr
    assert "setup: no Python 3.10 was found or could be fetched" in done.stderr
    assert "PYTHON=/path/to/python3.10 make setup" in done.stderr
    assert (clone / ".uv" / "bin" / "uv").exists()
    assert not (clone / ".venv").exists()


@pytest.mark.slow
def test_an_index_that_is_not_reached_is_one_sentence(clone: Path) -> None:
    (clone / "bin").mkdir()
    for name in ("python", "python3", "python3.10"):
        (clone / "bin" / name).symlink_to(newest_python())
    unreachable = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = make_setup(clone, f"{clone}/bin:{SYSTEM}", PIP_RETRIES="0", PIP_NO_CACHE_DIR="1", **unreachable)
    assert done.returncode == 2
    assert "setup: uv could not be fetched from the package index; is it reached?" in done.stderr
    assert not (clone / ".uv").exists()
