"""Defines the frames between the daemon and its processes, msgpack structs behind a length and never pickles.

    +----------------+---------------------------+
    | length, 4 byte | one tagged struct, msgpack|
    | big endian     |                           |
    +----------------+---------------------------+

The daemon writes one `Start` to a party process and closes the socket when the process may go. The party process
writes any number of `StageReached`, `Progressed`, `Making`, `Staging` and `Keeping`, one `Traced` where it is asked to,
then exactly one `Succeeded` or `Failed`. Where its session is kept, the daemon writes `Renew` after a success, which
the party process answers by one `Renewed`, and then the next `Start`.

What a party process says is a stranger's, as a job may be anybody's code: texts and lists have bounds, and results come
encoded, so that the daemon holds no more of them than their bytes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from sfworker.limits import DEFAULT, Limits

MAX_FRAME_BYTES = 256 * 1024 * 1024
_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size
LONGEST_TEXT = 10_000
"""Characters of a message of a party process."""
MOST_SPANS = 64
"""Spans that a party process tells of one execution. Each costs the daemon some 30 microseconds."""
MOST_REMAINS = 100
"""Things that a party process names as left by a job."""
_BESIDE_RESULT = 1 << 19
_Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
_Name = Annotated[str, Meta(max_length=100)]
_Path = Annotated[str, Meta(max_length=4096)]
_Count = Annotated[int, Meta(ge=0)]


class Floors(Struct, frozen=True, kw_only=True):
    """The fewest rows of which anything may be revealed, by the operator's settings of these names; 0: any number."""

    input_rows: int = 0
    intersection_rows: int = 0
    reveal_empty_intersections: bool = True
    group_rows: int = 0
    bin_rows: int = 0


class Start(Struct, frozen=True, tag=True, kw_only=True):
    """Everything that a party process needs to run its side of one execution."""

    execution_id: str
    task_id: str
    subtask_id: str
    attempt: int
    self_party: str | None
    """This process's party, None where the job joins nobody."""
    parties: list[str]
    mode: Literal["none", "mesh"]
    elsewhere: bool = False
    """True where the other parties are on machines of their own, whose web sides hear of nothing here."""
    carried: bool = False
    """True where gateways carry the links to the other parties."""
    spu_config: dict[str, Any] | None
    heu_config: dict[str, Any] | None
    task_config: dict[str, Any]
    environment: dict[str, str] = {}
    """What the envelope adds to the process's environment."""
    mesh_dir: str
    """Private directory that holds the mesh's sockets."""
    scratch_dir: str
    """This party's own TMPDIR."""
    programs_dir: str = ""
    """Private directory of the tenant's compiled SPU programs, or nothing where none are kept."""
    programs_bytes: int = 0
    """Size that they may have together."""
    data_roots: dict[str, list[str]]
    """Data roots of each party for which this process computes."""
    limits: Limits = DEFAULT
    processors: list[int] = []
    """The only processors on which this process may compute, or none to let it use any."""
    floors: Floors = Floors()
    log_level: str
    max_result_bytes: int
    traced: bool = False
    """True where it is to tell where its time goes, as `Traced`."""
    keeps: bool = False
    """True where the session may serve another execution afterwards."""
    all_keep: bool = False
    """True where that is so at all parties."""
    number: int = 0
    """Place of this execution among those of the session, from 0, the same at all parties."""


class Renew(Struct, frozen=True, tag=True):
    """Asks a party process that has succeeded to forget the execution, so that it can serve another one."""


class StageReached(Struct, frozen=True, tag=True):
    """A stage of the session is done, after `seconds`."""

    stage: Literal["cluster_ready", "devices_ready", "executed"]
    seconds: Annotated[float, Meta(ge=0, le=1e9)]
    devices: Annotated[list[_Name], Meta(max_length=1000)] = []


class Progressed(Struct, frozen=True, tag=True):
    """The job's progress, from 0 to 1."""

    fraction: Annotated[float, Meta(ge=0, le=1)]
    message: _Text | None = None


class Staging(Struct, frozen=True, tag=True):
    """An output is being written at `staged`. On success the daemon renames it to `target`, else it removes it."""

    staged: _Path
    target: _Path


class Making(Struct, frozen=True, tag=True):
    """The directory `path` is made for outputs. The daemon removes it with the answer where it is empty then."""

    path: _Path


class Keeping(Struct, frozen=True, tag=True):
    """The directory `path` keeps checkpoints for the next attempt. The daemon removes it with the answer."""

    path: _Path


class Succeeded(Struct, frozen=True, tag=True):
    """The party's side is done. `result` is its JSON, None where another party holds it."""

    result: bytes | None
    peak_rss_bytes: _Count


class Failed(Struct, frozen=True, tag=True):
    """The party's side failed. `echo` marks a failure that only repeats another party's."""

    error: _Text
    error_type: Annotated[str, Meta(pattern=r"\A[A-Za-z_]\w{0,99}\Z")]
    retryable: bool
    echo: bool
    peak_rss_bytes: _Count


SpanName = Literal["join", "make devices", "compute", "compile", "run", "reveal", "meet", "intersect"]


class PartySpan(Struct, frozen=True, array_like=True):
    """A stretch of time of a party process, in Unix seconds, inside the one at index `within` before it."""

    name: SpanName
    began: Annotated[float, Meta(ge=0, le=1e10)]
    ended: Annotated[float, Meta(ge=0, le=1e10)]
    within: Annotated[int, Meta(ge=-1, lt=MOST_SPANS)]


