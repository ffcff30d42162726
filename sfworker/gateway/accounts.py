"""Keeps account of what passes between this party and its peers, and of what is refused.

Metrics and `sfworker status` read it. A party's workers share one gateway, so nothing is counted twice.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

from sfworker.telemetry import Instrument
from sfworker.wire.gateway import MAX_SUBJECT, PeerState

Cause = Literal["crowd", "handshake", "certificate", "unknown_peer", "preface", "stream"]
"""Why a connection or stream is refused. Metrics name nothing else, as the rest is a stranger's text."""
Meeting = Literal["met", "absent", "refused"]
"""How a rendezvous ends: the peer takes the hello, does not come, or never will."""
Points = Iterator[tuple[float, Mapping[str, str]]]


class PeerAccount:
    """Figures of one peer. They are read by another thread, so each is replaced as a whole."""

    def __init__(self, party: str, address: str) -> None:
        self.party = party
        self.address = address
        self.open_streams = self.sent = self.received = self.silences = 0
        self.refused: dict[Cause, int] = dict.fromkeys(get_args(Cause), 0)
        self.meetings: dict[Meeting, int] = dict.fromkeys(get_args(Meeting), 0)
        self.meeting_seconds: dict[Meeting, float] = dict.fromkeys(get_args(Meeting), 0.0)
        self.round_trip: float | None = None
        self.seen_at: float | None = None
        self.subject = ""
        self.certificate_ends: float | None = None

    def saw(self, certificate: Mapping[str, Any]) -> None:
        """Note the certificate, as `ssl` decodes it, by which the peer was known."""
        names = [f"{name}={value}" for parts in certificate.get("subject", ()) for name, value in parts]
        self.subject = ", ".join(names)[:MAX_SUBJECT]
        self.certificate_ends = float(ssl.cert_time_to_seconds(certificate["notAfter"]))
        self.seen_at = time.time()

    def met(self, how: Meeting, seconds: float) -> None:
        """Count a rendezvous."""
        self.meetings[how] += 1
        self.meeting_seconds[how] += seconds

    def state(self) -> PeerState:
        """Return what `sfworker status` shows."""
        return PeerState(
            party=self.party,
            address=self.address,
            subject=self.subject,
            certificate_ends=self.certificate_ends,
            round_trip_seconds=self.round_trip,
            seen_at=self.seen_at,
            open_streams=self.open_streams,
        )


class Accounts:
    """The accounts of all peers, and of those who are none."""

    def __init__(self, peers: Mapping[str, str]) -> None:
        self.peers = {party: PeerAccount(party, address) for party, address in peers.items()}
        self._others = PeerAccount("", "")

    def of(self, party: str) -> PeerAccount:
        """Return a peer's account; all who are no peers have one together."""
        return self.peers.get(party, self._others)

    def instruments(self, certificate_ends: Callable[[], float]) -> list[Instrument]:
        """Return the metrics, which deploy/README.md lists."""
        peer = "sfworker.peer"

        def each(figure: str) -> Callable[[], Points]:
            def read() -> Points:
                for account in self.peers.values():
                    if (value := getattr(account, figure)) is not None:
                        yield value, {peer: account.party}

            return read

        def by_outcome(figure: str) -> Callable[[], Points]:
            def read() -> Points:
                for account in self.peers.values():
                    for how, value in getattr(account, figure).items():
                        yield value, {peer: account.party, "sfworker.outcome": how}

            return read

        def in_bytes() -> Points:
            for account in self.peers.values():
                yield account.sent, {peer: account.party, "sfworker.direction": "sent"}
                yield account.received, {peer: account.party, "sfworker.direction": "received"}

        def refused() -> Points:
            for account in (*self.peers.values(), self._others):
                for cause, count in account.refused.items():
                    yield count, {peer: account.party, "sfworker.cause": cause}

        def remaining() -> Points:
            now = time.time()
            yield certificate_ends() - now, {peer: ""}
            for account in self.peers.values():
                if account.certificate_ends is not None:
                    yield account.certificate_ends - now, {peer: account.party}

        return [
            Instrument(
                "up_down_counter", "sfworker.peer.streams", "{stream}", "Streams that are open.", each("open_streams")
            ),
            Instrument("counter", "sfworker.peer.bytes", "By", "Bytes inside TLS.", in_bytes),
            Instrument("counter", "sfworker.peer.silences", "{silence}", "Peers given up as silent.", each("silences")),
            Instrument(
                "counter", "sfworker.peer.rendezvous", "{rendezvous}", "Waits for a peer.", by_outcome("meetings")
            ),
            Instrument(
                "counter",
                "sfworker.peer.rendezvous.duration",
                "s",
                "Time of these waits.",
                by_outcome("meeting_seconds"),
            ),
            Instrument(
                "gauge", "sfworker.peer.round_trip", "s", "Time to a peer's gateway and back.", each("round_trip")
            ),
            Instrument(
                "counter", "sfworker.gateway.refused", "{connection}", "Connections and streams refused.", refused
            ),
            Instrument("gauge", "sfworker.certificate.remaining", "s", "Time to a certificate's end.", remaining),
        ]
