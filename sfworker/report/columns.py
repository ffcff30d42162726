"""Draws figures of columns, pairs of columns and groups."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from sfworker.catalog.base import ColumnRef
from sfworker.catalog.binning import Bin, BinningResult
from sfworker.catalog.boosting import BoostingResult
from sfworker.catalog.linear import LinearResult
from sfworker.catalog.statistics import (
    GroupbyStatisticsResult,
    PearsonCorrelationResult,
    PopulationStabilityResult,
    PValueResult,
    StabilityBin,
    TableStatisticsResult,
    VifResult,
)
from sfworker.report import drawing
from sfworker.report.chart import Chart
from sfworker.report.drawing import MOST_BARS, Number, as_percent
from sfworker.report.tables import Table, cell, shown

MOST_DISTRIBUTIONS = 6


def _by_column(
    title: str,
    sentence: str,
    figures: dict[str, dict[str, Any]],
    guides: Sequence[float] = (),
    *,
    order: Callable[[Any], Any] = operator.neg,
    name: str,
) -> list[Chart]:
    """Return a bar for each column, the ones to look at first: the largest, or the least by another `order`."""
    found = [(party, column, value) for party, columns in figures.items() for column, value in columns.items()]
    if not found:
        return []
    known = sorted((each for each in found if each[2] is not None), key=lambda each: order(each[2]))
    ordered = [*known, *(each for each in found if each[2] is None)]
    most = f" The {MOST_BARS} to look at first of {len(found)} are drawn." if len(found) > MOST_BARS else ""
    missing = len(found) - len(known)
    without = f" {missing} of {len(found)} columns have no figure." if missing else ""
    said = f" {known[0][0]}.{known[0][1]} comes first with {cell(known[0][2])}." if known else ""
    drawn = ordered[:MOST_BARS]
    return [
        Chart(
            title,
            f"{sentence}{said}{without}{most}",
            drawing.bars(
                [f"{party}.{column}" for party, column, _ in drawn],
                {name: [value for _, _, value in drawn]},
                name,
                guides=_within(guides, [value for _, _, value in known[:MOST_BARS]]),
            ),
            Table(["party", "column", name], [[*each] for each in ordered]),
        )
    ]


def _within(guides: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return the guides up to the first one above all values, as farther ones would only take room."""
    most = max(values, default=0.0)
    below = [guide for guide in guides if guide <= most]
    return [*below, *guides[len(below) : len(below) + 1]]


def vif(result: VifResult) -> list[Chart]:
    sentence = "Variance inflation factor of each column; the dashed lines are 5 and 10."
    return _by_column("Variance inflation", sentence, result.vif, (5, 10), name="vif")


def p_values(result: PValueResult) -> list[Chart]:
    sentence = "p value of each coefficient, the smallest first; the dashed line is 0.05."
    return _by_column("p values", sentence, result.p_values, (0.05,), order=operator.pos, name="p value")


def weights(result: LinearResult) -> list[Chart]:
    if not result.weights:
        return []
    sentence = (
        f"Weight of each column, which was brought to deviation 1 before unless standardize is off; the intercept is "
        f"{cell(result.intercept)}."
    )
    return _by_column("Weights", sentence, result.weights, order=lambda each: -abs(each), name="weight")


def importances(result: BoostingResult) -> list[Chart]:
    gains = {
        party: {column: each.gain for column, each in features.items()}
        for party, features in (result.importances or {}).items()
    }
    sentence = "Mean gain of the nodes that each column splits."
    return _by_column("Importance", sentence, gains, name="gain")


def binning(result: BinningResult) -> list[Chart]:
    sentence = "Information value of each feature; the dashed lines are 0.02, 0.1 and 0.3."
    iv = result.iv or {}
    found = _by_column("Information value", sentence, iv, (0.02, 0.1, 0.3), name="iv")
    by_column: dict[tuple[str, str], list[Bin]] = defaultdict(list)
    for each in result.bins or ():
        by_column[each.party, each.column].append(each)
    for party, column in sorted(by_column, key=lambda one: -iv.get(one[0], {}).get(one[1], 0.0))[:MOST_DISTRIBUTIONS]:
        bins = by_column[party, column]
        names = [_bin(each) for each in bins]
        found.append(
            Chart(
                f"WOE of {party}.{column}",
                f"Weight of evidence of each bin, with the bin's rows and their share of positives; IV "
                f"{cell(iv.get(party, {}).get(column))}.",
                drawing.bars(
                    names[:MOST_BARS],
                    {"woe": [each.woe for each in bins[:MOST_BARS]]},
                    "woe",
                    ends=[
                        f"{cell(each.woe)}, {each.rows} rows, {as_percent(each.positives / (each.rows or 1))}"
                        for each in bins[:MOST_BARS]
                    ],
                ),
                Table(
                    ["bin", "rows", "positives", "woe"],
                    [[name, each.rows, each.positives, each.woe] for name, each in zip(names, bins, strict=True)],
                ),
            )
        )
    return found


