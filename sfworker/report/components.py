"""Draws reports of SecretFlow's components, as far as their tables tell what they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sfworker.catalog.component import ComponentResult, ReportTable
from sfworker.report import columns, drawing
from sfworker.report.chart import Chart, figure
from sfworker.report.drawing import MOST_BARS, Number
from sfworker.report.tables import Table, cell

_FARTHEST = 1.2
"""Correlations of few rows are beyond 1, as ss_pearsonr divides by rows once and by one less once."""
_NUMBER = re.compile(r"-?\d+\.\d+(e[+-]?\d+)?")
_BINS = ["from", "to", "count", "positive_rate"]


def component(result: ComponentResult) -> list[Chart]:
    return [chart for report in result.reports for table in report.tables for chart in _charts(table)]


def _charts(table: ReportTable) -> list[Chart]:
    if any(len(row) != len(table.columns) for row in table.rows):
        return []
    if table.columns[: len(_BINS)] == _BINS:
        return _woe(table)
    if table.columns == ["name", "value"]:
        return _named(table)
    # A square of correlations names its rows, or not at all.
    at = [number for number, name in enumerate(table.columns) if name in table.index] or range(len(table.columns))
    square = [[figure(row[number]) for number in at] for row in table.rows]
    if _is_of_correlations(square):
        return columns.square(table.name or "Correlation", [table.columns[number] for number in at], square)
    return []


def _is_of_correlations(square: Sequence[Sequence[Number]]) -> bool:
    known = [value for row in square for value in row if value is not None]
    return (
        len(square) > 1
        and all(len(row) == len(square) for row in square)
        and len(known) > 0
        and max(map(abs, known)) < _FARTHEST
        and all(square[row][column] == square[column][row] for row in range(len(square)) for column in range(row))
    )


def _woe(table: ReportTable) -> list[Chart]:
    """Return the weight of evidence of each bin of a feature, which vert_woe_binning writes into the column `to`."""
    rows = [
        (str(name), woe, figure(count), figure(rate))
        for name, weight, count, rate, *_ in table.rows
        if (woe := figure(weight)) is not None
    ]
    if not rows:
        return []
    drawn = rows[:MOST_BARS]
    labels = [_NUMBER.sub(lambda found: cell(float(found[0])), name) for name, *_ in drawn]
    ends = [f"{cell(woe)}, {cell(count)} rows" for _, woe, count, _ in drawn]
    return [
        Chart(
            f"WOE of {table.name}",
            f"Weight of evidence of each of {len(rows)} bins, with the bin's rows.",
            drawing.bars(labels, {"woe": [woe for _, woe, _, _ in drawn]}, "woe", ends=ends),
            Table(["bin", "woe", "rows", "positive_rate"], [[*row] for row in rows]),
        )
    ]


def _named(table: ReportTable) -> list[Chart]:
    """Return named figures, such as weights and importances."""
    figures = [(str(name), each) for name, value in table.rows if (each := figure(value)) is not None]
    if len(figures) < 2:
        return []
    ordered = sorted(figures, key=lambda each: -abs(each[1]))
    drawn = ordered[:MOST_BARS]
    most = f" The {MOST_BARS} that are farthest from 0 are drawn." if len(ordered) > MOST_BARS else ""
    return [
        Chart(
            table.name or "Figures",
            f"Figures of the component's report, the one farthest from 0 first.{most}",
            drawing.bars([name for name, _ in drawn], {"value": [value for _, value in drawn]}, "value"),
            Table(["name", "value"], [[*each] for each in ordered]),
        )
    ]
