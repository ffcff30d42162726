"""Runs a party's gateway: its port for peers, its socket for the workers of this host, and the attempts of these.

peer ==TLS==> accept -> handshake -> preface -> stream of a session | held hello | refusal
worker --unix--> Attach | Open ... Close
told to stop -> let go of port and socket, for the next gateway, which passes on what comes -> finish the executions
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec import Struct

from sfworker.errors import SettingsError
from sfworker.gateway.accounts import Accounts, Cause
from sfworker.gateway.dialling import HANDSHAKE_SECONDS, Dialler, NotTakenError, pass_on, split
from sfworker.gateway.identity import Identity
from sfworker.gateway.inbound import NOT_BEGUN, Inbound, PassedOn, Stranger, Strangers, cause_of
from sfworker.gateway.place import Place, unlink
from sfworker.gateway.sayings import Sayings
from sfworker.gateway.session import Session
from sfworker.listening import State, listening
from sfworker.settings import Settings, variable
from sfworker.signals import hear_signals
from sfworker.telemetry import Instrument
from sfworker.wire.frames import FrameError, encode_frame, read_body
from sfworker.wire.gateway import (
    CONTROL,
    MAX_MESSAGE_BYTES,
    PROBE,
    VERSION,
    Alive,
    Answer,
    Ask,
    Attach,
    Close,
    Ended,
    GatewayState,
    GiveWay,
    Keep,
    Kept,
    Open,
    Opened,
    Passed,
    Preface,
    Standing,
    Tell,
    decode_from_worker,
)

_log = logging.getLogger("sfworker.gateway")
MAX_HELD = 256
"""Hellos that wait for an execution that has not begun here, of all peers."""
MAX_WHY = 1000
"""Characters of the sentence by which a late peer hears how an execution has ended."""
MAX_STREAMS_OF_PEER = 2048
"""Streams that one peer has open here, in all its executions.

