"""What gateways do with attempts: of workers with other settings, of executions that have ended, of many at once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sfworker.settings import Settings
from sfworker.wire.gateway import Attach, Ended, Lost, Opened
from tests.gateway.attempts import Attempt, Connection, echoed, gateways_alone, settings_of
from tests.gateway.sites import Sites
from tests.running_worker import PARTIES

STRANGERS = 8
EXECUTIONS = 30


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    directory = tmp_path_factory.mktemp("sites")
    with gateways_alone(directory, PARTIES, max_strangers_per_address=str(STRANGERS)) as sites:
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

    def meet(replays: int, ends: bool) -> None:
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

    meet(0, ends=True)
    assert told(0) == Lost("bob", "has ended this execution (OSError)", met=False, final=True)
    meet(1, ends=True)
    assert told(1).final
    meet(2, ends=False)  # as a success, which nobody replays
    assert told(3).final
    for worker in workers.values():
        worker.close()


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
