"""Tables of results for programs: names, columns and files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from sfworker.client import Result
from sfworker.report.csv_files import write_tables
from sfworker.report.tables import Table, tables


def of(answer: Any) -> Result:
    return Result(status="success", result=answer, performance_metrics={"peak_rss_bytes": {"alice": 1, "bob": 2}})


def test_tables_inside_rows_are_one_whose_rows_say_whose_they_are() -> None:
    bins = [{"left": None, "psi": 0.0}, {"left": 1.5, "psi": 0.5}]
    stability = {
        "alice": {"age": {"psi": 0.5, "bins": bins}},
        "bob": {"pay": {"psi": 0.25, "bins": bins[:1]}, "x": {"psi": 0.125, "bins": []}},
    }
    assert tables(of({"rows": 9, "stability": stability})) == {
        "stability": Table(
            ["party", "column", "psi"], [["alice", "age", 0.5], ["bob", "pay", 0.25], ["bob", "x", 0.125]]
        ),
        "stability.bins": Table(
            ["party", "column", "left", "psi"],
            [["alice", "age", None, 0.0], ["alice", "age", 1.5, 0.5], ["bob", "pay", None, 0.0]],
        ),
        "summary": Table(["name", "value"], [["rows", 9]]),
    }


def test_a_figure_by_party_and_column_is_named_after_its_field() -> None:
    found = tables(of({"vif": {"alice": {"age": 1.5, "pay": None}, "bob": {"x": 20.25}}, "features": {"alice": 2}}))
    assert found["vif"].columns == ["party", "column", "vif"]
    assert found["vif"].rows == [["alice", "age", 1.5], ["alice", "pay", None], ["bob", "x", 20.25]]
    assert found["features"] == Table(["party", "features"], [["alice", 2]])
    assert tables(of({"devices": {"spu": 0.5}}))["devices"].columns == ["name", "devices"]


def test_a_matrix_has_its_names_and_a_list_in_each_row_is_columns() -> None:
    columns = [{"party": "alice", "column": "age"}, {"party": "bob", "column": "x"}]
    groups = [{"keys": ["Ulm", True], "count": 12}, {"keys": ["名", False], "count": 9}]
    found = tables(of({"columns": columns, "correlation": [[1.0, 0.5], [0.5, None]], "groups": groups}))
    assert found["correlation"] == Table(
        ["name", "alice.age", "bob.x"], [["alice.age", 1.0, 0.5], ["bob.x", 0.5, None]]
    )
    assert found["groups"] == Table(["keys.1", "keys.2", "count"], [["Ulm", True, 12], ["名", False, 9]])


def test_tables_that_differ_have_numbers() -> None:
    reports = [
        {
            "name": "r",
            "tables": [
                {"name": "a", "columns": ["x", "y"], "index": ["p"], "rows": [[1, 2]]},
                {"name": "b", "columns": ["z"], "index": ["q"], "rows": [[3]]},
            ],
        }
    ]
    found = tables(of({"reports": reports}))
    assert [found[name].columns for name in ("reports.tables.rows.1.1", "reports.tables.rows.1.2")] == [
        ["name", "x", "y"],
        ["name", "z"],
    ]


def test_columns_have_names_of_their_own() -> None:
    found = tables(of({"m": [[1, 2], [3, 4]], "names": ["name", "name"]}))
    assert found["m"].columns == ["name", "name_2", "name_3"]


def test_a_frame_has_the_values_as_they_are() -> None:
    result = of({"buckets": [{"rows": 5, "score": 0.1 + 0.2}, {"rows": 7, "score": None}], "auc": 0.75})
    assert result.tables() == ["buckets", "summary"]
    frame = result.frame("buckets")
    assert list(frame["rows"]) == [5, 7]
    assert frame["score"][0] == 0.1 + 0.2
    assert frame["score"].isna().tolist() == [False, True]
    with pytest.raises(ValueError, match="no table 'bins'; there is buckets, summary"):
        result.frame("bins")
    with pytest.raises(ValueError, match="there is none"):
        Result(status="failure", result=None).frame("bins")


@pytest.mark.attack("page of a result")
def test_files_hold_the_same_and_no_formula(tmp_path: Path) -> None:
    made = {
        "groups": Table(["city", "+sum"], [["=1+1", -1.5], ["名\n字", None], ["@x", True], ["plain, text", 0.1 + 0.2]]),
        "../../etc/x": Table(["a"], [[1]]),
        "..": Table(["a"], [[["x", 1]]]),
        "a/b": Table(["a"], []),
        "a?b": Table(["b"], []),
    }
    files = write_tables(made, tmp_path / "tables")
    assert [file.name for file in files] == ["groups.csv", "_.._etc_x.csv", "table.csv", "a_b.csv", "a_b-5.csv"]
    assert {file.parent for file in files} == {tmp_path / "tables"}
    with files[0].open(newline="", encoding="utf-8") as file:
        assert [*csv.reader(file)] == [
            ["city", "'+sum"],
            ["'=1+1", "-1.5"],
            ["名\n字", ""],
            ["'@x", "true"],
            ["plain, text", "0.30000000000000004"],
        ]
    assert files[2].read_text() == 'a\n"[""x"",1]"\n'
