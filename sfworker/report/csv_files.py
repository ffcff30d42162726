"""Writes the tables of a result as CSV files, one each."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import msgspec

from sfworker.report.tables import Table

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_tables(tables: dict[str, Table], directory: Path) -> list[Path]:
    """Write them into `directory`, which is made if missing, and return the files. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, table in tables.items():
        file = directory / f"{_file_name(name)}.csv"
        if file in written:
            file = directory / f"{_file_name(name)}-{len(written) + 1}.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(map(_cell, table.columns))
            writer.writerows(map(_cell, row) for row in table.rows)
        written.append(file)
    return written


def _file_name(name: str) -> str:
    """Return a field's name as one of a file, which a result may not choose freely."""
    return re.sub(r"[^\w.-]", "_", name)[:100].lstrip(".") or "table"


def _cell(value: Any) -> str:
    """Return a value as text. What a spreadsheet would take for a formula begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return msgspec.json.encode(value).decode()
