"""Runs the process of this node's party in one execution, and keeps its outputs until they are committed.

Where the session is kept, one execution follows the other in the same process, over the same links.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from signal import SIGKILL

import anyio
import msgspec
from msgspec import Struct

from sfworker.catalog.resources import Limit
from sfworker.disks import disk_full, says_full, where_full
from sfworker.errors import Failure, GatewayLostError, TaskExecutionError
from sfworker.limits import Limits
from sfworker.pool import outputs
from sfworker.pool.channel import Listeners
from sfworker.pool.exits import sentence
from sfworker.pool.guard import guard
from sfworker.pool.mesh import DISMISSAL_SECONDS, KILL_SECONDS, OF_FULL_DISKS
from sfworker.pool.pool import Pool
from sfworker.pool.remotes import FromGateway, Remotes, cleaned
from sfworker.pool.sessions import memory_of_kept
from sfworker.pool.starts import floors, programs_dir
from sfworker.pool.usage import available_memory, memory_above, oom_kills, processor_seconds
from sfworker.settings import Settings
from sfworker.wire.frames import (
    MOST_REMAINS,
    Floors,
    FrameError,
    Keeping,
    Making,
    Renew,
    Renewed,
    Staging,
    Start,
    decode_party_frame,
    encode_body,
    longest_party_frame,
)
from sfworker.wire.gateway import Lost, Open
from sfworker.wire.party_log import decode_line, encode_record
from sfworker.wire.pipe import Pipe
from sfworker.wire.ray import USED_SECONDS, Begin, Broken, Closed, Exited, LinkLost, Nonsense, Printed, Said, Used

HELD_BYTES = 1 << 22
"""Bytes that wait for the host before lines of output are dropped."""


class Run:
    """One execution at this node, or those of one session, from `go` to `dismiss`."""

    def __init__(self, begin: Begin, settings: Settings, pool: Pool, pipe: Pipe) -> None:
        """Take a process for it. Raises OSError where there is none, or no directory."""
        self._begin = begin
        self._settings = settings
        self._pool = pool
        self._pipe = pipe
        self._say = pipe.say
        self._number = begin.run
        self._oom_kills = oom_kills()
        self._exit_told = False
        self._directory = self._mesh_dir = ""
        self._processors: list[int] = []
        self.is_idle = False
        """True where it waits for the next execution of its session."""
        self._answer: Renewed | None = None
        self._begin_events()
        self._template = pool.template
        self._start = self._own(begin.start)
        self._roots = self._start.data_roots[settings.party]
        self._staged: list[Staging] = []
        self._made: list[str] = []
        try:
            self._process = pool.acquire()
        except OSError:
            self._let_go()
            raise
        self._remotes: Remotes | None = None
        if begin.gateways:
            self._remotes = Remotes(settings.gateway_socket(), self._opened(), lambda party, traceparent: None)

    async def go(self) -> None:
        """Start the process and watch over it until cancelled."""
        listeners = Listeners(self._hear, self._hear_end, self._hear_nonsense, self._hear_line)
        self._process.assign(listeners, longest_party_frame(self._most_result))
        if self._remotes is not None:
            try:
                await self._remotes.open(self._hear_link)
            except GatewayLostError as error:
                self._say(Broken(self._number, Failure.of(error)))
                return
        async with anyio.create_task_group() as tasks:
            if self._remotes is not None:
                tasks.start_soon(self._remotes.say_alive)
            while True:
                with suppress(OSError):  # its end is heard
                    await self._process.send(self._start)
                await self._watch()
                with suppress(OSError):
                    await self._process.send(Renew())
                await self._forgotten.wait()
                await self._tell_renewed()
                await self._next.wait()
                self._begin_events()

    def renew(self) -> None:
        """Let the process forget the execution."""
        self._renew.set()

    def begin_next(self, begin: Begin) -> None:
        """Start the session's next execution."""
        self.is_idle = False
        self._begin, self._staged, self._made = begin, [], []
        self._oom_kills = oom_kills()
        try:
            self._start = self._own(begin.start)
        except OSError as error:
            self._say(not_started(self._number, error)[0])
        else:
            self._next.set()

    def _begin_events(self) -> None:
        self._renew, self._forgotten, self._next = anyio.Event(), anyio.Event(), anyio.Event()

    async def _watch(self) -> None:
        """Watch over an execution until it is to be forgotten."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell_used)
            if self._begin.memory or self._begin.scratch:
                tasks.start_soon(guard, self, self._limit("memory"), self._limit("scratch"), self._directory)
            await self._renew.wait()
            tasks.cancel_scope.cancel()

    async def _tell_renewed(self) -> None:
        """Remove what is left of the execution here, and say whether the process can serve another one."""
        assert self._answer is not None  # noqa: S101
        remains = self._answer.remains
        await anyio.to_thread.run_sync(self._remove)
        most = memory_of_kept(self._settings, self._begin.memory.amount if self._begin.memory else None)
        used = await anyio.to_thread.run_sync(memory_above, most, self.groups)
        if used is not None:
            remains = [*remains, f"{used} bytes of memory"]
        elif available_memory() < self._settings.session_memory_bytes:
            remains = [*remains, "too little memory at its node"]
        self._process.read_lines()  # which are this execution's, and not the next one's
        self.is_idle = True
        self._say(Said(self._number, encode_body(Renewed(remains[-MOST_REMAINS:]))))

    @property
    def groups(self) -> list[int]:
        """The process's group, as `guard` measures it."""
        return [] if self._process.pid is None else [self._process.pid]

    def fail(self, failure: Failure) -> None:
        """Say that the execution cannot go on, as `guard` finds."""
        self._say(Broken(self._number, failure))

    def signal(self, number: int, *, whole_group: bool) -> None:
        self._template.signal(self._process, number, whole_group=whole_group)

    async def dismiss(self) -> None:
        """Let the process go, or kill it, and remove what is left of the execution here."""
        self._process.dismiss()
        with anyio.move_on_after(DISMISSAL_SECONDS):
            await self._process.ended.wait()
        await self.end()

    async def end(self) -> None:
        """Kill the process where it still runs, and remove what is left of the execution here."""
        self.signal(SIGKILL, whole_group=True)
        with anyio.move_on_after(KILL_SECONDS) as overdue:
            await self._process.ended.wait()
        if overdue.cancelled_caught:
            self._template.kill()
        self._process.close()
        if self._remotes is not None:
            self._remotes.close()
        await anyio.to_thread.run_sync(self._remove)
        shutil.rmtree(self._mesh_dir, ignore_errors=True)

    def flush(self) -> None:
        """Flush staged outputs to disk. Raises ResultSaveError."""
        outputs.flush(self._staged, self._roots)

    def commit(self) -> None:
        """Rename them into place. Raises ResultSaveError."""
        staged, self._staged = self._staged, []
        outputs.commit(staged, self._roots, self._settings.log_file)

    def _own(self, start: Start) -> Start:
        """Return the Start frame with what is this node's own."""
        settings = self._settings
        self._directory = self._pool.new_directory()
        scratch = f"{self._directory}/scratch"
        os.mkdir(self._directory, 0o700)
        os.mkdir(scratch, 0o700)
        if start.keeps and not self._mesh_dir:  # which stays, and in which open files are no job's
            mesh_dir = self._pool.new_directory()
            os.mkdir(mesh_dir, 0o700)
            self._mesh_dir = mesh_dir
        self._processors = self._pool.processors.acquire(self._begin.threads) if self._begin.threads else []
        self._most_result = min(start.max_result_bytes, settings.max_result_bytes)
        return msgspec.structs.replace(
            start,
            mesh_dir=self._mesh_dir or self._directory,
            scratch_dir=scratch,
            programs_dir=programs_dir(os.path.dirname(self._directory), self._begin.tenant, settings),
            programs_bytes=settings.programs_bytes,
            data_roots={settings.party: settings.roots_of(settings.party)},
            limits=Limits.of(settings),
            floors=_stricter(start.floors, floors(settings)),
            processors=self._processors,
            max_result_bytes=self._most_result,
        )

    def _opened(self) -> Open:
        return Open(
            execution_id=self._begin.session,
            directory=self._start.mesh_dir,
            replays=0,
            settings=self._settings.of_gateway(),
            terms=self._begin.terms,
            addresses=self._begin.gateways,
            has_spu=self._begin.start.spu_config is not None,
        )

    def _limit(self, name: str) -> Limit | None:
        bound = getattr(self._begin, name)
        return None if bound is None else Limit(bound.amount, bound.remedy)

    def _hear(self, body: bytes) -> None:
        frame = decode_party_frame(body)
        located = self._begin.located
        match frame:
            case Making(path) | Keeping(path):
                outputs.require_own(frame, self._roots)
                if isinstance(frame, Making):
                    self._made.append(path)
                body = encode_body(type(frame)(located + path))
            case Staging(staged, target):
                outputs.require_own(frame, self._roots)
                self._staged.append(frame)
                body = encode_body(Staging(located + staged, located + target))
            case Renewed() if self._renew.is_set():
                self._answer = frame
                self._forgotten.set()
                return
        self._say(Said(self._number, body))

    def _hear_nonsense(self, error: FrameError) -> None:
        self._say(Nonsense(self._number, str(error)))

    def _hear_line(self, line: bytes) -> None:
        record = decode_line(line)  # here, as a line may quote the party's data
        is_kept = record.own or logging.getLevelName(record.level) >= logging.getLevelName(self._start.log_level)
        # A job that prints more than can be carried is not waited for.
        if is_kept and self._pipe.unread < HELD_BYTES:
            self._say(Printed(self._number, encode_record(record).rstrip()))

    def _hear_end(self) -> None:
        process = self._process
        if not process.ended.is_set():
            self._say(Closed(self._number))
        elif not self._exit_told:
            self._exit_told = True
            if process.exit_status in OF_FULL_DISKS and (full := where_full(self._start.scratch_dir, self._roots)):
                self._say(Broken(self._number, Failure.of(full)))
            how = sentence(process.exit_status, memory_ran_out=oom_kills() > self._oom_kills)
            self._say(Exited(self._number, process.exit_status, how))

    def _hear_link(self, heard: FromGateway) -> None:
        if isinstance(heard, Lost):
            self._say(LinkLost(self._number, heard.party, cleaned(heard.why)))

    async def _tell_used(self) -> None:
        while True:
            await anyio.sleep(USED_SECONDS)
            seconds = await anyio.to_thread.run_sync(processor_seconds, self.groups)
            self._say(Used(self._number, seconds))

    def _remove(self) -> None:
        outputs.discard(self._staged, self._roots)
        outputs.remove_left_behind(self._made, self._roots)
        self._let_go()

    def _let_go(self) -> None:
        self._pool.processors.release(self._processors)
        self._processors = []
        shutil.rmtree(self._directory, ignore_errors=True)


def not_started(run: int, error: OSError) -> list[Struct]:
    """Return what the daemon hears of an execution for which nothing could be started."""
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    full = disk_full("the run directory") if says_full(error) else None
    told = f"a node could not start its process ({reason})"
    return [Broken(run, Failure.of(full or TaskExecutionError(told))), Exited(run, None, "could not be started")]


def _stricter(one: Floors, other: Floors) -> Floors:
    """Return the floors under which nothing is revealed that is below either's."""
    numbers = {name: max(getattr(one, name), getattr(other, name)) for name in Floors.__struct_fields__}
    return Floors(
        **{
            **numbers,
            "reveal_empty_intersections": one.reveal_empty_intersections and other.reveal_empty_intersections,
        }
    )
