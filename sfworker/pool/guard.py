"""Ends executions that use more memory or scratch disk than granted, or stall. Runs in the daemon."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import anyio

from sfworker.catalog.resources import Limit
from sfworker.errors import (
    Failure,
    MemoryLimitExceededError,
    ScratchLimitExceededError,
    SecretFlowTaskError,
    StalledError,
)
from sfworker.pool.usage import disk_above, memory_above
from sfworker.settings import variable

CHECK_SECONDS = 0.5
STALL_CHECKS = 10
# Processor time that libraries' sampling threads use while the job itself waits, as a share of the time, and the
# resolution of the kernel's clock in seconds.
_IDLE_SHARE, _TICK = 0.01, 0.01


class Guarded(Protocol):
    """Describes what is guarded: processes, and how to end them."""

    @property
    def groups(self) -> list[int]: ...
    def fail(self, failure: Failure) -> None: ...


async def guard(mesh: Guarded, memory: Limit | None, scratch: Limit | None, directory: str) -> None:
    """Measure the execution in a thread until cancelled, and fail it where it uses more than it was granted."""
    while True:
        await anyio.sleep(CHECK_SECONDS)
        # A walk through a large scratch directory must not hold up the end of the execution.
        error = await anyio.to_thread.run_sync(_breach, mesh.groups, memory, scratch, directory, abandon_on_cancel=True)
        if error is not None:
            mesh.fail(Failure.of(error))
            return


async def watch(
    mesh: Guarded, stall_seconds: float, measure: Callable[[], float | None], shortest_interval: float = 0.0
) -> None:
    """Watch the parties until cancelled, and fail them where none has computed or read a disk for `stall_seconds`.

    They then wait for each other, which never ends by itself and would last until the job's time limit. `measure`
    returns the processor time that all have used, None where one waits for a disk.
    """
    interval = max(stall_seconds / STALL_CHECKS, shortest_interval)
    active_at, before = anyio.current_time(), None
    while True:
        await anyio.sleep(interval)
        used = await anyio.to_thread.run_sync(measure)
        idle = before is not None and used is not None and abs(used - before) <= max(_TICK, _IDLE_SHARE * interval)
        before = used
        if not idle:
            active_at = anyio.current_time()
        elif anyio.current_time() - active_at >= stall_seconds:
            sentence = f"no process of the job computed anything for {stall_seconds:g} s ({variable('stall_seconds')})"
            mesh.fail(Failure.of(StalledError(sentence)))
            return


def _breach(
    groups: Collection[int], memory: Limit | None, scratch: Limit | None, directory: str
) -> SecretFlowTaskError | None:
    if memory and (used := memory_above(memory.amount, groups)):
        return MemoryLimitExceededError(
            f"the job used {used} bytes of memory, its limit is {memory.amount}; {memory.remedy}"
        )
    if scratch and (used := disk_above(scratch.amount, directory)):
        return ScratchLimitExceededError(
            f"the job wrote {used} bytes to its scratch directories, its limit is {scratch.amount}; {scratch.remedy}"
        )
    return None
