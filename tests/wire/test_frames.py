"""Frames: what goes in comes out, however the socket cuts it, and nothing oversized is believed."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfworker.wire import frames
from sfworker.wire.frames import (
    LENGTH_BYTES,
    Failed,
    FrameError,
    Making,
    PartyFrame,
    Progressed,
    StageReached,
    Staging,
    Start,
    Succeeded,
    decode_order,
    decode_party_frame,
    encode_body,
    encode_frame,
    frame_length,
    receive_body,
    receive_exactly,
)

text = st.text(max_size=40)
seconds = st.floats(0, 1e6)
results = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)
party_frames: st.SearchStrategy[PartyFrame] = st.one_of(
    st.builds(
        StageReached,
        st.sampled_from(["cluster_ready", "devices_ready", "executed"]),
        seconds,
        st.lists(text, max_size=3),
    ),
    st.builds(Progressed, st.floats(0, 1), st.none() | text),
    st.builds(Making, text),
    st.builds(Staging, text, text),
    st.builds(Succeeded, st.none() | results.map(msgspec.json.encode), st.integers(0, 2**63)),
    st.builds(
        Failed,
        text,
        st.sampled_from(["InputDataError", "_Own2"]),
        st.booleans(),
        st.booleans(),
        st.integers(0, 2**63),
    ),
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class TestRoundTrip:
    @given(party_frames)
    def test_party_frames(self, frame: PartyFrame) -> None:
        assert decode_party_frame(encode_frame(frame)[LENGTH_BYTES:]) == frame

    @given(st.dictionaries(text, results, max_size=5), st.none() | text)
    def test_start(self, task_config: dict[str, Any], party: str | None) -> None:
        start = Start(
            execution_id="e",
            task_id="t",
            subtask_id="s",
            attempt=1,
            self_party=party,
            parties=["alice", "bob"],
            mode="mesh",
            spu_config=None,
            heu_config=None,
            task_config=task_config,
            mesh_dir="m",
            scratch_dir="d",
            data_roots={"alice": ["r"]},
            log_level="INFO",
            max_result_bytes=1,
        )
        assert decode_order(encode_body(start)) == start

    def test_the_bytes(self) -> None:
        assert encode_frame(Progressed(0.5)) == (
            b"\x00\x00\x00,\x83\xa4type\xaaProgressed\xa8fraction\xcb?\xe0\x00\x00\x00\x00\x00\x00\xa7message\xc0"
        )


class TestReceive:
    @given(st.lists(party_frames, min_size=1, max_size=5), st.data())
    def test_cut_anywhere(self, sent: list[PartyFrame], data: st.DataObject) -> None:
        stream = b"".join(map(encode_frame, sent))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=6)))
        pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

        class Cut:
            """A socket that hands out one piece at a time."""

            def recv(self, size: int) -> bytes:
                if not pieces:
                    return b""
                piece = pieces.pop(0)
                if len(piece) > size:
                    pieces.insert(0, piece[size:])
                return piece[:size]

        cut: Any = Cut()
        received = []
        while (body := receive_body(cut)) is not None:
            received.append(decode_party_frame(body))
        assert received == sent

    def test_larger_than_the_socket_takes_at_once(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        frame = Succeeded(msgspec.json.encode("x" * 5_000_000), 0)
        sender = threading.Thread(target=theirs.sendall, args=(encode_frame(frame),))
        sender.start()
        body = receive_body(ours)
        sender.join()
        assert body is not None
        assert decode_party_frame(body) == frame

    def test_end_between_frames(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        theirs.sendall(encode_frame(Progressed(1.0)))
        theirs.close()
        assert receive_body(ours) is not None
        assert receive_body(ours) is None

    @pytest.mark.parametrize("length", [1, LENGTH_BYTES - 1, LENGTH_BYTES, LENGTH_BYTES + 1])
    def test_end_within_a_frame(self, pair: tuple[socket.socket, socket.socket], length: int) -> None:
        ours, theirs = pair
        theirs.sendall(encode_frame(Progressed(1.0))[:length])
        theirs.close()
        with pytest.raises(FrameError, match="middle of a frame"):
            receive_body(ours)

    def test_nothing_wanted(self, pair: tuple[socket.socket, socket.socket]) -> None:
        assert receive_exactly(pair[0], 0) == b""


class TestOversize:
    def test_an_announced_length_is_not_believed(self) -> None:
        with pytest.raises(FrameError, match="268435457 bytes is over the limit of 268435456"):
            frame_length(struct.pack(">I", frames.MAX_FRAME_BYTES + 1))
        assert frame_length(struct.pack(">I", frames.MAX_FRAME_BYTES)) == frames.MAX_FRAME_BYTES

    def test_nothing_is_received_for_it(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        theirs.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(FrameError, match="over the limit"):
            receive_body(ours)

    def test_nothing_like_it_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
        with pytest.raises(FrameError, match="over the limit of 100"):
            encode_frame(Succeeded(b"x" * 100, 0))


class TestNoFrame:
    @given(st.binary(max_size=100))
    def test_whatever_bytes(self, body: bytes) -> None:
        with pytest.raises(FrameError):
            decode_party_frame(body)

    def test_a_frame_of_the_other_direction(self) -> None:
        with pytest.raises(FrameError):
            decode_party_frame(encode_body(frames.Ready(1.0)))
