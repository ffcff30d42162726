"""Reading and writing a party's tables; errors name field, column and row, and never a value or a path."""

from __future__ import annotations

from datetime import date, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import orc, parquet

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
        ('v\n1\n"4.711,50"\n', ["'v'", "no number", "row 2", "commas"]),
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


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["12345678901234567890", "12345678901234567891"], ["12345678901234567890", "12345678901234567891"]),
        (["00000000000000000001", "12345678901234567890"], ["00000000000000000001", "12345678901234567890"]),
        (["9223372036854775807", "NA"], [9223372036854775807, None]),
        (["0x1F", "2"], ["0x1F", "2"]),
        (["US", "NA"], ["US", "NA"]),
        (["1.5", "n/a"], [1.5, None]),
        (["+5", " 6 "], [5, 6]),
        (["1e30", "2.0"], [1e30, 2.0]),
        (["12:30:00", "12:30:01"], ["12:30:00", "12:30:01"]),
        (["True", "#N/A"], [True, None]),
        (["True", "1", "0"], ["True", "1", "0"]),
        (["a\0b", "c"], ["a\0b", "c"]),
    ],
)
def test_what_a_cell_of_a_csv_file_is(tmp_path: Path, cells: list[str], read: list[object]) -> None:
    path = file(tmp_path, "v,w\n" + "".join(f"{cell},1\n" for cell in cells))
    found = files.typed(FIELD, path, ["v"]).column("v").to_pylist()
    assert found == read
    assert [type(each) for each in found] == [type(each) for each in read]


@pytest.mark.parametrize(
    ("array", "read"),
    [
        (pa.array(["a", "", None, "NA"]), ["a", None, None, "NA"]),
        (pa.array([1.5, float("nan")]), [1.5, None]),
        (pa.array(["x", None]).dictionary_encode(), ["x", None]),
        (pa.array([b"x", b""]), ["x", None]),
        (pa.array([2**64 - 1, 1], pa.uint64()), ["18446744073709551615", "1"]),
    ],
)
def test_what_a_cell_of_a_parquet_file_is(tmp_path: Path, array: pa.Array, read: list[object]) -> None:
    """And what is written of it to any format reads as the same text."""
    table = pa.table({"v": array, "w": [1] * len(array)})
    files.write(FIELD, tmp_path / "t.parquet", table)
    assert files.typed(FIELD, tmp_path / "t.parquet", ["v"]).column("v").to_pylist() == read
    keys = files.plain_keys(FIELD, files.text(FIELD, tmp_path / "t.parquet", ["v"]), ["v"])
    for ending in ("csv", "orc"):
        files.write(FIELD, tmp_path / f"t.{ending}", files.whole(FIELD, tmp_path / "t.parquet"))
        assert files.plain_keys(FIELD, files.text(FIELD, tmp_path / f"t.{ending}", ["v"]), ["v"]) == keys


@pytest.mark.parametrize("ending", ["csv", "parquet", "orc"])
def test_zero_has_no_sign(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    files.write(FIELD, path, pa.table({"v": [-0.0, 0.0, 1.5]}))
    assert files.typed(FIELD, path, ["v"]).column("v").unique().to_pylist() == [0, 1.5]


@pytest.mark.parametrize(("name", "said"), [("id", "blanks around its name"), ("X", "upper and lower case")])
def test_names_that_nearly_fit(tmp_path: Path, name: str, said: str) -> None:
    names = files.header(FIELD, file(tmp_path, " id ,x\n1,2\n"))
    refuses(lambda: files.require_columns(FIELD, names, [name]), said, tmp_path)


def test_the_index_of_pandas_is_no_column(tmp_path: Path) -> None:
    pd.DataFrame({"v": [1, 2, 3]}).iloc[[0, 2]].to_parquet(tmp_path / "t.PARQUET")
    assert files.header(FIELD, tmp_path / "t.PARQUET") == ["v"]


FAR = [datetime(9999, 12, 31, 23, 59, 59), None, datetime(2024, 2, 29, 12, 30)]
"""Times of which the first, the "no end" of data warehouses, is too far for 64 bits of nanoseconds."""
FAR_DAY = date(9999, 12, 31)
FAR_TEXTS = ["9999-12-31 23:59:59", None, "2024-02-29 12:30:00"]


@pytest.mark.parametrize("compression", ["uncompressed", "zlib", "snappy", "lz4", "zstd"])
def test_times_that_arrow_would_read_wrongly(tmp_path: Path, compression: str) -> None:
    near = pa.array([each and each.replace(year=2204) for each in FAR], pa.timestamp("us", "UTC"))
    nested = pa.array([[each] for each in FAR], pa.list_(pa.timestamp("ms")))
    table = pa.table({"near": near, "id": [1, 2, 3], "far": pa.array(FAR, pa.timestamp("s")), "deep": nested})
    orc.write_table(table, tmp_path / "t.orc", compression=compression)
    assert files.typed(FIELD, tmp_path / "t.orc", ["near"]).column(0).to_pylist()[0] == "2204-12-31 23:59:59Z"
    for name in ("far", "deep"):
        refuses(partial(files.text, FIELD, tmp_path / "t.orc", ["id", name]), f"'{name}' holds times", tmp_path)


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("ending", ["csv", "orc", "parquet"])
def test_times_of_any_year_are_passed_on(tmp_path: Path, unit: str, ending: str) -> None:
    files.write(FIELD, tmp_path / "t.parquet", pa.table({"v": pa.array(FAR, pa.timestamp(unit))}))
    files.write(FIELD, tmp_path / f"o.{ending}", files.whole(FIELD, tmp_path / "t.parquet"))
    assert files.typed(FIELD, tmp_path / f"o.{ending}", ["v"], {"v": "str"}).column("v").to_pylist() == FAR_TEXTS


def test_times_as_spark_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    near = pa.array([datetime(2024, 2, 29, 12, 30, 0, 5)], pa.timestamp("us"))
    options = {"use_deprecated_int96_timestamps": True, "compression": "none", "use_dictionary": False}
    parquet.write_table(pa.table({"v": near, "id": [1]}), path, **options)
    assert files.typed(FIELD, path, ["id", "v"]).column("v").to_pylist() == ["2024-02-29 12:30:00.000005"]
    days = [(2440588 + (each - date(1970, 1, 1)).days).to_bytes(4, "little") for each in (date(2024, 2, 29), FAR_DAY)]
    content = path.read_bytes()
    assert content.count(days[0]) == 1
    path.write_bytes(content.replace(days[0], days[1]))
    assert files.typed(FIELD, path, ["id", "v"]).column("v").to_pylist() == ["9999-12-31 12:30:00.000005"]


def test_values_that_a_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ResultSaveError, match=r"\.parquet"):
        files.write(FIELD, tmp_path / "t.csv", pa.table({"v": [[1]], "w": [1]}))
