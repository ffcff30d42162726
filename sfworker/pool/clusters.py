"""Runs executions whose parties are on the nodes of Ray clusters, each cluster by a bridge that is kept."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from functools import partial
from itertools import count
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from sfworker.catalog.job import Job
from sfworker.catalog.resources import Limit
from sfworker.errors import ClusterInitializationError, Failure, ResultSaveError, TaskExecutionError
from sfworker.pool.bridge import Bridge, HostedProcess, UnplacedError
from sfworker.pool.guard import watch
from sfworker.pool.keepers import NodesKeeper, by_place, located
from sfworker.pool.mesh import Limits, Listener, Mesh
from sfworker.pool.outcome import Outcome, Stop
from sfworker.pool.ray_head import OWN, LocalHead
from sfworker.pool.sessions import Session, Sessions
from sfworker.pool.starts import session_key, shared_id, starts_elsewhere, terms
from sfworker.settings import Settings
from sfworker.wire.frames import Start
from sfworker.wire.ray import USED_SECONDS, Begin, Bound, Remove

_log = logging.getLogger("sfworker.pool")
MAX_OWED = 1000
"""Paths of a party's node, away when they were to be removed, that are kept for the next job there."""
REMOVE_SECONDS = 60.0
"""Longest time in which what attempts have left on nodes is removed."""


class Placement:
    """A job's room at its parties' nodes and its processes there, with what a template offers a mesh."""

    def __init__(self, bridge: Bridge, run: int, gateways: dict[str, str]) -> None:
        self.bridge = bridge
        self.run = run
        self.gateways = gateways
        self.lost = bridge.lost
        self.processes: list[HostedProcess] = []

    def signal(self, process: HostedProcess, number: int, *, whole_group: bool) -> None:
        process.signal(number, whole_group=whole_group)

    def used(self) -> float | None:
        """Return the processor time that all have used, None where a node has not told it, or a disk is waited for."""
        used = [process.used for process in self.processes]
        return None if None in used else sum(seconds for seconds in used if seconds is not None)

    def leave(self) -> None:
        """Let others have the room."""
        self.bridge.leave(self.run)

    def kill(self) -> None:
        """Kill the hosts of those that have not ended when they were killed."""
        for process in self.processes:
            if not process.ended.is_set():
                self.bridge.give_up(process.party)


class Handle(Protocol):
    """Describes what is needed of an `Execution`."""

    stopped: Stop | None
    stop_asked: anyio.Event

    def begun(self, mesh: Mesh) -> None: ...


