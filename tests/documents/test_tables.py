"""Tables, names and links in the documents are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sfworker import errors
from sfworker.errors import published_error_types
from tests.documents.shell import ROOT, prose
from tests.documents.test_commands import CHINESE, DEPLOY, DOCUMENTS, TESTS, WIRE

CHANGELOG = ROOT / "CHANGELOG.md"
CATALOGUE = ROOT / "sfworker" / "catalog" / "README.md"


def rows(document: Path, head: str) -> list[list[str]]:
    """The cells of the table whose head line starts so."""
    [found] = re.findall(rf"^\| {re.escape(head)}.*\n\|[-|]+\|\n((?:\|.*\n)+)", document.read_text(), re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found.splitlines()]


def test_every_error_is_listed_with_its_sentence() -> None:
    said = {name.strip("`"): (retry, sentence) for name, retry, sentence in rows(WIRE, "`error_type`")}
    kinds = {name: getattr(errors, name) for name in published_error_types()}
    assert said == {name: ("yes" if kind.retryable else "no", kind.__doc__) for name, kind in kinds.items()}


def test_every_test_that_is_named_exists() -> None:
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text())
    }
    named = {name for document in DOCUMENTS for name in re.findall(r"\b(test_\w+)`", document.read_text())}
    named -= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 60
    assert named - there == set()


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *CHINESE, CHANGELOG, CATALOGUE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = document.parent / path if path else document
        assert there.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", prose(there), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_files_that_are_named_exist() -> None:
    """Paths between backticks, from the document's folder, the package's or the repository's root."""
    for document in DOCUMENTS:
        for name in re.findall(r"`([\w./-]+/[\w./-]*\.(?:py|lua|md|yaml|sh|acl|lock|txt))`", document.read_text()):
            if name.startswith(("/", "./", "redis-data")) or "NAME" in name:
                continue
            places = (document.parent, ROOT, ROOT / "sfworker", ROOT / "sfworker" / "broker")
            assert any((place / name).exists() for place in places), (document, name)


def test_the_house_names_every_package() -> None:
    house = (ROOT / "sfworker" / "README.md").read_text()
    for package in (path.parent.name for path in (ROOT / "sfworker").glob("*/__init__.py")):
        assert re.search(rf"\b{package}\b", house), package


def test_what_is_measured_is_not_older_than_the_code_says() -> None:
    """The figures name the version that they were taken with."""
    from sfworker import __version__

    assert f"sfworker {__version__}" in TESTS.read_text()
    assert f"## {__version__} " in CHANGELOG.read_text()


def test_redis_commands_of_the_contract_are_allowed_to_the_web_side() -> None:
    [web] = [line for line in (DEPLOY.parent / "users.acl").read_text().splitlines() if line.startswith("user web ")]
    sent = set(re.findall(r"redis-cli (?:--raw )?([A-Z]+)", WIRE.read_text()))
    assert sent == {"XADD", "GET", "SET", "PUBLISH"}
    assert {f"+{command.lower()}" for command in sent} <= set(re.findall(r"\+[\w|]+", web))
