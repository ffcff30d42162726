"""The Chinese pages are in step with the English ones: headings, commands and examples, tables, names, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents.shell import ROOT, blocks, prose
from tests.documents.test_commands import CHINESE

_INDENTED = re.compile(r"(?<=\n\n)(?:    .*\n)+")
"""Code without a fence; a list's second lines have no empty line above."""
_COMMENTS = {"sh": r" +#.*$", "python": r" +#.*$", "js": r" *// .*$", "ts": r" *// .*$", "go": r" *// .*$"}

chinese = pytest.mark.parametrize("page", CHINESE, ids=lambda page: str(page.relative_to(ROOT)))


def original(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh.md", ".md"))


def sections(page: Path) -> list[tuple[int, str]]:
    """The level of each heading, and the text below it without blocks."""
    parts = re.split(r"^(#+) .*$", prose(page), flags=re.MULTILINE)
    return [(len(level), text) for level, text in zip(parts[1::2], parts[2::2], strict=True)]


def names(text: str) -> list[str]:
    """What stands between backticks, in no order, as languages order words differently."""
    return sorted(set(re.findall(r"`([^`]+)`", " ".join(text.split()))))


def rows(text: str) -> list[list[str]]:
    """The names in each cell of all tables but for their heads, which are words."""
    found = re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[*map(" ".join, map(names, line.split(" | ")))] for table in found for line in table.splitlines()]


@chinese
def test_headings_have_the_same_levels(page: Path) -> None:
    assert [level for level, _ in sections(page)] == [level for level, _ in sections(original(page))]


@chinese
def test_blocks_are_the_same_but_for_comments(page: Path) -> None:
    def bare(of: Path) -> list[tuple[str, str]]:
        found = [(each.language, each.text) for each in blocks(of)]
        found += [("sh", text) for text in _INDENTED.findall(prose(of))]
        return [
            (language, re.sub(_COMMENTS.get(language, "$^"), "", text, flags=re.MULTILINE)) for language, text in found
        ]

    assert bare(page) == bare(original(page))


@chinese
def test_each_section_has_the_same_names_and_tables(page: Path) -> None:
    for (_, here), (_, there) in zip(sections(page), sections(original(page)), strict=True):
        assert names(here) == names(there)
        assert rows(here) == rows(there)


@chinese
def test_links_lead_to_the_same_places_in_chinese_where_there_is_such_a_page(page: Path) -> None:
    def targets(of: Path) -> set[str]:
        found = re.findall(r"\]\(([^)#]+)[^)]*\)", prose(of))
        places = [each if each.startswith("https://") else str((of.parent / each).resolve()) for each in found]
        return set(places) - {str(page), str(original(page))}

    in_chinese = {str(original(each)): str(each) for each in CHINESE}
    assert targets(page) == {in_chinese.get(place, place) for place in targets(original(page))}


@chinese
def test_each_page_leads_to_the_other(page: Path) -> None:
    assert f"\n[English]({original(page).name})\n" in page.read_text()
    assert f"\n[中文]({page.name})\n" in original(page).read_text()


@chinese
def test_it_is_chinese(page: Path) -> None:
    """Paragraphs, rows and headings that have more than names in them have Chinese words."""
    left = [
        line
        for line in _INDENTED.sub("", prose(page)).splitlines()
        if re.search(r"[a-z]{3}", re.sub(r"`[^`]*`|\([^)]*\)|<!--.*?-->|\[English\]", "", line))
        and not re.search(r"[\u4e00-\u9fff]", line)
    ]
    assert set(left) <= {"# sfworker", "## Redis", "Apache-2.0."}
