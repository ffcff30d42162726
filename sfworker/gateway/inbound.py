"""Takes connections to the gateway's port from their first byte on. Who they are is what the certificate says."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

from sfworker.gateway.accounts import Accounts, Cause
from sfworker.gateway.identity import Identity
from sfworker.gateway.streams import Half, RemoteHalf
from sfworker.settings import Settings
from sfworker.wire.gateway import CONTROL, MAX_PREFACE_BYTES, Answer, Preface, decode_passed, decode_preface

PREFACE_SECONDS = 5.0
HOLD_SECONDS = 1.0
"""Time that a hello waits so. The peer says another one then."""
PARTING_SECONDS = 1.0
"""Time that a peer gets to close a stream that was not taken."""
NOT_BEGUN = Answer(verdict="not_here", why="has not begun this execution")


class Taker(Protocol):
    """Describes what a connection needs of its gateway."""

    accounts: Accounts

    def take(self, party: str, preface: Preface, inbound: Inbound) -> Answer | None: ...
    def hear(self, party: str, preface: Preface, body: bytes) -> None: ...
    def lose(self, party: str, preface: Preface, inbound: Inbound) -> None: ...
    def let_go(self, preface: Preface, inbound: Inbound) -> None: ...
    def refused(self, cause: Cause, why: str, party: str = "") -> None: ...


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


class Inbound(RemoteHalf):
    """A connection to the port, from its handshake to its end."""

    def __init__(self, gateway: Taker, identity: Identity, stranger: Stranger) -> None:
        super().__init__(self._hear_preface, self._hear_end, MAX_PREFACE_BYTES)
        self._gateway = gateway
        self._identity = identity
        self._stranger = stranger
        self._preface: Preface | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.party = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._deadline = asyncio.get_running_loop().call_later(PREFACE_SECONDS, self._is_late)
        try:
            self.party = self._identity.party_of(transport.get_extra_info("ssl_object"))
        except PermissionError as error:
            self._gateway.refused("certificate", str(error))
            # Its authority is the peers', so it may hear that much, once its preface has come.
            self._on_message = lambda _: self.answer(Answer(verdict="not_here", why="does not take this certificate"))
            return
        self.account = self._gateway.accounts.of(self.party)
        self.account.saw(transport.get_extra_info("ssl_object").getpeercert())

    def answer(self, answer: Answer) -> None:
        """Answer its preface, and close it where it was not taken."""
        self._known()
        self.send(answer)
        if answer.verdict != "taken":
            if answer.verdict == "refused":
                why = f"a stream of {self.party}, as this party {answer.why}"
                self._gateway.refused(
                    "stream" if self.party in self._gateway.accounts.peers else "unknown_peer", why, self.party
                )
            self._on_message = None
            self.close()
            self._deadline = asyncio.get_running_loop().call_later(PARTING_SECONDS, self.abort)

    def _hear_preface(self, body: bytes) -> None:
        self._begin(decode_preface(body))

    def _begin(self, preface: Preface) -> None:
        self._known()
        self._preface = preface
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

    def _hear_nonsense(self) -> None:
        if self._preface is None:
            self._gateway.refused("preface", f"{self.party or 'no party'}, which sent what is no preface", self.party)
        self.abort()

    def _is_late(self) -> None:
        self._gateway.refused("preface", f"{self.party or 'no party'}, which sent no preface in time", self.party)
        self.abort()

    def _was_in_vain(self) -> None:
        if self._preface is not None:
            self._gateway.let_go(self._preface, self)
        self.answer(NOT_BEGUN)

    def _known(self) -> None:
        self._stranger.leave()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class PassedOn(Inbound):
    """A peer's connection to the next gateway, from the time when this one has let go of its place."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Half.connection_made(self, transport)

    def _hear_preface(self, body: bytes) -> None:
        passed = decode_passed(body)
        self.party = passed.party
        self._begin(passed.preface)


def cause_of(error: Exception) -> tuple[Cause, str]:
    """Say why there was no handshake."""
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or type(error).__name__
        return "certificate" if "CERTIFICATE" in reason else "handshake", f"no TLS of a party ({reason})"
    if isinstance(error, OSError):
        return "handshake", "no TLS at all"
    return "handshake", f"a connection that could not be served ({type(error).__name__})"
