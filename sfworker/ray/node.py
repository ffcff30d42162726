"""Serves one party on its node of a Ray cluster, as a worker does on its own host, and knows neither jobs nor Ray.

    host --messages of sfworker.wire.ray--> node --> template --> party processes
                                              `----> gateway ==TLS==> gateways of the other parties' nodes

Data roots, scratch, limits and floors are this node's own settings. The process is nobody's child, because Ray kills
those of a host that ends: it ends by itself where its host is gone or says nothing any more, and before that it ends
its party processes and removes what these have staged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from sfworker.errors import ClusterInitializationError, Failure, ResultSaveError, SecretFlowTaskError, SettingsError
from sfworker.logs import configure
from sfworker.pool import roots
from sfworker.pool.outputs import remove_left_behind
from sfworker.pool.pool import Pool, open_pool
from sfworker.pool.run_dir import run_dir
from sfworker.pool.usage import available_memory
from sfworker.ray.run import Run, not_started
from sfworker.ray.versions import versions
from sfworker.settings import Settings, load, variable
from sfworker.wire import entry
from sfworker.wire.frames import FrameError, encode_frame, receive_body
from sfworker.wire.gateway import GiveWay
from sfworker.wire.pipe import Pipe
from sfworker.wire.ray import (
    BEAT_SECONDS,
    SILENCE_SECONDS,
    Alive,
    Begin,
    Commit,
    Dismiss,
    Done,
    Flush,
    Ready,
    Remove,
    RenewRun,
    Setup,
    SignalRun,
    Unready,
    decode_for_node,
)

_log = logging.getLogger("sfworker.node")
READY_SECONDS = 90.0
"""Longest wait for the template's imports and the gateway."""
READY_PAUSE = 0.02
END_SECONDS = 8.0
"""Longest time to end everything."""
_PEER = "ray:1"
"""Address of peers in the gateway's settings. Each execution comes with the real ones."""


class Node:
    """Serves until its host is gone."""

    def __init__(self, settings: Settings, pool: Pool, pipe: Pipe, tasks: TaskGroup) -> None:
        self._settings = settings
        self._pool = pool
        self._pipe = pipe
        self._tasks = tasks
        self._runs: dict[int, tuple[Run, anyio.CancelScope]] = {}

    async def serve(self) -> None:
        """Do what the host asks for, until it is gone or silent."""
        self._tasks.start_soon(self._beat)
        try:
            while True:
                with anyio.fail_after(SILENCE_SECONDS):
                    body = await self._pipe.hear()
                self._obey(decode_for_node(body))
        except TimeoutError:
            _log.error("nothing was heard of the worker for %.0f s; all that runs here ends", SILENCE_SECONDS)
        except (EOFError, OSError, FrameError):
            _log.info("the worker is gone; all that runs here ends")

    async def end(self) -> None:
        """End all executions, and remove what they have left."""
        with anyio.move_on_after(END_SECONDS):
            async with anyio.create_task_group() as tasks:
                for run, scope in self._runs.values():
                    scope.cancel()
                    tasks.start_soon(run.end)

    async def until_ready(self) -> None:
        """Wait for the template and the gateway. Raises ClusterInitializationError."""
        with anyio.move_on_after(READY_SECONDS):
            while not self._pool.is_ready or self._pool.gateway.trouble:  # noqa: ASYNC110 - of other processes
                await anyio.sleep(READY_PAUSE)
            return
        why = self._pool.trouble or self._pool.gateway.trouble or "its template process does not get ready"
        raise ClusterInitializationError(f"the node of {self._settings.party} cannot serve: {why}")

    async def _beat(self) -> None:
        while True:
            self._pipe.say(Alive())
            await anyio.sleep(BEAT_SECONDS)

    def _obey(self, message: object) -> None:
        match message:
            case Begin(run=run) if run in self._runs:
                self._runs[run][0].begin_next(message)
            case Begin():
                self._make_room()
                self._begin(message)
            case RenewRun(run) if run in self._runs:
                self._runs[run][0].renew()
                self._pool.refill()
            case SignalRun(number, signal_number, whole_group) if number in self._runs:
                self._runs[number][0].signal(signal_number, whole_group=whole_group)
            case Dismiss(number) if number in self._runs:
                self._tasks.start_soon(self._dismiss, number)
            case Flush(number, run) if run in self._runs:
                self._answer(number, self._runs[run][0].flush)
            case Commit(number, run) if run in self._runs:
                self._answer(number, self._runs[run][0].commit)
            case Flush(number) | Commit(number):
                gone = ResultSaveError(f"the outputs of {self._settings.party} were lost with its host")
                self._pipe.say(Done(number, Failure.of(gone)))
            case Remove(number, paths):
                own = self._settings.roots_of(self._settings.party)
                self._answer(number, partial(remove_left_behind, paths, own))

    def _make_room(self) -> None:
        """End the sessions that wait here for a job where memory is short, which the worker hears."""
        if available_memory() < self._settings.session_memory_bytes:
            for run, _ in self._runs.values():
                if run.is_idle:
                    run.signal(signal.SIGKILL, whole_group=True)

    def _begin(self, begin: Begin) -> None:
        try:
            run = Run(begin, self._settings, self._pool, self._pipe)
        except OSError as error:
            for message in not_started(begin.run, error):
                self._pipe.say(message)
            return
        scope = anyio.CancelScope()
        self._runs[begin.run] = run, scope

        async def go() -> None:
            with scope:
                await run.go()

        self._tasks.start_soon(go)

    async def _dismiss(self, number: int) -> None:
        run, scope = self._runs[number]
        scope.cancel()
        self._pool.refill()
        await run.dismiss()
        self._runs.pop(number, None)

    def _answer(self, number: int, work: Callable[[], None]) -> None:
        async def answer() -> None:
            failure = None
            try:
                await anyio.to_thread.run_sync(work)
            except SecretFlowTaskError as error:
                failure = Failure.of(error)
            self._pipe.say(Done(number, failure))

        self._tasks.start_soon(answer)


