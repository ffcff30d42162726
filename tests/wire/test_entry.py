"""Processes of ours import what their starter would import, and nothing from the working directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sfworker.wire.entry import command


def test_the_working_directory_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, data = tmp_path / "ours", tmp_path / "data"
    for directory in (ours, data):
        directory.mkdir()
    (ours / "program.py").write_text("import json, sys\ndef main(): print(json.__file__, sys.argv[1:], sys.path[0])\n")
    for name in ("json", "program", "encodings", "site"):
        (data / f"{name}.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(ours)
    found = subprocess.run(command("program", "a b", ""), cwd=data, capture_output=True, text=True, check=True)
    import json

    assert found.stdout == f"{json.__file__} ['a b', ''] {ours}\n"
    assert sys.path[0] == str(ours)
