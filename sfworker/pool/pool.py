"""Keeps a template process, spare party processes ahead of demand, and a mesh per execution. Runs in the daemon.

    acquire spares --> Mesh.run --> outcome --> (the daemon publishes) --> dismiss, remove scratch, fork new spares

A spare is a process that has been forked and waits for its Start frame; it serves one execution like any other, or
several where jobs ask for that and `sessions` keeps theirs. The template is replaced, with growing pauses, when it
dies, by another fork of the nursery, which has imported SecretFlow.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import copy_context
from copy import copy
from functools import partial
from itertools import count

import anyio
from anyio.abc import TaskGroup

from sfworker.catalog.job import Job
from sfworker.disks import disk_full, says_full
from sfworker.errors import Failure, TaskExecutionError
from sfworker.logs import party_line
from sfworker.pool import outputs
from sfworker.pool.clusters import Clusters
from sfworker.pool.gateway import OwnGateway
from sfworker.pool.guard import guard, watch
from sfworker.pool.keepers import by_place
from sfworker.pool.mesh import Limits, Listener, Mesh
from sfworker.pool.outcome import Outcome, Stop
from sfworker.pool.party_process import PartyProcess
from sfworker.pool.processors import Processors
from sfworker.pool.remotes import Remotes
from sfworker.pool.run_dir import EXECUTIONS
from sfworker.pool.sessions import Session, Sessions, memory_of_kept
from sfworker.pool.starts import opened, session_key, starts
from sfworker.pool.template import Nursery, Template
from sfworker.pool.usage import available_memory, memory_above, processor_seconds
from sfworker.settings import Settings
from sfworker.telemetry import ExecutionTrace, Telemetry
from sfworker.wire.frames import Start

_log = logging.getLogger("sfworker.pool")
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0
"""A template that lasted longer did not fail at its start, so the pauses begin again at the shortest."""
REFILL_DELAY = 0.05
"""Seconds by which forking new spares waits, not to compete with the start of the execution that took the old ones."""


class Execution:
    """Handle on one computation, by which it can be stopped before and after it has begun."""

    def __init__(self) -> None:
        self._mesh: Mesh | None = None
        self.stopped: Stop | None = None
        self.stop_asked = anyio.Event()
        self.began = time.time()
        self.progress: float | None = None
        """How far the job says that it is, from 0 to 1."""

    @property
    def groups(self) -> list[int]:
        """Process groups of its parties on this host, none before they have begun."""
        return self._mesh.groups if self._mesh else []

    def stop(self, reason: Stop) -> None:
        """End the computation, or keep it from beginning."""
        self.stopped = max(self.stopped or reason, reason)
        self.stop_asked.set()
        if self._mesh is not None:
            self._mesh.stop(reason)

    def begun(self, mesh: Mesh) -> None:
        self._mesh = mesh
        if self.stopped is not None:
            mesh.stop(self.stopped)


class Pool:
    """Runs computations. Made by `open_pool`."""

    def __init__(
        self, settings: Settings, directory: str, worker_id: str, telemetry: Telemetry, tasks: TaskGroup
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._directory = directory
        self._tasks = tasks
        self._imported = anyio.Event()
        """Set as long as the nursery can fork."""
        self._nursery = Nursery(settings, directory, self._imported)
        self.template = Template(self._nursery)
        self._spares: deque[PartyProcess] = deque()
        self._numbers = count(1)
        self.processors = Processors()
        self._sessions: Sessions[PartyProcess] = Sessions(
            settings, lambda: available_memory() < settings.session_memory_bytes
        )
        self._changed = anyio.Event()
        self.gateway = OwnGateway(settings)
        self.clusters = Clusters(settings, worker_id, directory, tasks)
        self.trouble = ""
        """Sentence on the template's last failure, empty when it is ready again."""

    @property
    def is_ready(self) -> bool:
        return self.template.ready.is_set() and not self.template.lost.is_set()

    async def until_ready(self) -> None:
        """Wait until executions can start."""
        while not self.is_ready:
            await self._changed.wait()

    @asynccontextmanager
    async def execute(
        self,
        job: Job,
        attempt: int,
        execution: Execution,
        listener: Listener,
        tenant: str,
        replays: int,
        trace: ExecutionTrace,
    ) -> AsyncIterator[Outcome]:
        """Run the job's computation and yield its outcome. After the block, all that it used is let go."""
        limits = Limits(
            soft=job.resources.soft_seconds,
            hard=job.resources.seconds,
            grace=self._settings.cancel_grace_seconds,
            tell_why=self._settings.tell_peers_why,
        )
        if job.cluster:
            placed = self.clusters.execute(
                job, attempt, listener, tenant, limits, execution, _line_logger(), traced=trace.records
            )
            async with placed as outcome:
                yield outcome
            return
        used = [directory := self.new_directory()]
        template = self.template
        frames: list[Start] = []
        session: Session[PartyProcess] | None = None
        self._sessions.began()
        try:
            os.mkdir(directory, 0o700)
            frames = starts(job, attempt, self._settings, directory, tenant, self.processors, traced=trace.records)
            if job.keeps_session:
                session = await self._session(session_key(job, tenant, frames))
            remotes = self._remotes(job, self._sockets(session, job, used), session, tenant, replays, trace)
            otherwise = self._otherwise(session, frames, used)
            processes = session.processes if session else []
            if not processes:
                self._sessions.make_room()
                processes += self._acquire_all(len(frames))
            mesh = Mesh(template, processes, _line_logger(), remotes, otherwise)
            if session is not None:
                session.mesh = mesh
                frames = session.starts(frames)
        except OSError as error:  # the disk is full, or the template has died since this job was taken
            self._release(frames)
            self._sessions.ended()
            await anyio.to_thread.run_sync(_remove, used, session)
            sentence = f"the worker could not start a process for this job ({_reason(error)})"
            failure = Failure.of(disk_full("the run directory") if says_full(error) else TaskExecutionError(sentence))
            yield Outcome(failure=failure, never_ran=template.lost.is_set())
            return
        try:
            is_kept = False
            execution.begun(mesh)
            asyncio.get_running_loop().call_later(REFILL_DELAY, self.refill)
            outcome = await self._run_guarded(mesh, remotes, frames, limits, listener, job, directory)
            outcome.number = session.served - 1 if session else 0
            with self._sessions.answering(session if outcome.failure is None else None):
                yield outcome
            is_kept = outcome.is_answered and execution.stopped is None
        finally:
            self._release(frames)
            self._sessions.ended()
            if session is not None and is_kept and self._sessions.offer(session):
                self._tasks.start_soon(self._keep, mesh, remotes, used, session, job)
            else:
                self._tasks.start_soon(self._clean_up, mesh, used, session)

    async def _session(self, key: bytes) -> Session[PartyProcess]:
        """Return a kept session, or one that is yet to get processes."""
        if (session := await self._sessions.take(key)) is not None:
            return session
        directory = self.new_directory()
        os.mkdir(directory, 0o700)
        return Session(key, directory)

    def _sockets(self, session: Session[PartyProcess] | None, job: Job, used: list[str]) -> str:
        """Return the directory for sockets that stand in for parties elsewhere.

        Where there is a kept session it is another one, which is needed only if the peers do not keep theirs.
        """
        if session is None:
            return used[0]
        if not session.served or not job.peers:
            return session.directory
        directory = self.new_directory()
        os.mkdir(directory, 0o700)
        used.append(directory)
        return directory

    def _otherwise(
        self, session: Session[PartyProcess] | None, frames: list[Start], used: list[str]
    ) -> Callable[[], tuple[list[PartyProcess], list[Start]]] | None:
        """Return what gives a session other processes, where it has links that the peers may not use."""
        if session is None or not session.served:
            return None
        return partial(self._begin_anew, session, session.mesh, frames, used)

    def _begin_anew(
        self, session: Session[PartyProcess], mesh: Mesh | None, frames: list[Start], used: list[str]
    ) -> tuple[list[PartyProcess], list[Start]]:
        """Give a session new processes, in the place of those that ran the last `mesh`. Raises OSError."""
        former = copy(session)
        former.mesh = mesh
        self._tasks.start_soon(self._end, former)
        session.reset(used.pop())
        self._sessions.make_room()
        session.processes += self._acquire_all(len(frames))
        return session.processes, session.starts(frames)

    async def _end(self, session: Session[PartyProcess]) -> None:
        await session.end()
        await anyio.to_thread.run_sync(_remove, [], session)

    def _remotes(
        self,
        job: Job,
        directory: str,
        session: Session[PartyProcess] | None,
        tenant: str,
        replays: int,
        trace: ExecutionTrace,
    ) -> Remotes | None:
        if not job.peers:
            return None
        traceparent = trace.traceparent if self._settings.link_traces else None
        kept = session.known_as if session else ""
        described = opened(job, self._settings, directory, tenant, replays, traceparent, kept)
        self.gateway.note_begin(described.execution_id)
        return Remotes(self._settings.gateway_socket(), described, trace.link)

    def new_directory(self) -> str:
        """Return a name that no execution has, of those that are short enough for the paths of sockets."""
        while os.path.exists(directory := f"{self._directory}/{next(self._numbers) % EXECUTIONS}"):
            pass
        return directory

    async def remove_left_behind(self, paths: Iterable[str]) -> None:
        """Remove what attempts have left here and on nodes. The paths come from Redis, as `outputs` has it."""
        for (address, party), found in by_place(paths).items():
            if address:
                await self.clusters.remove(address, party, found)
            else:
                roots = self._settings.all_roots()
                await anyio.to_thread.run_sync(outputs.remove_left_behind, found, roots)

    async def run(self) -> None:
        """Keep a nursery and a template process running until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_nursery)
            tasks.start_soon(self._keep_template)

    async def _keep_nursery(self) -> None:
        failures = _Failures()
        while True:
            failures.begin()
            try:
                await self._nursery.start()
                how = await self._nursery.wait()
            except (OSError, RuntimeError) as error:  # no process, memory, descriptor or thread is left
                how = f"could not be started ({_reason(error)})"
            told, pause = failures.end(f"the nursery process {how}")
            if not self.is_ready:  # else the template serves on
                self.trouble = told
            _log.error("%s; it is started again in %.1f s", told, pause)
            if self._imported.is_set():
                self._imported = anyio.Event()
            await anyio.sleep(pause)
            self._nursery = Nursery(self._settings, self._directory, self._imported)

    async def _keep_template(self) -> None:
        failures = _Failures()
        while True:
            await self._imported.wait()
            failures.begin()
            self.template = Template(self._nursery)
            self.trouble, pause = failures.end(f"the template process {await self._serve()}")
            _log.error("%s; it is started again in %.1f s", self.trouble, pause)
            self._discard_spares()
            self._telemetry.count("template_restart")
            await anyio.sleep(pause)

    def keep_no_more(self) -> None:
        """End the sessions that wait for a job."""
        self._sessions.close()
        self.clusters.keep_no_more()

    async def stop(self) -> None:
        """End every process."""
        await self.clusters.stop()
        await self.template.stop()
        await self._nursery.stop()
        self._discard_spares()

    async def _serve(self) -> str:
        """Start the template, wait for its end, and return how it ended."""
        try:
            self.template.start()
        except OSError as error:  # no descriptor is left
            return f"could not be started ({_reason(error)})"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._prepare)
            how = await self.template.wait()
            tasks.cancel_scope.cancel()
        return how

    async def _prepare(self) -> None:
        await self.template.ready.wait()
        self.trouble = ""
        self.refill()
        self._changed.set()
        self._changed = anyio.Event()

    def _acquire_all(self, count: int) -> list[PartyProcess]:
        """Acquire `count` processes. Raises OSError after letting go of those acquired before."""
        acquired: list[PartyProcess] = []
        try:
            while len(acquired) < count:
                acquired.append(self.acquire())
        except OSError:
            for process in acquired:
                process.close()
            raise
        return acquired

    def acquire(self) -> PartyProcess:
        """Take a spare, or fork one. Raises OSError where the template is gone."""
        while self._spares:
            spare = self._spares.popleft()
            if not spare.ended.is_set():
                return spare
            spare.close()
        return self.template.fork()

    async def _run_guarded(
        self,
        mesh: Mesh,
        remotes: Remotes | None,
        frames: list[Start],
        limits: Limits,
        listener: Listener,
        job: Job,
        directory: str,
    ) -> Outcome:
        async with anyio.create_task_group() as tasks:
            if remotes is not None:
                tasks.start_soon(remotes.say_alive)
            if job.resources.memory or job.resources.scratch:
                tasks.start_soon(guard, mesh, job.resources.memory, job.resources.scratch, directory)
            if self._settings.stall_seconds and not job.peers:  # elsewhere it may wait for others' work
                tasks.start_soon(watch, mesh, self._settings.stall_seconds, lambda: processor_seconds(mesh.groups))
            outcome = await mesh.run(frames, limits, listener)
            tasks.cancel_scope.cancel()
        return outcome

    def _release(self, frames: list[Start]) -> None:
        for frame in frames:
            self.processors.release(frame.processors)

    def refill(self) -> None:
        """Ask the template for the missing spares, which it forks while the last ones compute."""
        try:
            while len(self._spares) < self._settings.spare_processes and self.is_ready:
                self._spares.append(self.template.fork())
        except OSError as error:  # spares are only for speed; a job that finds none asks for its own
            _log.warning("no spare process could be made (%s)", type(error).__name__)

    def _discard_spares(self) -> None:
        while self._spares:
            self._spares.popleft().close()

    async def _keep(
        self, mesh: Mesh, remotes: Remotes | None, used: list[str], session: Session[PartyProcess], job: Job
    ) -> None:
        """Let a session wait for its next execution, and end it where none comes or it is not fit for one."""
        self.refill()
        remains = await mesh.renew()
        if remotes is not None and not remains:
            remains = await self._keep_links(mesh, remotes, session)
        await anyio.to_thread.run_sync(_remove, used)
        limit = job.resources.memory
        most_memory = memory_of_kept(self._settings, limit.amount if limit else None)
        memory = None if remains else await anyio.to_thread.run_sync(memory_above, most_memory, mesh.groups)
        if memory is not None:
            remains = [f"{memory} bytes of memory"]
        if not await self._sessions.wait(session, mesh, remains):
            await self._clean_up(mesh, used, session)

    async def _keep_links(self, mesh: Mesh, remotes: Remotes, session: Session[PartyProcess]) -> list[str]:
        """End the attempt for the peers, but not the links, which began with the session's first attempt."""
        if session.remotes is not None:
            mesh.part()
            return []
        mesh.forget_remotes()
        session.remotes, session.links = remotes, await remotes.keep()
        return [] if session.links else ["links that have ended"]

    async def _clean_up(self, mesh: Mesh, used: list[str], session: Session[PartyProcess] | None) -> None:
        self.refill()
        await mesh.dismiss()
        if session is not None:
            await session.end()
        await anyio.to_thread.run_sync(_remove, used, session)


