"""A console on a socket of its own, and a visitor who asks it as browsers do."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any

import msgspec
from aiohttp import ClientResponse, ClientSession, CookieJar

from sfworker.console.server import serving
from sfworker.settings import Settings

GROUP = "secretflow"
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr"}


class Visitor:
    """A browser without scripts: it keeps cookies, follows forms, and says where a form comes from."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def get(self, path: str, **more: Any) -> ClientResponse:
        response = await self.session.get(f"{self.url}{path}", allow_redirects=False, **more)
        await response.read()
        return response

    async def page(self, path: str, **more: Any) -> str:
        response = await self.get(path, **more)
        assert response.status == 200, (path, response.status)
        return await response.text()

    async def form_token(self, path: str = "/submit") -> str:
        found = re.search(r'name="_token" value="(\w+)"', await (await self.get(path)).text())
        assert found, path
        return found[1]

    async def post(self, path: str, fields: dict[str, Any], *, at: str = "/submit", **more: Any) -> ClientResponse:
        """Send a form of the page `at`."""
        headers = {"Origin": self.url, **more.pop("headers", {})}
        data = {"_token": await self.form_token(at), **fields}
        pairs = [
            (name, each) for name, value in data.items() for each in (value if isinstance(value, list) else [value])
        ]
        response = await self.session.post(
            f"{self.url}{path}", data=pairs, headers=headers, allow_redirects=False, **more
        )
        await response.read()
        return response


@asynccontextmanager
async def visiting(redis_url: str, **settings: Any) -> AsyncIterator[Visitor]:
    """Open the console, without rights on anything but this Redis, and visit it."""
    chosen = msgspec.structs.replace(Settings(redis_url=redis_url), **settings)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with (
            serving(chosen, GROUP, listening),
            ClientSession(cookie_jar=CookieJar(unsafe=True)) as session,
        ):
            yield Visitor(session, url)


class Own(HTMLParser):
    """Collects the console's own words on a page: neither data nor what is in another language."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self.language = ""
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.language = self.language or named.get("lang") or ""
        is_other = named.get("translate") == "no" or named.get("lang") not in (None, self.language)
        hidden = is_other or tag in {"script", "style"} or any(other for _, other in self._open)
        if not hidden:
            self.words += [named[name] or "" for name in ("aria-label", "placeholder", "title", "alt") if name in named]
        if tag not in VOID:
            self._open.append((tag, hidden))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag, (opened, tag)

    def handle_data(self, data: str) -> None:
        if not any(other for _, other in self._open) and data.strip():
            self.words.append(data.strip())
