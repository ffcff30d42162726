"""Runs a party's gateway: its port for peers, its socket for the workers of this host, and the attempts of these.

peer ==TLS==> accept -> handshake -> preface -> stream of a session | held hello | refusal
worker --unix--> Attach | Open ... Close
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec import Struct

from sfworker.errors import SettingsError
from sfworker.gateway.dialling import HANDSHAKE_SECONDS, Dialler, split
from sfworker.gateway.identity import Identity
from sfworker.gateway.sayings import Sayings
from sfworker.gateway.session import Session
from sfworker.gateway.streams import RemoteHalf
from sfworker.settings import Settings, variable
from sfworker.wire.frames import LENGTH_BYTES, FrameError, encode_frame, frame_length
from sfworker.wire.gateway import (
    CONTROL,
    MAX_MESSAGE_BYTES,
    MAX_PREFACE_BYTES,
    VERSION,
    Alive,
    Answer,
    Attach,
    Close,
    Ended,
    Open,
    Opened,
    Preface,
    Tell,
    decode_from_worker,
    decode_preface,
)

_log = logging.getLogger("sfworker.gateway")
PREFACE_SECONDS = 5.0
MAX_HELD = 256
"""Hellos that wait for an execution that has not begun here, of all peers."""
MAX_WHY = 1000
"""Characters of the sentence by which a late peer hears how an execution has ended."""
HOLD_SECONDS = 1.0
"""Time that a hello waits so. The peer says another one then."""
PARTING_SECONDS = 1.0
"""Time that a peer gets to close a stream that was not taken."""
MAX_STREAMS_OF_PEER = 1024
"""Streams that one peer has open here, in all its executions.

