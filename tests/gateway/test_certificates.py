"""Pins of certificates, and certificates that are replaced while attempts are on their way."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfworker.gateway.certificates import make_certificate
from sfworker.wire.gateway import Lost
from tests.gateway.attempts import Attempt, echoed, gateways_alone
from tests.gateway.sites import Sites
from tests.running_worker import PARTIES, until

READ_ANEW = "certificates were read anew"


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    """Not started yet."""
    with gateways_alone(tmp_path, PARTIES, started=[], rendezvous_seconds="1") as sites:
        yield sites


def made(sites: Sites, name: str, party: str = "bob") -> tuple[Path, str]:
    """Another certificate of a party by the same authority, in a directory of its own, and its fingerprint."""
    directory = sites.certificates / name
    directory.mkdir()
    for ending in ("pem", "key"):
        shutil.copy(sites.certificates / f"authority.{ending}", directory)
    return directory, make_certificate(directory, party, 5)


def put(sites: Sites, directory: Path, party: str = "bob") -> None:
    """Replace a party's files, one after the other, as people do."""
    for ending in ("pem", "key"):
        os.replace(directory / f"{party}.{ending}", sites.certificates / f"{party}.{ending}")


def start(sites: Sites, pins: dict[str, list[str]]) -> None:
    """Start both gateways, of which alice's has pins of bob."""
    sites["alice"].settings["peer_pins"] = ",".join(f"{party}={pin}" for party, all_ in pins.items() for pin in all_)
    for party in PARTIES:
        sites[party].start_gateway()


@pytest.mark.attack("gateway")
def test_a_certificate_that_is_not_pinned(sites: Sites) -> None:
    """Though the authority has signed it and it names the party."""
    _, other = made(sites, "other")
    start(sites, {"bob": [other]})
    with Attempt(sites["alice"], ":1", PARTIES) as alice, Attempt(sites["bob"], ":1", PARTIES) as bob:
        lost = alice.next()
        assert isinstance(lost, Lost)
        assert lost.why.endswith(
            "s: it is refused, as its certificate is none of those that SFWORKER_PEER_PINS lists for it"
        )
        lost = bob.next()
        assert isinstance(lost, Lost)
        assert "did not come within" in lost.why
    refused = "refused: its certificate is none of those that SFWORKER_PEER_PINS lists"
    until(lambda: refused in sites["alice"].gateway_log())


def test_the_next_certificates_pin_beside_the_old_ones(sites: Sites) -> None:
    old, first = made(sites, "old")
    put(sites, old)
    following, second = made(sites, "following")
    unknown, _ = made(sites, "unknown")
    start(sites, {"bob": [first, second]})
    with Attempt(sites["alice"], ":1", PARTIES) as alice, Attempt(sites["bob"], ":1", PARTIES) as bob:
        streams = [alice.stream(1), bob.stream(0)]
        assert all(map(echoed, streams))
        put(sites, following)
        streams += [alice.stream(1), bob.stream(0)]  # the old ones go on, and new ones begin
        assert all(map(echoed, streams))
        assert READ_ANEW in sites["bob"].gateway_log()
        put(sites, unknown)
        assert all(map(echoed, streams))
        for stream in streams:
            stream.close()
    with Attempt(sites["alice"], ":2", PARTIES) as alice, Attempt(sites["bob"], ":2", PARTIES):
        lost = alice.next()
        assert isinstance(lost, Lost)
        assert "PEER_PINS" in lost.why


@pytest.mark.slow
def test_certificates_are_replaced_while_jobs_run(tmp_path: Path) -> None:
    with Sites(tmp_path, PARTIES) as sites:
        jobs = sites.jobs({"task_type": "act", "action": "report", "seconds": 4.0})
        for party, job in jobs.items():
            sites[party].worker.send(job)
        for party, job in jobs.items():
            sites[party].worker.until_said(job["execution_id"], "devices_ready")
        time.sleep(1.0)
        for party in PARTIES:
            put(sites, made(sites, f"next-{party}", party)[0], party)
        for party, job in jobs.items():
            assert sites.result(party, job)["status"] == "success"
        for result in sites.run(sites.jobs({"task_type": "health_check"})).values():
            assert result["status"] == "success", result
        for party in PARTIES:
            assert READ_ANEW in sites[party].gateway_log()
