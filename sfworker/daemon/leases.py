"""Renews the leases of the daemon's jobs and takes over those of silent workers. Its loops outlive a lost Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import msgspec
from redis.exceptions import RedisError

from sfworker.broker.broker import Broker, Lease
from sfworker.broker.entry import Entry
from sfworker.broker.keys import Keys
from sfworker.broker.limits import limits_of_settings
from sfworker.broker.overview import RunningJob, WorkerOverview
from sfworker.broker.patience import pause
from sfworker.daemon.health import Readiness
from sfworker.daemon.running import Running
from sfworker.pool.outcome import Stop
from sfworker.pool.usage import memory_of
from sfworker.settings import Settings
from sfworker.telemetry import Telemetry
from sfworker.wire.events import timestamp

_log = logging.getLogger("sfworker.leases")
TIDY_SECONDS = 60.0


class Leases:
    """Runs the worker's regular exchanges with Redis, apart from taking jobs and answering them."""

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        broker: Broker,
        running: Running,
        telemetry: Telemetry,
        readiness: Readiness,
        drain: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._broker = broker
        self._running = running
        self._telemetry = telemetry
        self._readiness = readiness
        self._drain = drain
        self._started_at = timestamp(time.time())
        self._renewed_at = anyio.current_time()

    async def renew(self) -> None:
        """Renew running attempts' leases at a third of their length, and end attempts that were lost or cancelled."""
        await self._regularly(self._settings.lease_seconds / 3, partial(self._noted, "renewing", self._renew))

    async def show(self) -> None:
        """Write the heartbeat, and stop taking jobs where an operator wants that.

        Apart from renewals, as what it counts of many running jobs may take longer than leases have time.
        """
        await self._regularly(self._settings.lease_seconds / 3, partial(self._noted, "heartbeat", self._show))

    async def _noted(self, asked_by: str, action: Callable[[], Awaitable[None]]) -> None:
        try:
            await action()
        except (RedisError, OSError):
            self._readiness.redis_failed(asked_by)
            raise
        self._readiness.redis_answered(asked_by)

    async def mend(self) -> None:
        """Look for keys that hold a value of another type, as somebody has put it there, and say so."""

        async def mend() -> None:
            await self._broker.mend()
            self._readiness.misplaced(self._broker.misplaced, serves=self._broker.serves)

        await self._regularly(self._settings.lease_seconds / 5, mend)

    async def take_over(self, begin: Callable[[Entry], Awaitable[None]], is_ready: Callable[[], bool]) -> None:
        """Claim the jobs of silent workers and `begin` them, while slots are free and executions can start."""

        async def sweep() -> None:
            if self._running.free > 0 and is_ready():
                for entry in await self._broker.sweep(self._running.free, self._running.attempts):
                    self._telemetry.count("reclaim")
                    await begin(entry)

        # A job of a killed worker then waits for its lease and a fifth more, at most.
        await self._regularly(self._settings.lease_seconds / 5, sweep)

    async def tidy(self) -> None:
        """Once a minute, restore due times that a crash or restart has lost and settle buried jobs past retention.

        A consumer group that is behind on the results stream is told of.
        """

        async def tidy() -> None:
            if missing := await self._broker.tidy():
                _log.warning("%d jobs waited for their next attempt without a due time; they are due now", missing)
            if (reader := await self._broker.slow_reader()) is not None:
                self._telemetry.count("results_unread")
                _log.warning("results: %s", reader.sentence(self._settings.results_unread_maxlen))

        await self._regularly(TIDY_SECONDS, tidy)

    async def hear_cancellations(self, cancel: Callable[[str, Keys], Awaitable[None]]) -> None:
        """Call `cancel` for the executions that a web side wants cancelled.

        Cancels that are published while the subscription is down are found when it is back.
        """

        async def listen() -> None:
            async with self._broker.cancellations() as wishes:
                async for execution_id, area in wishes:
                    await cancel(execution_id, area)

        await self._regularly(1.0, listen)

    async def _renew(self) -> None:
        attempts = self._running.attempts
        leases = await self._broker.renew(attempts)
        now = anyio.current_time()
        if attempts and now - self._renewed_at > self._settings.lease_seconds * 2 / 3:
            self._telemetry.count("lease_late")
        self._renewed_at = now
        for attempt, lease in zip(attempts, leases, strict=True):
            if lease is Lease.LOST:
                self._telemetry.count("lease_lost")
                self._running.stop_attempt(attempt, Stop.LEASE_LOST)
            elif lease is Lease.TO_BE_CANCELLED:
                self._running.stop_attempt(attempt, Stop.CANCELLED)

    async def _show(self) -> None:
        jobs, attempts = await self._jobs(), self._running.attempts
        heartbeat = WorkerOverview(
            worker_id=self._worker_id,
            started_at=self._started_at,
            concurrency=self._running.capacity,
            running=len(attempts),
            free=max(self._running.free, 0),
            executions=[attempt.execution_id for attempt in attempts],
            jobs=jobs,
            limits=limits_of_settings(self._settings),
        )
        with anyio.fail_after(self._settings.lease_seconds / 3):
            await self._broker.heartbeat(msgspec.json.encode(heartbeat))
            if not self._readiness.draining and await self._broker.is_to_drain():
                _log.info("an operator drains this worker: no new jobs, running ones may finish")
                self._drain()

    async def _jobs(self) -> list[RunningJob]:
        """Return what runs here. Memory is counted in a thread, as the kernel walks through page tables for it."""
        executions = self._running.executions
        groups = [group for _, execution in executions for group in execution.groups]
        used = await anyio.to_thread.run_sync(memory_of, groups) if groups else {}
        return [
            RunningJob(
                execution_id=attempt.known_as,
                task_type=attempt.task_type,
                began=execution.began,
                progress=execution.progress,
                memory_bytes=sum(used.get(group, 0) for group in execution.groups),
            )
            for attempt, execution in executions
        ]

    async def _regularly(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            began = anyio.current_time()
            wait = seconds
            try:
                await action()
                failures = 0
            except (RedisError, OSError) as error:
                if not failures:
                    _log.warning("Redis is away or refuses (%s)", type(error).__name__)
                # Redis is asked more often while it is away, so that leases are renewed as soon as it is back.
                wait = min(seconds, pause(failures))
                failures += 1
            await anyio.sleep_until(began + wait)
