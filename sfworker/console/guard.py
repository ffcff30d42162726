"""Decides who may see and do anything: names of the host, the token, sessions, and forms that are our own.

A page elsewhere can have a browser send us anything. So a request names us as we are called (else it is a name that
somebody has pointed here), a form comes from a page of ours (`Origin`) and holds what only our pages know, and cookies
are sent by our own pages alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import anyio
from aiohttp import web

from sfworker.console.words import LANGUAGES, Language, preferred

SESSION_SECONDS = 12 * 3600
MOST_SESSIONS = 1000
PAUSE_SECONDS = 1.0
"""Time that the answer to a wrong token takes."""
MOST_FIELDS = 2000
TOKEN_FIELD = "_token"  # noqa: S105 - the name of a field
_LANGUAGE = "sfworker_language"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`, with which browsers say of no form where it comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "sfworker",
}


class RefusedError(Exception):
    """The request is answered by a page that says why, in the words of `refused.KEY`."""

    def __init__(self, status: HTTPStatus, key: str) -> None:
        super().__init__(key)
        self.status, self.key = status, key


@dataclass(frozen=True)
class Visit:
    """Describes a visitor, as the cookies tell."""

    session: str
    is_new: bool
    may_enter: bool
    language: Language
    form_token: str


VISIT = web.RequestKey("visit", Visit)
FORM = web.RequestKey("form", dict[str, list[str]])
"""The checked fields of a form."""


class Guard:
    """Lets visitors in by their session. Without a token whoever reaches the console may enter."""

    def __init__(self, token: str, hosts: Iterable[str], *, everywhere: bool) -> None:
        self._token = token
        self._hosts = {host.lower() for host in hosts}
        self._everywhere = everywhere
        self._key = secrets.token_bytes(32)
        self._entered: dict[str, float] = {}
        """When each session ends."""
        self._asking = anyio.Lock()
        # Browsers send cookies of a host to each of its ports.
        self._cookie = f"sfworker_{secrets.token_hex(4)}"

    @property
    def asks_for_token(self) -> bool:
        return bool(self._token)

    def visit(self, request: web.Request) -> Visit:
        """Return who asks; a visitor without a session gets a new one."""
        given = request.cookies.get(self._cookie, "")
        session = given if len(given) == 43 else secrets.token_urlsafe(32)
        wanted = request.cookies.get(_LANGUAGE)
        language = next((each for each in LANGUAGES if each == wanted), None)
        return Visit(
            session=session,
            is_new=session != given,
            may_enter=not self._token or self._entered.get(session, 0.0) > time.monotonic(),
            language=language or preferred(request.headers.get("Accept-Language", "")),
            form_token=hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest(),
        )

    def require_name(self, request: web.Request) -> None:
        """Raise RefusedError where the request is for another host."""
        host = _host(request)
        if host in self._hosts:
            return
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:  # no name, so nobody can have pointed it here
            if self._everywhere or address.is_loopback:
                return
        raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, "host")

    async def form(self, request: web.Request, visit: Visit) -> dict[str, list[str]]:
        """Return the fields of a form of ours. Raises RefusedError where it is none."""
        origin = request.headers.get("Origin", "")
        if urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
            raise RefusedError(HTTPStatus.FORBIDDEN, "origin")
        if request.content_type != "application/x-www-form-urlencoded":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "form")
        try:
            text = (await request.read()).decode()
            fields = parse_qs(text, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
        except web.HTTPRequestEntityTooLarge:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "large") from None
        except ValueError:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "form") from None
        if not _same(fields.pop(TOKEN_FIELD, [""])[0], visit.form_token):
            raise RefusedError(HTTPStatus.FORBIDDEN, "token")
        return fields

    async def enter(self, token: str) -> str | None:
        """Return a new session where the token is right, else None after a while."""
        if not self._token or not _same(token, self._token):
            async with self._asking:  # so that many who guess wait for each other, and nobody else for them
                await anyio.sleep(PAUSE_SECONDS)
            return None
        now = time.monotonic()
        ends = {session: end for session, end in self._entered.items() if end > now}
        self._entered = dict(sorted(ends.items(), key=lambda pair: pair[1])[-MOST_SESSIONS + 1 :])
        session = secrets.token_urlsafe(32)
        self._entered[session] = now + SESSION_SECONDS
        return session

    def leave(self, visit: Visit) -> None:
        self._entered.pop(visit.session, None)

    def remember(self, request: web.Request, response: web.StreamResponse, session: str) -> None:
        """Have the browser keep its session."""
        response.set_cookie(
            self._cookie,
            session,
            httponly=True,
            samesite="Strict",
            secure=request.headers.get("Origin", "").startswith("https:"),
            path="/",
        )


def speak(response: web.StreamResponse, language: Language) -> None:
    """Have the browser keep the language."""
    response.set_cookie(_LANGUAGE, language, max_age=365 * 86_400, httponly=True, samesite="Strict", path="/")


def _host(request: web.Request) -> str:
    try:
        return urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return ""


def _same(given: str, right: str) -> bool:
    # Digests, as the time of comparing texts of unequal length tells the length.
    of_given, of_right = (hashlib.sha256(text.encode(errors="replace")).digest() for text in (given, right))
    return hmac.compare_digest(of_given, of_right)
