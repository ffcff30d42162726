"""The worker's directory, and what dead workers left."""

from __future__ import annotations

from pathlib import Path

from sfworker.pool.run_dir import remove_abandoned, run_dir


def test_it_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with run_dir(str(tmp_path)) as directory:
        assert Path(directory).stat().st_mode & 0o777 == 0o700
        (Path(directory) / "scratch").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    abandoned = tmp_path / "sfworker-run-dead"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    (abandoned / "secret-share").touch()
    (tmp_path / "sfworker-run-new").mkdir()  # just being made: it has no lock yet
    (tmp_path / "somebody-elses").mkdir()
    with run_dir(str(tmp_path)) as directory:
        assert remove_abandoned(str(tmp_path)) == 0
        assert {path.name for path in tmp_path.iterdir()} == {
            Path(directory).name,
            "sfworker-run-new",
            "somebody-elses",
        }
