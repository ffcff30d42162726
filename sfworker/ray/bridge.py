"""A worker's connection to a Ray cluster, as a process of its own that the worker starts and that dies with it.

It joins the cluster as a driver, places one kept `Host` for each party on a node that offers a resource of the party's
name, reserves room there for each job, and carries messages between worker and nodes. It reads none of these.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from msgspec import Struct
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import sfworker
from sfworker.errors import ClusterInitializationError, Failure
from sfworker.gateway.certificates import AUTHORITY, make_authority, make_certificate
from sfworker.gateway.dialling import split
from sfworker.ray.host import Host
from sfworker.ray.versions import versions
from sfworker.wire.frames import FrameError, encode_body, encode_frame, receive_body
from sfworker.wire.party_log import PartyRecord, encode_record
from sfworker.wire.pipe import Pipe
from sfworker.wire.ray import (
    BEAT_SECONDS,
    SILENCE_SECONDS,
    Alive,
    BridgeFailed,
    BridgeReady,
    Carried,
    GiveUp,
    HostLost,
    Join,
    Leave,
    Place,
    Placed,
    Ready,
    Setup,
    Unplaced,
    Unready,
    decode_for_bridge,
    decode_from_node,
)

PROBE_SECONDS = 3.0
ROOM_SECONDS = 1.0
"""Longest wait for room. A job that finds none comes again later."""
ASK_SECONDS = 5.0
"""Longest wait for the cluster's list of nodes."""
HOST_SECONDS = 110.0
"""Longest wait for a host, whose node may have to unpack this worker's modules and to import SecretFlow first."""
_SMALLEST = 0.001
_CERTIFICATE_DAYS = 3650
"""Certificates live as long as this process, whose directory they are in."""
_NO_MODULES = ["**/__pycache__", "**/node_modules"]
_PR_SET_PDEATHSIG = 1
_ALIVE = encode_body(Alive())


class CannotPlaceError(Exception):
    """A job cannot be placed now, as `failure` says."""

    def __init__(self, told: str, *, later: bool = False, retryable: bool = True) -> None:
        super().__init__(told)
        self.failure = Failure(told, ClusterInitializationError.__name__, retryable)
        self.later = later


class ClusterGoneError(Exception):
    """The cluster that this process has joined does not answer any more, and another process begins anew."""


class Offer(Struct, frozen=True):
    """A node that is there. `resources` holds the amounts that it has in all."""

    node: str
    address: str
    resources: dict[str, float]


