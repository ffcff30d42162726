"""Publishes every stage of an attempt, in order, and its progress a few times a second. Runs in the daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from sfworker.wire.events import Stage
from sfworker.wire.frames import Progressed, StageReached

GATHERED_SECONDS = 0.03
"""Time for which the first of several that are to be said waits for others, as parties of one host are soon ready."""
PROGRESS_PAUSE = 0.2


class News(NamedTuple):
    """One event of a running attempt: a stage that it has reached, or its progress."""

    stage: Stage
    progress: float | None = None
    message: str | None = None


Say = Callable[[Sequence[News]], Awaitable[None]]


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
        self._stages: list[Stage] = []
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
            with anyio.move_on_after(GATHERED_SECONDS):
                await state.closing.wait()
            state.heard = anyio.Event()
            news, self._stages = [News(stage) for stage in self._stages], []
            progress, self._progress = self._progress, None
            if progress is not None and not state.closing.is_set():
                news.append(News("progress", progress.fraction, progress.message))
            if news:
                await self._say(news)
            if state.closing.is_set() and not self._stages:
                state.done.set()
                return
            if progress is not None:
                with anyio.move_on_after(PROGRESS_PAUSE):
                    await state.closing.wait()
                state.heard.set()
