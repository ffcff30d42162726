"""Ends an execution that uses more memory or scratch disk than it was granted."""

from __future__ import annotations

from collections.abc import Collection

import anyio

from sfworker.catalog.resources import Resources
from sfworker.errors import Failure, MemoryLimitExceededError, ScratchLimitExceededError, SecretFlowTaskError
from sfworker.pool.mesh import Mesh
from sfworker.pool.usage import disk_above, memory_above

CHECK_SECONDS = 0.5


async def guard(mesh: Mesh, resources: Resources, directory: str) -> None:
    """Measure, in a thread, until cancelled or until there is a reason to end the execution."""
    while True:
        await anyio.sleep(CHECK_SECONDS)
        # A walk through a large scratch directory must not hold up the end of the execution.
        error = await anyio.to_thread.run_sync(_breach, mesh.groups, resources, directory, abandon_on_cancel=True)
        if error is not None:
            mesh.fail(Failure.of(error))
            return


def _breach(groups: Collection[int], resources: Resources, directory: str) -> SecretFlowTaskError | None:
    memory, scratch = resources.memory, resources.scratch
    if memory and (used := memory_above(memory.amount, groups)):
        return MemoryLimitExceededError(
            f"the job used {used} bytes of memory, its limit is {memory.amount}; {memory.remedy}"
        )
    if scratch and (used := disk_above(scratch.amount, directory)):
        return ScratchLimitExceededError(
            f"the job wrote {used} bytes to its scratch directories, its limit is {scratch.amount}; {scratch.remedy}"
        )
    return None
