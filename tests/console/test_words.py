"""Both languages have the same words, and no page mixes them."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from sfworker.console.words import LANGUAGES, dictionary, preferred
from tests.cli.states import JOBS
from tests.console.visiting import Own, visiting

PAGES = ("/", "/executions", "/dead", "/control", "/submit", "/submit?type=psi", "/peers", "/login", "/nothing")
NAMES = {"sfworker", "JSON", "UTC", "Redis"}


def test_each_key_has_words_in_both_languages_with_the_same_places() -> None:
    for key, words in dictionary().items():
        assert set(words) == set(LANGUAGES), key
        places = [sorted(re.findall(r"{\w+}", words[language])) for language in LANGUAGES]
        assert places[0] == places[1], key
        assert re.search(r"[\u4e00-\u9fff]", words["zh"]) or set(re.findall(r"[A-Za-z]+", words["zh"])) <= NAMES, key
        assert not re.search(r"[\u4e00-\u9fff]", words["en"]), key


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("fr, zh-TW;q=0.3", "zh"),
        ("zh;q=0.1, en;q=0.2", "en"),
        ("de", "en"),
        (";;;,q=,zh;q=9999999", "zh"),
    ],
)
def test_the_browser_says_which(header: str, language: str) -> None:
    assert preferred(header) == language


@pytest.mark.parametrize("language", LANGUAGES)
async def test_no_page_has_a_word_of_the_other_language(redis_url: str, jobs: None, language: str) -> None:
    async with visiting(redis_url) as visitor:
        await visitor.get(f"/language?to_language={language}")
        for path in (*PAGES, *(f"/execution?id={quote(job)}" for job in JOBS)):
            own = Own(await (await visitor.get(path)).text())
            assert own.language == ("zh-CN" if language == "zh" else "en")
            assert own.words
            for text in own.words:
                if language == "en":
                    assert not re.search(r"[\u4e00-\u9fff]", text), (path, text)
                else:
                    assert set(re.findall(r"[A-Za-z]{2,}", text)) <= NAMES, (path, text)
