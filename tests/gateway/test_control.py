"""What control streams carry beside what workers tell: pings, their answers, and traces."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import msgspec
import pytest
from msgspec import Struct

from sfworker.gateway.accounts import Accounts
from sfworker.gateway.dialling import Dialler
from sfworker.gateway.sayings import Sayings
from sfworker.gateway.session import Session
from sfworker.gateway.streams import RemoteHalf
from sfworker.settings import Settings
from sfworker.wire.frames import encode_frame
from sfworker.wire.gateway import CONTROL, Goodbye, Lost, Met, Open, Ping, Pong, Terms

TERMS = Terms(parties=["alice", "bob"], task_type="psi", parameters="0" * 64, devices="0" * 64)


OWN, THEIRS = (f"00-{digit * 32}-{digit * 16}-01" for digit in "12")


class Stream(RemoteHalf):
    """A peer's control stream that notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[Struct] = []

    def abort(self) -> None:
        pass

    def send(self, message: Struct) -> None:
        self.sent.append(message)


@pytest.fixture
def told() -> list[Struct]:
    return []


def session_of(told: list[Struct], traceparent: str | None = None) -> Session:
    dialler = Dialler(Settings(party="alice"), cast(Any, None), Accounts({"bob": "host:1"}))
    opened = Open(
        execution_id=":e",
        directory="",
        replays=0,
        settings={},
        terms=TERMS,
        addresses={"bob": "host:1"},
        traceparent=traceparent,
    )
    return Session(opened, dialler, Sayings(), told.append)


@pytest.fixture
def session(told: list[Struct]) -> Session:
    return session_of(told)


async def hear(session: Session, body: bytes) -> float | None:
    """The round trip after two pings, to which a peer has said this, and has closed."""
    peer, reader = session.peers["bob"], asyncio.StreamReader()
    peer.pings = 2
    peer.pinged_at.extend([time.monotonic() - 30, time.monotonic() - 10])
    reader.feed_data(body)
    reader.feed_eof()
    await session._hear_pongs(peer, reader)
    return peer.account.round_trip


@pytest.mark.parametrize(("numbers", "seconds"), [((1,), 30), ((2,), 10), ((1, 2), 10), ((), None)])
async def test_a_round_trip_is_that_of_the_ping_that_is_answered(
    session: Session, told: list[Struct], numbers: tuple[int, ...], seconds: float | None
) -> None:
    found = await hear(session, b"".join(encode_frame(Pong(number)) for number in numbers))
    assert found == (pytest.approx(seconds, abs=2) if seconds else None)
    assert told == []


@pytest.mark.attack("gateway")
@pytest.mark.parametrize(
    "body",
    [
        encode_frame(Pong(1)) * 2,
        encode_frame(Pong(2)) + encode_frame(Pong(1)),
        encode_frame(Pong(3)),
        encode_frame(Pong(0)),
        encode_frame(Goodbye()),
        b"\xff" * 100,
        b"\0\0\0\x02\xc1\xc1",
    ],
)
async def test_answers_to_no_ping_end_the_attempt(session: Session, told: list[Struct], body: bytes) -> None:
    await hear(session, body)
    assert told == [Lost("bob", "says what no gateway says", met=False)]


@pytest.mark.attack("gateway")
async def test_a_flood_of_pings_is_not_answered_one_by_one(session: Session) -> None:
    peer, stream = session.peers["bob"], Stream()
    peer.control = stream
    for number in range(1000):
        session.hear("bob", encode_frame(Ping(number))[4:])
    assert stream.sent == [Pong(0)]


@pytest.mark.parametrize(("own", "taken"), [(OWN, [Met("bob", THEIRS)]), (None, [])])
async def test_a_peers_trace_is_taken_where_the_own_one_is_sent(
    told: list[Struct], own: str | None, taken: list[Struct]
) -> None:
    session = session_of(told, own)
    sent = session._preface(session.peers["bob"], CONTROL, hello=True)
    assert sent.traceparent == own
    hello = msgspec.structs.replace(sent, nonce="1" * 32, traceparent=THEIRS)
    for _ in range(2):  # as where the stream was cut before the answer
        stream = Stream()
        assert session.take("bob", hello, stream).verdict == "taken"
    assert told == taken