def environment(setup: Setup, directory: str, *, is_own_gateway: bool) -> dict[str, str]:
    """Return the variables of the node's settings, which are its own but for what makes it this party's.

    A node with a certificate of its own uses that, and the port of its operator's settings.
    """
    ours = {"party": setup.party, "jobs": ",".join(map(_found, setup.jobs))}
    if is_own_gateway:
        files = {"certificate": setup.certificate, "key": setup.key, "authority": setup.authority}
        for name, content in files.items():
            path = Path(directory, f"{name}.pem")
            path.touch(0o600)
            path.write_bytes(content)
            ours[f"tls_{name}"] = str(path)
        ours |= {
            "peers": ",".join(f"{party}={_PEER}" for party in setup.parties if party != setup.party),
            "gateway_listen": f"{setup.address}:{_free_port(setup.address)}",
            "gateway_dir": f"{directory}/gateway",
            "gateway_health": "",  # a node has such a gateway for each worker and party
        }
    return {variable(name): value for name, value in ours.items()}


def _found(job: str) -> str:
    """Return a module's name, or the path of a file that came with the host."""
    if not job.endswith(".py"):
        return job
    return next((path for each in sys.path if os.path.isfile(path := os.path.join(each, job))), job)


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as taken:
        return int(taken.getsockname()[1])


async def _serve(
    settings: Settings, directory: str, connection: socket.socket, address: str, *, is_own_gateway: bool
) -> None:
    pipe = await Pipe.over(connection)
    async with open_pool(settings, directory) as pool, anyio.create_task_group() as tasks:
        node = Node(settings, pool, pipe, tasks)
        try:
            await node.until_ready()
        except SecretFlowTaskError as error:
            pipe.say(Unready(Failure.of(error)))
        else:
            port = settings.gateway_listen.rpartition(":")[2]
            pipe.say(Ready(f"{address}:{port}", versions(), os.getpid()))
            await node.serve()
        with anyio.CancelScope(shield=True):
            await node.end()
            if is_own_gateway:
                await _end_gateway(settings)
        tasks.cancel_scope.cancel()


async def _end_gateway(settings: Settings) -> None:
    """Let the gateway of this node alone go, which otherwise would wait some seconds for other workers."""
    with suppress(OSError), anyio.move_on_after(END_SECONDS):
        reader, writer = await asyncio.open_unix_connection(settings.gateway_socket())
        writer.write(encode_frame(GiveWay()))
        await reader.read()
        writer.close()


def main() -> None:
    """Entry of the node's process, which the host starts with the number of a descriptor."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)  # or whoever is started here would hide this process's end from the host
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    entry.leave_no_core()  # what comes to its gateway is in its memory
    import uvloop

    body = receive_body(connection)
    if body is None:
        return
    setup: Setup = decode_for_node(body)
    try:
        settings = load()
        if settings.data_roots == Settings().data_roots:  # a directory of Ray's
            raise SettingsError(f"{variable('data_roots')}: a node needs it; name its party's directory")
        os.umask(int(settings.umask, 8))
        with run_dir(settings.run_dir) as directory:
            os.chdir(directory)
            is_own_gateway = not settings.tls_certificate
            os.environ |= environment(setup, directory, is_own_gateway=is_own_gateway)
            settings = load()
            with configure(settings, f"{settings.hostname()}-node-{setup.party}"):
                roots.prepare(settings)
                uvloop.run(_serve(settings, directory, connection, setup.address, is_own_gateway=is_own_gateway))
    except SettingsError as error:
        told = f"the node of {setup.party} has a setting that is wrong: {error}"
        failure = Failure(told, ClusterInitializationError.__name__, retryable=False)
        connection.sendall(encode_frame(Unready(failure)))
