"""Answers over HTTP how the worker, or the gateway, is. Runs in either.

    GET /healthz   200 while the event loop answers
    GET /readyz    200 where it is ready, 503 where it says why it is not
    GET /metrics   the metrics of `sfworker.telemetry`, as Prometheus reads them; 404 where they are not wanted

The first two answer `{"state": ..., "reason": ...}`. Whoever reaches the port can ask: a connection is for one request,
lives for SECONDS at most, and there are never more than CONNECTIONS; metrics are collected once a second at most.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
import msgspec
from aiohttp import HttpVersion10, HttpVersion11, web

from sfworker.connections import answering
from sfworker.listening import CONNECTIONS, SECONDS, State

PAGE_SECONDS = 1.0
"""Age at which metrics are collected again, however many ask."""
_PAGE_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serving(
    listener: socket.socket, state: Callable[[], State], page: Callable[[], bytes | None]
) -> AsyncIterator[None]:
    """Answer requests on `listener` during the block, with what `state` and, in a thread, `page` return then."""
    async with answering(web.Server(_Answers(state, page).answer), listener, SECONDS, CONNECTIONS):
        yield


class _Answers:
    def __init__(self, state: Callable[[], State], page: Callable[[], bytes | None]) -> None:
        self._state = state
        self._collect = page
        self._collecting = anyio.Lock()
        self._collected_at = -PAGE_SECONDS
        self._page: bytes | None = None

    async def answer(self, request: web.BaseRequest) -> web.Response:
        response = await self._response(request)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Server"] = "sfworker"
        response.force_close()
        return response

    async def _response(self, request: web.BaseRequest) -> web.Response:
        if request.version not in (HttpVersion10, HttpVersion11):
            return _plain(HTTPStatus.BAD_REQUEST)
        if request.method != "GET":
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        path = request.raw_path.partition("?")[0]
        if path == "/healthz":
            return _told(HTTPStatus.OK, State("alive"))
        if path == "/readyz":
            state = self._state()
            return _told(HTTPStatus.OK if state.state == "ready" else HTTPStatus.SERVICE_UNAVAILABLE, state)
        if path == "/metrics" and (page := await self._metrics()) is not None:
            return web.Response(body=page, headers={"Content-Type": _PAGE_TYPE})
        return _plain(HTTPStatus.NOT_FOUND)

    async def _metrics(self) -> bytes | None:
        async with self._collecting:
            if time.monotonic() - self._collected_at > PAGE_SECONDS:
                # In a thread, as thousands of series take longer than an event loop should.
                self._page = await anyio.to_thread.run_sync(self._collect)
                self._collected_at = time.monotonic()
            return self._page


def _told(status: HTTPStatus, state: State) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(state) + b"\n", content_type="application/json")


def _plain(status: HTTPStatus) -> web.Response:
    return web.Response(status=status, text=f"{status.phrase}\n")
