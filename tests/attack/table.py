"""Prints what `make attack` has tried: each boundary with its attacks and how they ended. A plugin of pytest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_BOUNDARY = "attacked boundary"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if mark := item.get_closest_marker("attack"):
            item.user_properties.append((_BOUNDARY, mark.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried: dict[tuple[str, str], list[str]] = {}
    for boundary, attack, outcome in _outcomes(terminalreporter):
        tried.setdefault((boundary, attack), []).append(outcome)
    table = Table("boundary", "attack", "outcome", box=SIMPLE_HEAD)
    for (boundary, attack), outcomes in sorted(tried.items()):
        bad = [outcome for outcome in outcomes if outcome != "withstood"]
        table.add_row(
            boundary, attack, f"{len(bad)} of {len(outcomes)} {bad[0]}" if bad else f"{len(outcomes)} withstood"
        )
    if tried:
        Console(width=150).print(table)


def _outcomes(reporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, str]]:
    for name, said in (
        ("passed", "withstood"),
        ("failed", "SUCCEEDED"),
        ("error", "not tried"),
        ("skipped", "not tried"),
    ):
        for report in reporter.stats.get(name, []):
            boundary = dict(report.user_properties).get(_BOUNDARY)
            if boundary and (report.when == "call" or name != "passed"):
                file, _, test = report.nodeid.partition("::")
                words = test.partition("[")[0].rpartition("::")[2].removeprefix("test_").replace("_", " ")
                yield (
                    str(boundary),
                    f"{file.rpartition('/')[2].removesuffix('.py').removeprefix('test_')}: {words}",
                    said,
                )