class _Failures:
    """Counts how often in a row something that is to last did not."""

    def __init__(self) -> None:
        self._count = 0
        self._began = 0.0

    def begin(self) -> None:
        self._began = anyio.current_time()

    def end(self, how: str) -> tuple[str, float]:
        """Return a sentence on it, and the seconds until it is to begin again."""
        is_steady = anyio.current_time() - self._began > STEADY_SECONDS
        self._count = 1 if is_steady else self._count + 1
        times = f"; it did not last for {self._count} times in a row" if self._count > 1 else ""
        return how + times, min(0.1 * 4 ** min(self._count - 1, 8), LONGEST_PAUSE)


def _remove(directories: list[str], session: Session[PartyProcess] | None = None) -> None:
    for directory in [*directories, *([session.directory] if session else [])]:
        shutil.rmtree(directory, ignore_errors=True)


def _reason(error: Exception) -> str:
    """Describe an error in words that hold no path."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__


def _line_logger() -> Callable[[str, bytes], None]:
    """Return what logs lines of the execution's processes with the fields that are bound here and now."""
    bound = copy_context()

    def log_line(party: str, line: bytes) -> None:
        bound.run(party_line, line, party=party)

    return log_line


@asynccontextmanager
async def open_pool(
    settings: Settings, directory: str, worker_id: str = "", telemetry: Telemetry | None = None
) -> AsyncIterator[Pool]:
    """Open a pool whose processes live in the block. The first is ready some seconds later."""
    async with anyio.create_task_group() as tasks:
        pool = Pool(settings, directory, worker_id, telemetry or Telemetry(), tasks)
        tasks.start_soon(pool.run)
        tasks.start_soon(pool.gateway.run)
        tasks.start_soon(pool.clusters.run)
        try:
            yield pool
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await pool.stop()