Three for each of 256 executions at once are 768. One takes two descriptors, and about 1 MB where nobody reads it.
"""
MAX_ENDED = 10_000
"""Executions of which it is known that they have ended."""
BACKLOG = 256
CHECK_SECONDS = 2.0
"""Time after which the own certificate is looked at again."""
DAY = 86_400.0
WARN_DAYS = 30
"""Days before the end of the own certificate in which the log says so."""
ALONE_SECONDS = 5.0
"""Time without a worker after which a gateway that a worker has started ends."""
RELEASE_SECONDS = 2.0
"""Time that workers get to close the executions that a stopping gateway does not finish."""


class Gateway:
    """The parts of a gateway, and what it remembers."""

    def __init__(self, settings: Settings, place: Place, *, while_needed: bool) -> None:
        self._settings = settings
        self._place = place
        self._digests = settings.of_gateway()
        self._while_needed = while_needed
        self._identity = Identity(settings)
        self.accounts = Accounts(settings.peers)
        self._dialler = Dialler(settings, self._identity, self.accounts)
        self._strangers = Strangers(settings)
        self._said = Sayings()
        self._sessions: dict[str, Session] = {}
        self._held: dict[str, dict[Inbound, Preface]] = {}
        self._streams: Counter[str] = Counter()
        self._ends: OrderedDict[str, End] = OrderedDict()
        self._attached: dict[asyncio.StreamWriter, Callable[[Struct], None]] = {}
        self._left = anyio.Event()
        self._kept: dict[str, Session] = {}
        """Those whose attempt has ended and whose links have not, by the id of these."""
        self._open: set[Session] = set()
        """Those included that are being closed."""
        self._changed = anyio.Event()
        self._leaving = anyio.Event()
        self._hurry = False
        self._has_let_go = anyio.Event()
        self._passing: set[asyncio.Task[None]] = set()
        self._passed: set[Any] = set()

    async def run(self, page: Callable[[], bytes | None]) -> None:
        """Serve until told to stop, or until it is not needed any more, and finish the executions that there are.

        `page` returns the metrics for whoever scrapes them.
        """
        with ExitStack() as ports:
            listener = ports.enter_context(_listen(self._settings))
            health = ports.enter_context(listening(self._settings.gateway_health, "gateway_health"))
            try:
                workers = await asyncio.start_unix_server(self._serve_worker, self._place.path, limit=MAX_MESSAGE_BYTES)
            except OSError:
                raise SettingsError(
                    f"{variable('gateway_dir')}: no socket can be made there, whose path may have 107 bytes"
                ) from None
            ports.callback(workers.close)
            await self._serve(listener, health, page, ports.pop_all())

    async def _serve(
        self,
        listener: socket.socket,
        health: socket.socket | None,
        page: Callable[[], bytes | None],
        ports: ExitStack,
    ) -> None:
        _log.info("gateway of %s listens on %s", self._settings.party, self._settings.gateway_listen)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear_signals)
            tasks.start_soon(self._watch_certificate)
            if self._while_needed:
                tasks.start_soon(self._leave_when_alone)
            try:
                async with AsyncExitStack() as answering, anyio.create_task_group() as accepting:
                    if health is not None:
                        from sfworker.serving import serving  # aiohttp, which only gateways with such an address need

                        await answering.enter_async_context(serving(health, self._health, page))
                    accepting.start_soon(self._accept, listener, tasks)
                    await self._leaving.wait()
                    accepting.cancel_scope.cancel()
                loop = asyncio.get_running_loop()
                parting = await loop.create_unix_server(self._from_next, self._place.parting_path)
            finally:
                ports.close()  # all of them are the next gateway's from here on
                self._place.let_go()
                self._has_let_go.set()
            await self._finish()
            parting.close()
            tasks.cancel_scope.cancel()

    async def _finish(self) -> None:
        """Let the executions end, for as long as a stopping worker lets its jobs, and give back those that are left."""
        for writer in self._attached:
            writer.close()
        for execution_id in list(self._held):
            for inbound, preface in list(self._held[execution_id].items()):
                self.let_go(preface, inbound)
                inbound.answer(NOT_BEGUN)
        for session in self._kept.values():  # the next gateway knows nothing of their links
            self._open.discard(session)
            await session.close(in_order=True)
        if self._open:
            _log.info("takes no new execution, and finishes %d", len(self._open))
        with anyio.move_on_after(self._settings.drain_timeout):
            while self._open and not self._hurry:
                await self._until_changed()
        for session in self._sessions.values():
            session.release()
        with anyio.move_on_after(RELEASE_SECONDS):
            while self._open:
                await self._until_changed()

    async def _until_changed(self) -> None:
        await self._changed.wait()
        self._changed = anyio.Event()

    def _from_next(self) -> PassedOn:
        return PassedOn(self, self._identity, Stranger(lambda: None))

    async def _hear_signals(self) -> None:
        async for _, meaning in hear_signals():
            if meaning == "stop":
                self._hurry = self._leaving.is_set()
                self._leaving.set()
                self._changed.set()

    def take(self, party: str, preface: Preface, inbound: Inbound, *, everywhere: bool = False) -> Answer | None:
        """Take a stream of a peer, hold it (None), or say why not.

        It is first offered to the gateways before this one, but where it has been offered `everywhere`.
        """
        self._streams[party] += not everywhere
        if self._streams[party] > MAX_STREAMS_OF_PEER:
            self.refused("stream", f"a stream of {party}, which has {MAX_STREAMS_OF_PEER} of them", party)
            return Answer(verdict="not_here", why="has too many streams of this party")
        if objection := self._objection(party, preface):
            return Answer(verdict="refused", why=objection)
        return Answer(verdict="known") if preface.channel == PROBE else self._take(party, preface, inbound, everywhere)

    def _take(self, party: str, preface: Preface, inbound: Inbound, everywhere: bool) -> Answer | None:
        session = self._kept_by(party, preface) or self._sessions.get(preface.execution_id)
        if session is not None and party in session.peers:
            return session.take(party, preface, inbound)
        end = self._ends.get(preface.execution_id)
        if end is not None and end.concerns(party, preface):
            return end.answer()
        if self._leaving.is_set():
            return NOT_BEGUN
        if not everywhere and (parting := self._place.parting()):
            task = asyncio.create_task(self._pass_on(parting, Passed(party, preface), inbound))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)
            return None
        return self._hold(preface, inbound)

    def _kept_by(self, party: str, preface: Preface) -> Session | None:
        """Return the session whose links are kept to which a peer's stream belongs, which is none of its attempt's."""
        for session in self._kept.values():
            of_attempt = session.opened.execution_id, party in session.peers and session.peers[party].nonce
            if preface.channel != CONTROL and of_attempt == (preface.execution_id, preface.nonce):
                return session
        return None

    def _hold(self, preface: Preface, inbound: Inbound) -> Answer | None:
        if preface.channel != CONTROL or sum(map(len, self._held.values())) >= MAX_HELD:
            return NOT_BEGUN
        self._held.setdefault(preface.execution_id, {})[inbound] = preface
        return None

    async def _pass_on(self, parting: list[str], passed: Passed, inbound: Inbound) -> None:
        """Offer a stream to the gateways before this one, and take it here where it is for none of them."""
        answer: Answer | None = None
        for path in parting:
            try:
                half = await pass_on(path, passed, self._passed)
            except NotTakenError as error:
                if error.answer.verdict != "not_here":
                    answer = error.answer
            except ConnectionRefusedError:
                unlink(path)  # left by one that was killed
            except (OSError, EOFError):
                pass  # it has just ended
            else:
                if inbound.is_closed:
                    half.close()
                    return
                inbound.answer(Answer(verdict="taken"))
                inbound.join(half)
                return
        if not inbound.is_closed:
            answer = answer or self.take(passed.party, passed.preface, inbound, everywhere=True)
            if answer is not None:
                inbound.answer(answer)

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

    def lose(self, party: str, preface: Preface, inbound: Inbound) -> None:
        """Hear that a stream has ended."""
        self._streams[party] -= 1
        self.let_go(preface, inbound)
        if session := self._kept_by(party, preface) or self._sessions.get(preface.execution_id):
            session.lose(party, preface, inbound)

    def let_go(self, preface: Preface, inbound: Inbound) -> None:
        """Hold a hello no more."""
        if held := self._held.get(preface.execution_id):
            held.pop(inbound, None)
            if not held:
                del self._held[preface.execution_id]

    def refused(self, cause: Cause, why: str, party: str = "") -> None:
        """Note that somebody was refused, who may be a peer."""
        self.accounts.of(party).refused[cause] += 1
        self._said.say("refused: %s", why)

    def instruments(self) -> list[Instrument]:
        """Return the gateway's metrics."""
        return self.accounts.instruments(self._own_end)

    def _own_end(self) -> float:
        _, end = self._identity.validity  # which another thread may read, unlike files that it would read anew
        return end.timestamp()

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
                self.refused("crowd", "too many connections that have not said who they are")
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.start_soon(self._shake_hands, connection, stranger)

    async def _shake_hands(self, connection: socket.socket, stranger: Stranger) -> None:
        inbound = Inbound(self, self._identity, stranger)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: inbound, connection, ssl=self._identity.server, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except Exception as error:  # noqa: BLE001 - one connection must not end all others
            self.refused(*cause_of(error))
            stranger.leave()
            connection.close()

    async def _serve_worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            match await _read(reader):
                case GiveWay():
                    await self._give_way()
                case _ if self._leaving.is_set():
                    pass  # it comes to the next gateway then
                case Attach(settings):
                    await self._stand(settings, reader, writer)
                case Ask():
                    _tell(writer, self._state())
                case Open() as opened:
                    await self._serve_attempt(opened, reader, partial(_tell, writer))
        except (EOFError, OSError, FrameError, msgspec.DecodeError):
            pass  # the worker has closed it, or has died
        finally:
            writer.close()

    def _other_settings(self, theirs: dict[str, str]) -> str:
        """Say in which settings a worker differs, or nothing."""
        if names := [name for name, digest in theirs.items() if self._digests.get(name) != digest]:
            return (
                f"the gateway runs with another {', '.join(names)}; restart it, or the workers that have started it, "
                f"with the settings of this worker"
            )
        return ""

    async def _give_way(self) -> None:
        if self._while_needed:
            self._leaving.set()
        if self._leaving.is_set():
            await self._has_let_go.wait()

    async def _stand(
        self, settings: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        why = self._other_settings(settings)
        _tell(writer, Opened(why))
        if why:
            return  # and it keeps no gateway alive
        tell = self._attached[writer] = partial(_tell, writer)
        tell(Standing(self._identity.trouble))
        try:
            while True:
                if isinstance(ended := await _read(reader), Ended):
                    self._note_end(ended)
        finally:
            del self._attached[writer]
            self._left.set()

    async def _serve_attempt(self, opened: Open, reader: asyncio.StreamReader, tell: Callable[[Struct], None]) -> None:
        if why := self._other_settings(opened.settings):
            tell(Opened(why))
            return
        if older := self._sessions.get(opened.execution_id):
            older.supersede()
        kept = self._kept.get(opened.kept.partition(":")[0])
        keeps = kept is not None and kept.is_whole
        session = Session(opened, self._dialler, self._said, tell, keeps=keeps)
        self._sessions[opened.execution_id] = session
        self._open.add(session)
        self._ends.pop(opened.execution_id, None)
        in_order, links = False, ""
        try:
            if not await self._open_sockets(session, tell):
                return
            while not in_order:
                match await _read(reader):
                    case Alive():
                        session.ping()
                    case Tell(frame):
                        session.tell_peers(frame)
                    case Keep():
                        links = self._keep(session)
                        tell(Kept(links))
                    case Close():
                        in_order = True
        finally:
            self._kept.pop(links, None)
            if self._sessions.get(opened.execution_id) is session:
                del self._sessions[opened.execution_id]
            await session.close(in_order=in_order or bool(links))
            self._open.discard(session)
            self._changed.set()

    def _keep(self, session: Session) -> str:
        if links := "" if self._leaving.is_set() else session.keep():
            self._kept[links] = session
            if self._sessions.get(session.opened.execution_id) is session:
                del self._sessions[session.opened.execution_id]
        return links

    async def _open_sockets(self, session: Session, tell: Callable[[Struct], None]) -> bool:
        try:
            await session.open()
        except OSError as error:
            tell(Opened(f"the gateway could not open its sockets ({type(error).__name__})"))
            return False
        tell(Opened())
        for inbound, preface in list(self._held.get(session.opened.execution_id, {}).items()):
            if inbound.party in session.peers:  # nobody else hears that there is such an execution
                self.let_go(preface, inbound)
                inbound.answer(session.take(inbound.party, preface, inbound))
        return True

    def _note_end(self, ended: Ended) -> None:
        session = self._sessions.get(ended.execution_id)
        if session is not None and ended.replays is not None and ended.replays < session.opened.replays:
            return  # told by a worker that has not heard that it runs again
        end = self._ends[ended.execution_id] = End(ended, session.replays if session is not None else {})
        while len(self._ends) > MAX_ENDED:
            self._ends.popitem(last=False)
        for inbound, preface in list(self._held.get(ended.execution_id, {}).items()):
            if end.concerns(inbound.party, preface):
                self.let_go(preface, inbound)
                inbound.answer(end.answer())

    def _health(self) -> State:
        return State("ready" if self._identity.is_good else "certificate_not_good", self._identity.trouble)

    def _state(self) -> GatewayState:
        return GatewayState(
            party=self._settings.party,
            listens=self._settings.gateway_listen,
            certificate_ends=self._identity.expires.timestamp(),
            trouble=self._identity.trouble,
            workers=len(self._attached),
            executions=len(self._sessions),
            peers=[account.state() for account in self.accounts.peers.values()],
        )

    async def _watch_certificate(self) -> None:
        """Tell workers when this party's certificate is of no use, and the log once a day, also when it is to end."""
        told, said_at = "", -DAY
        while True:
            trouble, expires = self._identity.trouble, self._identity.expires
            if trouble != told:
                told, said_at = trouble, -DAY
                for tell in self._attached.values():
                    tell(Standing(trouble))
            left = (expires.timestamp() - time.time()) / DAY
            if (trouble or left < WARN_DAYS) and time.monotonic() - said_at >= DAY:
                said_at = time.monotonic()
                _log.warning("%s", trouble or f"this party's certificate ends on {expires.date()}, in {left:.0f} days")
            await anyio.sleep(CHECK_SECONDS)

    async def _leave_when_alone(self) -> None:
        while True:
            with anyio.move_on_after(ALONE_SECONDS):
                await self._left.wait()
            self._left = anyio.Event()
            if not self._attached:
                await anyio.sleep(ALONE_SECONDS)
                if not self._attached:
                    _log.info("no worker is here any more, and the gateway ends too")
                    self._leaving.set()
                    return


class End:
    """An execution's end here, and how often its peers had replayed it then."""

    def __init__(self, ended: Ended, replays: dict[str, int]) -> None:
        self._ended = ended
        self._replays = replays

    def concerns(self, party: str, preface: Preface) -> bool:
        """Return whether a peer's stream is answered by this end.

        One that has replayed the execution since waits until it is replayed here, too. Where it is not known how often
        it had done so before, its first hello says so; or, where this end is told again and that hello may be of such
        a replay, it is taken to have done so as often as this party.
        """
        if party not in self._ended.peers:  # nobody else hears that there is such an execution
            return False
        if self._ended.replays is None or preface.terms is None:
            return True
        unknown = self._ended.replays if self._ended.again else preface.replays
        return preface.replays <= self._replays.setdefault(party, unknown)

    def answer(self) -> Answer:
        return Answer(verdict="ended", why=f"has ended this execution ({self._ended.why[:MAX_WHY]})")


async def _read(reader: asyncio.StreamReader) -> Struct:
    message: Struct = decode_from_worker(await read_body(reader))
    return message


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
