"""The table of attacks names tests that exist and are run by `make attack`, and has a row for each boundary."""

from __future__ import annotations

import ast
import re

import pytest

from tests.documents.shell import ROOT
from tests.documents.test_commands import TESTS
from tests.documents.test_tables import rows

ROWS = rows(TESTS, "boundary | asset")


def attacks(path: str) -> dict[str, set[str]]:
    """Tests of a file that are marked, also by their module, with the words of their marks."""
    tree = ast.parse((ROOT / path).read_text())
    of_all = {word for node in tree.body if isinstance(node, ast.Assign) for word in marks(node)}
    functions = (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    found = {each.name: of_all | {word for mark in each.decorator_list for word in marks(mark)} for each in functions}
    return {name: words for name, words in found.items() if words}


def marks(node: ast.AST) -> set[str]:
    return {
        str(ast.literal_eval(call.args[0])) if isinstance(call.args[0], ast.Constant) else "several"
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and re.search(r"mark\.attack$|^_boundary$", ast.unparse(call.func))
    }


@pytest.mark.parametrize(("boundary", "asset", "attack", "tests"), ROWS)
def test_each_attack_has_tests_that_are_run(boundary: str, asset: str, attack: str, tests: str) -> None:
    named = re.findall(r"`([^`]+)`", tests)
    assert named
    assert ", ".join(f"`{test}`" for test in named) == tests
    for test in named:
        path, _, name = test.partition("::")
        assert name in attacks(path), test


def test_each_boundary_that_tests_name_is_in_the_table() -> None:
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if "mark.attack" in file.read_text()]
    marked = {word for file in files for words in attacks(str(file.relative_to(ROOT))).values() for word in words}
    assert marked - {"several"} <= {boundary for boundary, *_ in ROWS}
