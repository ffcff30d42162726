"""Frames and lines, however the kernel cuts them."""

from __future__ import annotations

import asyncio
import os
import socket

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfworker.pool.channel import FrameChannel, LineChannel
from sfworker.wire.frames import FrameError, FrameSplitter, Progressed, decode_party_frame, encode_frame


def fail(*_: object) -> None:
    raise AssertionError


@given(st.lists(st.text(max_size=50), max_size=20), st.data())
def test_frames_arrive_whole_wherever_they_are_cut(messages: list[str], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(Progressed(0.5, message)) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    splitter = FrameSplitter()
    bodies: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        bodies += splitter.feed(stream[start:end])
    assert [frame.message for frame in map(decode_party_frame, bodies)] == messages  # type: ignore[union-attr]


def test_an_impossible_length_is_no_frame() -> None:
    with pytest.raises(FrameError):
        list(FrameSplitter().feed(b"\xff\xff\xff\xff"))


async def test_the_end_is_heard_after_the_last_frame() -> None:
    ours, theirs = socket.socketpair()
    heard: list[str] = []
    ended = anyio.Event()

    def on_end() -> None:
        heard.append("end")
        ended.set()

    channel = FrameChannel(ours, lambda body: heard.append(str(decode_party_frame(body))), on_end, fail)
    theirs.sendall(encode_frame(Progressed(0.25)) + b"\x00\x00")
    theirs.close()
    with anyio.fail_after(5):
        await ended.wait()
    assert heard == [str(Progressed(0.25)), "end"]
    channel.close()


async def test_a_large_frame_is_sent_whole() -> None:
    ours, theirs = socket.socketpair()
    channel = FrameChannel(ours, lambda body: None, lambda: None, fail)
    frame = Progressed(0.5, "x" * 3_000_000)

    def receive() -> bytes:
        received = b""
        while len(received) < len(encode_frame(frame)):
            received += theirs.recv(1 << 20)
        return received

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(channel.send, frame)
        assert await anyio.to_thread.run_sync(receive) == encode_frame(frame)
    channel.close()
    theirs.close()


@pytest.mark.parametrize(("message", "count", "most_turns"), [("still at it", 1000, 1000), ("x" * 100_000, 1, 10)])
async def test_short_frames_leave_others_their_turns_and_a_long_one_comes_at_once(
    message: str, count: int, most_turns: int
) -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    channel = FrameChannel(ours, heard.append, fail, fail)
    theirs.sendall(encode_frame(Progressed(0.5, message)) * count)
    turns, most_at_once = 0, 0
    while len(heard) < count:
        before = len(heard)
        await asyncio.sleep(0)
        turns, most_at_once = turns + 1, max(most_at_once, len(heard) - before)
        assert turns < most_turns
    assert most_at_once < 30
    channel.close()
    theirs.close()


async def test_lines_are_cut_at_newlines_and_endless_ones_anyway() -> None:
    read, write = os.pipe()
    lines: list[bytes] = []
    done = anyio.Event()

    def on_line(line: bytes) -> None:
        lines.append(line)
        if line == b"last":
            done.set()

    channel = LineChannel(read, on_line)

    def say() -> None:
        os.write(write, b"one\n\ntw")
        os.write(write, b"o\n")
        with open(write, "wb") as pipe:
            pipe.write(b"x" * 100_000 + b"\nlast")

    await anyio.to_thread.run_sync(say)
    with anyio.fail_after(5):
        await done.wait()
    assert lines[:2] == [b"one", b"two"]
    assert b"".join(lines[2:]) == b"x" * 100_000 + b"last"
    channel.close()


async def test_what_cannot_be_understood_ends_the_channel() -> None:
    ours, theirs = socket.socketpair()
    ended = anyio.Event()
    channel = FrameChannel(ours, lambda body: decode_party_frame(body) and None, fail, lambda error: ended.set())
    theirs.sendall(encode_frame(Progressed(0.5, 7)))  # type: ignore[arg-type]
    with anyio.fail_after(5):
        await ended.wait()
    channel.close()
    theirs.close()
