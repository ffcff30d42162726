"""Answers the requests that act: cancel, replay, pause, resume, retry now, drain, submit. Each is logged."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from aiohttp import web

from sfworker.broker.dead import DeadJob, dead_by_page, find_dead_job
from sfworker.broker.groups import groups
from sfworker.broker.orders import DRAIN, PAUSE_ALL, PAUSE_STREAM, PAUSE_TYPE, standing_orders
from sfworker.broker.overview import live_workers
from sfworker.catalog.base import find
from sfworker.catalog.installed import installed_task_types
from sfworker.console import forms
from sfworker.console.guard import FORM, RefusedError
from sfworker.console.rendering import Desk, link, render
from sfworker.errors import SecretFlowTaskError, TaskTypeNotFoundError
from sfworker.publish.status_notifier import StatusNotifier
from sfworker.report.execution import summary
from sfworker.report.tables import shown

_log = logging.getLogger("sfworker.console")
ROWS = 100
MOST_AT_ONCE = 500
"""Jobs that are replayed by one press of a button, so that it ends in time."""
LOOKED_THROUGH = 1000
"""Newest entries of each stream among which an execution is looked for that has no record."""
_REPLAYS = {"replayed": "replayed", "not dead": "not_dead", "gone": "gone", "superseded": "superseded"}
_HASTENED = {"due": "hastened", "held": "held", "limited": "limited", "not waiting": "not_waiting"}


class Acts:
    """The pages that act, and those from which they are called."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._site = desk.site

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/dead", self.dead),
            web.get("/control", self.control),
            web.get("/submit", self.new),
            web.post("/submit", self.submit),
            web.post("/submit-envelope", self.submit_envelope),
            web.post("/cancel", self.cancel),
            web.post("/replay", self.replay),
            web.post("/replay-many", self.replay_many),
            web.post("/pause", self.pause),
            web.post("/resume", self.resume),
            web.post("/retry-now", self.retry_now),
            web.post("/retry-all", self.retry_all),
            web.post("/drain", self.drain),
        ]

    # --- one execution

    async def cancel(self, request: web.Request) -> web.Response:
        execution_id = _field(request, "id")
        client = self._site.client
        known = await client.find(execution_id, LOOKED_THROUGH) if execution_id else None
        if known is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "execution")
        cancelled = known.state != "answered" and await client.cancel(execution_id)
        return self._done(request, "cancelled" if cancelled else "ended", "/execution", id=execution_id)

    async def replay(self, request: web.Request) -> web.Response:
        known_as = _field(request, "id")
        job = await find_dead_job(self._site.redis, self._site.keys, self._site.group, known_as)
        outcome = await self._replayed(job) if job else "not dead"
        to = {"path": "/execution", "id": known_as} if job and job.attempt.execution_id else {"path": "/dead"}
        return self._done(request, _REPLAYS[outcome], **to)

    async def retry_now(self, request: web.Request) -> web.Response:
        execution_id = _field(request, "id")
        outcome = await self._site.broker.hasten_one(execution_id)
        return self._done(request, _HASTENED[outcome], "/execution", id=execution_id)

    # --- many

    async def dead(self, request: web.Request) -> web.Response:
        site, error_type = self._site, request.query.get("error_type", "")
        found: list[dict[str, Any]] = []
        async for page in dead_by_page(site.redis, site.keys, site.group):
            found += [summary(job) for job in page if error_type in ("", job.error_type)]
            if len(found) > ROWS:
                break
        return self._page(
            request, "dead.html", found=found[:ROWS], is_more=len(found) > ROWS, error_type=error_type, rows=ROWS
        )

    async def replay_many(self, request: web.Request) -> web.Response:
        site, error_type = self._site, _field(request, "error_type")
        tried = replayed = 0
        async for page in dead_by_page(site.redis, site.keys, site.group):
            for job in page:
                if error_type in ("", job.error_type) and tried < MOST_AT_ONCE:
                    tried += 1
                    replayed += await self._replayed(job) == "replayed"
            if tried == MOST_AT_ONCE:
                break
        return self._done(request, "replayed_many", "/dead", n=replayed, error_type=error_type)

    async def _replayed(self, job: DeadJob) -> str:
        return await StatusNotifier(self._site.broker, worker_id="").replayed(job.attempt)

    # --- the group

    async def control(self, request: web.Request) -> web.Response:
        site = self._site
        return self._page(
            request,
            "control.html",
            orders=await standing_orders(site.redis, site.keys, site.group),
            streams=self._streams(),
            workers=await live_workers(site.redis, site.keys, site.group),
            groups=await groups(site.redis, site.keys, site.settings.tenants),
            task_types=[each.name for each in self._task_types()],
        )

    async def pause(self, request: web.Request) -> web.Response:
        stream, task_type = _field(request, "stream"), _field(request, "task_type")
        match _field(request, "what"):
            case "all":
                name = PAUSE_ALL
            case "stream" if stream in self._streams():
                name = f"{PAUSE_STREAM}{stream}"
            case "type" if 0 < len(task_type) <= 256:
                name = f"{PAUSE_TYPE}{task_type}"
            case _:
                raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "target")
        await self._site.broker.give_order(name)
        return self._done(request, "paused", "/control", order=name)

    async def resume(self, request: web.Request) -> web.Response:
        name = _field(request, "order")
        if not name.startswith(PAUSE_ALL):
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "target")
        lifted = await self._site.broker.lift_order(name)
        return self._done(request, "resumed" if lifted else "not_paused", "/control")

    async def retry_all(self, request: web.Request) -> web.Response:
        return self._done(request, "hastened_many", "/control", n=await self._site.broker.hasten_all())

    async def drain(self, request: web.Request) -> web.Response:
        site, worker_id = self._site, _field(request, "worker")
        workers = await live_workers(site.redis, site.keys, site.group)
        if worker_id not in {worker.worker_id for worker in workers}:
            raise RefusedError(HTTPStatus.NOT_FOUND, "worker")
        await site.broker.give_order(f"{DRAIN}{worker_id}")
        return self._done(request, "drained", "/control", worker=worker_id)

    def _streams(self) -> list[str]:
        areas = [self._site.keys, *self._site.keys.of_tenants(self._site.settings.tenants)]
        return [stream for area in areas for stream in area.job_streams()]

    # --- new jobs

    async def new(self, request: web.Request) -> web.Response:
        name, parties = request.query.get("type", ""), self._parties(request.query.get("parties", ""))
        fields = {key: request.query.getall(key) for key in request.query}
        return self._form(request, forms.form(self._task_type(name), parties, fields) if name else None)

    async def submit(self, request: web.Request) -> web.Response:
        parties, fields = self._parties(_field(request, "parties")), request[FORM]
        form = forms.form(self._task_type(_field(request, "type")), parties, fields)
        envelope = forms.envelope(form)
        if envelope is None or await self._is_known(envelope, form.errors):
            again = forms.form(form.task_type, parties, fields, form.errors)
            return self._form(request, again, status=HTTPStatus.UNPROCESSABLE_ENTITY)
        return await self._send(request, envelope)

    async def submit_envelope(self, request: web.Request) -> web.Response:
        text, errors = _field(request, "envelope"), dict[str, str]()
        try:
            self._task_types()
            envelope = forms.read(text, self._parties(""), self._site.settings.max_envelope_bytes)
        except SecretFlowTaskError as error:
            errors["envelope"] = str(error)
        if errors or await self._is_known(envelope, errors):
            sentence = next(iter(errors.values()))
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return self._form(request, None, status=status, text=text, text_error=sentence)
        return await self._send(request, envelope)

    async def _is_known(self, envelope: dict[str, Any], errors: dict[str, str]) -> bool:
        """Return whether there is a job of this id, which a worker would not run again; say so in `errors`."""
        known = await self._site.client.find(envelope["execution_id"], LOOKED_THROUGH)
        if known is None or known.state == "unseen":
            return False
        errors["execution_id"] = "there is a job of this execution_id; choose another"
        return True

    async def _send(self, request: web.Request, envelope: dict[str, Any]) -> web.Response:
        await self._site.client.submit(envelope)
        return self._done(request, "submitted", "/execution", id=envelope["execution_id"])

    def _form(
        self,
        request: web.Request,
        form: forms.Form | None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        text: str = "",
        text_error: str = "",
    ) -> web.Response:
        return self._page(
            request,
            "submit.html",
            status=status,
            form=form,
            task_types=self._task_types(),
            parties=", ".join(form.parties if form else self._parties("")),
            priorities=forms.PRIORITIES,
            protocols=forms.PROTOCOLS,
            spu_fields=forms.SPU_FIELDS,
            text=text,
            text_error=text_error,
        )

    def _task_types(self) -> list[Any]:
        return installed_task_types(self._site.settings.jobs)

    def _task_type(self, name: str) -> Any:
        self._task_types()
        try:
            return find(name)
        except TaskTypeNotFoundError:
            raise RefusedError(HTTPStatus.NOT_FOUND, "task_type") from None

    def _parties(self, text: str) -> list[str]:
        return forms.party_list(text, self._site.settings.party_list())

    # --- all

    def _page(self, request: web.Request, template: str, **values: Any) -> web.Response:
        return render(self._desk, request, template, **values)

    def _done(self, request: web.Request, said: str, path: str, **query: Any) -> web.Response:
        """Say in the log what was done, and lead to the page that shows it."""
        about = " ".join(f"{name}={shown(value)}" for name, value in query.items() if value != "")
        _log.info("%s by %s: %s %s", request.path[1:], request.remote, said, about)
        return web.Response(status=303, headers={"Location": link(path, said=said, **query)})


def _field(request: web.Request, name: str) -> str:
    return next(iter(request[FORM].get(name, ())), "")
