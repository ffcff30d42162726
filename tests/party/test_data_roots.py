"""Where a party may read and write; no message shows a path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sfworker.errors import InputDataError, ParameterValidationError, ResultSaveError, SecretFlowTaskError
from sfworker.party.data_roots import MOST_FILES, DataRoots

FIELD = "task_config.input_paths.alice"


def roots_of(*roots: Path) -> DataRoots:
    """As in an attempt of its own."""
    scratch = Path(tempfile.mkdtemp(prefix="sfworker-test-")) / "scratch-0"
    scratch.mkdir()
    return DataRoots([str(root) for root in roots], scratch)


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
    os.mkfifo(made / "fifo")
    (made / "hard.csv").write_text("id\n")
    (made / "another.csv").hardlink_to(made / "hard.csv")
    return made


def test_relative_and_absolute_paths_inside(root: Path) -> None:
    roots = roots_of(root)
    assert roots.input_file(FIELD, "a.csv").samefile(root / "a.csv")
    assert roots.input_file(FIELD, str(root / "dir" / ".." / "a.csv")).samefile(root / "a.csv")
    assert roots.output_file(FIELD, "new/deep/b.csv").target == root / "new" / "deep" / "b.csv"
    assert (root / "new" / "deep").is_dir()


def test_relative_paths_start_at_the_first_root_and_any_root_may_hold_absolute_ones(root: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "b.csv").write_text("x")
    roots = roots_of(root, second)
    assert roots.input_file(FIELD, str(second / "b.csv")).samefile(second / "b.csv")
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
        (lambda r, p: r.output_file(FIELD, "worker.log"), ParameterValidationError, "ending of a table"),
        (lambda r, p: r.output_file(FIELD, ".bashrc"), ParameterValidationError, "begins with a dot"),
        (
            lambda r, p: r.output_directory(FIELD, ".ssh", "manifest.json"),
            ParameterValidationError,
            "begins with a dot",
        ),
        (lambda r, p: r.input_file(FIELD, "fifo"), InputDataError, "not a regular file"),
        (lambda r, p: r.input_file(FIELD, "."), InputDataError, "is a directory"),
        (lambda r, p: r.output_file(FIELD, "fifo"), ResultSaveError, "no regular file"),
        (lambda r, p: r.output_directory(FIELD, "fifo", "manifest.json"), ResultSaveError, "is a file"),
        (lambda r, p: r.lasting_file(FIELD, "fifo"), ResultSaveError, "no regular file"),
        (lambda r, p: r.lasting_file(FIELD, "hard.csv"), ResultSaveError, "no regular file of one name"),
        (lambda r, p: r.output_directory(FIELD, "a.csv", "manifest.json"), ResultSaveError, "is a file"),
        (lambda r, p: roots_of().input_file(FIELD, "a.csv"), ParameterValidationError, "SFWORKER_DATA_ROOTS"),
    ],
)
def test_what_is_refused(root: Path, look: Look, error: type[SecretFlowTaskError], said: str) -> None:
    with pytest.raises(error) as caught:
        look(roots_of(root), root)
    assert str(caught.value).startswith(FIELD)
    assert said in str(caught.value)
    assert str(root.parent) not in str(caught.value)


def test_a_directory_is_replaced_only_if_it_is_empty_or_of_this_kind(root: Path) -> None:
    assert roots_of(root).output_directory(FIELD, "dir", "manifest.json").target == root / "dir"
    (root / "dir" / "something").touch()
    with pytest.raises(ResultSaveError, match="other files"):
        roots_of(root).output_directory(FIELD, "dir", "manifest.json")
    (root / "dir" / "manifest.json").touch()
    assert roots_of(root).output_directory(FIELD, "dir", "manifest.json").target == root / "dir"


@pytest.fixture
def swapped(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that becomes a link to a place outside between the look at its path and its use."""
    (root.parent / "precious").mkdir()
    for place in (root / "dir", root.parent / "precious"):
        for name in ("a.csv", "manifest.json"):
            (place / name).write_text("outside" if place.name == "precious" else "inside")
    resolve = DataRoots._resolve

    def swap(roots: DataRoots, field: str, path: str) -> Path:
        found = resolve(roots, field, path)
        (root / "dir").rename(root / "away")
        (root / "dir").symlink_to(root.parent / "precious")
        return found

    monkeypatch.setattr(DataRoots, "_resolve", swap)
    return root.parent / "precious"


