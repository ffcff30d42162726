"""Runs the console: opens Redis, listens, and answers each request by a page, or by one that says why not."""

from __future__ import annotations

import ipaddress
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import urlencode

import anyio
from aiohttp import web
from redis import exceptions

from sfworker.broker.broker import open_broker
from sfworker.broker.connection import connect
from sfworker.client import Client, is_refused
from sfworker.connections import answering
from sfworker.console.acts import Acts
from sfworker.console.guard import FORM, HEADERS, VISIT, Guard, RefusedError, Visit
from sfworker.console.pages import Pages
from sfworker.console.rendering import Desk, render
from sfworker.console.site import Site
from sfworker.errors import SettingsError
from sfworker.settings import Settings, variable

_log = logging.getLogger("sfworker.console")
PAGE_SECONDS = 20.0
CONNECTION_SECONDS = 40.0
CONNECTIONS = 64
LARGER = 3
"""Factor by which a form may be larger than the text in it, as it is escaped."""
_HEAD = 64 * 1024
_METHODS = ("GET", "HEAD", "POST")
_OPEN = ("/login", "/language", "/static/")
"""Paths for which nobody need have logged in."""


def listener(settings: Settings) -> socket.socket:
    """Return a socket that listens where the settings say. Raises SettingsError where that cannot or must not be."""
    name = variable("console_listen")
    host, colon, port = settings.console_listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) >= 1 << 16:
        raise SettingsError(f"{name}: has to be an address, HOST:PORT")
    host = host.strip("[]")
    if not is_loopback(host) and not settings.console_token:
        raise SettingsError(
            f"{variable('console_token')}: has to be set where others than this host reach the console ({name}); "
            f"`openssl rand -hex 32` makes one"
        )
    try:
        family, _, _, _, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        return socket.create_server(where[:2], family=family, backlog=CONNECTIONS)  # type: ignore[arg-type, unused-ignore]
    except OSError as error:
        raise SettingsError(f"{name}: cannot listen there ({error.strerror or error})") from None


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this host alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@asynccontextmanager
async def serving(settings: Settings, group: str, listening: socket.socket) -> AsyncIterator[None]:
    """Serve the console on a socket during the block."""
    everywhere = not is_loopback(listening.getsockname()[0])
    own = [socket.gethostname()] if everywhere else []
    guard = Guard(settings.console_token, ["localhost", *own, *settings.console_hosts], everywhere=everywhere)
    async with (
        connect(settings.redis_url) as redis,
        Client(settings.redis_url, prefix=settings.prefix) as client,
        open_broker(settings, group, worker_id="") as broker,
    ):
        site = Site(settings=settings, group=group, redis=redis, client=client, broker=broker)
        runner = web.AppRunner(application(site, guard))
        await runner.setup()
        try:
            if runner.server is None:
                raise RuntimeError("the console did not start")
            async with answering(runner.server, listening, CONNECTION_SECONDS, CONNECTIONS):
                yield
        finally:
            await runner.cleanup()


def application(site: Site, guard: Guard) -> web.Application:
    """Return the console as aiohttp runs it."""
    desk = Desk(site, guard)

    @web.middleware
    async def answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
        visit = guard.visit(request)
        request[VISIT] = visit
        try:
            response = await _answer(desk, request, visit, handler)
        except RefusedError as error:
            response = render(desk, request, "refused.html", status=error.status, why=f"refused.{error.key}")
        if visit.is_new and "Set-Cookie" not in response.headers and not response.cookies:
            guard.remember(request, response, visit.session)
        response.headers.update({name: value for name, value in HEADERS.items() if name not in response.headers})
        response.force_close()
        return response

    largest = LARGER * site.settings.max_envelope_bytes + _HEAD
    app = web.Application(middlewares=[answer], client_max_size=largest)
    app.add_routes([*Pages(desk).routes(), *Acts(desk).routes()])
    return app


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _answer(desk: Desk, request: web.Request, visit: Visit, handler: _Handler) -> web.StreamResponse:
    """Return a page. Raises RefusedError where there is none for this visitor, or now."""
    desk.guard.require_name(request)
    if request.method not in _METHODS:
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "method")
    if not visit.may_enter and not request.path.startswith(_OPEN):
        if request.method == "POST":
            raise RefusedError(HTTPStatus.FORBIDDEN, "session")
        return web.Response(status=303, headers={"Location": f"/login?{urlencode({'to': request.path_qs})}"})
    try:
        with anyio.fail_after(PAGE_SECONDS):
            if request.method == "POST":
                request[FORM] = await desk.guard.form(request, visit)
            return await handler(request)
    except web.HTTPException as error:
        raise RefusedError(HTTPStatus(error.status), "page") from None
    except TimeoutError:
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "slow") from None
    except exceptions.NoPermissionError:
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "rights") from None
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "login" if is_refused(error) else "away") from None
    except exceptions.ResponseError as error:
        key = "type" if "WRONGTYPE" in str(error) else "redis"
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, key) from None
    except RefusedError:
        raise
    except Exception as error:  # noqa: BLE001 - a page of our own is the answer to all
        # Not what it says, which may quote a job.
        place = traceback.extract_tb(error.__traceback__)[-1]
        _log.error("a page failed with %s in %s, line %d", type(error).__name__, place.name, place.lineno)
        raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, "bug") from None
