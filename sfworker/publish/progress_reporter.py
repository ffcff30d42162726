"""Publishes every stage of an attempt, in order, and its progress a few times a second. Runs in the daemon."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from sfworker.wire.events import Stage
from sfworker.wire.frames import Progressed, StageReached

PROGRESS_PAUSE = 0.2
Say = Callable[[Stage, float | None, str | None], Awaitable[None]]


@dataclass(eq=False)
class _Publishing:
    """The events of a task that publishes: it waits for the first two, and who closes it for the last."""

    heard: anyio.Event = field(default_factory=anyio.Event)
    closing: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)


class ProgressReporter:
    """Takes stages and progress by `hear`, which never waits, and publishes them from a task until `close`."""

    def __init__(self, say: Say, tasks: TaskGroup) -> None:
        self._say = say
        self._tasks = tasks
        self._stages: deque[Stage] = deque()
        self._progress: Progressed | None = None
        self._publishing: _Publishing | None = None  # jobs that have nothing to say need no task

    def hear(self, frame: StageReached | Progressed) -> None:
        """Note a stage, or the progress in place of the last one."""
        if isinstance(frame, Progressed):
            self._progress = frame
        elif frame.stage != "executed":
            self._stages.append(frame.stage)
        else:
            return
        if self._publishing is None:
            self._publishing = _Publishing()
            self._tasks.start_soon(self._run, self._publishing)
        self._publishing.heard.set()

    async def close(self) -> None:
        """Wait until every stage that was heard is published. Progress that is not yet published is left out."""
        if self._publishing is not None:
            self._publishing.closing.set()
            self._publishing.heard.set()
            await self._publishing.done.wait()

    async def _run(self, state: _Publishing) -> None:
        while True:
            await state.heard.wait()
            state.heard = anyio.Event()
            while self._stages:
                await self._say(self._stages.popleft(), None, None)
            if state.closing.is_set():
                state.done.set()
                return
            if self._progress is not None:
                progress, self._progress = self._progress, None
                await self._say("progress", progress.fraction, progress.message)
                with anyio.move_on_after(PROGRESS_PAUSE):
                    await state.closing.wait()
                state.heard.set()