def _bin(one: Bin) -> str:
    if one.bin is None:
        return "missing"
    if one.category is not None:
        return shown(one.category)
    if one.left is None and one.right is None:
        return f"bin {one.bin}"
    return _between(one.left, one.right)


def stability(result: PopulationStabilityResult) -> list[Chart]:
    psi = {party: {column: each.psi for column, each in columns.items()} for party, columns in result.stability.items()}
    sentence = "Population stability index of each column; the dashed lines are 0.1 and 0.25."
    found = _by_column("Population stability", sentence, psi, (0.1, 0.25), name="psi")
    every = [(party, column, each) for party, columns in result.stability.items() for column, each in columns.items()]
    for party, column, each in sorted(every, key=lambda one: -one[2].psi)[:MOST_DISTRIBUTIONS]:
        bins = [_range(one) for one in each.bins]
        base, test = [one.base_ratio for one in each.bins], [one.test_ratio for one in each.bins]
        found.append(
            Chart(
                f"Distribution of {party}.{column}",
                f"Share of the rows by bin, before and now; PSI {cell(each.psi)}.",
                drawing.bars(bins[:MOST_BARS], {"base": base[:MOST_BARS], "test": test[:MOST_BARS]}, "share of rows"),
                Table(
                    ["bin", "base", "test", "psi"],
                    [[b, one.base_ratio, one.test_ratio, one.psi] for b, one in zip(bins, each.bins, strict=True)],
                ),
            )
        )
    return found


def _range(one: StabilityBin) -> str:
    return "missing" if one.missing else _between(one.left, one.right)


def _between(left: float | None, right: float | None) -> str:
    if left is None:
        return "all" if right is None else f"up to {cell(right)}"
    return f"above {cell(left)}" if right is None else f"{cell(left)} - {cell(right)}"


def correlation(result: PearsonCorrelationResult) -> list[Chart]:
    return square("Correlation", [_column(each) for each in result.columns], result.correlation)


def _column(reference: ColumnRef) -> str:
    return f"{reference.party}.{reference.column}"


def square(title: str, names: Sequence[str], matrix: Sequence[Sequence[Number]]) -> list[Chart]:
    """Return a heat map, with each pair of columns in its table, the strongest first."""
    if not names or any(len(row) != len(names) for row in (matrix, *matrix)):
        return []
    pairs: list[list[Any]] = [
        [names[row], names[column], matrix[row][column]] for row in range(len(names)) for column in range(row)
    ]
    known = sorted((pair for pair in pairs if pair[2] is not None), key=lambda pair: -abs(pair[2]))
    strongest = f" The strongest is {cell(known[0][2])}, of {known[0][1]} and {known[0][0]}." if known else ""
    return [
        Chart(
            title,
            f"Correlation of each two of {len(names)} columns, from -1 to 1; without a figure, grey.{strongest}",
            drawing.heat(names, matrix),
            Table(["column", "and", "correlation"], [*known, *(pair for pair in pairs if pair[2] is None)]),
        )
    ]


def statistics(result: TableStatisticsResult) -> list[Chart]:
    every = [
        (f"{party}.{column}", each) for party, columns in result.statistics.items() for column, each in columns.items()
    ]
    missing = {
        party: {column: 1 - each.count / each.total_count for column, each in columns.items() if each.total_count}
        for party, columns in result.statistics.items()
    }
    found = []
    if any(value for columns in missing.values() for value in columns.values()):
        found += _by_column("Missing cells", "Share of the rows without a value.", missing, name="missing")
    spread = [
        (name, (each.min, each.q1, each.q2, each.q3, each.max, each.mean))
        for name, each in every
        if None not in (each.min, each.q1, each.q2, each.q3, each.max)
    ]
    if spread:
        drawn: Any = spread[:MOST_BARS]
        most = f" The first {MOST_BARS} of {len(spread)} are drawn." if len(spread) > MOST_BARS else ""
        found.append(
            Chart(
                "Spread",
                "Where the middle half of the rows, the median and the mean lie between each column's smallest and "
                f"largest value.{most}",
                drawing.boxes([name for name, _ in drawn], [figures for _, figures in drawn]),
                Table(
                    ["column", "min", "q1", "q2", "q3", "max", "mean"], [[name, *figures] for name, figures in spread]
                ),
            )
        )
    return found


def groups(result: GroupbyStatisticsResult) -> list[Chart]:
    if not result.groups:
        return []
    largest = sorted(result.groups, key=lambda group: -group.count)
    labels = [", ".join(map(cell, group.keys)) for group in largest]
    most = f" The {MOST_BARS} largest are drawn." if len(largest) > MOST_BARS else ""
    return [
        Chart(
            "Rows by group",
            f"{len(largest)} groups by {', '.join(result.by)}; {result.suppressed_groups} that are too small are left "
            f"out.{most}",
            drawing.bars(labels[:MOST_BARS], {"rows": [float(each.count) for each in largest[:MOST_BARS]]}, "rows"),
            Table(["group", "rows"], [[label, group.count] for label, group in zip(labels, largest, strict=True)]),
        )
    ]
