"""Wires the daemon's parts, takes jobs and stops in order.

stop: no new jobs -> running ones finish (drain_timeout) -> the rest are given back -> leases end -> Redis forgets
this worker -> template and party processes end
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import anyio
from anyio.abc import TaskGroup
from redis.exceptions import RedisError, ResponseError

from sfworker import __version__
from sfworker.broker.broker import BLOCK_SECONDS, Attempt, Broker, open_broker
from sfworker.broker.connection import shown
from sfworker.broker.entry import Entry
from sfworker.broker.patience import patiently, pause
from sfworker.catalog import load_modules
from sfworker.daemon import health
from sfworker.daemon.cancelling import Cancelling
from sfworker.daemon.leases import Leases
from sfworker.daemon.measuring import Measuring
from sfworker.daemon.priorities import RankOrder
from sfworker.daemon.running import Running
from sfworker.daemon.task_executor import Services, TaskExecutor
from sfworker.errors import SettingsError
from sfworker.listening import listening
from sfworker.logs import configure, ids
from sfworker.pool import roots
from sfworker.pool.outcome import Stop
from sfworker.pool.pool import Execution, Pool, open_pool
from sfworker.pool.run_dir import LONGEST_PARENT, run_dir
from sfworker.publish.status_notifier import StatusNotifier
from sfworker.settings import Settings, unknown_variables, variable
from sfworker.signals import hear_signals
from sfworker.telemetry import Telemetry
from sfworker.wire.entry import leave_no_core

_log = logging.getLogger("sfworker.worker")
GIVE_BACK_SECONDS = 10.0
LEAVE_SECONDS = 3.0


async def serve(settings: Settings, group: str) -> int:
    """Work until SIGTERM or SIGINT and return the exit code. Raises SettingsError where a worker cannot start so."""
    os.umask(int(settings.umask, 8))
    leave_no_core()  # its children's hold data
    load_modules(settings.jobs)
    worker_id = f"{settings.hostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    telemetry = Telemetry.from_environ(os.environ, worker_id, __version__, group, has_server=bool(settings.health))
    with (
        configure(settings, worker_id),
        _run_dir(settings) as directory,
        listening(settings.health) as listener,
    ):
        _log.info("worker %s starts: group %s at %s", worker_id, group, shown(settings.redis_url))
        for sentence in unknown_variables():
            _log.warning(sentence)
        roots.prepare(settings)
        async with (
            open_broker(settings, group, worker_id) as broker,
            open_pool(settings, directory, worker_id, telemetry) as pool,
        ):
            worker = Worker(settings, worker_id, broker, pool, telemetry)
            async with _serving(listener, worker.readiness, telemetry):
                await worker.run()
        await anyio.to_thread.run_sync(telemetry.close)
        _log.info("worker %s has stopped", worker_id)
    return 0


class Worker:
    """Runs one worker, from its first job to its last."""

    def __init__(self, settings: Settings, worker_id: str, broker: Broker, pool: Pool, telemetry: Telemetry) -> None:
        self._settings = settings
        self._broker = broker
        self._pool = pool
        self.readiness = health.Readiness(pool, settings.lease_seconds, telemetry)
        self._running = Running(settings.concurrency, telemetry)
        self._leases = Leases(settings, worker_id, broker, self._running, telemetry, self.readiness, self._stop_taking)
        notifier = StatusNotifier(broker, worker_id)
        self._executor = TaskExecutor(
            Services(
                settings=settings,
                worker_id=worker_id,
                broker=broker,
                pool=pool,
                notifier=notifier,
                telemetry=telemetry,
            )
        )
        self._measuring = Measuring(broker, telemetry, self.readiness)
        self._ranks = RankOrder()
        self._draining = anyio.Event()
        self._hurry = anyio.Event()
        self._taking = anyio.Lock()

    async def run(self) -> None:
        """Work until told to stop, then until every running job has ended or was given back."""
        async with anyio.create_task_group() as standing, anyio.create_task_group() as jobs:
            standing.start_soon(self._hear_signals)
            standing.start_soon(self._start_and_take, standing, jobs)
            await self._draining.wait()
            await self._drain()
            standing.cancel_scope.cancel()
            jobs.cancel_scope.cancel()
        with anyio.move_on_after(LEAVE_SECONDS):
            try:
                await self._broker.leave()
            except (RedisError, OSError) as error:
                _log.warning("Redis still lists this worker (%s); others will remove it", type(error).__name__)

    async def _start_and_take(self, standing: TaskGroup, jobs: TaskGroup) -> None:
        standing.start_soon(self._measuring.event_loop)
        await patiently("the consumer group", self._broker.ensure_groups)

        cancelling = Cancelling(self._broker, self._running, self._executor, lambda entry: self._run(entry, jobs))
        # These need no template, whose imports take seconds.
        standing.start_soon(self._leases.renew)
        standing.start_soon(self._leases.show)
        standing.start_soon(self._leases.mend)
        standing.start_soon(self._leases.hear_cancellations, cancelling.cancel)
        standing.start_soon(cancelling.look_through_queue)
        standing.start_soon(self._leases.tidy)
        standing.start_soon(self._measuring.streams)
        await self._pool.until_ready()

        async def begin(entry: Entry) -> None:
            await self._begin(entry, jobs)

        standing.start_soon(self._leases.take_over, begin, lambda: self._pool.is_ready)
        gc.collect()
        gc.freeze()  # these objects stay, and a collection that walks through them would delay a job by milliseconds
        _log.info("ready, %d at a time", self._running.capacity)
        await self._take_jobs(begin)

    async def _take_jobs(self, begin: Callable[[Entry], Awaitable[None]]) -> None:
        failures = 0
        while True:
            await self._running.until_free()
            await self._pool.until_ready()
            try:
                async with self._taking:  # so that a drain can wait for the read that is under way
                    if failures:
                        await self._recover(begin)
                    for entry in await self._next():
                        await begin(entry)
                failures = 0
                self.readiness.redis_answered("taking")
            except (RedisError, OSError) as error:
                self.readiness.redis_failed("taking")
                # From 7.0 on a read that waits while its stream is deleted is told that instead.
                if isinstance(error, ResponseError) and ("NOGROUP" in str(error) or "no longer exists" in str(error)):
                    _log.warning("the consumer group is gone; it is made again, and reads from the start")
                elif failures % 10 == 0:
                    _log.warning("Redis is away or refuses (%s); no jobs are taken", type(error).__name__)
                await anyio.sleep(pause(failures))
                failures += 1

    async def _next(self) -> list[Entry]:
        """Take jobs for the free slots, or wait up to a second for the next one."""
        free = self._running.free
        if free <= 0:  # jobs that are answered beside the slots came in between
            return []
        return await self._broker.take(self._ranks.deal(free)) or await self._broker.wait()

    async def _recover(self, begin: Callable[[Entry], Awaitable[None]]) -> None:
        """Restore the group after a failure, and begin the entries that are ours although their reply was lost.

        XREADGROUP and the scripts make us their owner before the reply is sent.
        """
        await self._broker.ensure_groups()
        for stream, entry_id in await self._broker.owned():
            entry = await self._broker.read_owned(stream, entry_id)
            if not self._running.holds(entry_id, stream):
                await begin(entry)

    async def _begin(self, entry: Entry, jobs: TaskGroup) -> None:
        if self._running.free <= 0 or self._draining.is_set():
            # Several streams had a job in the same moment, or it came while stopping.
            await self._broker.give_back(entry.stream, entry.entry_id)
            return
        self._run(entry, jobs)

    def _run(self, entry: Entry, jobs: TaskGroup) -> Execution:
        attempt = Attempt.of(entry)
        execution = self._running.add(attempt)
        jobs.start_soon(self._execute, attempt, execution)
        return execution

    async def _execute(self, attempt: Attempt, execution: Execution) -> None:
        with ids(execution_id=attempt.known_as, task_id=attempt.task_id, subtask_id=attempt.subtask_id):
            try:
                await self._executor.execute(attempt, execution)
            except Exception:  # noqa: BLE001 - one job's trouble must not end the others
                # This is a defect of ours. The lease is not renewed any more, so the job is taken over like that of a
                # crashed worker, and buried as poison once this has happened `max_crashes` times.
                _log.exception("the execution ended unexpectedly; its lease is left to run out")
            finally:
                self._running.remove(attempt)

    async def _hear_signals(self) -> None:
        async for number, meaning in hear_signals():
            if meaning == "reopen":
                _log.info("SIGHUP: the log file is opened anew")
            elif meaning == "nothing":
                _log.info("%s: nothing to do; a rotated log file is noticed without it", number.name)
            elif self._draining.is_set():
                _log.warning("%s again: running jobs are given back now", number.name)
                self._hurry.set()
            else:
                _log.info("%s: no new jobs, running ones may finish", number.name)
                self._stop_taking()

    def _stop_taking(self) -> None:
        self.readiness.draining = True
        self._draining.set()

    async def _drain(self) -> None:
        """Wait for running jobs, give back those that are left, and return when none is or Redis does not answer."""
        self._pool.keep_no_more()
        # A read that is under way may still bring a job, which would be stranded until its lease runs out if it were
        # cut off.
        with anyio.move_on_after(2 * BLOCK_SECONDS):
            await self._taking.acquire()
        async with anyio.create_task_group() as tasks:

            async def finish() -> None:
                with anyio.move_on_after(self._settings.drain_timeout):
                    await self._running.until_idle()
                self._hurry.set()

            tasks.start_soon(finish)
            await self._hurry.wait()
            tasks.cancel_scope.cancel()
        self._running.stop_all(Stop.DRAINED)
        with anyio.move_on_after(GIVE_BACK_SECONDS) as overdue:
            await self._running.until_idle()
        if overdue.cancelled_caught:
            _log.warning("Redis is away; what ran here will be taken over when its lease has run out")


@asynccontextmanager
async def _serving(
    listener: socket.socket | None, readiness: health.Readiness, telemetry: Telemetry
) -> AsyncIterator[None]:
    if listener is None:
        yield
        return
    from sfworker.serving import serving  # aiohttp, which only workers with such an address need

    async with serving(listener, readiness.state, telemetry.page):
        yield


@contextmanager
def _run_dir(settings: Settings) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(run_dir(settings.run_dir))
        except OSError as error:
            raise SettingsError(f"{variable('run_dir')}: no directory can be made there ({error.strerror})") from None
        if len(os.fsencode(os.path.dirname(directory))) > LONGEST_PARENT:
            raise SettingsError(
                f"{variable('run_dir')}: its path is too long for the sockets in it; choose one of at most "
                f"{LONGEST_PARENT} bytes"
            )
        yield directory
