"""Gateways that have much to do: many executions at once, and workers of other settings."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sfworker.wire.gateway import Attach, Opened
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
        ({}, "runs with another SFWORKER_PARTY, SFWORKER_PEERS, SFWORKER_PEER_PINS, "),
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
