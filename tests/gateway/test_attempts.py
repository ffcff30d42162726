"""What gateways do with attempts: of workers with other settings, of executions that have ended, of many at once."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from sfworker.gateway.dialling import split
from sfworker.settings import Settings
from sfworker.wire.frames import encode_frame, receive_body
from sfworker.wire.gateway import (
    CHANNELS,
    Answer,
    Attach,
    Ended,
    Goodbye,
    Heard,
    Lost,
    Opened,
    PeerFailed,
    Tell,
    Told,
    decode_control,
    decode_preface,
)
from tests.gateway.attempts import Attempt, Connection, echoed, gateways_alone, open_streams, settings_of
from tests.gateway.sites import Sites
from tests.gateway.test_strangers import TERMS, answer, connect, preface
from tests.running_worker import PARTIES, until

SITES = [*PARTIES, "carol"]

STRANGERS = 8
EXECUTIONS = 30


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    directory = tmp_path_factory.mktemp("sites")
    with gateways_alone(directory, SITES, started=PARTIES, max_strangers_per_address=str(STRANGERS)) as sites:
        yield sites


def test_a_worker_with_other_settings_is_refused(sites: Sites) -> None:
    site = sites["alice"]
    right = settings_of(site).of_gateway()
    for settings, said in (
        (right, ""),
        (right | {"SFWORKER_PEERS": "0"}, "runs with another SFWORKER_PEERS; restart it"),
        (dict.fromkeys(right, "0"), "runs with another SFWORKER_PARTY, SFWORKER_PEERS, SFWORKER_PEER_PINS, "),
        (Settings(party="alice", peers=settings_of(site).peers).of_gateway(), ""),  # leaves certificates to the gateway
    ):
        attached = Connection(site)
        attached.send(Attach(settings))
        answer = attached.next()
        assert isinstance(answer, Opened)
        assert said in answer.why
        assert bool(said) == bool(answer.why)
        attached.close()
        with Attempt(site, ":settings", PARTIES, settings=settings) as attempt:
            assert attempt.opened == answer


def test_a_replay_waits_for_the_peers_and_nothing_else_does(sites: Sites) -> None:
    workers = {party: Connection(sites[party]) for party in PARTIES}
    for party, worker in workers.items():
        worker.send(Attach(settings_of(sites[party]).of_gateway()))
        assert worker.next() == Opened()

    def meet(replays: int, ends: int | None) -> None:
        with Attempt(sites["alice"], ":replayed", PARTIES, replays=replays) as alice:
            if replays:
                time.sleep(1.5)  # longer than a hello is held
            with Attempt(sites["bob"], ":replayed", PARTIES, replays=0) as bob, alice.stream(1) as stream:
                assert echoed(stream)
                for party, worker in workers.items():
                    worker.send(Ended(":replayed", "OSError", [each for each in PARTIES if each != party], ends))
                    assert bob.opened == alice.opened == Opened()

    def told(replays: int) -> Lost:
        with Attempt(sites["alice"], ":replayed", PARTIES, replays=replays) as alice:
            answer = alice.next()
            assert isinstance(answer, Lost)
            return answer

    meet(0, ends=0)
    assert told(0) == Lost("bob", "has ended this execution (OSError)", met=False, final=True)
    meet(1, ends=0)
    assert told(1).final
    meet(2, ends=None)  # as a success, which nobody replays
    assert told(3).final
    for worker in workers.values():
        worker.close()


def test_an_end_that_is_told_again_is_not_that_of_a_replay(sites: Sites) -> None:
    """As to a new gateway, by a worker that has not heard that another one runs the execution again."""
    worker = Connection(sites["bob"])
    worker.send(Attach(settings_of(sites["bob"]).of_gateway()))
    assert worker.next() == Opened()
    kept = Ended(":again", "OSError", ["alice"], 0, again=True)
    worker.send(kept)
    with Attempt(sites["alice"], ":again", PARTIES, replays=0) as alice:
        assert alice.next().final
    with Attempt(sites["alice"], ":again", PARTIES, replays=1) as alice:
        with Attempt(sites["bob"], ":again", PARTIES, replays=1) as bob, alice.stream(1) as stream:
            assert echoed(stream)
            worker.send(kept)
            assert bob.opened == Opened()
        assert alice.next() == Lost("bob", "has ended its attempt", met=True)
    with Attempt(sites["alice"], ":again", PARTIES, replays=1) as alice:  # as between two attempts of bob's
        time.sleep(0.3)
        with Attempt(sites["bob"], ":again", PARTIES, replays=1), alice.stream(1) as stream:
            assert echoed(stream)
    worker.close()


def test_a_later_attempt_of_another_worker_is_no_failure_at_the_peer(sites: Sites) -> None:
    with Attempt(sites["alice"], ":taken-over", PARTIES) as alice, Attempt(sites["bob"], ":taken-over", PARTIES) as bob:
        with alice.stream(1) as stream:
            assert echoed(stream)
        with Attempt(sites["alice"], ":taken-over", PARTIES):
            assert alice.next() == Lost("bob", "is wanted by a later attempt", met=True)
            heard = bob.next()
            assert isinstance(heard, Heard)
            assert isinstance(heard.frame, PeerFailed)
            assert heard.frame.is_release


def test_a_peer_that_has_just_come_hears_how_the_attempt_ended_meanwhile(sites: Sites) -> None:
    """Though it takes this party's calls only then. The test is carol, whose gateway does not run."""
    carol = sites.certificates / "carol.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(carol, carol.with_suffix(".key"))
    failed, terms = PeerFailed("its disk is full", "ResultSaveError", retryable=False), replace(TERMS, parties=SITES)
    with connect(sites, carol) as hello:
        with Attempt(sites["alice"], ":just-come", SITES, terms=terms) as alice:
            hello.sendall(encode_frame(preface(execution_id=":just-come", terms=terms)))
            assert answer(hello).verdict == "taken"
            alice.send(Tell(failed))
        time.sleep(0.5)  # longer than links get to end by themselves
        with socket.create_server(split(sites["carol"].settings["gateway_listen"])) as listener:
            listener.settimeout(5.0)
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as called:
                decode_preface(receive_body(called) or b"")
                called.sendall(encode_frame(Answer(verdict="taken")))
                heard = [decode_control(receive_body(called) or b"") for _ in range(2)]
    assert heard == [Told(failed), Goodbye()]


