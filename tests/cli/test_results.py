"""How results look to people."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sfworker.cli import console
from sfworker.cli.results import MOST_ROWS, print_result

Lines = list[str]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`printed(result)`: the lines of a successful result, at 80 columns unless said otherwise."""

    def lines(result: Any, width: int = 80, **more: Any) -> Lines:
        monkeypatch.setattr(console, "_WIDTH_OF_A_PIPE", width)
        print_result({"status": "success", "result": result, "performance_metrics": {"total_seconds": 0.01}, **more})
        first, *rest = capsys.readouterr().out.splitlines()
        assert first == "success after 0.01 s"
        assert max(map(len, rest), default=0) <= width
        return [line.rstrip() for line in rest]

    return lines


def test_scalars_are_lines_as_they_are(printed: Any) -> None:
    result = {
        "intersection_count": 460,
        "auc": 0.123456789012,
        "ok": True,
        "none": None,
        "protocol": "RR22",
        "empty": [],
    }
    assert printed(result) == [
        "  intersection_count: 460",
        "  auc: 0.123456789012",
        "  ok: true",
        "  none: none",
        "  protocol: RR22",
        "  empty: none",
    ]
    assert printed("text") == ["  result: text"]
    assert printed(None) == ["  result: none"]
    assert printed({}) == []


def test_dictionaries_of_scalars_are_tables(printed: Any) -> None:
    assert printed({"output_paths": {"alice": "a.csv", "bobby": "b.csv"}, "features": {"alice": 1, "bob": 200}}) == [
        "  output_paths:",
        "    alice  a.csv",
        "    bobby  b.csv",
        "  features:",
        "    alice    1",
        "    bob    200",
    ]


def test_lists_of_texts_are_one_line_unless_they_are_sentences(printed: Any) -> None:
    sentence = (
        "alice.age: the column is constant, so there is no figure of it, and none of what it would be compared with"
    )
    assert printed({"parties": ["alice", "bob"], "warnings": [sentence, "short one"]}) == [
        "  parties: alice, bob",
        "  warnings:",
        "    - alice.age: the column is constant, so there is no figure of it, and none",
        "      of what it would be compared with",
        "    - short one",
    ]


def test_a_matrix_is_named_by_the_list_beside_it(printed: Any) -> None:
    columns = [{"party": "alice", "column": "age"}, {"party": "bob", "column": "x"}]
    assert printed({"rows": 9, "columns": columns, "correlation": [[1.0, 0.123456], [-1e-7, None]]}) == [
        "  rows: 9",
        "  correlation:",
        "               alice.age   bob.x",
        "    ────────────────────────────",
        "    alice.age          1  0.1235",
        "    bob.x         -1e-07       -",
    ]


def test_a_matrix_has_names_of_its_own_for_rows(printed: Any) -> None:
    table = {"name": "t", "columns": ["mean", "std"], "index": ["age", "pay"], "rows": [[1.5, "a"], [2, "b"]]}
    assert printed({"reports": [{"name": "r", "tables": [table]}]}) == [
        "  reports 1:",
        "    name: r",
        "    tables 1:",
        "      name: t",
        "      rows:",
        "             mean  std",
        "        ──────────────",
        "        age   1.5  a",
        "        pay     2  b",
    ]
    assert printed({"m": [[1, 2, 3]]})[1:] == ["       1  2  3", "    ──────────", "    1  1  2  3"]


def test_what_is_too_wide_is_cut_and_says_whose_each_row_is(printed: Any) -> None:
    names = [f"column_{number}" for number in range(12)]
    lines = printed({"columns": names, "correlation": [[random.random() for _ in names] for _ in names]})
    assert sum(line.startswith("    column_7  ") for line in lines) == 2
    objects = [{f"a_long_name_{n}": row for n in range(14)} for row in range(20)]
    lines = printed({"buckets": objects})
    assert sum(line.startswith("    15  ") for line in lines) == 2


def test_figures_of_columns_stand_where_there_is_room(printed: Any) -> None:
    figures = {"count": 10, "mean": 1234567.891, "sum": 3.0, "q1": None, "skew": 0.000012345, "moment": 1.5e20}
    result = {"statistics": {"alice": {"age": figures}, "bob": {"pay": figures}}}
    assert printed(result) == [
        "  statistics:",
        "                count       mean  sum       skew   moment",
        "    ─────────────────────────────────────────────────────",
        "    alice  age     10  1234567.9    3  1.234e-05  1.5e+20",
        "    bob    pay     10  1234567.9    3  1.234e-05  1.5e+20",
    ]
    assert printed(result, width=40) == [
        "  statistics:",
        "            alice.age    bob.pay",
        "    ────────────────────────────",
        "    count          10         10",
        "    mean    1234567.9  1234567.9",
        "    sum             3          3",
        "    skew    1.234e-05  1.234e-05",
        "    moment    1.5e+20    1.5e+20",
    ]


