"""Keeps sessions that have served an execution for the next one that fits. Runs in the daemon.

    first execution --> offered: renews --> idle --> taken by the next execution --> offered ...
                                    |         |
                                    +---------+--> ended: unfit, idle for too long, or in the way of others

One that renews may be taken already, which waits for the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import anyio
import msgspec

from sfworker.pool.mesh import Controlled, Mesh
from sfworker.pool.remotes import Remotes
from sfworker.settings import Settings
from sfworker.wire.frames import Start

_log = logging.getLogger("sfworker.pool")
ANSWER_SECONDS = 1.0
"""Longest wait for a session whose execution is being answered. The next job may come before that is noted here."""
P = TypeVar("P", bound=Controlled)


def memory_of_kept(settings: Settings, limit: int | None) -> int:
    """Return the bytes that a kept session may use, of which most of a job's own limit has to be left."""
    most = settings.session_memory_bytes
    return most if limit is None else min(most, limit // 4)


class Session(Generic[P]):
    """Processes that are joined, and the directory of their sockets, which is nothing where they are on nodes."""

    def __init__(self, key: bytes, directory: str = "") -> None:
        self.key = key
        self.directory = directory
        self.processes: list[P] = []
        self.mesh: Mesh | None = None
        """The last that ran here."""
        self.remotes: Remotes | None = None
        """The parties elsewhere as the first execution met them, whose links have stayed since."""
        self.links = ""
        """Id of these."""
        self.served = 0
        self.is_fit = False
        self.renewed = anyio.Event()
        """Set when it is known whether it `is_fit`."""
        self.is_taken = False
        self.wanted = anyio.Event()
        """Set when it is taken, or to be ended."""
        self.answered = anyio.Event()
        """Set when its execution has been answered."""

    def starts(self, frames: list[Start]) -> list[Start]:
        """Return the frames as those of the session's next execution."""
        number, self.served = self.served, self.served + 1
        of_session = {"mesh_dir": self.directory, "keeps": True, "number": number}
        # Parties elsewhere may not keep theirs.
        return [msgspec.structs.replace(frame, all_keep=not frame.elsewhere, **of_session) for frame in frames]

    @property
    def is_alive(self) -> bool:
        lost = self.remotes is not None and self.remotes.is_lost
        return not lost and not any(process.is_lost for process in self.processes)

    @property
    def known_as(self) -> str:
        """What peers have to say, too, for its links to be used."""
        return f"{self.links}:{self.served}" if self.links else ""

    def reset(self, directory: str) -> None:
        """Begin anew, in another directory, with processes that are yet to come."""
        self.directory, self.processes, self.served = directory, [], 0
        self.remotes, self.links = None, ""

    async def end(self) -> None:
        """End its processes and links."""
        if self.mesh is not None:
            await self.mesh.dismiss()
        if self.remotes is not None:
            self.remotes.close()

    async def idle(self, mesh: Mesh, seconds: float) -> None:
        """Wait until it is wanted, a process of it has ended, or `seconds` have passed."""
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                await mesh.until_one_ended()
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            with anyio.move_on_after(seconds):
                await self.wanted.wait()
            tasks.cancel_scope.cancel()


class Sessions(Generic[P]):
    """The kept ones, the longest idle first.

    With the executions that run they are never more than executions may run at once. `is_short` says whether the memory
    of this host is.
    """

    def __init__(self, settings: Settings, is_short: Callable[[], bool]) -> None:
        self._settings = settings
        self._is_short = is_short
        self._kept: list[Session[P]] = []
        self._answering: list[Session[P]] = []
        self._running = 0
        self._is_closed = False

    def began(self) -> None:
        """Make room for an execution that begins, which may take one of these."""
        self._running += 1

    def ended(self) -> None:
        self._running -= 1

    @contextmanager
    def answering(self, session: Session[P] | None) -> Iterator[None]:
        """Let executions that fit wait for a session which is offered right after the block, if at all."""
        if session is None:
            yield
            return
        session.answered = anyio.Event()
        self._answering.append(session)
        try:
            yield
        finally:
            self._answering.remove(session)
            session.answered.set()

    async def take(self, key: bytes) -> Session[P] | None:
        """Return one that is fit for the execution with this key."""
        with anyio.move_on_after(ANSWER_SECONDS):
            while not self._find(self._kept, key) and (answering := self._find(self._answering, key)):
                await answering.answered.wait()
        while session := self._find(self._kept, key):
            session.is_taken = True
            self.remove(session)
            if not session.renewed.is_set():  # else it is alive, as nothing has happened since
                await session.renewed.wait()
            if session.is_fit:
                return session
        return None

    def _find(self, sessions: list[Session[P]], key: bytes) -> Session[P] | None:
        return next((each for each in sessions if each.key == key and each.is_alive), None)

    def make_room(self) -> None:
        """End those that are in the way of an execution which begins with new processes."""
        is_short = bool(self._kept) and self._is_short()
        while self._kept and (is_short or self._running + len(self._kept) > self._settings.concurrency):
            self.remove(self._kept[0])

    def offer(self, session: Session[P]) -> bool:
        """Keep a session whose execution has ended well, or return False where it is not to be kept."""
        settings = self._settings
        while self._kept and self._running + len(self._kept) >= settings.concurrency:
            self.remove(self._kept[0])
        if (
            self._is_closed
            or session.served >= settings.session_jobs
            or self._running >= settings.concurrency
            or self._is_short()
        ):
            return False
        session.is_fit = session.is_taken = False
        session.renewed, session.wanted = anyio.Event(), anyio.Event()
        self._kept.append(session)
        return True

    async def wait(self, session: Session[P], mesh: Mesh, remains: list[str]) -> bool:
        """Let a session that was offered wait for its next execution, unless something `remains` of the last one.

        Returns False where it serves none and is to be ended.
        """
        session.is_fit = not remains and session.is_alive
        session.renewed.set()
        if remains:
            _log.info("a session is not kept, because of what its job has left: %s", ", ".join(remains))
        else:
            await session.idle(mesh, self._settings.session_idle_seconds)
            if not session.is_alive:
                _log.info("a session is kept no more, because a process or a link of it has ended")
        self.remove(session)
        return session.is_fit and session.is_taken

    def remove(self, session: Session[P]) -> None:
        """Keep it no more. It is ended, unless it is taken."""
        if session in self._kept:
            self._kept.remove(session)
        session.wanted.set()

    def close(self) -> None:
        """End all, and keep none from now on."""
        self._is_closed = True
        for session in [*self._kept]:
            self.remove(session)