class Clusters:
    """The bridges to all clusters that jobs have named."""

    def __init__(self, settings: Settings, worker_id: str, directory: str, tasks: TaskGroup) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._directory = directory
        self._tasks = tasks
        self._owed: dict[tuple[str, str], deque[str]] = {}
        self._head = LocalHead(settings, directory)
        self._bridges: dict[str, Bridge] = {}
        self._numbers = count(1)
        self._sessions: Sessions[HostedProcess] = Sessions(settings, _nodes_see_to_it)

    @asynccontextmanager
    async def execute(
        self,
        job: Job,
        attempt: int,
        listener: Listener,
        tenant: str,
        limits: Limits,
        execution: Handle,
        log_line: Callable[[str, bytes], None],
        *,
        traced: bool,
    ) -> AsyncIterator[Outcome]:
        """Run the job's computation and yield its outcome. After the block, all that it used is let go."""
        try:
            placement = await self._place_unless(execution, job)
        except UnplacedError as error:
            yield Outcome(failure=error.failure, no_room=error.later)
            return
        if placement is None:
            yield Outcome(failure=Failure.of(TaskExecutionError()), stopped=execution.stopped)
            return
        for party in job.parties:
            if owed := self._owed.pop((job.cluster, party), None):
                self._tasks.start_soon(self.remove, job.cluster, party, list(owed))
        self._sessions.began()
        frames = starts_elsewhere(job, attempt, self._settings, traced=traced)
        session = await self._session(session_key(job, tenant, frames)) if job.keeps_session else None
        if session is None or not session.processes:
            self._sessions.make_room()
            placement.processes = [placement.bridge.process(placement.run, party) for party in job.parties]
        else:
            placement.processes = session.processes
        mesh = Mesh(placement, placement.processes, log_line)
        known_as = shared_id(job.envelope.execution_id, tenant)
        if session is not None:
            session.mesh, session.processes, known_as = mesh, placement.processes, session.links
            frames = session.starts(frames)
        for process in placement.processes:
            process.begin = partial(self._begin, job, tenant, known_as, placement.gateways, process)
            process.break_off, process.suspect = mesh.break_off, mesh.suspect
        is_kept = False
        try:
            execution.begun(mesh)
            outcome = await self._run(mesh, placement, frames, limits, listener)
            outcome.number = session.served - 1 if session else 0
            known_there = placement.processes[0].run
            outcome.keeper = NodesKeeper(job.parties, known_there, placement.bridge.ask, self._remove_soon)
            with self._sessions.answering(session if outcome.failure is None else None):
                yield outcome
            is_kept = outcome.is_answered and execution.stopped is None
        finally:
            self._sessions.ended()
            if session is not None and is_kept and self._sessions.offer(session):
                placement.leave()  # it waits without room, which the next execution finds as any does
                self._tasks.start_soon(self._keep, mesh, session)
            else:
                self._tasks.start_soon(self._clean_up, mesh, placement)

    async def _session(self, key: bytes) -> Session[HostedProcess]:
        """Return a kept session, or one that is yet to get processes."""
        if (session := await self._sessions.take(key)) is None:
            session = Session(key)
            session.links = secrets.token_hex(16)
        return session

    async def _keep(self, mesh: Mesh, session: Session[HostedProcess]) -> None:
        """Let a session wait for its next execution, and end it where none comes or it is not fit for one."""
        if not await self._sessions.wait(session, mesh, await mesh.renew()):
            await mesh.dismiss()

    def keep_no_more(self) -> None:
        """End the sessions that wait for a job."""
        self._sessions.close()

    async def _run(
        self, mesh: Mesh, placement: Placement, starts: list[Start], limits: Limits, listener: Listener
    ) -> Outcome:
        async with anyio.create_task_group() as tasks:
            if self._settings.stall_seconds:
                tasks.start_soon(watch, mesh, self._settings.stall_seconds, placement.used, 2 * USED_SECONDS)
            outcome = await mesh.run(starts, limits, listener)
            tasks.cancel_scope.cancel()
        return outcome

    async def run(self) -> None:
        """Start the worker's own head, where that is not left to the first job."""
        if self._settings.ray_at_start and OWN in self._settings.ray_addresses:
            with suppress(UnplacedError):  # which the first job hears
                await self._bridge(OWN)

    async def stop(self) -> None:
        """End the worker's own head."""
        await self._head.stop()

    def _remove_soon(self, paths: Iterable[str]) -> None:
        """Remove staged outputs. A host that is gone has to be replaced first, for which the answer does not wait."""
        for (address, party), found in by_place(paths).items():
            self._tasks.start_soon(self.remove, address, party, found)

    async def remove(self, address: str, party: str, paths: list[str]) -> None:
        """Remove what attempts have left on a party's node, as far as that can be reached."""
        if address not in self._settings.ray_addresses:  # Redis says so, and others may write to it
            return
        try:
            with anyio.fail_after(REMOVE_SECONDS):
                placement = await self._place(address, [party], room=False)
                try:
                    await placement.bridge.ask(party, partial(Remove, paths=paths))
                finally:
                    placement.bridge.leave(placement.run)
        except (UnplacedError, ResultSaveError, TimeoutError) as error:
            self._owed.setdefault((address, party), deque(maxlen=MAX_OWED)).extend(paths)
            _log.warning(
                "what attempts have staged at %s could not be removed (%s); it is when the next job has found its node",
                party,
                type(error).__name__,
            )

    async def _place_unless(self, execution: Handle, job: Job) -> Placement | None:
        """Place a job, or return None where it is stopped before. Raises UnplacedError."""
        placed: list[Placement] = []
        refused: list[UnplacedError] = []
        async with anyio.create_task_group() as tasks:

            async def place() -> None:
                try:
                    placed.append(await self._place(job.cluster, job.parties))
                except UnplacedError as error:
                    refused.append(error)
                tasks.cancel_scope.cancel()

            tasks.start_soon(place)
            await execution.stop_asked.wait()
            tasks.cancel_scope.cancel()
        if refused:
            raise refused[0]
        return placed[0] if placed else None

    async def _place(self, address: str, parties: list[str], *, room: bool = True) -> Placement:
        """Place a job, at a new bridge where the one that there is ends meanwhile. Raises UnplacedError."""
        for _ in range(2):
            bridge = await self._bridge(address)
            await bridge.until_joined()
            try:
                return Placement(bridge, *await bridge.place(parties, room=room))
            except OSError:  # TimeoutError included
                continue
        raise UnplacedError(Failure.of(ClusterInitializationError("the Ray cluster does not place the job's parties")))

    async def _bridge(self, name: str) -> Bridge:
        address, token = name, {}
        if name == OWN:
            try:
                address, token = await self._head.address(), self._head.token
            except ClusterInitializationError as error:
                raise UnplacedError(Failure.of(error)) from None
        bridge = self._bridges.get(name)
        if bridge is None or bridge.lost.is_set():
            directory = f"{self._directory}/ray-{next(self._numbers)}"
            bridge = self._bridges[name] = Bridge(self._settings, address, self._worker_id, directory, token)
            Context().run(self._tasks.start_soon, bridge.run)  # its log is not this job's alone
        return bridge

    def _begin(
        self, job: Job, tenant: str, known_as: str, gateways: dict[str, str], process: HostedProcess, start: Start
    ) -> Begin:
        resources = job.resources
        return Begin(
            run=process.run,
            start=start,
            session=known_as,
            tenant=tenant,
            gateways={party: address for party, address in gateways.items() if party != process.party},
            terms=terms(job),
            located=located(job.cluster, process.party),
            threads=resources.threads.amount if resources.threads else 0,
            memory=_bound(resources.memory),
            scratch=_bound(resources.scratch),
        )

    async def _clean_up(self, mesh: Mesh, placement: Placement) -> None:
        await mesh.dismiss()
        placement.leave()


def _nodes_see_to_it() -> bool:
    """Return whether the memory is short, of which each node thinks for itself."""
    return False


def _bound(limit: Limit | None) -> Bound | None:
    return None if limit is None else Bound(limit.amount, limit.remedy)
