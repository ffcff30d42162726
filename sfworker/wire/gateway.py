"""Messages between gateways, and between a worker and its own gateway: msgpack structs behind a length.

    +----------------+---------------------------+
    | length, 4 byte | one struct, msgpack       |
    | big endian     |                           |
    +----------------+---------------------------+

A stream between gateways is a TLS connection. It begins with one `Preface`, which is answered by one `Answer`; then it
carries the bytes of a link between two party processes, or, on the channel `control`, one `Ping`, `Told` or `Goodbye`
after the other, from the side that opened it, and a `Pong` for each `Ping` from the other. Who sends is what the
certificate says, never what a message says.

A worker has one connection to its gateway that only stands (`Attach`, answered by `Opened`; then each `Standing` of
the gateway), and one for each execution (`Open`, answered by `Opened`), on which follow `Alive`, `Tell` and `Close`
from the worker, and `Heard`, `Met` and `Lost` from the gateway. Where the session is kept, `Keep` comes in the place of
`Close`, which ends the links then. Commands of the same user send `Ask`, which is answered
by `GatewayState`.

A gateway that is being replaced finishes its executions. The one after it has the port, and passes on what comes for
them (`Passed`, answered by `Answer`) over a socket in the gateways' directory.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from sfworker.wire.envelope import PartyName
from sfworker.wire.frames import FrameError

VERSION = 1
MAX_PREFACE_BYTES = 8192
"""Longest message of a peer whose execution is not known yet."""
MAX_MESSAGE_BYTES = 1 << 16
MAX_SUBJECT = 200
"""Characters that are kept of the subject of a peer's certificate."""
CONTROL = "control"
PROBE = "probe"
"""Channel of a stream that only asks whether this party is known. It is answered with `known`."""
PING_SECONDS = 1.0
SPU_LINKS = 8
"""SPU devices of an execution that have a link of their own."""
CHANNELS = ("fed", *(f"spu-{number}" for number in range(SPU_LINKS)))

_Text = Annotated[str, Meta(max_length=2000)]
_Links = Annotated[str, Meta(pattern=r"^([0-9a-f]{64}:\d{1,5})?$(?!\n)")]
_Nonce = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
_Traceparent = Annotated[str, Meta(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$(?!\n)")]


class Terms(Struct, frozen=True, kw_only=True):
    """What the parties of an execution have to agree on. Each is a digest but the first two."""

    parties: Annotated[list[PartyName], Meta(min_length=2, max_length=16)]
    task_type: Annotated[str, Meta(max_length=256)]
    parameters: Annotated[str, Meta(max_length=64)]
    devices: Annotated[str, Meta(max_length=64)]

    def differing(self, other: Terms) -> list[str]:
        """Return the names of the parts in which another's terms differ."""
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)]


