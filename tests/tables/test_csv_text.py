"""CSV files are read row for row as pandas reads them, at every size, compared on generated files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sfworker import limits
from sfworker.errors import InputDataError
from sfworker.tables import csv_text, files

FIELD = "task_config.input_paths.alice"
BARE = ["a", "1", "", " ", " 2", "\t", 'a"b', "年", "NA", "\u2028", "x" * 300]
QUOTED = ['"x"', '"x,y"', '"x\ny"', '"x\r\ny"', '"\n\n"', '"a""b"', '"a"b"', '""', '" "', '"\n"']
CELLS = st.sampled_from(BARE + QUOTED)
FIRST_CELLS = CELLS.filter(lambda cell: cell[:1] not in list(" \t"))
"""Cells whose blanks pandas may lose: at the beginning of lines that end in CR, or that its own blocks begin with."""
MEGABYTE = 1 << 20


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """Text of a CSV file of one to three columns, with all that RFC 4180 allows, and blank lines."""
    columns = draw(st.integers(1, 3))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    cell = CELLS if end != "\r" else FIRST_CELLS
    rows = draw(st.lists(st.lists(cell, min_size=columns, max_size=columns), min_size=1, max_size=8))
    shortest = st.integers(1, columns)
    rows = [row[: draw(shortest)] if draw(st.booleans()) else row for row in rows]
    lines = [",".join(row) for row in [["h0", '"h 1"', '"h\n2"'][:columns], *rows]]
    blank_line = st.sampled_from(["", " ", "\t "])
    # After a blank line that ends in CR, pandas drops the first comma of a row that begins with one: "\r\r,a,b". A row
    # that is cut to one empty cell is such a line.
    if end == "\r":
        lines = [line for line in lines if line]
    for place, line in draw(st.lists(st.tuples(st.integers(0, 9), blank_line), max_size=2 if end != "\r" else 0)):
        lines.insert(place, line)
    last = draw(st.sampled_from(["", end]))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + (end.join(lines) + last).encode()


def ours(path: Path) -> dict[str, list[str]]:
    names = csv_text.beginning(FIELD, path).names
    table = csv_text.read(FIELD, path, names, dict.fromkeys(names, pa.string()), ())
    return {name: table.column(name).to_pylist() for name in names}


def of_pandas(path: Path) -> dict[str, list[str]]:
    return dict(pd.read_csv(path, dtype=str, na_filter=False).to_dict("list"))


def assert_read_alike(path: Path) -> None:
    try:
        expected = of_pandas(path)
    except pd.errors.ParserError:  # a quote that nothing closes, more cells than the header has
        with pytest.raises(InputDataError):
            ours(path)
        return
    is_alike = ours(path) == expected
    assert is_alike  # a difference of large files would take hours to be shown


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(csv_files())
def test_small_files_are_read_as_pandas_reads_them(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert_read_alike(path)


@pytest.mark.parametrize("text", ["h0", "h0\n", "h0,h1", '"h0"', '"h\n0"', "\ufeffh0", " \nh0", "h0\r\r", "h0\n "])
def test_a_header_alone_has_no_rows(tmp_path: Path, text: str) -> None:
    """Also where no line end follows it, which Arrow takes for no CSV file."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert_read_alike(path)
    assert not any(ours(path).values())


