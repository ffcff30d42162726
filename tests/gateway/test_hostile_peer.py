"""A peer with the right certificate that floods, fills, stalls and repeats what gateways say to each other."""

from __future__ import annotations

import os
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from msgspec import Struct

from sfworker.gateway.gateway import MAX_HELD, MAX_STREAMS_OF_PEER
from sfworker.gateway.inbound import PREFACE_SECONDS
from sfworker.gateway.session import MAX_STREAMS, MAX_TOLD, NONSENSE
from sfworker.wire.frames import encode_frame
from sfworker.wire.gateway import Goodbye, Heard, Lost, Opened, PeerFailed, PeerReached, Ping, Told
from tests.gateway.attempts import Attempt, echoed, gateways_alone
from tests.gateway.sites import Sites
from tests.gateway.test_strangers import answer, connect, preface
from tests.running_worker import until

THREE = ["alice", "bob", "carol"]
TWO = THREE[:2]
MB = 1 << 20
pytestmark = pytest.mark.attack("gateway")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Bob's part is played by the test, unless it is `attempt`ed; his gateway runs, too."""
    with gateways_alone(tmp_path_factory.mktemp("sites"), THREE, started=TWO) as sites:
        yield sites


class Peer:
    """The test, as any party but alice, whose gateway it calls."""

    def __init__(self, sites: Sites, stack: ExitStack) -> None:
        self._sites = sites
        self._stack = stack

    def connect(self, party: str = "bob") -> ssl.SSLSocket:
        return self._stack.enter_context(connect(self._sites, self._sites.certificates / f"{party}.pem"))

    def say(self, party: str = "bob", **changes: Any) -> ssl.SSLSocket:
        """A stream that begins with a preface, tried until those before are known."""
        while True:
            with suppress(OSError):
                connection = self.connect(party)
                connection.sendall(encode_frame(preface(**changes)))
                return connection
            time.sleep(0.01)

    def close(self) -> None:
        self._stack.close()

    def hello(self, party: str = "bob", **changes: Any) -> tuple[ssl.SSLSocket, str]:
        """A stream and its answer's verdict."""
        connection = self.say(party, **changes)
        return connection, answer(connection).verdict


@pytest.fixture
def peer(sites: Sites) -> Iterator[Peer]:
    with ExitStack() as stack:
        yield Peer(sites, stack)


def opened(sites: Sites) -> tuple[str, Attempt]:
    """An execution that alice has begun."""
    execution_id = f":{secrets.token_hex(4)}"
    attempt = Attempt(sites["alice"], execution_id, TWO)
    assert attempt.opened == Opened()
    return execution_id, attempt