Three for each of 256 executions at once are 768. One takes two descriptors and may hold some MB for a slow reader.
"""
MAX_ENDED = 10_000
"""Executions of which it is known that they have ended."""
BACKLOG = 256
ALONE_SECONDS = 5.0
"""Time without a worker after which a gateway that a worker has started ends."""


@contextmanager
def own_socket(settings: Settings) -> Iterator[str]:
    """Make and lock the private directory of the socket for workers, for the block. Raises SettingsError."""
    path = settings.gateway_socket()
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SettingsError(f"{variable('gateway_dir')}: cannot be used ({error.strerror})") from None
    try:
        found = os.stat(directory)
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise SettingsError(f"{variable('gateway_dir')}: has to be this user's own, with permissions 0700")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(f"{variable('gateway_dir')}: a gateway of this party runs there already") from None
        _unlink(path)  # left by a gateway that was killed
        try:
            yield path
        finally:
            _unlink(path)
    finally:
        os.close(lock)


class Gateway:
    """The parts of a gateway, and what it remembers."""

    def __init__(self, settings: Settings, *, while_needed: bool) -> None:
        self._settings = settings
        self._digests = settings.of_gateway()
        self._while_needed = while_needed
        self._identity = Identity(settings)
        self._dialler = Dialler(settings, self._identity)
        self._strangers = Strangers(settings)
        self._said = Sayings()
        self._sessions: dict[str, Session] = {}
        self._held: dict[str, dict[_Inbound, Preface]] = {}
        self._streams: Counter[str] = Counter()
        self._ends: OrderedDict[str, End] = OrderedDict()
        self._attached = 0
        self._left = anyio.Event()

    async def run(self, path: str) -> None:
        """Serve until told to stop, or until it is not needed any more. `path` is the socket for workers."""
        listener = _listen(self._settings)
        try:
            workers = await asyncio.start_unix_server(self._serve_worker, path, limit=MAX_MESSAGE_BYTES)
        except OSError:
            listener.close()
            raise SettingsError(
                f"{variable('gateway_dir')}: no socket can be made there, whose path may have 107 bytes"
            ) from None
        _log.info("gateway of %s listens on %s", self._settings.party, self._settings.gateway_listen)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._accept, listener, tasks)
                if self._while_needed:
                    tasks.start_soon(self._end_when_alone, tasks)
                with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    async for _ in signals:
                        tasks.cancel_scope.cancel()
        finally:
            workers.close()
            listener.close()

    def take(self, party: str, preface: Preface, inbound: _Inbound) -> Answer | None:
        """Take a stream of a peer, hold it (None), or say why not."""
        self._streams[party] += 1
        if self._streams[party] > MAX_STREAMS_OF_PEER:
            self.refused(f"a stream of {party}, which has {MAX_STREAMS_OF_PEER} of them")
            return Answer(verdict="not_here", why="has too many streams of this party")
        if objection := self._objection(party, preface):
            return Answer(verdict="refused", why=objection)
        session = self._sessions.get(preface.execution_id)
        if session is not None and party in session.peers:
            return session.take(party, preface, inbound)
        end = self._ends.get(preface.execution_id)
        if end is not None and end.concerns(party, preface):
            return end.answer()
        if preface.channel != CONTROL or sum(map(len, self._held.values())) >= MAX_HELD:
            return Answer(verdict="not_here", why="has not begun this execution")
        self._held.setdefault(preface.execution_id, {})[inbound] = preface
        return None

    def _objection(self, party: str, preface: Preface) -> str:
        if preface.version != VERSION:
            return f"speaks version {VERSION} of the protocol and no other"
        if preface.to != self._settings.party:
            return f"is {self._settings.party}"
        return "" if party in self._settings.peers else f"does not know {party} as a peer"

    def hear(self, party: str, preface: Preface, body: bytes) -> None:
        """Hear a message on a control stream."""
        session = self._sessions.get(preface.execution_id)
        if session is not None and party in session.peers and session.peers[party].nonce == preface.nonce:
            session.hear(party, body)

    def lose(self, party: str, preface: Preface, inbound: _Inbound) -> None:
        """Hear that a stream has ended."""
        self._streams[party] -= 1
        self.let_go(preface, inbound)
        if session := self._sessions.get(preface.execution_id):
            session.lose(party, preface, inbound)

    def let_go(self, preface: Preface, inbound: _Inbound) -> None:
        """Hold a hello no more."""
        if held := self._held.get(preface.execution_id):
            held.pop(inbound, None)
            if not held:
                del self._held[preface.execution_id]

    def refused(self, cause: str) -> None:
        """Note that somebody was refused."""
        self._said.say("refused: %s", cause)

    async def _accept(self, listener: socket.socket, tasks: TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:  # our own, so that strangers are counted before TLS costs anything
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:  # no descriptor is left
                self._said.say("no connection can be taken (%s)", type(error).__name__)
                await anyio.sleep(0.1)
                continue
            if (stranger := self._strangers.admit(address[0])) is None:
                connection.close()
                self.refused("too many connections that have not said who they are")
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.start_soon(self._shake_hands, connection, stranger)

    async def _shake_hands(self, connection: socket.socket, stranger: Stranger) -> None:
        inbound = _Inbound(self, self._identity, stranger)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: inbound, connection, ssl=self._identity.server, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except Exception as error:  # noqa: BLE001 - one connection must not end all others
            self.refused(_cause(error))
            stranger.leave()
            connection.close()

    async def _serve_worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tell = partial(_tell, writer)
        session: Session | None = None
        attached = in_order = False
        try:
            while True:
                length = frame_length(await reader.readexactly(LENGTH_BYTES))
                match decode_from_worker(await reader.readexactly(length)):
                    case Attach(settings):
                        attached = self._attach(settings, tell)
                    case Ended() as ended:
                        self._note_end(ended)
                    case Open() as opened if session is None:
                        session = await self._open(opened, tell)
                    case Alive() if session is not None:
                        session.ping()
                    case Tell(frame) if session is not None:
                        session.tell_peers(frame)
                    case Close():
                        in_order = True
        except (EOFError, OSError, FrameError, msgspec.DecodeError):
            pass  # the worker has closed it, or has died
        finally:
            writer.close()
            if attached:
                self._attached -= 1
                self._left.set()
            if session is not None:
                if self._sessions.get(session.opened.execution_id) is session:
                    del self._sessions[session.opened.execution_id]
                await session.close(in_order=in_order)

    def _other_settings(self, theirs: dict[str, str]) -> str:
        """Say in which settings a worker differs, or nothing."""
        if names := [name for name, digest in self._digests.items() if theirs.get(name) != digest]:
            return (
                f"the gateway runs with another {', '.join(names)}; restart it, or the workers that have started it, "
                f"with the settings of this worker"
            )
        return ""

    def _attach(self, settings: dict[str, str], tell: Callable[[Struct], None]) -> bool:
        """Count a worker, unless it has other settings. Such a one keeps no gateway alive."""
        why = self._other_settings(settings)
        tell(Opened(why))
        if not why:
            self._attached += 1
        return not why

    async def _open(self, opened: Open, tell: Callable[[Struct], None]) -> Session | None:
        if why := self._other_settings(opened.settings):
            tell(Opened(why))
            return None
        if older := self._sessions.get(opened.execution_id):
            older.supersede()
        session = Session(opened, self._dialler, self._said, tell)
        self._sessions[opened.execution_id] = session
        self._ends.pop(opened.execution_id, None)
        try:
            await session.open()
        except OSError as error:
            if self._sessions.get(opened.execution_id) is session:
                del self._sessions[opened.execution_id]
            await session.close(in_order=False)
            tell(Opened(f"the gateway could not open its sockets ({type(error).__name__})"))
            return None
        tell(Opened())
        for inbound, preface in list(self._held.get(opened.execution_id, {}).items()):
            if inbound.party in session.peers:  # nobody else hears that there is such an execution
                self.let_go(preface, inbound)
                inbound.answer(session.take(inbound.party, preface, inbound))
        return session

    def _note_end(self, ended: Ended) -> None:
        session = self._sessions.get(ended.execution_id)
        end = self._ends[ended.execution_id] = End(ended, session.replays if session is not None else {})
        while len(self._ends) > MAX_ENDED:
            self._ends.popitem(last=False)
        for inbound, preface in list(self._held.get(ended.execution_id, {}).items()):
            if end.concerns(inbound.party, preface):
                self.let_go(preface, inbound)
                inbound.answer(end.answer())

    async def _end_when_alone(self, tasks: TaskGroup) -> None:
        while True:
            with anyio.move_on_after(ALONE_SECONDS):
                await self._left.wait()
            self._left = anyio.Event()
            if not self._attached:
                await anyio.sleep(ALONE_SECONDS)
                if not self._attached:
                    _log.info("no worker is here any more, and the gateway ends too")
                    tasks.cancel_scope.cancel()
                    return


class End:
    """An execution's end here, and how often its peers had replayed it then."""

    def __init__(self, ended: Ended, replays: dict[str, int]) -> None:
        self._ended = ended
        self._replays = replays

    def concerns(self, party: str, preface: Preface) -> bool:
        """Return whether a peer's stream is answered by this end.

        One that has replayed the execution since waits until it is replayed here, too. Where it is not known how often
        it had done so before, its first hello says so.
        """
        if party not in self._ended.peers:  # nobody else hears that there is such an execution
            return False
        if not self._ended.replayable or preface.terms is None:
            return True
        return preface.replays <= self._replays.setdefault(party, preface.replays)

    def answer(self) -> Answer:
        return Answer(verdict="ended", why=f"has ended this execution ({self._ended.why[:MAX_WHY]})")


