"""Answers the requests that read: overview, executions, one of them with its log and report, peers."""

from __future__ import annotations

import time
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import msgspec
from aiohttp import web

from sfworker.broker.finding import STATES, Wanted, page, place
from sfworker.broker.look import look
from sfworker.broker.overview import consumers
from sfworker.console.guard import FORM, POLICY, VISIT, RefusedError, speak
from sfworker.console.rendering import Desk, link, render, static
from sfworker.console.words import LANGUAGES
from sfworker.job_logs import log_file_of
from sfworker.logs import shown_line
from sfworker.report.execution import about, steps
from sfworker.wire.events import JobResult

ROWS = 50
LOG_LINES = 200
LOG_BYTES = 256 * 1024
SINCE = {"15m": 900, "1h": 3600, "12h": 43_200, "1d": 86_400, "7d": 604_800}
LIVE = ("queued", "running", "waiting")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STATIC = ("console.css", "console.js", "icon.svg")
_drawing = anyio.Lock()


class Pages:
    """The pages that read."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._site = desk.site

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.overview),
            web.get("/executions", self.executions),
            web.get("/execution", self.execution),
            web.get("/log", self.log),
            web.get("/report", self.report),
            web.get("/peers", self.peers),
            web.get("/login", self.login),
            web.post("/login", self.enter),
            web.post("/logout", self.leave),
            web.get("/language", self.language),
            web.get("/static/{name}", self.static),
        ]

    async def overview(self, request: web.Request) -> web.Response:
        site = self._site
        seen = await look(site.redis, site.keys, site.group, site.settings.tenants)
        groups = [] if seen.figures.workers else sorted(await consumers(site.redis, site.keys))
        return self._page(request, "overview.html", seen=seen, now=time.time(), groups=groups)

    async def executions(self, request: web.Request) -> web.Response:
        query = request.query
        wanted = {name: query.get(name, "") for name in ("task_type", "error_type", "worker", "text")}
        states = [state for state in STATES if state in query.getall("state", [])]
        since = query.get("since", "")
        young = int((time.time() - SINCE[since]) * 1000) if since in SINCE else 0
        found, following = await page(
            self._site.redis,
            self._site.keys,
            self._site.group,
            Wanted(
                states=frozenset(states or STATES),
                since=young,
                task_type=wanted["task_type"],
                error_type=wanted["error_type"],
                worker=wanted["worker"],
                text=wanted["text"],
            ),
            ROWS,
            place(query.get("before", "")),
        )
        asked = {**wanted, "state": states, "since": since if since in SINCE else ""}
        return self._page(
            request,
            "executions.html",
            found=found,
            asked=asked,
            states=STATES,
            sinces=list(SINCE),
            now=time.time() * 1000,
            first=link("/executions", **asked) if "before" in query else "",
            following=following and link("/executions", **asked, before=f"{following[0]}+{following[1]}"),
        )

    async def execution(self, request: web.Request) -> web.Response:
        execution_id = request.query.get("id", "")
        known = await self._known(execution_id)
        result = _checked(known["result"])
        drawn = None
        if result is not None:
            async with _drawing:  # as the library that draws is for one thread at a time
                drawn = await anyio.to_thread.run_sync(_content, msgspec.json.encode(result))
        worker = known["worker"] or (result.task_metadata.worker_id if result else None)
        response = self._page(
            request,
            "execution.html",
            known=known,
            steps=list(steps(known["events"])),
            last=(known["events"] or [{}])[-1],
            content=drawn,
            raw=None if drawn or known["result"] is None else _json(known["result"]),
            envelope=None if known["envelope"] is None else _json(known["envelope"]),
            log=await anyio.to_thread.run_sync(self._log, execution_id),
            log_lines=LOG_LINES,
            worker=worker,
            live=known["state"] in LIVE,
        )
        # Charts are drawn here and hold styles of their shapes; all other text in the page is escaped.
        response.headers["Content-Security-Policy"] = f"{POLICY}; style-src-attr 'unsafe-inline'"
        return response

    async def log(self, request: web.Request) -> web.Response:
        """Answer the whole log as a file of text, as far as it is kept on this host."""
        execution_id = request.query.get("id", "")
        file = self._log_file(execution_id)
        if file is None or not file.is_file():
            raise web.HTTPNotFound
        text = await anyio.to_thread.run_sync(_text, file)
        headers = {"Content-Disposition": 'attachment; filename="job.log"'}
        return web.Response(text=text, content_type="text/plain", headers=headers)

    async def report(self, request: web.Request) -> web.Response:
        """Answer the result as the file that `sfworker report` writes."""
        from sfworker.report.page import page

        known = await self._known(request.query.get("id", ""))
        result = _checked(known["result"])
        if result is None:
            raise web.HTTPNotFound
        envelope = known["envelope"] if isinstance(known["envelope"], dict) else None
        async with _drawing:
            text = await anyio.to_thread.run_sync(page, result, envelope)
        headers = {"Content-Disposition": 'attachment; filename="report.html"'}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def peers(self, request: web.Request) -> web.Response:
        settings, gateway = self._site.settings, None
        if settings.tls_certificate:
            from sfworker.gateway_state import gateway_overview  # which needs packages of a worker

            gateway = await gateway_overview(settings)
        return self._page(request, "peers.html", gateway=gateway)

    async def login(self, request: web.Request) -> web.Response:
        return self._page(request, "login.html", to=_local(request.query.get("to", "/")), is_wrong=False)

    async def enter(self, request: web.Request) -> web.Response:
        form = request[FORM]
        to = _local(form.get("to", ["/"])[0])
        session = await self._desk.guard.enter(form.get("token", [""])[0])
        if session is None:
            return self._page(request, "login.html", to=to, is_wrong=True)
        response = web.Response(status=303, headers={"Location": to})
        self._desk.guard.remember(request, response, session)
        return response

    async def leave(self, request: web.Request) -> web.Response:
        self._desk.guard.leave(request[VISIT])
        return web.Response(status=303, headers={"Location": "/login"})

    async def language(self, request: web.Request) -> web.Response:
        response = web.Response(status=303, headers={"Location": _local(request.query.get("to", "/"))})
        for language in LANGUAGES:
            if request.query.get("to_language") == language:
                speak(response, language)
        return response

    async def static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _STATIC:
            raise web.HTTPNotFound
        return web.Response(body=static(name), content_type=_TYPES[Path(name).suffix], charset="utf-8")

    def _page(self, request: web.Request, template: str, **values: Any) -> web.Response:
        return render(self._desk, request, template, **values)

    async def _known(self, execution_id: str) -> dict[str, Any]:
        """Return what is known of an execution. Raises RefusedError where nothing is."""
        site = self._site
        known = await about(site.redis, site.keys, site.group, execution_id) if execution_id else None
        if known is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "execution")
        return known

    def _log_file(self, execution_id: str) -> Path | None:
        directory = self._site.settings.job_logs
        return log_file_of(directory, execution_id) if directory and execution_id else None

    def _log(self, execution_id: str) -> list[str] | None:
        """Return the last lines of an execution's log, None where none is kept on this host."""
        file = self._log_file(execution_id)
        if file is None:
            return None
        try:
            with file.open("rb") as opened:
                size = opened.seek(0, 2)
                opened.seek(max(0, size - LOG_BYTES))
                lines = opened.read(LOG_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return None
        return [shown_line(line) for line in lines[1 if size > LOG_BYTES else 0 :][-LOG_LINES:]]


def _checked(result: Any) -> JobResult | None:
    try:
        return msgspec.convert(result, JobResult)
    except msgspec.ValidationError:  # somebody else's
        return None


@lru_cache(maxsize=16)
def _content(result: bytes) -> dict[str, Any]:
    """Draw a result, once for each of those that are looked at."""
    from sfworker.report.page import content

    return content(msgspec.json.decode(result, type=JobResult))


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _text(file: Path) -> str:
    return "".join(f"{shown_line(line)}\n" for line in file.read_bytes().decode(errors="replace").splitlines())


def _local(to: str) -> str:
    """Return the path of a page here; whatever else is meant, the first one."""
    is_path = to.startswith("/") and not to.startswith(("//", "/\\")) and to.isprintable()
    return quote(to, safe="/?&=%+:") if is_path else "/"
