"""Publishes every stage of an attempt, in order, and its progress a few times a second. Runs in the daemon."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from sfworker.wire.events import Stage
from sfworker.wire.frames import Progressed, StageReached

PROGRESS_PAUSE = 0.2
Say = Callable[[Stage, float | None, str | None], Awaitable[None]]


class ProgressReporter:
    """Takes stages and progress by `hear`, which never waits, and publishes them from a task until `close`."""

    def __init__(self, say: Say, tasks: TaskGroup) -> None:
        self._say = say
        self._tasks = tasks
        self._is_running = False
        self._stages: deque[Stage] = deque()
        self._progress: Progressed | None = None
        self._heard = anyio.Event()
        self._closing = anyio.Event()
        self._done = anyio.Event()

    def hear(self, frame: StageReached | Progressed) -> None:
        """Note a stage, or the progress in place of the last one."""
        if isinstance(frame, Progressed):
            self._progress = frame
        elif frame.stage != "executed":
            self._stages.append(frame.stage)
        else:
            return
        self._heard.set()
        if not self._is_running:  # jobs that have nothing to say need no task
            self._is_running = True
            self._tasks.start_soon(self._run)

    async def close(self) -> None:
        """Wait until every stage that was heard is published. Progress that is not yet published is left out."""
        self._closing.set()
        self._heard.set()
        if self._is_running:
            await self._done.wait()

    async def _run(self) -> None:
        while True:
            await self._heard.wait()
            self._heard = anyio.Event()
            while self._stages:
                await self._say(self._stages.popleft(), None, None)
            if self._closing.is_set():
                self._done.set()
                return
            if self._progress is not None:
                progress, self._progress = self._progress, None
                await self._say("progress", progress.fraction, progress.message)
                with anyio.move_on_after(PROGRESS_PAUSE):
                    await self._closing.wait()
                self._heard.set()
