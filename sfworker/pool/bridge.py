"""Runs parties on the nodes of a Ray cluster, as seen from the daemon, which itself knows nothing of Ray.

    Mesh --> HostedProcess --> Bridge --messages of sfworker.wire.ray--> bridge process --> ... --> node

For each address there is one bridge process, from the first job that names it. It is replaced when it dies.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import msgspec
from anyio.abc import Process
from msgspec import Struct

from sfworker.errors import ClusterInitializationError, Failure, PartyProcessLostError, ResultSaveError
from sfworker.logs import party_line
from sfworker.pool.channel import LineChannel, Listeners
from sfworker.pool.template import job_environment
from sfworker.settings import Settings
from sfworker.wire import entry
from sfworker.wire.frames import FrameError, Start, encode_body
from sfworker.wire.pipe import Pipe
from sfworker.wire.ray import (
    SILENCE_SECONDS,
    Begin,
    BridgeFailed,
    BridgeReady,
    Broken,
    Carried,
    Closed,
    Dismiss,
    Done,
    Exited,
    GiveUp,
    HostLost,
    Join,
    Leave,
    LinkLost,
    Nonsense,
    Place,
    Placed,
    Printed,
    RenewRun,
    Said,
    SignalRun,
    Unplaced,
    Used,
    decode_from_bridge,
    decode_from_node,
)

_log = logging.getLogger("sfworker.pool")
JOIN_SECONDS = 40.0
"""Longest time to join a cluster that answers."""
PLACE_SECONDS = 120.0
"""Longest time to place a job, where hosts have to be started on nodes first."""
# Ray takes 127.0.0.1 for the host's other address where it is not told that clusters may be on one host.
_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


_WITH_BRIDGE = "was lost with the worker's connection to the Ray cluster"
_UNSAID = "the node of {} was lost before it said whether the outputs there are in place; look at them"


class UnplacedError(Exception):
    """The job's parties have no place on the cluster, as `failure` says. With `later` that may change."""

    def __init__(self, failure: Failure, *, later: bool = False) -> None:
        super().__init__(failure.error)
        self.failure = failure
        self.later = later


class HostedProcess:
    """A party process on a node, with what `PartyProcess` offers a mesh."""

    def __init__(self, bridge: Bridge, run: int, party: str) -> None:
        self.party = party
        self.run = run
        """Number by which its node knows it, that of the first execution which it serves."""
        self.begin: Callable[[Start], Begin]
        """Makes the message by which its node begins an execution."""
        self.pid: int | None = None
        """None, as it is another host's."""
        self.exit_status: int | None = None
        self._how_it_ended = ""
        self.used: float | None = None
        """Processor time that it has used, as its node has last told."""
        self.ended = anyio.Event()
        self.break_off: Callable[[Failure], None] = _nobody_listens
        """Told why the execution cannot go on."""
        self.suspect: Callable[[Failure], None] = _nobody_listens
        """Told what may be the reason for what follows."""
        self._is_cut_off = False
        self._bridge = bridge
        self._listeners = Listeners(_nobody_listens, _nobody_listens, _nobody_listens, _nobody_listens)
        self._dismissed = False

    @property
    def is_lost(self) -> bool:
        """True where it has ended, or its node has said that it cannot go on or does not reach another party's."""
        return self._is_cut_off or self.ended.is_set() or self._bridge.lost.is_set()

    def assign(self, listeners: Listeners, longest_frame: int) -> None:
        """Begin to listen. Its node looks at the length of frames."""
        self._listeners = listeners

    async def send(self, frame: Struct) -> None:
        """Send a Start or Renew frame, with what its node needs. Raises OSError where its node is gone."""
        if self.ended.is_set():
            raise BrokenPipeError
        self._tell(self.begin(frame) if isinstance(frame, Start) else RenewRun(self.run))

    def signal(self, number: int, *, whole_group: bool) -> None:
        self._tell(SignalRun(self.run, number, whole_group))

    def dismiss(self) -> None:
        """Let it go. Its node removes what is left of it."""
        if not self._dismissed:
            self._dismissed = True
            self._tell(Dismiss(self.run))

    def close(self) -> None:
        """Listen no more."""
        self.dismiss()
        self._bridge.forget(self)

    def require_own(self, frame: Struct, roots: object) -> None:
        """Do nothing, as its node has looked at the paths."""

    def how_it_ended(self, *, memory_ran_out: bool) -> str:
        """Describe its end in words behind its name. Memory that ran out here is not its node's."""
        return self._how_it_ended

    def lose(self, why: str) -> None:
        """Note that it is gone with its node, or with the bridge."""
        self._end(None, why)

    def hear(self, message: object) -> None:
        """Hear what its node says of it."""
        match message:
            case Said(_, body):
                try:
                    self._listeners.on_body(body)
                except FrameError as error:
                    self._listeners.on_nonsense(error)
            case Nonsense(_, what):
                self._listeners.on_nonsense(FrameError(what))
            case Printed(_, line):
                self._listeners.on_line(line)
            case Closed():
                self._listeners.on_end()
            case Exited(_, status, how):
                self._end(status, how)
            case Broken(_, failure):
                self._is_cut_off = True
                self.break_off(failure)
            case Used(_, seconds):
                self.used = seconds
            case LinkLost(_, party, why):
                self._is_cut_off = True
                told = f"the process of {party} was lost, as its gateway {why}"
                self.suspect(Failure.of(PartyProcessLostError(told)))

    def _end(self, status: int | None, how: str) -> None:
        if not self.ended.is_set():
            self.exit_status, self._how_it_ended = status, how
            self.ended.set()
            self._listeners.on_end()

    def _tell(self, message: Struct) -> None:
        self._bridge.tell(self.party, message)


