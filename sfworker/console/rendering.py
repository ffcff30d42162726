"""Renders templates. Every value is escaped, as anybody may have written it into Redis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sfworker import __version__
from sfworker.console.guard import TOKEN_FIELD, VISIT, Guard
from sfworker.console.site import Site
from sfworker.console.words import LANGUAGES, Language, Words, data, dictionary, english
from sfworker.report.page import TEMPLATES
from sfworker.report.tables import shown

_HERE = Path(__file__).parent
_LANGUAGES = {language: Words(language) for language in LANGUAGES}


@dataclass(frozen=True)
class Desk:
    """Holds what pages are made with: the site, and the guard of its visitors."""

    site: Site
    guard: Guard


def words(request: web.Request) -> Words:
    """Return the words in the visitor's language."""
    return _LANGUAGES[request[VISIT].language]


def render(
    desk: Desk, request: web.Request, template: str, status: HTTPStatus = HTTPStatus.OK, **values: Any
) -> web.Response:
    """Return a page."""
    visit = request[VISIT]
    said = f"said.{request.query.get('said', '')}"
    text = (
        _environment(visit.language)
        .get_template(template)
        .render(
            here=request.path,
            path=request.path_qs,
            form_token=visit.form_token,
            token_field=TOKEN_FIELD,
            group=desk.site.group,
            prefix=desk.site.keys.prefix,
            may_enter=visit.may_enter,
            asks_for_token=desk.guard.asks_for_token,
            said=said if said in dictionary() else "",
            said_number=request.query.get("n", ""),
            status_is_bad=status != HTTPStatus.OK,
            version=__version__,
            **values,
        )
    )
    return web.Response(status=status, text=text, content_type="text/html")


def link(path: str, **query: Any) -> str:
    """Return the address of a page; fields that are empty are left out."""
    given = {name: value for name, value in query.items() if value not in (None, "", [])}
    return f"{path}?{urlencode(given, doseq=True, quote_via=quote, errors='replace')}" if given else path


def lines(text: str) -> str:
    """Return a text of several lines without what would steer them."""
    return "\n".join(map(shown, text.split("\n")))


@cache
def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([_HERE / "templates", TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"data": data, "english": english, "shown": shown, "lines": lines}
    environment.globals |= {"t": _LANGUAGES[language], "language": language, "link": link, "languages": _LANGUAGES}
    return environment


@cache
def static(name: str) -> bytes:
    """Return a file that browsers load."""
    return (_HERE / "static" / name).read_bytes()