def test_links_are_open_before_a_process_asks_for_them(sites: Sites) -> None:
    """Those of one SPU, as most jobs have no other; sockets of the next one are there when it is used."""
    site = sites["alice"]
    until(lambda: not open_streams(site))
    with Attempt(sites["alice"], ":ahead", PARTIES) as alice, Attempt(sites["bob"], ":ahead", PARTIES):
        until(lambda: open_streams(site) == 6)  # one for hellos and two for links from each side
        assert not (alice.directory / "spu-1-1.sock").exists()
        with alice.stream(1, CHANNELS[0]) as fed, alice.stream(1, CHANNELS[1]) as spu:
            assert echoed(fed)
            assert echoed(spu)
            assert open_streams(site) == 6
        until((alice.directory / "spu-1-1.sock").exists)
    until(lambda: not open_streams(site))
    with Attempt(sites["alice"], ":none", PARTIES, has_spu=False) as alice:
        assert sorted(path.name for path in alice.directory.glob("*-1.sock")) == ["fed-1.sock"]


@pytest.mark.slow
def test_thirty_executions_at_once_behind_one_address(sites: Sites) -> None:
    """More connections of peers than strangers may have; those that are refused come again."""
    began = time.monotonic()
    attempts = [[Attempt(sites[party], f":many-{n}", PARTIES) for party in PARTIES] for n in range(EXECUTIONS)]
    streams = [alice.stream(1, channel) for alice, _ in attempts for channel in ("fed", "spu-0", "fed")]
    for stream in streams:
        assert echoed(stream)
        stream.close()
    assert time.monotonic() - began < 15
    for pair in attempts:
        for attempt in pair:
            attempt.end()
    assert "too many connections that have not said who they are" in sites["bob"].gateway_log()
