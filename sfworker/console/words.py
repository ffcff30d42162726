"""Holds the console's words in English and Chinese (`words.toml`), and puts times, sizes and data among them.

What is not the console's own words is marked for browsers and screen readers: data as not to be translated and isolated
so that it turns the direction of no text around it; sentences of the worker and the catalogue as English.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from markupsafe import Markup, escape

from sfworker.report.tables import shown

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_UNITS = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
_ACCEPTED = re.compile(r"\s*(en|zh)\b[^,;]*(?:;\s*q=(\d(?:\.\d{1,3})?))?[^,]*", re.IGNORECASE)


@cache
def dictionary() -> dict[str, dict[Language, str]]:
    """Return all words by key and language."""
    return msgspec.toml.decode(Path(__file__).with_name("words.toml").read_bytes(), type=dict[str, dict[Language, str]])


def preferred(accept_language: str) -> Language:
    """Return the language that a browser prefers, by its Accept-Language; English where it names neither."""
    found = [_ACCEPTED.fullmatch(each) for each in accept_language[:1000].split(",")]
    weighed = [(float(each[2] or 1), each[1].lower()) for each in found if each]
    best = max(weighed, key=lambda pair: pair[0], default=(1.0, "en"))[1]
    return "zh" if best == "zh" else "en"


def data(value: object) -> Markup:
    """Mark a value as data."""
    return Markup('<bdi translate="no">{}</bdi>').format(shown(value))


def english(text: object) -> Markup:
    """Mark a sentence as English, whatever the language of the page."""
    return Markup('<span lang="en" translate="no">{}</span>').format(shown(text))


class Words:
    """Speaks one language. Use as `words("key", name=value)`."""

    def __init__(self, language: Language) -> None:
        self.language = language

    def __call__(self, key: str, **values: object) -> Markup:
        """Return the words of a key as HTML, in which values are data."""
        named = {name: value if isinstance(value, Markup) else data(value) for name, value in values.items()}
        return escape(dictionary()[key][self.language]).format(**named)

    def plain(self, key: str, **values: object) -> str:
        """Return the words of a key as text, for attributes and titles."""
        return dictionary()[key][self.language].format(**{name: shown(value) for name, value in values.items()})

    def known(self, family: str, name: object) -> Markup:
        """Return the word for a name of a family, such as a state; a name that has none is data."""
        key = f"{family}.{name}"
        return self(key) if key in dictionary() else data(name)

    def length(self, seconds: float) -> Markup:
        """Put a length of time in few characters."""
        if seconds < 60:
            return self("unit.seconds", n=f"{max(seconds, 0.0):.1f}")
        size, unit = next((size, unit) for size, unit in _UNITS if seconds >= 2 * size or size == 1)
        return self(f"unit.{unit}", n=f"{seconds / size:.0f}")

    def time(self, value: Any) -> Markup:
        """Put a point in time, in ms or as ISO 8601, in UTC; nothing where there is none."""
        try:
            at = datetime.fromtimestamp(value / 1000, timezone.utc) if isinstance(value, (int, float)) else None
            at = at or datetime.fromisoformat(str(value)).astimezone(timezone.utc)
        except (ValueError, OverflowError, OSError):
            return Markup("")
        return Markup('<time datetime="{}" translate="no">{:%Y-%m-%d %H:%M:%S} UTC</time>').format(at.isoformat(), at)

    @staticmethod
    def megabytes(size: int) -> str:
        return f"{size / 1e6:,.0f} MB" if size else ""
