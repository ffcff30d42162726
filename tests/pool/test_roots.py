"""Which directories a worker takes as data roots when it starts."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import pytest

from sfworker.errors import SettingsError
from sfworker.pool.roots import prepare
from sfworker.settings import load


def settings(tmp_path: Path, roots: object) -> None:
    environment = {"SFWORKER_RUN_DIR": str(tmp_path / "run"), "SFWORKER_DATA_ROOTS": json.dumps(roots)}
    prepare(load(environment))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, a home and a run directory."""
    for name in ("work", "home", "run/sfworker-run-x", "shared"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "link").symlink_to("/etc")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_without_the_setting_it_is_a_directory_of_its_own(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prepare(load({"SFWORKER_RUN_DIR": str(place / "run")}))
    assert stat.S_IMODE((place / "work" / "data").stat().st_mode) == 0o700
    assert str(place / "work" / "data") in caplog.text
    prepare(load({"SFWORKER_RUN_DIR": str(place / "run")}))  # which is there now


def test_roots_that_are_missing_are_made(place: Path) -> None:
    settings(place, {"alice": str(place / "alice"), "bob": ["bob"]})
    assert (place / "alice").is_dir()
    assert (place / "work" / "bob").is_dir()


@pytest.mark.parametrize(
    "root",
    [
        *("/", "//", "/etc", "/etc/..", "/usr/share", "/proc/self", "/dev/shm", "/home", "/var/lib", "/root", "/tmp"),
        *("{place}/home", "{place}/run", "{place}/run/sfworker-run-x", "{place}", "{place}/link", "{place}/shared"),
        "{place}/missing/too",
    ],
)
def test_what_is_no_data_root(place: Path, root: str) -> None:
    root = root.replace("{place}", str(place))
    before = sorted(os.listdir(place))
    with pytest.raises(SettingsError, match=r"^SFWORKER_DATA_ROOTS: root 1 of bob .*; ") as caught:
        settings(place, {"alice": str(place / "alice-data"), "bob": root})
    assert str(place) not in str(caught.value)
    assert sorted(os.listdir(place)) in (before, sorted([*before, "alice-data"]))


def test_a_directory_below_a_shared_one_or_a_home_is_one(place: Path) -> None:
    settings(place, [str(place / each / "data") for each in ("shared", "home", "run")])
