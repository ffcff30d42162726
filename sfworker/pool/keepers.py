"""Looks after staged outputs for the executor, here or on the nodes of a cluster, from their flush to their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import anyio
from msgspec import Struct

from sfworker.errors import ResultSaveError
from sfworker.pool import outputs
from sfworker.settings import Settings
from sfworker.wire.frames import Staging
from sfworker.wire.ray import Commit, Flush

Remover = Callable[[Iterable[str]], None]
Ask = Callable[[str, Callable[[int], Struct]], Any]


class Keeper(Protocol):
    """Describes who keeps an execution's staged outputs. Each method does nothing where there are none."""

    async def flush(self, staged: list[Staging]) -> None:
        """Flush them to disk. Raises ResultSaveError."""

    async def commit(self, staged: list[Staging]) -> None:
        """Put them into their places. Raises ResultSaveError."""

    async def discard(self, staged: list[Staging]) -> None:
        """Remove them."""


class HereKeeper:
    """Keeps outputs of this host, in threads, because a large directory takes long."""

    def __init__(self, settings: Settings) -> None:
        self._roots = settings.all_roots()
        self._log_file = settings.log_file

    async def flush(self, staged: list[Staging]) -> None:
        await anyio.to_thread.run_sync(outputs.flush, staged, self._roots)

    async def commit(self, staged: list[Staging]) -> None:
        await anyio.to_thread.run_sync(outputs.commit, staged, self._roots, self._log_file)

    async def discard(self, staged: list[Staging]) -> None:
        if staged:
            await anyio.to_thread.run_sync(outputs.discard, staged, self._roots)


class NodesKeeper:
    """Keeps outputs of one execution on its parties' nodes, each of which knows its own.

    All are flushed before the first is renamed. The renames of several nodes are no single step: where one fails, the
    error says at whom the outputs are in place.
    """

    def __init__(self, parties: list[str], run: int, ask: Ask, remove: Remover) -> None:
        self._parties = parties
        self._run = run
        self._ask = ask
        self._remove = remove

    async def flush(self, staged: list[Staging]) -> None:
        failed = await self._all(Flush)
        if failed:
            raise next(iter(failed.values()))

    async def commit(self, staged: list[Staging]) -> None:
        failed = await self._all(Commit)
        if failed:
            placed = ", ".join(party for party in self._parties if party not in failed) or "nobody"
            party, error = next(iter(failed.items()))
            raise ResultSaveError(f"{error} ({party}); the outputs of {placed} are in their places")

    async def discard(self, staged: list[Staging]) -> None:
        self._remove([output.staged for output in staged])

    async def _all(self, kind: Callable[..., Struct]) -> dict[str, ResultSaveError]:
        """Ask all parties' nodes at once, and return the errors of those that could not do it."""
        failed: dict[str, ResultSaveError] = {}

        async def ask(party: str) -> None:
            try:
                await self._ask(party, partial(kind, run=self._run))
            except ResultSaveError as error:
                failed[party] = error

        async with anyio.create_task_group() as tasks:
            for party in self._parties:
                tasks.start_soon(ask, party)
        return failed


LOCATED = "ray://"
"""Begins the paths of outputs on nodes, as Redis keeps them: `ray://ADDRESS/PARTY/PATH`."""


def located(address: str, party: str) -> str:
    """Return what stands before a path of a party's node."""
    return f"{LOCATED}{address}/{party}"


def by_place(paths: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """Sort paths by cluster and party, which are empty for those of this host."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        if path.startswith(LOCATED):
            address, party, there = (*path.removeprefix(LOCATED).split("/", 2), "", "")[:3]
            found.setdefault((address, party), []).append(f"/{there}")
        else:
            found.setdefault(("", ""), []).append(path)
    return found
