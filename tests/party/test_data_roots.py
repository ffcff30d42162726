"""Where a party may read and write; no message shows a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sfworker.errors import InputDataError, ParameterValidationError, ResultSaveError, SecretFlowTaskError
from sfworker.party.data_roots import DataRoots

FIELD = "task_config.input_paths.alice"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, beside a place outside."""
    made = tmp_path / "root"
    made.mkdir()
    (made / "a.csv").write_text("id\n1\n")
    (tmp_path / "outside.csv").write_text("id\n1\n")
    (made / "link.csv").symlink_to(tmp_path / "outside.csv")
    (made / "out").symlink_to(tmp_path)
    (made / "dir").mkdir()
    (made / "empty.csv").touch()
    return made


def test_relative_and_absolute_paths_inside(root: Path) -> None:
    roots = DataRoots([str(root)])
    assert roots.input_file(FIELD, "a.csv") == root / "a.csv"
    assert roots.input_file(FIELD, str(root / "dir" / ".." / "a.csv")) == root / "a.csv"
    assert roots.output_file(FIELD, "new/deep/b.csv") == root / "new" / "deep" / "b.csv"
    assert (root / "new" / "deep").is_dir()


def test_relative_paths_start_at_the_first_root_and_any_root_may_hold_absolute_ones(root: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "b.csv").write_text("x")
    roots = DataRoots([str(root), str(second)])
    assert roots.input_file(FIELD, str(second / "b.csv")) == second / "b.csv"
    with pytest.raises(InputDataError):
        roots.input_file(FIELD, "b.csv")


Look = Callable[[DataRoots, Path], Path]


@pytest.mark.attack("data roots")
@pytest.mark.parametrize(
    ("look", "error", "said"),
    [
        (lambda r, p: r.input_file(FIELD, "../outside.csv"), ParameterValidationError, "outside the data roots"),
        (lambda r, p: r.input_file(FIELD, str(p.parent / "outside.csv")), ParameterValidationError, "outside"),
        (lambda r, p: r.input_file(FIELD, "link.csv"), ParameterValidationError, "outside"),
        (lambda r, p: r.input_file(FIELD, "out/outside.csv"), ParameterValidationError, "outside"),
        (lambda r, p: r.input_file(FIELD, "file:///etc/passwd"), ParameterValidationError, "URL"),
        (lambda r, p: r.input_file(FIELD, "oss://bucket/a"), ParameterValidationError, "URL"),
        (lambda r, p: r.input_file(FIELD, "a\x00.csv"), ParameterValidationError, "NUL"),
        (lambda r, p: r.input_file(FIELD, "dir"), InputDataError, "directory"),
        (lambda r, p: r.input_file(FIELD, "missing.csv"), InputDataError, "no such file"),
        (lambda r, p: r.input_file(FIELD, "empty.csv"), InputDataError, "empty"),
        (lambda r, p: r.input_directory(FIELD, "a.csv"), InputDataError, "no such directory"),
        (lambda r, p: r.output_file(FIELD, "out/x.csv"), ParameterValidationError, "outside"),
        (lambda r, p: r.output_file(FIELD, "."), ParameterValidationError, "data root itself"),
        (lambda r, p: r.output_file(FIELD, "a.csv/x.csv"), ResultSaveError, "directory"),
        (lambda r, p: r.output_file(FIELD, "dir"), ResultSaveError, "is a directory"),
        (lambda r, p: r.output_directory(FIELD, "a.csv", "manifest.json"), ResultSaveError, "is a file"),
        (lambda r, p: DataRoots([]).input_file(FIELD, "a.csv"), ParameterValidationError, "SFWORKER_DATA_ROOTS"),
    ],
)
def test_what_is_refused(root: Path, look: Look, error: type[SecretFlowTaskError], said: str) -> None:
    with pytest.raises(error) as caught:
        look(DataRoots([str(root)]), root)
    assert str(caught.value).startswith(FIELD)
    assert said in str(caught.value)
    assert str(root.parent) not in str(caught.value)


def test_a_directory_is_replaced_only_if_it_is_empty_or_of_this_kind(root: Path) -> None:
    roots = DataRoots([str(root)])
    assert roots.output_directory(FIELD, "dir", "manifest.json") == root / "dir"
    (root / "dir" / "something").touch()
    with pytest.raises(ResultSaveError, match="other files"):
        roots.output_directory(FIELD, "dir", "manifest.json")
    (root / "dir" / "manifest.json").touch()
    assert roots.output_directory(FIELD, "dir", "manifest.json") == root / "dir"
