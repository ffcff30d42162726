"""Outputs are kept on disk, put in their places all together, or removed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfworker.errors import ResultSaveError
from sfworker.pool import outputs
from sfworker.pool.outputs import commit, discard, flush
from sfworker.wire.frames import Staging


def staged(directory: Path, name: str) -> Staging:
    path = directory / f".partial.{name}"
    path.write_text("new")
    return Staging(str(path), str(directory / name))


def staged_model(directory: Path, name: str = "model") -> Staging:
    path = directory / f".partial.{name}"
    path.mkdir()
    (path / "share").write_text("new")
    return Staging(str(path), str(directory / name))


def model(directory: Path, name: str = "model") -> Path:
    made = directory / name
    made.mkdir()
    (made / "share").write_text("old")
    (made / "an old part").touch()
    return made


def contents(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(params=["exchange", "three steps"])
def _however(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that can exchange two names, and on one that cannot."""
    if request.param == "three steps":
        monkeypatch.setattr(outputs, "_renameat2", lambda *_: -1)


@pytest.mark.usefixtures("_however")
def test_files_and_directories_replace_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    model(tmp_path)
    all_ = [staged(tmp_path, "a"), staged(tmp_path, "b"), staged_model(tmp_path), staged_model(tmp_path, "another")]
    flush(all_, [str(tmp_path)])
    commit(all_, [str(tmp_path)])
    assert contents(tmp_path) == {"a": "new", "b": "new", "model/share": "new", "another/share": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "another", "b", "model"]


@pytest.mark.usefixtures("_however")
def test_where_one_cannot_be_put_in_its_place_all_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    model(tmp_path)
    before = contents(tmp_path)
    lost = Staging(staged(tmp_path, "c").staged, str(tmp_path / "missing" / "c"))
    with pytest.raises(ResultSaveError) as caught:
        commit(
            [staged(tmp_path, "a"), staged(tmp_path, "b"), staged_model(tmp_path), lost, staged(tmp_path, "d")],
            [str(tmp_path)],
        )
    assert str(tmp_path) not in str(caught.value)
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "model"]


def test_what_has_become_a_directory_meanwhile_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    model(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ResultSaveError):
        commit([staged(tmp_path, "model")], [str(tmp_path)])
    assert contents(tmp_path) == before


def test_a_model_is_there_at_every_moment_and_what_a_crash_leaves_has_the_staged_name(tmp_path: Path) -> None:
    """A process that replaces it over and over is killed at any moment."""
    model(tmp_path)
    program = """if True:
        import sys, pathlib
        from sfworker.pool.outputs import commit
        from sfworker.wire.frames import Staging
        there = pathlib.Path(sys.argv[1])
        while True:
            staged = there / ".partial"
            staged.mkdir()
            (staged / "share").write_text("new")
            commit([Staging(str(staged), str(there / "model"))], sys.argv[1:])
            print(flush=True)
    """
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            always = all((tmp_path / "model" / "share").exists() for _ in range(20_000))
            process.kill()
        assert always
        assert (tmp_path / "model" / "share").read_text() == "new"
        assert {path.name for path in tmp_path.iterdir()} <= {"model", ".partial"}
        outputs.discard([Staging(str(tmp_path / ".partial"), "")], [str(tmp_path)])


def test_every_file_and_directory_is_on_disk_before_it_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    fsync, exchange = os.fsync, outputs._exchange
    monkeypatch.setattr(os, "fsync", lambda fd: (said.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name), fsync(fd)))
    monkeypatch.setattr(outputs, "_exchange", lambda *names: (said.append("exchange"), exchange(*names)))
    each = [staged(tmp_path, "a"), staged_model(tmp_path)]
    flush(each, [str(tmp_path)])
    commit(each, [str(tmp_path)])
    assert said == [".partial.a", ".partial.model", "share", "exchange", "exchange", tmp_path.name]


def test_what_the_disk_does_not_keep_is_an_error_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", fail)
    (tmp_path / "a").write_text("old")
    with pytest.raises(ResultSaveError) as caught:
        flush([staged(tmp_path, "a"), staged_model(tmp_path)], [str(tmp_path)])
    assert str(tmp_path) not in str(caught.value)
    assert contents(tmp_path) == {"a": "old"}


def test_discarding_removes_files_and_directories_that_are_there(tmp_path: Path) -> None:
    missing = Staging(str(tmp_path / ".partial.nothing"), str(tmp_path / "nothing"))
    discard([staged(tmp_path, "a"), staged_model(tmp_path), missing], [str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_names_that_mean_one_file_are_one_output(tmp_path: Path) -> None:
    """As on a file system that knows no upper and lower case; a directory that is another's stands for it here."""
    (tmp_path / "real").mkdir()
    each = [staged(tmp_path / "real", "a"), staged(tmp_path / "real", "b")]
    twice = [each[0], Staging(each[1].staged, each[0].target)]
    with pytest.raises(ResultSaveError):
        commit(twice, [str(tmp_path)])
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("kind", ["fifo", "link", "log"])
def test_what_is_no_former_output_is_not_replaced(tmp_path: Path, kind: str) -> None:
    (tmp_path / "log").write_text("log")
    if kind == "fifo":
        os.mkfifo(tmp_path / "a")
    elif kind == "link":
        (tmp_path / "a").symlink_to(tmp_path / "log")
    else:
        (tmp_path / "a").hardlink_to(tmp_path / "log")
    before = os.lstat(tmp_path / "a").st_ino
    with pytest.raises(ResultSaveError):
        commit([staged(tmp_path, "a")], [str(tmp_path)], str(tmp_path / "log"))
    assert os.lstat(tmp_path / "a").st_ino == before
    assert (tmp_path / "log").read_text() == "log"


def test_nothing_is_done_behind_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(outside)
    staged(outside, "a")
    name = ".0123456789abcdef-1.partial"
    (outside / name).touch()
    (outside / "empty").mkdir()
    before = sorted(outside.iterdir())
    behind = [Staging(str(tmp_path / "root" / "link" / ".partial.a"), str(tmp_path / "root" / "link" / "a"))]
    roots = [str(tmp_path / "root")]
    with pytest.raises(ResultSaveError):
        flush(behind, roots)
    with pytest.raises(ResultSaveError):
        commit(behind, roots)
    discard(behind, roots)
    outputs.remove_left_behind([str(tmp_path / "root" / "link" / each) for each in (name, "empty")], roots)
    assert sorted(outside.iterdir()) == before
