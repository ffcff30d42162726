"""What is read some rows or columns at a time is what is read at once, to the errors and the rows that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfworker.errors import InputDataError
from sfworker.jobs import psi
from sfworker.models import rules
from sfworker.tables import csv_text, files, taking
from sfworker.tables.own_tables import OwnTable

FIELD = "task_config.input_paths.alice"
FORMATS = [".csv", ".parquet", ".orc"]
KINDS: list[list[str]] = [
    ["0", "17", "-3", "+5", " 6 ", "9007199254740993"],
    ["007", "1"],
    ["1.5", "-2.25", "1e30", "3", "0.0", "-0.0", "inf"],
    ["true", "False"],
    ["2024-02-29", "2024-03-01 12:30:00"],
    ["a", "x,y", 'q"q', "two\nlines", "年", " ", "x" * 90],
    ["12345678901234567890", "1"],
]
MISSING = ["", "NA"]


@contextmanager
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(csv_text, "BLOCK_SIZES", (64, 256, *csv_text.BLOCK_SIZES))
        for name, value in {"_BATCH_ROWS": 3, "_FEWEST": 3, "_HELD_BYTES": 1, "_SMALL_BYTES": 0}.items():
            patch.setattr(files, name, value)
        patch.setattr(taking, "PART_BYTES", 200)
        yield


@st.composite
def columns(draw: st.DrawFn) -> dict[str, list[str]]:
    """Columns of one kind, or of one first and another then."""
    rows = draw(st.integers(1, 40))
    found = {}
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        first, then = draw(st.sampled_from(KINDS)), draw(st.sampled_from(KINDS))
        turn = draw(st.sampled_from([0, rows // 2, rows]))
        cells = [st.sampled_from([*(first if row < turn else then), *MISSING]) for row in range(rows)]
        found[name] = [draw(each) for each in cells]
    return found


def outcome(look: Callable[[], Any]) -> Any:
    """What is returned, or the sentence of the error."""
    try:
        return look()
    except InputDataError as error:
        return str(error)


def columns_of(path: Path, names: list[str], types: dict[str, str]) -> dict[str, pa.Array]:
    return {name: column.combine_chunks() for name, column in files.each_column(FIELD, path, names, types)}


def passed_on(path: Path, output: Path, names: list[str], types: dict[str, str]) -> bytes | pa.Table:
    kept = files.types_passed_on(FIELD, path, names, [output], types)
    files.write_all(FIELD, output, files.held(FIELD, path, names, kept))
    if output.suffix == ".csv":
        return output.read_bytes()
    return files.whole(FIELD, output).combine_chunks()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns(), st.sampled_from(["", "int", "float", "str", "bool"]), st.sampled_from(FORMATS))
def test_the_size_of_batches_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: dict[str, list[str]], kind: str, ending: str
) -> None:
    source, names = tmp_path / f"in{ending}", list(cells)
    files.write(FIELD, source, pa.table(cells))
    types = {names[-1]: kind} if kind else {}
    looks = [
        partial(columns_of, source, names, types),
        partial(files.numbers, FIELD, source, names),
        partial(files.text, FIELD, source, names),
        *(partial(passed_on, source, tmp_path / f"out{each}", names, types) for each in FORMATS),
    ]
    for look in looks:
        at_once = outcome(look)
        with few_at_a_time(monkeypatch):
            in_batches = outcome(look)
        if isinstance(at_once, np.ndarray):
            assert np.array_equal(at_once, in_batches)
        else:
            assert at_once == in_batches


ROWS = 60
BAD_ROW = 47


@pytest.mark.parametrize(
    ("cell", "read", "said"),
    [
        ("x", partial(files.numbers, FIELD), "holds no number in row 47"),
        ("", partial(files.numbers, FIELD), "has no value in row 47"),
        ("inf", partial(files.numbers, FIELD), "holds no finite number in row 47"),
        ("1.5", lambda path, names: files.typed(FIELD, path, names, {"v": "int"}), "holds no int in row 47"),
        ("4,5", partial(files.numbers, FIELD), "holds no number in row 47; its digits have commas"),
        ("x", lambda path, names: list(files.stream(FIELD, path, names, {"v": "float"})), "no float in row 47"),
        ("1.5", lambda path, names: list(files.stream(FIELD, path, names, {"v": "int"})), "no int in row 47"),
    ],
)
@pytest.mark.parametrize("ending", FORMATS)
def test_errors_name_the_row_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, cell: str, read: Any, said: str
) -> None:
    cells = [cell if row == BAD_ROW else str(row) for row in range(1, ROWS + 1)]
    files.write(FIELD, tmp_path / f"t{ending}", pa.table({"w": cells, "v": cells}))
    with few_at_a_time(monkeypatch), pytest.raises(InputDataError, match=said):
        read(tmp_path / f"t{ending}", ["v"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,2,3", "row 47 has 3 cells where the header has 2"),
        ('1,"2', "a cell begins with a quote that nothing closes"),
        ("1,\udcff", "not a CSV file in UTF-8"),
    ],
)
def test_broken_rows_beyond_the_first_batch_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    lines = ["v,w", *(line if row == BAD_ROW else f"{row},{row}" for row in range(1, ROWS + 1)), ""]
    (tmp_path / "t.csv").write_text("\n".join(lines), errors="surrogateescape")
    with few_at_a_time(monkeypatch), pytest.raises(InputDataError, match=said):
        list(files.stream(FIELD, tmp_path / "t.csv", ["v", "w"]))


@pytest.mark.parametrize(
    ("cells", "rule", "said"),
    [
        (
            ["a"] * (BAD_ROW - 1) + ["b"],
            rules.Replace(column="v", type="str", categories=["a"], values=[0], other=None, handle_unknown="error"),
            "holds a category in row 47",
        ),
        (["1"] * (BAD_ROW - 1) + ["inf"], rules.Standard(column="v", type="float", mean=0, scale=1), "in row 47"),
    ],
)
def test_rules_name_the_row_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[str], rule: rules.AnyRule, said: str
) -> None:
    files.write(FIELD, tmp_path / "t.csv", pa.table({"v": cells, "w": cells}))
    table = OwnTable("alice", FIELD, tmp_path / "t.csv", ["v", "w"], {})

    def change(first: int, rows: pa.Table) -> dict[str, rules.Replaced]:
        return {"v": rule.apply(FIELD, rows.column("v"), first)}

    with few_at_a_time(monkeypatch), pytest.raises(InputDataError, match=said):
        table.write(tmp_path / "o.csv", {"v": rule.type}, change)


def test_progress_is_told_while_rows_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(FIELD, tmp_path / "t.csv", pa.table({"v": range(ROWS), "w": range(ROWS)}))
    told: list[float] = []
    table = OwnTable("alice", FIELD, tmp_path / "t.csv", ["v", "w"], {}, tell=lambda fraction, _: told.append(fraction))
    with few_at_a_time(monkeypatch):
        assert [name for name, _ in table.each_column(["v", "w"])] == ["v", "w"]
        table.write(tmp_path / "o.csv", {}, lambda first, rows: {})
    assert told == sorted(told)
    assert told[:2] == [0.25, 0.5]
    assert 0.8 < told[-1] <= 1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 50), st.data())
def test_rows_are_taken_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, data: st.DataObject
) -> None:
    table = pa.table({"n": np.arange(rows), "text": [f"row {row}" * (row % 5) for row in range(rows)]})
    files.write(FIELD, tmp_path / "t.csv", table)
    chosen = np.array(data.draw(st.lists(st.integers(taking.ABSENT, rows - 1), max_size=80)), dtype=np.int64)
    if data.draw(st.booleans()):
        chosen.sort()
    expected = files.text(FIELD, tmp_path / "t.csv", ["n", "text"]).take(pa.array(chosen, mask=chosen == taking.ABSENT))
    with few_at_a_time(monkeypatch):
        source = files.held(FIELD, tmp_path / "t.csv", ["n", "text"])
        found = taking.taken(FIELD, tmp_path / "t.csv", source, chosen, tmp_path)
        for _ in range(2):
            assert pa.concat_tables(found()).combine_chunks() == expected.combine_chunks()


def test_keys_are_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many parts there are, the joined rows have the keys of the join, and the others are left."""
    random = np.random.default_rng(5)
    keys = [f"k{number}" for number in random.integers(0, 60, 200)]
    joined = [key for key in sorted(set(keys))[:40] for _ in range(keys.count(key))]
    for at_once in (7, 1000):
        monkeypatch.setattr(psi, "_KEYS_AT_ONCE", at_once)
        own = psi.OwnRows(pa.array(keys), pa.array(joined))
        at, times = own.runs()
        assert times.tolist() == [1] * 40
        rows = own.join(at)
        assert [keys[row] for row in rows] == joined
        assert len(set(rows)) == len(rows)
        assert sorted([*rows, *own.without(at)]) == list(range(200))
        before, after = random.integers(1, 4, (2, 40))
        expected = [
            row
            for key, earlier, later in zip(dict.fromkeys(joined), before, after, strict=True)
            for row in [each for each in range(200) if keys[each] == key for _ in range(later)] * earlier
        ]
        assert own.join(at, before, after).tolist() == expected
