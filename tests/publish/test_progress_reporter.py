"""Stages are all said, in order; progress as often as anybody can use it."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from anyio.abc import TaskGroup

from sfworker.publish import progress_reporter
from sfworker.publish.progress_reporter import News, ProgressReporter
from sfworker.wire.frames import Progressed, StageReached

Said = list[News]


def reporter_into(said: Said, tasks: TaskGroup) -> ProgressReporter:
    async def say(news: Sequence[News]) -> None:
        said.extend(news)

    return ProgressReporter(say, tasks)


async def test_stages_are_said_even_where_the_job_has_ended_meanwhile() -> None:
    said: Said = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            reporter = reporter_into(said, tasks)
            reporter.hear(StageReached("cluster_ready", 0.1))
            reporter.hear(StageReached("devices_ready", 0.1))
            reporter.hear(StageReached("executed", 0.1))
            await reporter.close()
            assert len(said) == 2  # not after the answer
    assert said == [News("cluster_ready"), News("devices_ready")]


async def test_what_comes_together_is_said_together_and_in_its_order() -> None:
    calls: list[list[News]] = []

    async def say(news: Sequence[News]) -> None:
        calls.append([*news])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            reporter = ProgressReporter(say, tasks)
            reporter.hear(StageReached("cluster_ready", 0.1))
            await anyio.sleep(progress_reporter.GATHERED_SECONDS / 10)
            reporter.hear(StageReached("devices_ready", 0.1))
            reporter.hear(Progressed(0.5, "half"))
            while not calls:  # noqa: ASYNC110 - a bounded poll
                await anyio.sleep(0.01)
            reporter.hear(Progressed(1.0, "all"))
            await reporter.close()
    assert calls == [[News("cluster_ready"), News("devices_ready"), News("progress", 0.5, "half")]]


async def test_a_job_that_says_nothing_ends_without_a_word() -> None:
    said: Said = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await reporter_into(said, tasks).close()
    assert said == []


async def test_of_much_progress_the_latest_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_reporter, "PROGRESS_PAUSE", 0.05)
    said: Said = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            reporter = reporter_into(said, tasks)
            for step in range(100):
                reporter.hear(Progressed(step / 100, f"step {step}"))
                await anyio.sleep(0.001)
            while said[-1:] != [News("progress", 0.99, "step 99")]:  # noqa: ASYNC110 - a bounded poll
                await anyio.sleep(0.01)
            await reporter.close()
    assert len(said) < 50
    assert said == sorted(said)
