"""The template process as the daemon has it: started again, busy, let go."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from sfworker.pool.pool import open_pool
from sfworker.pool.template import Nursery, Template
from sfworker.settings import Settings

SETTINGS = Settings(start_method="spawn", spare_processes=0)  # which does not import SecretFlow first


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - of another process
            await anyio.sleep(0.01)


@asynccontextmanager
async def running_template(directory: Path) -> AsyncIterator[Template]:
    nursery = Nursery(SETTINGS, str(directory), anyio.Event())
    await nursery.start()
    template = Template(nursery)
    template.start()
    try:
        await until(template.ready.is_set)
        yield template
    finally:
        await template.stop()
        await nursery.stop()


def fail_to_start(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """That many processes cannot be started."""
    start, failures = anyio.open_process, iter(range(times))

    async def open_process(*arguments: Any, **more: Any) -> anyio.abc.Process:
        if next(failures, None) is not None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return await start(*arguments, **more)

    monkeypatch.setattr(anyio, "open_process", open_process)


async def test_one_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_start(monkeypatch, 2)
    descriptors = len(os.listdir("/proc/self/fd"))
    async with open_pool(SETTINGS, str(tmp_path)) as pool:
        await until(lambda: "2 times in a row" in pool.trouble)
        assert pool.trouble.startswith("the nursery process could not be started (Resource temporarily unavailable)")
        assert not pool.is_ready
        assert len(os.listdir("/proc/self/fd")) == descriptors
        with anyio.fail_after(30):
            await pool.until_ready()
        assert pool.trouble == ""


async def test_a_pool_whose_template_never_starts_can_be_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_start(monkeypatch, 1000)
    async with open_pool(SETTINGS, str(tmp_path)) as pool:
        await until(lambda: pool.trouble)


async def test_a_process_asked_of_a_busy_template_is_forked_when_its_turn_comes(tmp_path: Path) -> None:
    async with running_template(tmp_path) as template:
        assert template.pid is not None
        first = template.fork()
        await until(lambda: first.pid)
        os.kill(template.pid, signal.SIGSTOP)
        for _ in range(1000):  # more than its socket holds
            template.signal(first, 0, whole_group=False)
        second = template.fork()
        os.kill(template.pid, signal.SIGCONT)
        await until(lambda: second.pid)
        for process in (first, second):
            process.dismiss()
            await until(process.ended.is_set)
            assert process.exit_status == 0
            process.close()


async def test_a_template_that_is_gone_forks_nothing(tmp_path: Path) -> None:
    async with running_template(tmp_path) as template:
        pass
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BrokenPipeError):
        template.fork()
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_the_directories_of_a_daemon_that_lives_are_left_alone(tmp_path: Path) -> None:
    async with running_template(tmp_path):
        (tmp_path / "1").mkdir()
    assert os.listdir(tmp_path) == ["1"]
