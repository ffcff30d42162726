"""Ends executions that the web side wants cancelled, whether they run here, wait for a retry, or are queued."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
from redis.exceptions import RedisError

from sfworker.broker.broker import Attempt, Broker
from sfworker.broker.entry import Entry
from sfworker.broker.keys import Keys
from sfworker.broker.patience import pause
from sfworker.daemon.running import Running
from sfworker.daemon.task_executor import TaskExecutor
from sfworker.logs import ids
from sfworker.pool.outcome import Stop
from sfworker.pool.pool import Execution

_log = logging.getLogger("sfworker.cancelling")


class Cancelling:
    """Finds and ends executions that are to be cancelled.

    `run` takes up an entry that this worker owns, even where no slot is free: slots may be taken for hours.
    """

    def __init__(
        self, broker: Broker, running: Running, executor: TaskExecutor, run: Callable[[Entry], Execution]
    ) -> None:
        self._broker = broker
        self._running = running
        self._executor = executor
        self._run = run
        self._wanted: set[tuple[str, Keys]] = set()
        self._asked = anyio.Event()

    async def cancel(self, execution_id: str, area: Keys) -> None:
        """End the execution of that tenant, or have it looked for in the queue."""
        self._running.stop(execution_id, area.job_streams(), Stop.CANCELLED)
        # A job that waits for a retry is found by its record. A queued one has none, so it takes a walk to find it.
        if (waiting := await self._broker.withdraw(execution_id, area)) is not None:
            self._run(waiting).stop(Stop.CANCELLED)
        elif await self._broker.is_first_to_look(execution_id, area):
            self._wanted.add((execution_id, area))
            self._asked.set()

    async def look_through_queue(self) -> None:
        """Walk through the queue whenever `cancel` asks for it, once for all executions that are wanted then.

        A job that is taken during the walk is cancelled as it starts.
        """
        failures = 0
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            wanted, self._wanted = self._wanted, set()
            try:
                async for entry in self._broker.queued():
                    attempt = Attempt.of(entry)
                    if (attempt.execution_id, self._broker.area(entry.stream)) in wanted:
                        with ids(
                            execution_id=attempt.execution_id, task_id=attempt.task_id, subtask_id=attempt.subtask_id
                        ):
                            await self._executor.cancel_queued(attempt)
                failures = 0
            except (RedisError, OSError) as error:
                if not failures:
                    _log.warning("Redis is away or refuses (%s); queued jobs are cancelled later", type(error).__name__)
                self._wanted |= wanted
                self._asked.set()
                await anyio.sleep(pause(failures))
                failures += 1