class Stranger:
    """A connection that has not said who it is."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Count it no more, as it is known now, or gone."""
        if self._leave is not None:
            self._leave()
            self._leave = None


class Strangers:
    """Counts the connections that have not said who they are, in all and from each address."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_strangers
        self._most_of_one = settings.max_strangers_per_address
        self._counts: Counter[str] = Counter()

    def admit(self, address: str) -> Stranger | None:
        """Count one more, or return None where there are too many."""
        if self._counts.total() >= self._most or self._counts[address] >= self._most_of_one:
            return None
        self._counts[address] += 1
        return Stranger(partial(self._leave, address))

    def _leave(self, address: str) -> None:
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]


class _Inbound(RemoteHalf):
    """A connection to the port, from its handshake to its end."""

    def __init__(self, gateway: Gateway, identity: Identity, stranger: Stranger) -> None:
        super().__init__(self._hear_preface, self._hear_end, MAX_PREFACE_BYTES)
        self._gateway = gateway
        self._identity = identity
        self._stranger = stranger
        self._preface: Preface | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.party = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        try:
            self.party = self._identity.party_of(transport.get_extra_info("ssl_object"))
        except PermissionError as error:
            self._gateway.refused(str(error))
            self.abort()
            return
        self._deadline = asyncio.get_running_loop().call_later(PREFACE_SECONDS, self._is_late)

    def answer(self, answer: Answer) -> None:
        """Answer its preface, and close it where it was not taken."""
        self._known()
        self.send(answer)
        if answer.verdict != "taken":
            if answer.verdict == "refused":
                self._gateway.refused(f"a stream of {self.party}, as this party {answer.why}")
            self._on_message = None
            self.close()
            self._deadline = asyncio.get_running_loop().call_later(PARTING_SECONDS, self.abort)

    def _hear_preface(self, body: bytes) -> None:
        self._known()
        self._preface = preface = decode_preface(body)
        if preface.channel == CONTROL:
            self._on_message = partial(self._gateway.hear, self.party, preface)
        if (answer := self._gateway.take(self.party, preface, self)) is not None:
            self.answer(answer)
        else:
            self._deadline = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._was_in_vain)

    def _hear_end(self) -> None:
        self._known()
        if self._preface is not None:
            self._gateway.lose(self.party, self._preface, self)

    def _is_late(self) -> None:
        self._gateway.refused(f"{self.party}, which sent no preface in time")
        self.abort()

    def _was_in_vain(self) -> None:
        if self._preface is not None:
            self._gateway.let_go(self._preface, self)
        self.answer(Answer(verdict="not_here", why="has not begun this execution"))

    def _known(self) -> None:
        self._stranger.leave()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _cause(error: Exception) -> str:
    """Say why there was no handshake."""
    if isinstance(error, ssl.SSLError):
        return f"no TLS of a party ({getattr(error, 'reason', None) or type(error).__name__})"
    return (
        "no TLS at all"
        if isinstance(error, OSError)
        else f"a connection that could not be served ({type(error).__name__})"
    )


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _listen(settings: Settings) -> socket.socket:
    host, port = split(settings.gateway_listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(f"{variable('gateway_listen')}: cannot be listened on ({error.strerror})") from None
    listener.setblocking(False)
    return listener


def _tell(writer: asyncio.StreamWriter, message: Struct) -> None:
    if not writer.is_closing():
        writer.write(encode_frame(message))