def memory(sites: Sites) -> int:
    """Bytes that alice's gateway has in memory."""
    gateway = sites["alice"].gateway
    assert gateway is not None
    with open(f"/proc/{gateway.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors(sites: Sites) -> int:
    gateway = sites["alice"].gateway
    assert gateway is not None
    return len(os.listdir(f"/proc/{gateway.pid}/fd"))


def serves(sites: Sites, within: float = 5.0) -> None:
    """An execution of real gateways finds both ways open."""
    began = time.monotonic()
    execution_id = f":{secrets.token_hex(4)}"
    with Attempt(sites["alice"], execution_id, TWO) as alice, Attempt(sites["bob"], execution_id, TWO) as bob:
        for stream in (alice.stream(1), bob.stream(0)):
            assert echoed(stream)
            stream.close()
    assert time.monotonic() - began < within


@pytest.mark.parametrize(
    ("messages", "heard"),
    [
        ([Ping()] * 5000, 0),
        ([Told(PeerReached("executed", 1.0))] * 1000, MAX_TOLD),
        ([Told(PeerFailed("x" * 2000, "E" * 100, True))] * 1000, MAX_TOLD),
    ],
    ids=["pings", "frames", "long sentences"],
)
def test_who_says_too_much_is_lost(sites: Sites, peer: Peer, messages: list[Struct], heard: int) -> None:
    execution_id, alice = opened(sites)
    before = memory(sites)
    with alice:
        connection, _ = peer.hello(execution_id=execution_id)
        try:
            connection.sendall(b"".join(map(encode_frame, messages)))
            while connection.recv(1000):  # the answer to the first ping, until it is closed
                pass
        except (ConnectionError, ssl.SSLError):
            pass
        for _ in range(heard):
            assert isinstance(alice.next(), Heard)
        assert alice.next() == Lost("bob", "says too much", met=True)
    assert memory(sites) - before < 8 * MB
    serves(sites)


@pytest.mark.parametrize("body", [b"\x00\x00\x00\x01\xc1", b"\xff\xff\xff\xff", b"\x00\x00\x30\x00" + bytes(0x3000)])
def test_nonsense_on_a_control_stream_ends_it(sites: Sites, peer: Peer, body: bytes) -> None:
    execution_id, alice = opened(sites)
    with alice:
        connection, _ = peer.hello(execution_id=execution_id)
        connection.sendall(body)
        assert alice.next() == Lost("bob", NONSENSE, met=True)
    serves(sites)


@pytest.mark.slow
def test_a_flood_of_hellos_is_held_in_part(sites: Sites, peer: Peer) -> None:
    before = descriptors(sites)
    connections = [peer.say() for _ in range(MAX_HELD + 50)]
    serves(sites)
    for connection in connections:
        assert answer(connection).verdict == "not_here"
        connection.close()
    until(lambda: descriptors(sites) <= before + 2)


@pytest.mark.slow
def test_connections_that_say_nothing_are_few(sites: Sites, peer: Peer) -> None:
    count = 0
    for _ in range(40):
        with suppress(OSError):
            peer.connect()
            count += 1
    assert count <= 20
    serves(sites, within=PREFACE_SECONDS + 2)  # from the same address, so when these are given up


def test_a_nonce_again_and_another_one(sites: Sites, peer: Peer) -> None:
    nonce = secrets.token_hex(16)
    execution_id, alice = opened(sites)
    with alice:
        first, verdict = peer.hello(execution_id=execution_id, nonce=nonce)
        assert verdict == "taken"
        assert peer.hello(execution_id=execution_id, nonce=nonce)[1] == "taken"  # as after a cut
        assert first.recv(1) == b""
        assert peer.hello(execution_id=execution_id, channel="fed", nonce=nonce)[1] == "taken"
        assert peer.hello(execution_id=execution_id, channel="fed")[1] == "refused"
        assert peer.hello(execution_id=execution_id, channel="fed", nonce=nonce, party="carol")[1] == "not_here"
        assert peer.hello(execution_id=execution_id)[1] == "not_here"
        assert alice.next() == Lost("bob", "began another attempt", met=True, returns=True)


def test_another_peer_does_not_hear_that_an_execution_is_here(sites: Sites, peer: Peer) -> None:
    """Neither of one that has begun already nor of one that begins while its hello is held."""
    execution_id = f":{secrets.token_hex(4)}"
    held = peer.say("carol", execution_id=execution_id)
    time.sleep(0.3)
    with Attempt(sites["alice"], execution_id, TWO):
        later, other = peer.say("carol", execution_id=execution_id), peer.say("carol")
        told = answer(held)
        assert told == answer(later) == answer(other)
        assert (told.verdict, told.why) == ("not_here", "has not begun this execution")


def test_a_party_that_does_not_read_fills_no_memory(sites: Sites) -> None:
    execution_id = f":{secrets.token_hex(4)}"
    before = memory(sites)
    with Attempt(sites["bob"], execution_id, TWO) as bob, Attempt(sites["alice"], execution_id, TWO) as alice:
        bob.reads.clear()
        with alice.stream(1) as stream:
            stream.settimeout(2.0)
            data, sent = bytes(MB), 0
            with suppress(TimeoutError):
                while sent < 200 * MB:
                    sent += stream.send(data)
            assert sent < 40 * MB
            assert memory(sites) - before < 40 * MB
            bob.reads.set()
            stream.settimeout(20.0)
            back = 0
            while back < sent:
                back += len(stream.recv(MB))
            assert back == sent
    serves(sites)


@pytest.mark.slow
def test_streams_of_one_peer_are_bounded_in_all(sites: Sites, peer: Peer) -> None:
    """In as many executions as it needs, each of which has a bound of its own."""
    before, count, verdict = descriptors(sites), 0, "refused"
    with ExitStack() as stack:
        while verdict == "refused":  # by the bound of an execution
            execution_id, alice = opened(sites)
            stack.enter_context(alice)
            nonce = secrets.token_hex(16)
            _, verdict = peer.hello(execution_id=execution_id, nonce=nonce)
            while verdict == "taken":
                count += 1
                _, verdict = peer.hello(execution_id=execution_id, channel="fed", nonce=nonce)
        assert verdict == "not_here"
        assert MAX_STREAMS_OF_PEER - MAX_STREAMS < count <= MAX_STREAMS_OF_PEER
        assert descriptors(sites) - before < 3 * MAX_STREAMS_OF_PEER
    peer.close()
    until(lambda: descriptors(sites) <= before + 2)
    serves(sites)


def test_goodbye_ends_an_attempt_once(sites: Sites, peer: Peer) -> None:
    execution_id, alice = opened(sites)
    with alice:
        connection, _ = peer.hello(execution_id=execution_id)
        connection.sendall(encode_frame(Goodbye()) * 50 + encode_frame(Ping()))
        assert alice.next() == Lost("bob", "has ended its attempt", met=True)
    serves(sites)
