"""Joins one attempt of this party with its peers, from its worker's `Open` to its end.

For each absent party there are sockets in the attempt's directory that stand in for it. Its own control stream to each
peer says hello, tells what its worker says, and pings; the peer's brings what the peer's worker says.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import anyio
from msgspec import Struct

from sfworker.gateway.accounts import Meeting, PeerAccount
from sfworker.gateway.dialling import Dialler, NotTakenError
from sfworker.gateway.sayings import Sayings
from sfworker.gateway.streams import Half, RemoteHalf
from sfworker.wire.frames import FrameError
from sfworker.wire.gateway import (
    CHANNELS,
    CONTROL,
    PING_SECONDS,
    VERSION,
    Agreed,
    Answer,
    Goodbye,
    Heard,
    Lost,
    Met,
    Open,
    PeerFailed,
    PeerFrame,
    PeerSucceeded,
    Ping,
    Pong,
    Preface,
    Sent,
    Told,
    decode_control,
    decode_pong,
)

_log = logging.getLogger("sfworker.gateway")
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
SHORTEST_CALL = 2.0
"""Seconds that a call gets where the time to meet the peer is nearly over: more than a hello is held there."""
LOCAL_PAUSE = 0.003
"""Seconds between the first looks for a socket that this party's process is about to open."""
CARRY_SECONDS = 15.0
"""Longest time in which a stream to a peer that was met is tried to be opened, where strangers crowd its port."""
TELL_SECONDS = 2.0
"""Longest time in which a peer that has just come is called to tell it how the attempt ended meanwhile."""
LINGER_SECONDS = 0.2
"""Time in which streams end by themselves after the attempt has."""
MAX_TOLD = 64
"""Frames of a peer, of which an honest one sends five."""
MAX_PINGED = 16
"""Latest pings whose answers are measured."""
MOST_A_SECOND = 10.0
"""Messages of a peer beyond these, of which an honest one sends one a second."""
FIRST_CHANNELS = CHANNELS[:2]
"""Links that every job with an SPU uses, so that their handshakes are over when its processes come to them."""
MAX_STREAMS = 256
"""Streams of an execution, of which there are four or so for each device and peer."""

NONSENSE = "says what no gateway says"


class Peer:
    """Holds the state of one absent party."""

    def __init__(self, party: str, rank: int, account: PeerAccount) -> None:
        self.party = party
        self.rank = rank
        self.account = account
        self.met = anyio.Event()
        """Set when it has taken this party's hello."""
        self.came = anyio.Event()
        """Set by its hello. Each call waits for another one."""
        self.ahead: dict[str, asyncio.Task[RemoteHalf | None]] = {}
        """By channel, a stream to it that is opened before this party's process asks for one."""
        self.parted = anyio.Event()
        """Set when it is not called or spoken to any more."""
        self.nonce = ""
        """Of its attempt, from its hello."""
        self.replays = 0
        """Of its hello."""
        self.kept = ""
        """Of its hello."""
        self.keeps = False
        """Of its hello."""
        self.control: RemoteHalf | None = None
        """The stream of its latest hello."""
        self.heard_at = 0.0
        self.met_at = 0.0
        self.heard = 0
        """Messages on its control streams."""
        self.told = 0
        self.has_succeeded = False
        self.is_sent = False
        """True when it was sent that this party has succeeded."""
        self.said_goodbye = False
        self.is_lost = False
        self.ponged_at = 0.0
        self.pings = 0
        self.pinged_at: deque[float] = deque(maxlen=MAX_PINGED)
        self.outbox: asyncio.Queue[Struct] = asyncio.Queue()


