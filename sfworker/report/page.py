"""Makes a page of a result: one HTML file that needs nothing else and runs nothing.

Every text of a result is somebody's else: the template escapes them all, but the charts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from sfworker import __version__, errors
from sfworker.report.chart import Chart
from sfworker.report.charts import charts, performance
from sfworker.report.hiding import job, without_paths
from sfworker.report.tables import Value, cell, pieces, shown
from sfworker.wire.events import JobResult

TEMPLATES = Path(__file__).parent
MOST_ROWS = 200
MOST_COLUMNS = 60
LONGEST_TEXT = 200
"""Characters in a cell, as some components describe themselves there."""


def page(result: JobResult, envelope: dict[str, Any] | None = None, *, paths: bool = False) -> str:
    """Return the page as HTML. Of a job only what it computed with is shown; `paths` shows paths of files, too."""
    return _template().render(
        **content(result, paths=paths),
        envelope=_as_json(job(envelope, paths=paths)) if envelope else "",
        version=__version__,
        paths_hidden=not paths,
    )


def content(result: JobResult, *, paths: bool = False) -> dict[str, Any]:
    """Return what the template shows of a result."""
    about = result.task_metadata
    told = msgspec.to_builtins(about)
    answer = result.result if paths else without_paths(result.result)
    drawn = charts(about.task_type, answer)
    warnings = list(result.warnings or ())
    if isinstance(answer, dict) and isinstance(answer.get("warnings"), list):
        answer = dict(answer)
        warnings += map(str, answer.pop("warnings"))
    seconds = result.performance_metrics.total_seconds
    return {
        "title": shown(about.task_type or "job"),
        "status": result.status,
        "seconds": f"{seconds:.2f} s" if seconds else "",
        "error": _error(result) if result.status != "success" else None,
        "warnings": [shown(each) for each in warnings],
        "charts": [_chart(each) for each in drawn],
        "parts": list(_parts(answer)) if answer is not None else [],
        "disclosures": [shown(each) for each in result.disclosures or ()],
        "run": [_fact(name, value) for name, value in told.items() if value not in (None, [], "")],
        "performance": [_chart(each) for each in performance(result.performance_metrics)],
    }


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _error(result: JobResult) -> dict[str, Any] | None:
    """Return an error in words; the sentence itself says what helps."""
    if not isinstance(result.error, str):
        return None
    said: dict[str, Any] = {
        "sentence": shown(result.error),
        "type": shown(result.error_type or "error"),
        "meaning": "",
        "retry": None,
    }
    kind = getattr(errors, str(result.error_type), None)
    if isinstance(kind, type) and issubclass(kind, errors.SecretFlowTaskError):
        said |= {"meaning": (kind.__doc__ or "").split("\n", 1)[0], "retry": kind.retryable}
    return said


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "title": shown(chart.title),
        "description": shown(chart.description),
        "svg": Markup(chart.svg),  # noqa: S704 - drawn here, its texts escaped
        "table": _table(chart.table.columns, [([], row) for row in chart.table.rows]),
    }


def _parts(answer: Any) -> Iterator[dict[str, Any]]:
    """Yield what a job has answered: headings, facts that follow each other as one list, and tables."""
    facts: list[dict[str, str]] = []
    for piece in pieces(answer):
        if isinstance(piece, Value) and piece.value is not msgspec.UNSET:
            facts.append(_fact(piece.title, piece.value))
            continue
        if facts:
            yield {"facts": facts}
            facts = []
        if isinstance(piece, Value):
            yield {"heading": shown(piece.title)}
        else:
            grid = piece.without_empty_columns()
            yield {"title": shown(piece.title), "table": _table(grid.columns, grid.rows)}
    if facts:
        yield {"facts": facts}


def _fact(name: str, value: Any) -> dict[str, str]:
    empty = value is None or value in ([], {})
    text = "none" if empty else ", ".join(map(shown, value)) if isinstance(value, list) else shown(value)
    return {"name": shown(name), "text": text}


def _table(columns: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> dict[str, Any]:
    """Return a table as the template draws it, cut where it is too long to be read."""
    left_out = {"rows": len(rows) - MOST_ROWS, "columns": len(columns) - MOST_COLUMNS}
    rows = [(names, cells[:MOST_COLUMNS]) for names, cells in rows[:MOST_ROWS]]
    figures = [
        any(isinstance(cells[number], (int, float)) and not isinstance(cells[number], bool) for _, cells in rows)
        for number in range(min(len(columns), MOST_COLUMNS))
    ]
    return {
        "header": any(columns),
        "names": rows[0][0] if rows else [],
        "columns": [
            {"name": shown(name), "figures": of_figures} for name, of_figures in zip(columns, figures, strict=False)
        ],
        "rows": [{"names": [*map(shown, names)], "cells": [*map(_short, cells)]} for names, cells in rows],
        "more": " and ".join(f"{number} more {what}" for what, number in left_out.items() if number > 0),
    }


def _short(value: Any) -> str:
    text = cell(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _as_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