class Bridge:
    """One bridge process, from `start` to its end."""

    def __init__(self, settings: Settings, address: str, worker_id: str, directory: str, token: dict[str, str]) -> None:
        """Take the variables by which Ray knows this worker, where they are not the operator's."""
        self._settings = settings
        self._token = token
        self._address = address
        self._worker_id = worker_id
        self._directory = directory
        self._pipe: Pipe | None = None
        self._process: Process | None = None
        self._lines: LineChannel | None = None
        self._processes: dict[tuple[int, str], HostedProcess] = {}
        self._placing: dict[int, asyncio.Future[dict[str, str]]] = {}
        self._asked: dict[int, tuple[str, asyncio.Future[None]]] = {}
        self._numbers = count(1)
        self._joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = anyio.Event()

    async def run(self) -> None:
        """Start the process and serve until it has ended."""
        try:
            await self._start()
            await self._serve()
        except (OSError, RuntimeError, EOFError, FrameError, msgspec.DecodeError) as error:
            _log.warning("the bridge to the Ray cluster has ended (%s)", type(error).__name__)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()

    async def until_joined(self) -> None:
        """Wait until it has joined the cluster. Raises UnplacedError."""
        await asyncio.shield(self._joined)

    async def place(self, parties: list[str], *, room: bool = True) -> tuple[int, dict[str, str]]:
        """Find nodes of the parties, and room for a job. Returns its number, and the addresses of their gateways.

        Raises UnplacedError, or OSError where the bridge ends meanwhile.
        """
        run = next(self._numbers)
        answer = self._placing[run] = asyncio.get_running_loop().create_future()
        try:
            if self.lost.is_set():
                raise BrokenPipeError
            self._say(Place(run, parties, room))
            with anyio.fail_after(PLACE_SECONDS):
                gateways = await answer
        except BaseException:
            self.leave(run)
            raise
        finally:
            del self._placing[run]
        return run, gateways

    def leave(self, run: int) -> None:
        """Let others have a job's room."""
        self._say(Leave(run))

    def process(self, run: int, party: str) -> HostedProcess:
        """Return the party's process of a job that is placed, which begins with its Start frame."""
        process = self._processes[run, party] = HostedProcess(self, run, party)
        if self.lost.is_set():
            process.lose(_WITH_BRIDGE)
        return process

    def forget(self, process: HostedProcess) -> None:
        self._processes.pop((process.run, process.party), None)

    def tell(self, party: str, message: Struct) -> None:
        """Send a message to a party's node."""
        self._say(Carried(party, encode_body(message)))

    def give_up(self, party: str) -> None:
        """Kill a party's host, which does not do as it is told any more."""
        self._say(GiveUp(party))

    async def ask(self, party: str, make: Callable[[int], Struct]) -> None:
        """Ask a node about outputs, and wait until it has done that. Raises ResultSaveError."""
        number = next(self._numbers)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked[number] = party, answer
        if self.lost.is_set():
            answer.set_exception(ResultSaveError(_UNSAID.format(party)))
        self.tell(party, make(number))
        try:
            await answer
        finally:
            del self._asked[number]

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        log_read, log_write = os.pipe()
        self._lines = LineChannel(log_read, _log_line)
        try:
            self._process = await anyio.open_process(
                entry.command("sfworker.ray.bridge", str(theirs.fileno()), str(os.getpid())),
                pass_fds=[theirs.fileno()],
                env=job_environment(self._settings) | _of_ray() | self._token | _ENVIRONMENT,
                stdin=None,
                stdout=log_write,
                stderr=log_write,
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(log_write)
        self._pipe = await Pipe.over(ours)
        self._say(
            Join(
                address=self._address,
                worker_id=self._worker_id,
                jobs=self._settings.jobs,
                cpus=0.0 if self._token else self._settings.ray_cpus,  # the worker's own head has none to share
                directory=self._directory,
            )
        )

    async def _serve(self) -> None:
        assert self._pipe is not None  # noqa: S101
        silence = JOIN_SECONDS
        while True:
            with anyio.fail_after(silence):
                body = await self._pipe.hear()
            match decode_from_bridge(body):
                case BridgeReady():
                    silence = SILENCE_SECONDS
                    self._joined.set_result(None)
                case BridgeFailed(failure):
                    self._joined.set_exception(UnplacedError(failure))
                    return
                case Placed(run, gateways):
                    _settle(self._placing.get(run), gateways)
                case Unplaced(run, failure, later):
                    _fail(self._placing.get(run), UnplacedError(failure, later=later))
                case HostLost(party, why):
                    self._lose_host(party, why)
                case Carried(party, body):
                    self._hear(party, decode_from_node(body))

    def _hear(self, party: str, message: object) -> None:
        if isinstance(message, Done):
            _, answer = self._asked.get(message.number, ("", None))
            if message.failure is None:
                _settle(answer, None)
            else:
                _fail(answer, ResultSaveError(message.failure.error))
        elif process := self._processes.get((getattr(message, "run", 0), party)):
            process.hear(message)

    def _lose_host(self, party: str, why: str) -> None:
        for process in list(self._processes.values()):
            if process.party == party and not process.ended.is_set():
                _log.warning("the process of %s on the Ray cluster %s", party, why)
                process.lose(why)
        for asked, answer in list(self._asked.values()):
            if asked == party:
                _fail(answer, ResultSaveError(_UNSAID.format(party)))

    async def _end(self) -> None:
        self.lost.set()
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()  # what it had to end, the nodes end when they hear nothing of it any more
            await self._process.wait()
        if self._lines is not None:
            self._lines.close()
        gone = Failure.of(ClusterInitializationError("the bridge to the Ray cluster ended before it had joined"))
        _fail(self._joined, UnplacedError(gone))
        for process in list(self._processes.values()):
            process.lose(_WITH_BRIDGE)
        for waiting in self._placing.values():
            _fail(waiting, BrokenPipeError())
        for party, answer in list(self._asked.values()):
            _fail(answer, ResultSaveError(_UNSAID.format(party)))

    def _say(self, message: Struct) -> None:
        if self._pipe is not None:
            self._pipe.say(message)


def _of_ray() -> dict[str, str]:
    """Return how the operator has set up Ray for this worker, its token for a cluster among it."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}


def _settle(waiting: asyncio.Future[Any] | None, value: Any) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(value)


def _fail(waiting: asyncio.Future[Any] | None, error: Exception) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_exception(error)


def _log_line(line: bytes) -> None:
    party_line(line, party="bridge")  # what Ray prints there, the logs of its nodes among it, is withheld


def _nobody_listens(*heard: object) -> None:
    pass
