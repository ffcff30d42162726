"""Reading and writing a party's tables; errors name field, column and row, and never a value or a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sfworker.errors import InputDataError, ResultSaveError
from sfworker.tables import files

FIELD = "task_config.input_paths.alice"


def file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "secret-name.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_header_of_a_large_file_costs_its_beginning(tmp_path: Path) -> None:
    assert files.header(FIELD, file(tmp_path, 'id,"a, b",年龄\n1,2,3\n')) == ["id", "a, b", "年龄"]
    assert files.header(FIELD, file(tmp_path, "\ufeffid\n1\n")) == ["id"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,v\n", "no rows"),
        ("id,id\n1,2\n", "twice"),
        ("id,v\n4711\n", "row 1"),
        (b"id\n\xff\xfe\n", "UTF-8"),
    ],
)
def test_headers_that_cannot_be_used(tmp_path: Path, content: str | bytes, said: str) -> None:
    refuses(lambda: files.header(FIELD, file(tmp_path, content)), said, tmp_path)


def test_numbers(tmp_path: Path) -> None:
    path = file(tmp_path, "a,b,c\n1,x,-2.5\n2,y,1e3\n")
    assert files.numbers(FIELD, path, ["c", "a"]).tolist() == [[-2.5, 1.0], [1000.0, 2.0]]
    assert files.numbers(FIELD, path, []).shape[1] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("v\n1\n4711x\n", ["'v'", "no number", "row 2"]),
        ("v,w\n1,1\n,2\n", ["'v'", "no value", "row 2"]),
        ("v\n1\ninf\n", ["'v'", "finite", "row 2"]),
        ("v\n1\nnan\n", ["'v'", "row 2"]),
        ("v,w\n1,2\n3,4,4711\n", ["row 2", "cells"]),
    ],
)
def test_cells_that_are_no_numbers(tmp_path: Path, content: str, said: list[str]) -> None:
    for part in said:
        refuses(lambda: files.numbers(FIELD, file(tmp_path, content), ["v"]), part, tmp_path)


def test_text_keeps_what_is_written(tmp_path: Path) -> None:
    table = files.text(FIELD, file(tmp_path, "id,v\n007,\n010,NA\n"), ["id", "v"])
    assert table.to_pydict() == {"id": ["007", "010"], "v": ["", "NA"]}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    files.write(FIELD, path, pa.table({"编号": ["001", 'a "b", c'], "v": [1.5, -2.0]}))
    assert files.header(FIELD, path) == ["编号", "v"]
    assert files.text(FIELD, path, ["编号"]).to_pydict() == {"编号": ["001", 'a "b", c']}
    assert np.array_equal(files.numbers(FIELD, path, ["v"]), [[1.5], [-2.0]])


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ResultSaveError) as caught:
        files.write(FIELD, tmp_path / "missing" / "t.csv", pa.table({"v": [1]}))
    assert str(tmp_path) not in str(caught.value)


def test_duplicates(tmp_path: Path) -> None:
    path = file(tmp_path, "a,b\n1,1\n1,2\n")
    assert files.has_duplicates(FIELD, path, ["a"])
    assert not files.has_duplicates(FIELD, path, ["a", "b"])


def refuses(look: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputDataError) as caught:
        look()  # type: ignore[operator]
    text = str(caught.value)
    assert text.startswith(FIELD)
    assert said in text
    assert "4711" not in text
    assert "secret-name" not in text


TYPED = "id,zip,day,f,yes,none,名\n1,01234,2020-01-01,1.5,true,,甲\n2,00001,2020-01-02,,false,,\n"


def test_types_are_inferred_and_an_empty_cell_is_a_missing_value(tmp_path: Path) -> None:
    path = file(tmp_path, TYPED)
    found = files.typed(FIELD, path, files.header(FIELD, path))
    assert found.to_pydict() == {
        "id": [1, 2],
        "zip": ["01234", "00001"],
        "day": ["2020-01-01", "2020-01-02"],
        "f": [1.5, None],
        "yes": [True, False],
        "none": [None, None],
        "名": ["甲", None],
    }
    assert found.schema.field("none").type == pa.float64()


def test_types_can_be_named(tmp_path: Path) -> None:
    found = files.typed(FIELD, file(tmp_path, TYPED), ["zip", "id"], {"zip": "int", "id": "str"})
    assert found.to_pydict() == {"zip": [1234, 1], "id": ["1", "2"]}


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({"v": "int"}, ["'v'", "no int", "row 3"]),
        ({"v": "float"}, ["'v'", "no float", "row 3"]),
        ({"w": "int"}, ["'w'", "no int", "row 2"]),
        ({"b": "float"}, ["'b'", "no float", "row 1"]),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".orc"])
def test_cells_that_are_not_of_the_type_named(
    tmp_path: Path, types: dict[str, str], said: list[str], ending: str
) -> None:
    path = (tmp_path / "secret-name").with_suffix(ending)
    files.write(FIELD, path, pa.table({"v": ["1", "2", "4711x"], "w": [1.0, 2.5, 3.0], "b": ["a", "b", "c"]}))
    for part in said:
        refuses(lambda: files.typed(FIELD, path, ["v", "w", "b"], types), part, tmp_path)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".orc"])
def test_what_is_written_is_what_is_read(tmp_path: Path, ending: str) -> None:
    path = (tmp_path / "table").with_suffix(ending)
    table = pa.table({"id": ["01", "02"], "v": [1.5, None], "n": [1, None], "名": ["a,b", '"']})
    files.write(FIELD, path, table)
    assert files.header(FIELD, path) == table.column_names
    assert files.typed(FIELD, path, table.column_names).to_pydict() == table.to_pydict()


@pytest.mark.parametrize("ending", [".parquet", ".orc"])
def test_files_that_are_not_what_their_ending_says(tmp_path: Path, ending: str) -> None:
    path = (tmp_path / "secret-name").with_suffix(ending)
    path.write_bytes(b"id\n4711\n")
    refuses(lambda: files.header(FIELD, path), "cannot be read", tmp_path)