class Preface(Struct, frozen=True, kw_only=True):
    """Says what a new stream is for."""

    version: int
    to: PartyName
    execution_id: Annotated[str, Meta(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]
    """Behind the tenant's name and a colon where there is one."""
    channel: Annotated[str, Meta(max_length=16)]
    nonce: _Nonce
    """Of the sender's attempt. Streams count only with the nonce of the hello, which is the preface of `control`."""
    terms: Terms | None = None
    """In a hello, as the next two are."""
    replays: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    """Number of times that the sender's operator has let the execution run again."""
    traceparent: _Traceparent | None = None
    """Of the sender's span. Nothing else of its trace, such as state or baggage, is taken."""
    kept: _Links = ""
    """In a hello: the kept links that the sender can use, and how many executions they have served.

    Where all parties say the same, none of them opens others. Each execution has its hellos all the same.
    """
    keeps: bool = False
    """In a hello: the sender's session may serve other executions, before or after."""


class Answer(Struct, frozen=True, kw_only=True):
    """Takes a stream or says why not.

    `not_here` may change, as the execution may begin there later, or an older attempt of it may end. `ended` and
    `refused` do not. `known` answers a probe.
    """

    verdict: Literal["taken", "not_here", "ended", "refused", "known"]
    why: _Text = ""


class Passed(Struct, frozen=True):
    """A peer's stream comes from the gateway after this one, which knows by its certificate that it is `party`."""

    party: PartyName
    preface: Preface


class PeerReached(Struct, frozen=True, tag="reached"):
    """The peer's party process has reached a stage."""

    stage: Literal["cluster_ready", "devices_ready", "executed"]
    seconds: Annotated[float, Meta(ge=0, le=1e9)]


class PeerSucceeded(Struct, frozen=True, tag="succeeded"):
    """The peer's party process has succeeded. Its result is that party's own."""


class PeerFailed(Struct, frozen=True, tag="failed"):
    """The peer's attempt has failed. `echo` marks a failure that only repeats another party's."""

    error: _Text
    error_type: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$(?!\n)")]
    retryable: bool
    echo: bool = False
    is_release: bool = False
    """True where its worker or gateway has given the job back for another one, which is nobody's failure."""


PeerFrame = PeerReached | PeerSucceeded | PeerFailed


class Ping(Struct, frozen=True, tag="ping"):
    """Says that the peer's worker is alive."""

    number: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    """Of the stream's pings, which `Pong` repeats."""


class Pong(Struct, frozen=True, tag="pong"):
    """Answers a ping, so that the time to the peer and back is known. Some pings get none."""

    number: Annotated[int, Meta(ge=0, le=1 << 53)]


class Told(Struct, frozen=True, tag="told"):
    """Passes on what the peer's worker tells."""

    frame: PeerFrame


class Goodbye(Struct, frozen=True, tag="goodbye"):
    """Ends the control stream in order."""


class Attach(Struct, frozen=True, tag="attach"):
    """A worker is there. Its gateway stays as long as one is, where a worker has started it."""

    settings: dict[str, str]
    """Digests of the worker's settings that concern the gateway, which has to have the same."""


class Ended(Struct, frozen=True, tag="ended"):
    """An execution has got its answer, so peers that come for it later are told `why`."""

    execution_id: str
    why: str
    peers: list[PartyName]
    """Who may hear that."""
    replays: int | None
    """Number of times that it had been let run again by then; nothing where nobody may do so after this end.

    A peer that lets it run again first has to wait for this party.
    """
    again: bool = False
    """True where a gateway before this one was told."""


class GiveWay(Struct, frozen=True, tag="give_way"):
    """The operator's own gateway wants the place of one that a worker has started."""


class Open(Struct, frozen=True, tag="open", kw_only=True):
    """An attempt begins whose party processes have their sockets in `directory`."""

    execution_id: str
    directory: str
    replays: int
    """As in the hello."""
    settings: dict[str, str]
    """As in `Attach`."""
    terms: Terms
    addresses: dict[PartyName, str]
    """Of the other parties' gateways."""
    has_spu: bool = False
    """False where the links of SPUs are not needed."""
    traceparent: str | None = None
    """Of the execution's span, for the peers. Without one, theirs are not taken either."""
    kept: str = ""
    """As in the hello. `Agreed` follows then."""
    keeps: bool = False
    """As in the hello. `Agreed` follows then."""


class Opened(Struct, frozen=True, tag="opened"):
    """The worker is attached, or the sockets of the absent parties are there, or `why` says why not."""

    why: str = ""


class Alive(Struct, frozen=True, tag="alive"):
    """The worker is alive. Said every PING_SECONDS."""


class Tell(Struct, frozen=True, tag="tell"):
    """Sends a frame to all peers of the execution."""

    frame: PeerFrame


class Close(Struct, frozen=True, tag="close"):
    """The attempt has ended in order, and its frames are all told."""


class Keep(Struct, frozen=True, tag="keep"):
    """The attempt has ended in order, and its links stay as long as this connection. Answered by `Kept`."""


class Kept(Struct, frozen=True, tag="kept"):
    """The links stay, and all parties know them by this id; nothing where they do not."""

    links: str


class Agreed(Struct, frozen=True, tag="agreed"):
    """All peers have come, and either use the kept links as this party can, or all use new ones."""

    keeps: bool
    all_keep: bool = False
    """True where the sessions of all may serve other executions."""


class Heard(Struct, frozen=True, tag="heard"):
    """A peer's worker says something."""

    party: str
    frame: PeerFrame


class Met(Struct, frozen=True, tag="met"):
    """A peer has come with a trace of its own."""

    party: str
    traceparent: str


class Lost(Struct, frozen=True, tag="lost"):
    """A peer is not there for this attempt, `why` in words after the party's name."""

    party: str
    why: str
    met: bool
    """False where the peer never came."""
    final: bool = False
    """True where no other attempt can help."""
    returns: bool = False
    """True where only a gateway has ended, this host's or the peer's, which comes back."""


class Standing(Struct, frozen=True, tag="standing"):
    """Says how the gateway is: a sentence on why peers will not take its streams, or nothing."""

    trouble: str = ""


class Ask(Struct, frozen=True, tag="ask"):
    """Asks how the gateway and its peers are."""


class PeerState(Struct, frozen=True, kw_only=True):
    """What was last seen of a peer. Times are Unix seconds; what was never seen is empty."""

    party: str
    address: str
    subject: str = ""
    certificate_ends: float | None = None
    round_trip_seconds: float | None = None
    seen_at: float | None = None
    open_streams: int = 0


class GatewayState(Struct, frozen=True, kw_only=True):
    """Answers `Ask`."""

    party: str
    listens: str
    certificate_ends: float
    trouble: str
    workers: int
    executions: int
    peers: list[PeerState]


_prefaces = msgspec.msgpack.Decoder(Preface)
_passed = msgspec.msgpack.Decoder(Passed)
_answers = msgspec.msgpack.Decoder(Answer)
_controls: msgspec.msgpack.Decoder[Ping | Told | Goodbye] = msgspec.msgpack.Decoder(Ping | Told | Goodbye)
_pongs = msgspec.msgpack.Decoder(Pong)
_T = TypeVar("_T")


def decode_preface(body: bytes) -> Preface:
    """Return a peer's message. Raises FrameError where it is none, as the others do."""
    return _decoded(_prefaces, body)


def decode_passed(body: bytes) -> Passed:
    return _decoded(_passed, body)


def decode_answer(body: bytes) -> Answer:
    return _decoded(_answers, body)


def decode_control(body: bytes) -> Ping | Told | Goodbye:
    return _decoded(_controls, body)


def decode_pong(body: bytes) -> Pong:
    return _decoded(_pongs, body)


def _decoded(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FrameError("a message that is none") from None


decode_from_worker = msgspec.msgpack.Decoder(Attach | GiveWay | Ended | Open | Alive | Tell | Keep | Close | Ask).decode
decode_from_gateway = msgspec.msgpack.Decoder(Opened | Heard | Met | Agreed | Kept | Lost).decode
decode_standing = msgspec.msgpack.Decoder(Opened | Standing).decode
decode_state = msgspec.msgpack.Decoder(GatewayState).decode
