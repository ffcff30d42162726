"""Outputs are renamed into place, or removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfworker.errors import ResultSaveError
from sfworker.pool.outputs import commit, discard
from sfworker.wire.frames import Staging


def staged(directory: Path, name: str) -> Staging:
    path = directory / f".partial.{name}"
    path.write_text("new")
    return Staging(str(path), str(directory / name))


def test_files_and_directories_replace_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    model = tmp_path / "model"
    model.mkdir()
    (model / "old").touch()
    (tmp_path / ".partial.model").mkdir()
    commit([staged(tmp_path, "a"), Staging(str(tmp_path / ".partial.model"), str(model))])
    assert (tmp_path / "a").read_text() == "new"
    assert list(model.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "model"]


def test_what_cannot_be_renamed_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    first, second = staged(tmp_path, "a"), staged(tmp_path, "b")
    with pytest.raises(ResultSaveError) as caught:
        commit([Staging(first.staged, str(tmp_path / "missing" / "a")), second])
    assert str(tmp_path) not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_discarding_removes_files_and_directories_that_are_there(tmp_path: Path) -> None:
    (tmp_path / ".partial.model").mkdir()
    (tmp_path / ".partial.model" / "share").touch()
    missing = Staging(str(tmp_path / ".partial.nothing"), str(tmp_path / "nothing"))
    discard([staged(tmp_path, "a"), Staging(str(tmp_path / ".partial.model"), str(tmp_path / "model")), missing])
    assert list(tmp_path.iterdir()) == []
