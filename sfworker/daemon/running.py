"""Keeps account of the daemon's slots and the executions in them."""

from __future__ import annotations

from collections.abc import Collection

import anyio

from sfworker.broker.broker import Attempt
from sfworker.pool.outcome import Stop
from sfworker.pool.pool import Execution
from sfworker.telemetry import Telemetry


class Running:
    """Holds the worker's slots. An entry has one from the moment it is taken until it is answered or given back."""

    def __init__(self, capacity: int, telemetry: Telemetry) -> None:
        self.capacity = capacity
        self._telemetry = telemetry
        # Keyed by run, because an entry may come back for its next attempt before the last one's slot is free.
        self._executions: dict[str, tuple[Attempt, Execution]] = {}
        self._changed: anyio.Event | None = None  # made for those who wait, as hardly anybody does

    @property
    def free(self) -> int:
        # Below 0 while `Cancelling` answers jobs beside the slots.
        return self.capacity - len(self._executions)

    @property
    def attempts(self) -> list[Attempt]:
        return [attempt for attempt, _ in self._executions.values()]

    @property
    def executions(self) -> list[tuple[Attempt, Execution]]:
        return list(self._executions.values())

    def holds(self, entry_id: str, stream: str) -> bool:
        return any((at.entry.entry_id, at.entry.stream) == (entry_id, stream) for at in self.attempts)

    def add(self, attempt: Attempt) -> Execution:
        """Take a slot for the attempt."""
        execution = Execution()
        self._executions[attempt.run] = (attempt, execution)
        self._say()
        return execution

    def remove(self, attempt: Attempt) -> None:
        """Free its slot."""
        del self._executions[attempt.run]
        self._say()

    def stop(self, execution_id: str, streams: Collection[str], reason: Stop) -> None:
        """End the computations of an execution that came on one of `streams`, if it runs here."""
        for attempt, execution in self._executions.values():
            if attempt.execution_id == execution_id and attempt.entry.stream in streams:
                execution.stop(reason)

    def stop_attempt(self, attempt: Attempt, reason: Stop) -> None:
        found = self._executions.get(attempt.run)
        if found is not None:
            found[1].stop(reason)

    def stop_all(self, reason: Stop) -> None:
        for _, execution in self._executions.values():
            execution.stop(reason)

    async def until_free(self) -> None:
        """Wait until there is a free slot."""
        while self.free <= 0:
            await self._until_changed()

    async def until_idle(self) -> None:
        """Wait until nothing runs."""
        while self._executions:
            await self._until_changed()

    async def _until_changed(self) -> None:
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()

    def _say(self) -> None:
        self._telemetry.slots(len(self._executions), max(self.free, 0))
        if self._changed is not None:
            self._changed.set()
            self._changed = None