class Session:
    """One attempt. `tell` brings messages to its worker.

    Where `keeps` is true, kept links are used if the peers say so, too, and only else are there new ones.
    """

    def __init__(
        self, opened: Open, dialler: Dialler, said: Sayings, tell: Callable[[Struct], None], *, keeps: bool = False
    ) -> None:
        self.opened = opened
        self._kept = opened.kept if keeps else ""
        self._waits = bool(opened.kept) or opened.keeps
        """True until it is known whether kept links are used, and whether all parties keep their sessions."""
        self._is_broken = False
        self.nonce = secrets.token_hex(16)
        self.peers = {
            party: Peer(party, rank, dialler.accounts.of(party))
            for rank, party in enumerate(opened.terms.parties)
            if party != dialler.party
        }
        self.closed = False
        self._dialler = dialler
        self._said = said
        self._tell = tell
        self._own_rank = opened.terms.parties.index(dialler.party)
        self._channels = iter(CHANNELS if opened.has_spu else CHANNELS[:1])
        self._newest = ""
        """The channel whose stand-ins were opened last."""
        self._servers: list[asyncio.AbstractServer] = []
        self._halves: set[Half] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def replays(self) -> dict[str, int]:
        """How often the peers that were met have replayed the execution."""
        return {peer.party: peer.replays for peer in self.peers.values() if peer.nonce}

    async def open(self) -> None:
        """Open the sockets that stand in for the absent parties, and begin to call these."""
        if not self._kept:
            await self._open_stand_ins()
        for peer in self.peers.values():
            self._start(self._call(peer))

    async def _open_stand_ins(self) -> None:
        """Open those of the first channels. The one after an SPU's is opened when that one is used."""
        for channel in islice(self._channels, len(FIRST_CHANNELS)):
            await self._open_channel(channel)

    async def _open_next(self) -> None:
        try:
            for channel in islice(self._channels, 1):
                await self._open_channel(channel)
        except OSError as error:
            self._said.say("no socket could be opened for another SPU (%s)", type(error).__name__)

    async def _open_channel(self, channel: str) -> None:
        self._newest = channel
        loop = asyncio.get_running_loop()
        for peer in self.peers.values():
            path = f"{self.opened.directory}/{channel}-{peer.rank}.sock"
            accept = partial(self._stand_in, peer, channel)
            self._servers.append(await loop.create_unix_server(accept, path))

    @property
    def is_whole(self) -> bool:
        """True where no link has ended."""
        return not self._is_broken and not any(half.is_cut for half in self._halves)

    def keep(self) -> str:
        """End the attempt but not its links, and return the id by which all parties know these.

        It is nothing where the links cannot be kept.
        """
        for peer in self.peers.values():
            peer.outbox.put_nowait(Goodbye())
        if not all(peer.has_succeeded for peer in self.peers.values()) or not self.is_whole:
            return ""
        nonces = sorted([self.nonce, *(peer.nonce for peer in self.peers.values())])
        return hashlib.sha256("\0".join([*nonces, self.opened.execution_id]).encode()).hexdigest()

    def ping(self) -> None:
        """Let peers hear that this party's worker is alive."""
        for peer in self.peers.values():
            if peer.met.is_set() and not peer.is_lost:
                peer.outbox.put_nowait(Ping())

    def tell_peers(self, frame: PeerFrame) -> None:
        """Send what this party's worker tells."""
        for peer in self.peers.values():
            peer.outbox.put_nowait(Told(frame))

    async def close(self, *, in_order: bool) -> None:
        """End everything. Where it is not in order, the peers hear that this party's worker ended."""
        self.closed = True
        if not in_order:
            self.tell_peers(PeerFailed("its worker ended", "PartyProcessLostError", retryable=True))
        for peer in self.peers.values():
            peer.outbox.put_nowait(Goodbye())
        for server in self._servers:
            server.close()
        with anyio.move_on_after(TELL_SECONDS):
            for peer in self.peers.values():
                if peer.nonce:  # else it has no attempt that could hear
                    await peer.parted.wait()
        await anyio.sleep(LINGER_SECONDS)
        for task in (*self._tasks, *(task for peer in self.peers.values() for task in peer.ahead.values())):
            task.cancel()
        for half in self._halves:
            half.close()

    def release(self) -> None:
        """Give the attempt back, as this gateway ends before it. That uses up no attempt, here or at the peers."""
        why = "its gateway was replaced before the attempt ended"
        self.tell_peers(PeerFailed(why, "GatewayLostError", retryable=True, is_release=True))
        for party in self.peers:
            self._tell(Lost(party, "cannot be heard, as this host's gateway was replaced", met=False, returns=True))

    def take(self, party: str, preface: Preface, half: RemoteHalf) -> Answer:
        """Take a stream of one of the peers, whose certificate says it is `party`, or say why not."""
        peer = self.peers[party]
        if preface.channel == CONTROL:
            return self._hear_hello(peer, preface, half)
        if preface.nonce != peer.nonce or preface.channel not in CHANNELS or len(self._halves) >= MAX_STREAMS:
            return Answer(verdict="refused", why="knows no such stream")
        # Not before something comes: streams are opened ahead, and a process may close a connection that stays idle.
        half.hold(lambda: self._start(self._connect(preface.channel, half)))
        half.count()
        self._halves.add(half)
        return Answer(verdict="taken")

    def hear(self, party: str, body: bytes) -> None:
        """Hear a message of a peer's control stream."""
        peer = self.peers[party]
        peer.heard_at, peer.account.seen_at = time.monotonic(), time.time()
        peer.heard += 1
        message = decode_control(body)
        peer.told += isinstance(message, Told)
        if peer.told > MAX_TOLD or peer.heard > MAX_TOLD + MOST_A_SECOND * (peer.heard_at - peer.met_at):
            self._lose(peer, "says too much")
            if peer.control is not None:
                peer.control.abort()
            return
        match message:
            case Told(frame):
                peer.has_succeeded = isinstance(frame, PeerSucceeded)
                self._tell(Heard(party, frame))
            case Goodbye():
                peer.said_goodbye = True
                self._lose(peer, "has ended its attempt")
            case Ping(number):
                # Not more often, as what a peer does not read is kept here.
                if peer.control is not None and peer.heard_at - peer.ponged_at > PING_SECONDS / 2:
                    peer.ponged_at = peer.heard_at
                    peer.control.send(Pong(number))

    def lose(self, party: str, preface: Preface, half: RemoteHalf) -> None:
        """Hear that a peer's stream has ended."""
        self._halves.discard(half)
        peer = self.peers.get(party)
        if peer is None or half is not peer.control or peer.said_goodbye:
            return
        if half.spoke_nonsense:
            self._lose(peer, NONSENSE)
        else:
            self._lose(peer, "closed the connection without a word", returns=True)

    def supersede(self) -> None:
        """Give way to a later attempt of this execution, which another worker of this party has begun.

        The peers hear so before that attempt's hello.
        """
        why = "another worker has begun a later attempt"
        self.tell_peers(PeerFailed(why, "PartyProcessLostError", retryable=True, is_release=True))
        for peer in self.peers.values():
            peer.outbox.put_nowait(Goodbye())
            self._lose(peer, "is wanted by a later attempt")
        self.closed = True

    def _hear_hello(self, peer: Peer, preface: Preface, half: RemoteHalf) -> Answer:
        if preface.terms is None:
            return Answer(verdict="refused", why="got no terms")
        if differing := self.opened.terms.differing(preface.terms):
            why = f"was sent another job under this execution_id: its {', '.join(differing)} differ"
            self._lose(peer, why, final=True)
            return Answer(verdict="refused", why=why)
        if peer.nonce and peer.nonce != preface.nonce:
            self._lose(peer, "began another attempt", returns=True)  # it would have said why its own had failed
            return Answer(verdict="not_here", why="is about to end an older attempt")
        if peer.control is not None:
            older, peer.control = peer.control, None
            older.abort()
        if not peer.nonce and preface.traceparent is not None and self.opened.traceparent is not None:
            self._tell(Met(peer.party, preface.traceparent))
        half.count()
        peer.came.set()
        peer.control = half
        peer.heard_at = time.monotonic()
        if not peer.nonce:
            peer.nonce, peer.replays, peer.met_at = preface.nonce, preface.replays, peer.heard_at
            peer.kept, peer.keeps = preface.kept, preface.keeps
        self._halves.add(half)
        if self._waits and all(each.nonce for each in self.peers.values()):
            self._waits = False
            self._start(self._agree())
        return Answer(verdict="taken")

    async def _agree(self) -> None:
        """Tell the worker whether all parties use the kept links, after opening new ones where they do not.

        Tell it, too, whether all keep their sessions.
        """
        keeps = bool(self._kept) and all(peer.kept == self._kept for peer in self.peers.values())
        if self._kept and not keeps:
            try:
                await self._open_stand_ins()
            except OSError as error:
                for peer in self.peers.values():
                    self._lose(peer, f"cannot be joined, as sockets could not be opened here ({type(error).__name__})")
                return
        all_keep = self.opened.keeps and all(peer.keeps for peer in self.peers.values())
        self._tell(Agreed(keeps, all_keep))

    async def _call(self, peer: Peer) -> None:
        """Open a control stream to a peer, and keep it."""
        try:
            if (met := await self._meet(peer)) is not None:
                await self._keep(peer, *met)
        except Exception as error:  # noqa: BLE001 - or the job would wait to its time limit
            _log.exception("the control stream to %s has failed", peer.party)
            self._lose(peer, f"cannot be called ({type(error).__name__})")
        finally:
            peer.parted.set()

    async def _keep(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called = time.monotonic()
        if not self.opened.kept:
            ahead = FIRST_CHANNELS if self.opened.has_spu else FIRST_CHANNELS[:1]
            peer.ahead = {channel: asyncio.create_task(self._open_ahead(peer, channel)) for channel in ahead}
        peer.met.set()
        peer.outbox.put_nowait(Ping())  # so that jobs which are over sooner are measured, too
        peer.account.open_streams += 1
        self._start(self._hear_pongs(peer, reader))
        try:
            while True:
                began, message = time.monotonic(), None
                with anyio.move_on_after(PING_SECONDS):
                    message = await peer.outbox.get()
                if message is not None:  # which is written outside, as it must not be given up half-way
                    if isinstance(message, Ping):
                        peer.pings += 1
                        peer.pinged_at.append(time.monotonic())
                        message = Ping(peer.pings)
                    await self._dialler.write(peer.party, writer, message)
                    if isinstance(message, Told) and isinstance(message.frame, PeerSucceeded):
                        peer.is_sent = True
                        if all(each.is_sent for each in self.peers.values()):
                            self._tell(Sent())
                    if isinstance(message, Goodbye):
                        return
                # Strangers that crowd this party's port, or a wall, may keep the peer from calling back.
                within = self._dialler.silence_seconds if peer.nonce else self._dialler.rendezvous_seconds
                now = time.monotonic()
                if now - began > 2 * PING_SECONDS:
                    peer.heard_at = now  # this process was paused, and what was said meanwhile is still to be read
                if now - max(peer.heard_at, called) > within and not peer.said_goodbye:
                    peer.account.silences += bool(peer.nonce) and not peer.is_lost
                    why = "was silent for" if peer.nonce else "can be reached, but did not call back within"
                    self._lose(peer, f"{why} {within:.0f} s")  # and it is told so, as it may only have been paused
        except OSError as error:
            ended = isinstance(error, ConnectionError)  # which its own control stream is about to tell, too
            self._lose(peer, f"cannot be spoken to any more ({type(error).__name__})", returns=ended)
        finally:
            peer.account.open_streams -= 1
            writer.close()

    async def _hear_pongs(self, peer: Peer, reader: asyncio.StreamReader) -> None:
        """Measure round trips. A peer says no more than one pong for each ping."""
        heard = 0
        try:
            while True:
                number = decode_pong(await self._dialler.read(peer.party, reader)).number
                if not heard < number <= peer.pings:
                    raise FrameError("an answer to no ping")
                heard = number
                if (later := peer.pings - number) < len(peer.pinged_at):
                    peer.account.round_trip = time.monotonic() - peer.pinged_at[-1 - later]
        except FrameError:
            self._lose(peer, NONSENSE)
        except (OSError, EOFError):
            pass  # its own control stream tells why

    async def _meet(self, peer: Peer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a control stream on which the peer has taken the hello, or None after the worker was told why not."""
        opened = self.opened
        preface = self._preface(peer, CONTROL, hello=True)
        # Not always as long, or two parties that swap two jobs with each wait might never meet.
        bound = self._dialler.rendezvous_seconds * random.uniform(0.7, 1.0)  # noqa: S311 - no secret
        began, pause = time.monotonic(), SHORTEST_PAUSE
        how: Meeting = "absent"
        try:
            while True:
                peer.came = anyio.Event()
                try:
                    with anyio.fail_after(max(began + bound - time.monotonic(), SHORTEST_CALL)):
                        streams = await self._dialler.call(opened.addresses[peer.party], preface)
                    how = "met"
                    return streams
                except NotTakenError as error:
                    why = error.answer.why
                    if error.answer.verdict != "not_here":
                        how = "refused"
                        self._lose(peer, why, final=True)
                        return None
                except PermissionError as error:
                    why = f"is refused, as {error}"
                except (OSError, EOFError) as error:
                    why = f"cannot be reached ({type(error).__name__})"
                if time.monotonic() > began + bound:
                    self._lose(peer, f"did not come within {bound:.0f} s: it {why}", absent=True)
                    return None
                with anyio.move_on_after(pause):
                    await peer.came.wait()
                pause = min(pause * 1.5, LONGEST_PAUSE)
        finally:
            peer.account.met(how, time.monotonic() - began)

    def _lose(self, peer: Peer, why: str, *, final: bool = False, absent: bool = False, returns: bool = False) -> None:
        if peer.said_goodbye and peer.has_succeeded:
            return  # it has heard that all have succeeded, as this party is about to
        if not self.closed and not peer.is_lost:
            peer.is_lost = True
            self._tell(Lost(peer.party, why, met=bool(peer.nonce) and not absent, final=final, returns=returns))

    def _drop(self, local: Half) -> None:
        self._is_broken = self._is_broken or local.is_cut
        self._halves.discard(local)

    def _stand_in(self, peer: Peer, channel: str) -> Half:
        half = Half(None, lambda: self._drop(half))
        self._halves.add(half)
        self._start(self._carry(peer, channel, half))
        if channel == self._newest and not self.closed:
            self._start(self._open_next())
        return half

    async def _carry(self, peer: Peer, channel: str, local: Half) -> None:
        """Open a stream to the peer for a connection of this party's process."""
        await peer.met.wait()
        if (ahead := peer.ahead.pop(channel, None)) and (opened := await ahead) and not opened.is_closed:
            opened.join(local)
            return
        preface = self._preface(peer, channel)
        until = time.monotonic() + CARRY_SECONDS
        while not local.is_closed:
            try:
                remote = await self._dialler.open_stream(self.opened.addresses[peer.party], preface, self._halves)
            except (OSError, EOFError, NotTakenError) as error:
                if isinstance(error, NotTakenError) or time.monotonic() > until:
                    self._said.say("no stream could be opened to %s", f"{peer.party} ({type(error).__name__})")
                    local.abort()
                    return
                await anyio.sleep(LONGEST_PAUSE)
            else:
                remote.join(local)
                return

    async def _open_ahead(self, peer: Peer, channel: str) -> RemoteHalf | None:
        with suppress(OSError, EOFError, NotTakenError):  # it is tried again when it is needed
            return await self._dialler.open_stream(
                self.opened.addresses[peer.party], self._preface(peer, channel), self._halves
            )
        return None

    async def _connect(self, channel: str, remote: RemoteHalf) -> None:
        """Join a peer's stream with this party's own socket, which its process may not have opened yet."""
        path = f"{self.opened.directory}/{channel}-{self._own_rank}.sock"
        loop = asyncio.get_running_loop()
        local = Half(None, lambda: self._drop(local))
        pause = LOCAL_PAUSE
        while not self.closed and not remote.is_closed:
            with suppress(OSError):
                await loop.create_unix_connection(lambda: local, path)
                self._halves.add(local)
                remote.join(local)
                return
            await anyio.sleep(pause)
            pause = min(pause * 1.05, LONGEST_PAUSE)
        remote.abort()

    def _preface(self, peer: Peer, channel: str, *, hello: bool = False) -> Preface:
        return Preface(
            version=VERSION,
            to=peer.party,
            execution_id=self.opened.execution_id,
            channel=channel,
            nonce=self.nonce,
            terms=self.opened.terms if hello else None,
            replays=self.opened.replays if hello else 0,
            traceparent=self.opened.traceparent if hello else None,
            kept=self._kept if hello else "",
            keeps=self.opened.keeps and hello,
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