@pytest.mark.attack("data roots")
@pytest.mark.parametrize(
    ("look", "error"),
    [
        (lambda r: r.input_file(FIELD, "dir/a.csv"), InputDataError),
        (lambda r: r.input_directory(FIELD, "dir"), InputDataError),
        (lambda r: r.output_file(FIELD, "dir/a.csv"), ResultSaveError),
        (lambda r: r.output_file(FIELD, "dir/new/a.csv"), ResultSaveError),
        (lambda r: r.output_directory(FIELD, "dir/model", "manifest.json"), ResultSaveError),
        (lambda r: r.output_directory(FIELD, "dir", "manifest.json"), ResultSaveError),
        (lambda r: r.lasting_file(FIELD, "dir/a.csv"), ResultSaveError),
    ],
)
def test_what_became_a_link_after_the_look_is_refused(
    root: Path, swapped: Path, look: Callable[[DataRoots], Path], error: type[SecretFlowTaskError]
) -> None:
    with pytest.raises(error):
        look(roots_of(root))
    assert sorted(path.name for path in swapped.iterdir()) == ["a.csv", "manifest.json"]
    assert {path.read_text() for path in swapped.iterdir()} == {"outside"}


def test_what_was_opened_stays_what_it_was(root: Path) -> None:
    roots = roots_of(root)
    (root / "dir" / "a.csv").write_text("id\nmine\n")
    given = roots.input_file(FIELD, "dir/a.csv")
    place = roots.output_file(FIELD, "dir/out.csv")
    (root / "dir").rename(root / "away")
    (root / "dir").symlink_to(root.parent)
    roots.make_file(place, ".0-1.partial.csv").write_text("new")
    assert given.suffix == ".csv"
    assert given.read_text() == "id\nmine\n"
    assert (root / "away" / ".0-1.partial.csv").read_text() == "new"
    assert not (root.parent / ".0-1.partial.csv").exists()


def test_an_input_directory_shows_its_regular_files_alone(root: Path) -> None:
    (root / "dir" / "deep").mkdir()
    (root / "dir" / "deep" / "part").write_text("own")
    (root / "dir" / "link").symlink_to(root.parent / "outside.csv")
    (root / "dir" / "deep" / "links").symlink_to(root.parent)
    os.mkfifo(root / "dir" / "fifo")
    names = roots_of(root).input_directory(FIELD, "dir")
    assert sorted(str(path.relative_to(names)) for path in names.rglob("*")) == ["deep", "deep/part"]
    assert (names / "deep" / "part").read_text() == "own"


def test_a_directory_of_too_many_files_is_refused(root: Path) -> None:
    for number in range(MOST_FILES + 1):
        (root / "dir" / str(number)).touch()
    with pytest.raises(InputDataError, match=f"more than {MOST_FILES} files"):
        roots_of(root).input_directory(FIELD, "dir")


def test_names_in_scratch_have_plain_endings(root: Path) -> None:
    (root / "a.$(x).csv.gz").write_text("x")
    (root / "a.`x`").write_text("x")
    roots = roots_of(root)
    assert roots.input_file(FIELD, "a.$(x).csv.gz").name.endswith(".csv.gz")
    assert "." not in roots.input_file(FIELD, "a.`x`").name


@pytest.mark.attack("data roots")
@pytest.mark.parametrize("first", ["input", "output"])
@pytest.mark.parametrize("name", ["a.csv", "dir/../a.csv", "same.csv", "soft.csv"])
def test_a_file_is_input_or_output_by_whatever_names(root: Path, first: str, name: str) -> None:
    (root / "same.csv").hardlink_to(root / "a.csv")
    (root / "soft.csv").symlink_to(root / "a.csv")
    roots = roots_of(root)
    uses: list[Callable[[], object]] = [
        lambda: roots.input_file(FIELD, "a.csv"),
        lambda: roots.output_file(FIELD, name),
    ]
    begun, refused = uses if first == "input" else reversed(uses)
    begun()
    with pytest.raises(ParameterValidationError, match="both an input and an output"):
        refused()


def test_two_outputs_are_two_files(root: Path) -> None:
    (root / "same.csv").hardlink_to(root / "a.csv")
    roots = roots_of(root)
    roots.output_file(FIELD, "a.csv")
    roots.output_file(FIELD, "new.csv")
    for again in ("a.csv", "same.csv", "dir/../new.csv"):
        with pytest.raises(ParameterValidationError, match="another output"):
            roots.output_file(FIELD, again)


def test_a_directory_with_an_input_in_it_is_not_replaced(root: Path) -> None:
    for name in ("manifest.json", "in.csv"):
        (root / "dir" / name).write_text("x")
    roots = roots_of(root)
    roots.input_file(FIELD, "dir/in.csv")
    with pytest.raises(ParameterValidationError, match="both an input and an output"):
        roots.output_directory(FIELD, "dir", "manifest.json")