def test_figures_by_party_and_column_are_a_list_where_columns_differ(printed: Any) -> None:
    assert printed({"vif": {"alice": {"age": 1.5, "pay": None}, "bob": {"x": 20.25}}}) == [
        "  vif:",
        "    alice  age    1.5",
        "    alice  pay      -",
        "    bob    x    20.25",
    ]


def test_objects_inside_objects_become_columns_or_tables_of_their_own(printed: Any) -> None:
    groups = [{"keys": ["Ulm", True], "count": 12, "values": {"bob": {"pay": {"sum": 3.5, "var": None}}}}]
    assert printed({"groups": groups})[1:] == [
        "                      values.",
        "                         bob.",
        "                         pay.",
        "    keys       count      sum",
        "    ─────────────────────────",
        "    Ulm, true     12      3.5",
    ]
    bins = [{"left": None, "right": 1.5, "psi": 0.0}, {"left": 1.5, "right": None, "psi": 0.5}]
    assert printed({"stability": {"alice": {"age": {"psi": 0.5, "bins": bins}}}}) == [
        "  stability:",
        "                psi",
        "    ───────────────",
        "    alice  age  0.5",
        "    alice age bins:",
        "      left  right  psi",
        "      ────────────────",
        "         -    1.5    0",
        "       1.5      -  0.5",
    ]


def test_the_rest_of_a_long_table_is_counted(printed: Any) -> None:
    objects = [{"number": number, "twice": 2 * number} for number in range(MOST_ROWS + 5)]
    assert printed({"rows": objects})[-1] == "    and 5 more rows, which --json prints"
    matrix = [[0] * (MOST_ROWS + 2)] * (MOST_ROWS + 1)
    assert printed({"m": matrix})[-1] == "    and 1 more rows and 2 more columns, which --json prints"
    assert printed({"list": list(range(500))})[-1].endswith(f"and {500 - MOST_ROWS} more")


def test_nothing_in_a_result_steers_the_terminal(printed: Any) -> None:
    evil = "\x1b[31mred\x1b[0m\n[bold]x[/bold]:smile:"
    lines = printed({evil: evil, "table": {evil: 1}, "list": [evil], "rows": [{evil: evil}, {evil: 1}]}, width=200)
    assert len(lines) == 9
    assert all("\x1b" not in line for line in lines)
    assert (
        sum(r"\x1b[31mred\x1b[0m\n[bold]x[/bold]:smile:" in line for line in lines) == 5
    )  # title, scalar, two of tables, header


def test_the_first_disclosures_are_told(printed: Any) -> None:
    disclosures = ["every party learns the number of rows and how many columns each party has, too", "b", "c", "d", "e"]
    assert printed({}, disclosures=disclosures, task_metadata={"task_type": "psi"}) == [
        "revealed:",
        "  - every party learns the number of rows and how many columns each party has,",
        "    too",
        "  - b",
        "  - c",
        "  and 2 more, which `sfworker tasks psi` prints",
    ]
    assert printed({}, disclosures=[]) == []


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({"status": "failure", "error": "keys: missing", "error_type": "X"}, "failure: keys: missing (X)"),
        ({"status": "cancelled"}, "cancelled"),
        ({"status": "success"}, "success"),
    ],
)
def test_the_first_line_says_how_it_ended(capsys: pytest.CaptureFixture[str], result: Any, line: str) -> None:
    print_result(result)
    assert capsys.readouterr().out.splitlines()[0] == line


@pytest.mark.parametrize("width", [20, 40, 80, 140])
def test_any_shape_can_be_printed(printed: Any, width: int) -> None:
    """Objects, lists and scalars nested at random."""
    chance = random.Random(width)

    def made(depth: int) -> Any:
        kind = chance.choice(["object", "list", "alike", "scalar"]) if depth else "scalar"
        if kind == "object":
            return {
                chance.choice("abcdef") * chance.randint(1, 4): made(depth - 1) for _ in range(chance.randint(0, 4))
            }
        if kind == "list":
            return [made(depth - 1) for _ in range(chance.randint(0, 4))]
        if kind == "alike":
            return [{"x": chance.random(), "y": chance.choice(["text", None])} for _ in range(chance.randint(0, 4))]
        return chance.choice([None, True, 17, 0.5, 1e300, "text", "\n", "世界"])

    for _ in range(300):
        printed({"value": made(4)}, width=10_000 if width == 140 else width + 60)
