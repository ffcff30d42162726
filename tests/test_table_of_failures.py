"""Each known failure that `tests/README.md` lists has tests, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLES = (ROOT / "tests" / "README.md").read_text().partition("# Known failures")[2]
ROWS = re.findall(r"^\| (?!failure \||-)(.+) \| (.+) \| (.*) \|$", TABLES, re.MULTILINE)


def collected_in(path: str) -> set[str]:
    """Names of the functions of a file that pytest looks for tests in."""
    file = ROOT / path
    if not (file.is_file() and file.name.startswith("test_")):
        return set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, functions)}


@pytest.mark.parametrize(("failure", "reported", "tests"), ROWS)
def test_every_failure_has_tests_that_exist(failure: str, reported: str, tests: str) -> None:
    named = re.findall(r"`([^`]+)`", tests)
    assert named
    assert ", ".join(f"`{test}`" for test in named) == tests
    for test in named:
        path, _, name = test.partition("::")
        assert name.startswith("test_")
        assert name in collected_in(path), test


def test_the_table_is_read() -> None:
    lines = TABLES.splitlines()
    assert len(ROWS) == sum(line.startswith("| ") for line in lines) - 2  # two headers
    assert len(ROWS) > 40