class Traced(Struct, frozen=True, tag=True):
    """Tells where the time of an execution went, once and before its outcome. `left_out` spans were too many."""

    spans: Annotated[list[PartySpan], Meta(max_length=MOST_SPANS)]
    left_out: _Count = 0


class Renewed(Struct, frozen=True, tag=True):
    """The execution is forgotten, but for what `remains` names, with which no other execution is served."""

    remains: Annotated[list[_Name], Meta(max_length=MOST_REMAINS)]


PartyFrame = Traced | StageReached | Progressed | Making | Staging | Keeping | Succeeded | Failed | Renewed


class Fork(Struct, frozen=True, tag=True):
    """Asks for a forked process, whose socket and log pipe come along as file descriptors.

    The template forks party processes, and the nursery templates.
    """

    number: int


class Signal(Struct, frozen=True, tag=True):
    """Asks to signal `pid`, or its process group, if it is still a child."""

    pid: int
    signal: int
    whole_group: bool


class Ready(Struct, frozen=True, tag=True):
    """The nursery has imported everything, or the template `pid` can fork."""

    pid: int


class Forked(Struct, frozen=True, tag=True):
    """Process `number` was forked as `pid`, which is 0 where the system had no room for it."""

    number: int
    pid: int


class Exited(Struct, frozen=True, tag=True):
    """A child `pid` was reaped, whose `status` is by `os.waitstatus_to_exitcode`."""

    pid: int
    status: int


TemplateFrame = Ready | Forked | Exited

_encoder = msgspec.msgpack.Encoder()
_party_frames = msgspec.msgpack.Decoder(PartyFrame)
_json = msgspec.json.Decoder(msgspec.Raw)
decode_order = msgspec.msgpack.Decoder(Start | Renew).decode
decode_template_frame = msgspec.msgpack.Decoder(TemplateFrame).decode
decode_template_command = msgspec.msgpack.Decoder(Fork | Signal).decode


class FrameError(Exception):
    """The peer sent something that is not a frame."""


def decode_party_frame(body: bytes) -> PartyFrame:
    """Return the frame. Raises FrameError where it is none, or out of its bounds."""
    try:
        frame: PartyFrame = _party_frames.decode(body)
        if isinstance(frame, Succeeded) and frame.result is not None:
            frame.result.decode()  # looked at only as far as it has to be for publishing it as it is
            _json.decode(frame.result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FrameError("a frame that is none") from None
    return frame


def longest_party_frame(max_result_bytes: int) -> int:
    """Return the most bytes of a party process's frame, where results have at most `max_result_bytes`."""
    return max_result_bytes + _BESIDE_RESULT


def encode_body(frame: Struct) -> bytes:
    """Return the frame without its length, for sockets that keep message boundaries (SOCK_SEQPACKET)."""
    return _encoder.encode(frame)


def encode_frame(frame: Struct) -> bytes:
    """Return the frame with its length in front. Raises FrameError where it would be over MAX_FRAME_BYTES."""
    return with_length(_encoder.encode(frame))


def with_length(body: bytes) -> bytes:
    """Return an encoded frame with its length in front. Raises FrameError where it is over MAX_FRAME_BYTES."""
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def frame_length(prefix: bytes, most: int = MAX_FRAME_BYTES) -> int:
    """Return the body length that a prefix announces. Raises FrameError where it is over `most`."""
    (length,) = _LENGTH.unpack(prefix)
    if length > most:
        raise FrameError(f"a frame of {length} bytes is over the limit of {most}")
    return int(length)


class FrameSplitter:
    """Cuts a byte stream into the bodies of length-prefixed frames of at most `longest` bytes."""

    def __init__(self, longest: int = MAX_FRAME_BYTES) -> None:
        self._longest = longest
        self._received = bytearray()
        self.lacking = 0
        """Bytes that are still to come of a frame whose length is known."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the bodies that `data` completes. Raises FrameError for an impossible length."""
        self._received += data
        self.lacking = 0
        while len(self._received) >= LENGTH_BYTES:
            end = LENGTH_BYTES + frame_length(bytes(self._received[:LENGTH_BYTES]), self._longest)
            if len(self._received) < end:
                self.lacking = end - len(self._received)
                return
            body = bytes(self._received[LENGTH_BYTES:end])
            del self._received[:end]
            yield body

    def rest(self) -> bytes:
        """Return what was fed and is no whole frame yet, and let go of it."""
        rest, self._received = bytes(self._received), bytearray()
        return rest


def receive_exactly(sock: socket.socket, size: int) -> bytearray | None:
    """Receive `size` bytes from a blocking socket, or None where it was closed before the first of them.

    Raises FrameError where it is closed in between.
    """
    received = bytearray()
    while len(received) < size:
        chunk = sock.recv(min(size - len(received), 1 << 20))
        if not chunk:
            if received:
                raise FrameError("the connection was closed in the middle of a frame")
            return None
        received += chunk
    return received


async def read_body(reader: asyncio.StreamReader, longest: int = MAX_FRAME_BYTES) -> bytes:
    """Read the body of the next frame. Raises EOFError, OSError, or FrameError for an impossible length."""
    return await reader.readexactly(frame_length(await reader.readexactly(LENGTH_BYTES), longest))


def receive_body(sock: socket.socket) -> bytes | None:
    """Receive the next frame's body from a blocking socket, or None at its end.

    Raises FrameError where the end comes within a frame.
    """
    prefix = receive_exactly(sock, LENGTH_BYTES)
    if prefix is None:
        return None
    body = receive_exactly(sock, frame_length(bytes(prefix)))
    if body is None:
        raise FrameError("the connection was closed in the middle of a frame")
    return bytes(body)