class Kept:
    """A host that is placed, with its node, and the messages that are on their way to it."""

    def __init__(self, actor: Any, offer: Offer, gateway: str, parties: frozenset[str]) -> None:
        self.actor = actor
        self.offer = offer
        self.gateway = gateway
        self.parties = parties
        """All that its gateway takes."""
        self.heard_at = asyncio.get_running_loop().time()
        self._outbox: list[bytes] = []
        self._filled = asyncio.Event()

    def say(self, body: bytes) -> None:
        self._outbox.append(body)
        self._filled.set()

    async def send(self) -> None:
        """Send what is said, one call after the other, as Ray may swap calls that are under way at once."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            bodies, self._outbox = self._outbox, []
            await self.actor.say.remote(bodies)


class Bridge:
    """Serves one worker at one cluster."""

    def __init__(self, join: Join, pipe: Pipe) -> None:
        self._join = join
        self._pipe = pipe
        self._certificates = Path(join.directory)
        self._node = ray.get_runtime_context().get_node_id()
        self._hosts: dict[str, Kept] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._runs: dict[int, list[str]] = {}
        self._room: dict[int, PlacementGroup] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        make_authority(self._certificates, _CERTIFICATE_DAYS)

    async def serve(self) -> None:
        """Do what the worker asks for. Raises EOFError or OSError when it is gone."""
        self._start(self._beat())
        while True:
            match decode_for_bridge(await self._pipe.hear()):
                case Carried(party, body) if party in self._hosts:
                    self._hosts[party].say(body)
                case Carried(party):  # an answer may be waited for
                    self._pipe.say(HostLost(party, "was lost with its host"))
                case Place() as place:
                    self._start(self._place(place))
                case Leave(run):
                    self._leave(run)
                case GiveUp(party):
                    self._lose(party, "did not end when it was told to, and was killed with its host")

    async def _beat(self) -> None:
        """Say that this process lives, to worker and hosts, and give up hosts that do not."""
        while True:
            self._pipe.say(Alive())
            now = asyncio.get_running_loop().time()
            for party, host in list(self._hosts.items()):
                host.say(_ALIVE)
                if now - host.heard_at > SILENCE_SECONDS:
                    self._lose(party, f"was lost, as nothing was heard of its node for {SILENCE_SECONDS:.0f} s")
            await asyncio.sleep(BEAT_SECONDS)

    async def _place(self, place: Place) -> None:
        self._runs[place.run] = place.parties
        try:
            if not self._serves(place.parties):
                offers = await self._offers()
                _require_offered(place.parties, offers)
                self._let_go_of_strangers(place)
                await asyncio.gather(*(self._keep(party, offers) for party in place.parties))
            hosts = {party: self._hosts[party] for party in place.parties}
            if place.room:
                await self._reserve(place.run, hosts)
        except CannotPlaceError as error:
            self._leave(place.run)
            self._pipe.say(Unplaced(place.run, error.failure, error.later))
        except KeyError:
            self._leave(place.run)
            lost = CannotPlaceError("a party's host ended while the job was placed")
            self._pipe.say(Unplaced(place.run, lost.failure))
        else:
            self._pipe.say(Placed(place.run, {party: host.gateway for party, host in hosts.items()}))

    async def _offers(self) -> list[Offer]:
        """Return the nodes. Raises ClusterGoneError where nothing is heard of them and nothing runs there."""
        try:
            nodes = [node for node in await asyncio.wait_for(_beside(ray.nodes), ASK_SECONDS) if node["Alive"]]
        except Exception as error:  # noqa: BLE001 - Ray's are many
            told = f"the Ray cluster does not answer any more ({type(error).__name__})"
            if len(self._runs) > 1:
                raise CannotPlaceError(told) from None
            raise ClusterGoneError(told) from None
        if not any(node["NodeID"] == self._node for node in nodes):
            raise ClusterGoneError("the Ray node of this host has ended")
        return [Offer(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in nodes]

    def _serves(self, parties: list[str]) -> bool:
        """Return whether all parties have hosts that know each other."""
        return all(party in self._hosts and self._hosts[party].parties >= set(parties) for party in parties)

    def _let_go_of_strangers(self, place: Place) -> None:
        """Let hosts go that know nothing of a party which has joined the cluster since.

        Raises CannotPlaceError where they are busy.
        """
        hosts = {party: self._hosts[party] for party in place.parties if party in self._hosts}
        stale = [party for party, host in hosts.items() if not host.parties >= set(place.parties)]
        others = [parties for run, parties in self._runs.items() if run != place.run]
        if any(party in busy for party in stale for busy in others):
            raise CannotPlaceError("a party has joined the Ray cluster, and jobs that run end first", later=True)
        for party in stale:  # sessions that wait there end
            self._lose(party, "ended with its host, as a party has joined the Ray cluster")

    async def _keep(self, party: str, offers: list[Offer]) -> None:
        """See to it that the party has a host. Raises CannotPlaceError."""
        async with self._locks.setdefault(party, asyncio.Lock()):
            if party not in self._hosts:
                await self._make(party, offers)

    async def _make(self, party: str, offers: list[Offer]) -> None:
        offer = max(offers, key=lambda each: each.resources.get(party, 0.0))
        remote_host: Any = ray.remote(Host)
        placed = remote_host.options(
            num_cpus=0,
            max_restarts=0,
            max_concurrency=1000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(offer.node, soft=False),
        )
        actor = await _beside(placed.remote)
        known = frozenset(name for each in offers for name in each.resources)
        try:
            setup = encode_body(self._setup(party, known, offer.address))
            answer = decode_from_node(await asyncio.wait_for(actor.start.remote(setup), HOST_SECONDS))
            if isinstance(answer, Unready):
                raise CannotPlaceError(answer.failure.error, retryable=answer.failure.retryable)
            _require_same_versions(party, answer)
        except CannotPlaceError:
            await _beside(ray.kill, actor)
            raise
        except (Exception, asyncio.TimeoutError) as error:  # noqa: BLE001 - Ray's are many, and their texts hold paths
            await _beside(ray.kill, actor)
            raise CannotPlaceError(f"the host of {party} could not be started ({type(error).__name__})") from None
        host = self._hosts[party] = Kept(actor, offer, answer.gateway, known)
        self._start(self._hear(party, host))
        self._start(self._send(host))

    def _setup(self, party: str, parties: frozenset[str], address: str) -> Setup:
        directory = self._certificates
        if not (directory / f"{party}.pem").exists():
            make_certificate(directory, party, _CERTIFICATE_DAYS)
        return Setup(
            party=party,
            parties=[name for name in parties if ":" not in name],
            address=address,
            jobs=[os.path.basename(job) if job.endswith(".py") else job for job in self._join.jobs],
            certificate=(directory / f"{party}.pem").read_bytes(),
            key=(directory / f"{party}.key").read_bytes(),
            authority=(directory / f"{AUTHORITY}.pem").read_bytes(),
        )

    async def _reserve(self, run: int, hosts: dict[str, Kept]) -> None:
        """Take the job's room at its nodes, which everybody sees as taken until it is left. Raises CannotPlaceError."""
        cpus = {"CPU": self._join.cpus} if self._join.cpus else {}
        bundles = [{party: 1.0, f"node:{host.offer.address}": _SMALLEST, **cpus} for party, host in hosts.items()]
        self._room[run] = group = await _beside(placement_group, bundles)
        if not await _beside(group.wait, ROOM_SECONDS):
            raise CannotPlaceError("the nodes of its parties have no room for another job now", later=True)

    def _leave(self, run: int) -> None:
        self._runs.pop(run, None)
        if group := self._room.pop(run, None):
            _beside(remove_placement_group, group)

    async def _hear(self, party: str, host: Kept) -> None:
        """Carry what the party's node says until its host is gone."""
        why = "was lost, as its node's process ended"
        try:
            while bodies := await host.actor.hear.remote():
                host.heard_at = asyncio.get_running_loop().time()
                for body in bodies:
                    if body != _ALIVE:
                        self._pipe.say(Carried(party, body))
        except Exception as error:  # noqa: BLE001 - an actor's end has many names, and its text holds paths
            why = f"was lost with its host ({type(error).__name__})"
        if self._hosts.get(party) is host:
            self._lose(party, why)

    async def _send(self, host: Kept) -> None:
        with suppress(Exception):  # its end is heard
            await host.send()

    def _lose(self, party: str, why: str) -> None:
        if host := self._hosts.pop(party, None):
            _beside(ray.kill, host.actor)
            self._pipe.say(HostLost(party, why))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            frames = "" if isinstance(error, ClusterGoneError) else "".join(traceback.format_tb(error.__traceback__))
            told = str(error) if isinstance(error, ClusterGoneError) else type(error).__name__
            record = PartyRecord(level="ERROR", logger="sfworker.bridge", message=told, exception=frames)
            os.write(2, encode_record(record))
            os._exit(1)