def test_a_header_of_which_a_quote_is_open(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text in ('"h0', '"h0,h1\n1,2\n'):
        path.write_text(text)
        with pytest.raises(InputDataError, match="a quote that nothing closes"):
            ours(path)


@settings(
    max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(
    st.lists(st.tuples(FIRST_CELLS, CELLS), min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(0, 40),
)
def test_large_files_are_read_as_pandas_reads_them(
    tmp_path: Path, rows: list[tuple[str, str]], end: str, shift: int
) -> None:
    """The shift moves rows across the borders of the blocks in which a file is read."""
    block = "".join(f"{','.join(row)}{end}" for row in rows)
    path = tmp_path / "t.csv"
    path.write_bytes(f"a,{'b' * (1 + shift)}{end}{block * (3 * MEGABYTE // len(block.encode()))}".encode())
    assert_read_alike(path)


def test_a_column_of_quoted_line_breaks(tmp_path: Path) -> None:
    pd.DataFrame({"t": ["A\nB"] * 400_000}).to_csv(tmp_path / "t.csv", index=False)
    assert set(ours(tmp_path / "t.csv")["t"]) == {"A\nB"}
    assert files.text(FIELD, tmp_path / "t.csv", ["t"]).num_rows == 400_000


@pytest.mark.parametrize("cell", ["x" * 3 * MEGABYTE, '"' + "x\n" * 2 * MEGABYTE + '"', "x" * 40 * MEGABYTE])
@pytest.mark.parametrize("place", [0, 1])
def test_cells_longer_than_a_block(tmp_path: Path, cell: str, place: int) -> None:
    rows = ["1,2", f"3,{cell}"]
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(rows[::-1] if place else rows) + "\n5,6\n")
    assert files.header(FIELD, tmp_path / "t.csv") == ["a", "b"]
    assert_read_alike(tmp_path / "t.csv")


@pytest.mark.parametrize("rows", [3, 200_000])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("4711,4711,4711", "row {} has 3 cells"),
        ('"4711\n",4711,4711', "row {} has 3 cells"),
        ('4711,"x', "a cell begins with a quote that nothing closes"),
        ('"4711', "a cell begins with a quote that nothing closes"),
        ("4711,\udcff", "UTF-8"),
    ],
)
def test_the_reason_is_the_true_one(tmp_path: Path, rows: int, wrong: str, said: str) -> None:
    text = "\n \na,b\n" + '1,"x\ny"\n' * rows + "\n\t\n" + f"{wrong}\n1,2\n"
    (tmp_path / "t.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputDataError) as caught:
        ours(tmp_path / "t.csv")
    assert said.format(rows + 1) in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id;x\n1;2,5\n", "separated by semicolons"),
        (b"id\tx\n1\t2\n", "separated by tabs"),
        (b"id\x01x\n1\x012\n", "separated by Ctrl-A"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        (b"PK\x03\x04\x14\x00\x06\x00", "Excel"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        ("id,x\n1,2\n".encode("utf-16"), "UTF-16"),
        ("id,x\n1,2\n".encode("utf-16-le"), "UTF-8"),
        ("编号,x\n1,2\n".encode("gb18030"), "GB18030"),
        ("id,x\n1,甲\n".encode("gb18030"), "GB18030"),
        (b"id,x\n1,\xff\n", "UTF-8"),
        (b"id,x\n1,a\n2\n3,a\0b\n", "NUL"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputDataError, match=said):
        files.text(FIELD, tmp_path / "t.csv", files.header(FIELD, tmp_path / "t.csv"))


def test_one_column_may_hold_semicolons(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b\nx\n1;2\n")
    assert ours(tmp_path / "t.csv") == {"a;b": ["x", "1;2"]}


@pytest.mark.parametrize("place", [0, 1])
def test_short_rows_beside_cells_longer_than_a_block(tmp_path: Path, place: int) -> None:
    rows = ["1,2", f"3,{'x' * 3 * MEGABYTE}", "4"] + ["5,6"] * 300_000
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(rows[::-1] if place else rows) + "\n7\n")
    assert_read_alike(tmp_path / "t.csv")


def test_a_row_that_is_too_long_is_named_far_behind_one_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1\n" + "2,3\n" * 500_000 + "4,5,6\n")
    with pytest.raises(InputDataError, match="row 500002 has 3 cells where the header has 2"):
        files.text(FIELD, tmp_path / "t.csv", ["a"])


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_a_cell_that_is_no_text_is_named_far_behind_a_line_of_blanks(tmp_path: Path, blank: str) -> None:
    (tmp_path / "t.csv").write_bytes(b"a\n1\n" + blank.encode() + b"2\n" * 800_000 + b"\xff\n")
    with pytest.raises(InputDataError, match="UTF-8"):
        files.text(FIELD, tmp_path / "t.csv", ["a"])


def test_rows_that_would_be_filled_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(limits.used(), expanded_bytes=1 << 20)
    monkeypatch.setattr(limits, "used", lambda: small)
    (tmp_path / "t.csv").write_text(",".join(f"c{number}" for number in range(1000)) + "\n" + "1\n" * 5000)
    with pytest.raises(InputDataError, match="SFWORKER_MAX_EXPANDED_BYTES"):
        files.text(FIELD, tmp_path / "t.csv", ["c0"])