def _beside(ask: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    """Ask the cluster in a thread, as the event loop must not wait for it: the worker takes silence for a hang."""
    return asyncio.get_running_loop().run_in_executor(None, ask, *arguments)


def _require_offered(parties: list[str], offers: list[Offer]) -> None:
    for party in parties:
        if not any(offer.resources.get(party) for offer in offers):
            raise CannotPlaceError(
                f"no node of the Ray cluster offers party {party}; start one with a resource of this name"
            )


def _require_same_versions(party: str, ready: Ready) -> None:
    for name, here in versions().items():
        if (there := ready.versions.get(name)) != here:
            raise CannotPlaceError(
                f"the node of {party} has {name} {there} and this worker {here}; install the same", retryable=False
            )


def _modules(jobs: list[str]) -> list[str]:
    """Return what the nodes get of this worker's code: sfworker itself, and the task types of one's own."""
    found = [str(Path(sfworker.__file__).parent)]
    for job in jobs:
        if job.endswith(".py"):
            found.append(os.path.abspath(job))
        else:
            spec = importlib.util.find_spec(job.partition(".")[0])
            if spec is not None:
                found.append(next(iter(spec.submodule_search_locations or [str(spec.origin)])))
    return found


def _joined(join: Join) -> Failure | None:
    """Join the cluster, or say why that cannot be."""
    try:
        socket.create_connection(split(join.address), PROBE_SECONDS).close()
    except OSError as error:
        why = error.strerror or type(error).__name__
        return Failure(
            f"the Ray cluster of sf_init_config.address does not answer ({why})",
            ClusterInitializationError.__name__,
            retryable=True,
        )
    on_loopback: dict[str, Any] = {"_node_ip_address": "127.0.0.1"} if join.address.startswith("127.") else {}
    try:
        ray.init(
            join.address,
            namespace=join.worker_id,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": _modules(join.jobs), "excludes": _NO_MODULES},
            **on_loopback,
        )
    except Exception as error:  # noqa: BLE001 - Ray's are many, and their texts hold paths
        if "ersion mismatch" in str(error):
            told = (
                f"the Ray cluster has another version of Ray or Python than this worker, which has Ray "
                f"{ray.__version__} and Python {versions()['Python']}; install the same"
            )
            return Failure(told, ClusterInitializationError.__name__, retryable=False)
        told = f"this worker could not join the Ray cluster ({type(error).__name__})"
        return Failure(told, ClusterInitializationError.__name__, retryable=True)
    return None


async def _serve(join: Join, connection: socket.socket) -> None:
    pipe = await Pipe.over(connection)
    pipe.say(BridgeReady())
    with suppress(EOFError, OSError, FrameError):  # the worker is gone
        await Bridge(join, pipe).serve()


def main() -> None:
    """Entry of the bridge's process, with a descriptor and the worker's process id."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    join: Join = decode_for_bridge(receive_body(connection) or b"")
    os.chdir(join.directory)  # Ray puts a driver's directory into its workers' module path
    if failure := _joined(join):
        connection.sendall(encode_frame(BridgeFailed(failure)))
        return
    asyncio.run(_serve(join, connection))
    os._exit(0)
