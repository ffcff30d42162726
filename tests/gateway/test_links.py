"""What passes between sites, and what becomes of jobs where the link is slow, silent or cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.gateway.sites import Sites
from tests.network import Network
from tests.running_worker import PARTIES

SENTINEL = "customer-4711"
SILENCE = 2.0
RECORDS = {0x14, 0x15, 0x16, 0x17}
"""Types of TLS records: change of ciphers, alert, handshake, data."""


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    directory = tmp_path_factory.mktemp("sites")
    with Sites(directory, PARTIES, networks=Network, peer_silence_seconds=str(SILENCE)) as sites:
        yield sites


def psi(sites: Sites) -> dict[str, dict[str, Any]]:
    for number, party in enumerate(PARTIES):
        ids = [f"{SENTINEL}-{each}" for each in range(100 * number, 100 * number + 200)]
        pd.DataFrame({"id": ids}).to_csv(sites[party].data / "in.csv", index=False)
    task = {"task_type": "psi", "keys": {party: ["id"] for party in PARTIES}, "receiver": "alice"}
    task |= {"input_paths": dict.fromkeys(PARTIES, "in.csv"), "output_paths": dict.fromkeys(PARTIES, "out.csv")}
    return sites.jobs(task)


def require_tls(said: bytes, plain: list[str]) -> None:
    """Require that all that passed are TLS records, whose contents show none of the `plain` words."""
    at = 0
    while at < len(said):
        assert said[at] in RECORDS
        assert said[at + 1] == 3
        at += 5 + int.from_bytes(said[at + 3 : at + 5], "big")
    for word in plain:
        assert len(word) >= 5, "a shorter word is in any cipher text now and then"
        assert word.encode() not in said


@pytest.mark.attack("gateway")
def test_nothing_but_tls_passes(sites: Sites) -> None:
    jobs = psi(sites)
    for result in sites.run(jobs).values():
        assert result["result"]["intersection_count"] == 100
    said = [bytes(each) for network in sites.networks.values() for each in network.said if each]
    assert len(said) >= 8  # control and data streams, both directions
    for each in said:
        require_tls(each, [SENTINEL, jobs["alice"]["execution_id"], "sfworker:party", "alice", '"psi"'])


def test_cheetah_takes_few_connections(sites: Sites) -> None:
    """Its links send much at once, for which a pool of connections would grow to hundreds, each a TLS handshake."""
    draw = np.random.default_rng(3)
    for party in PARTIES:
        pd.DataFrame(draw.normal(size=(300, 3)), columns=list("xyz")).to_csv(sites[party].data / "xyz.csv", index=False)
    before = [len(network.said) for network in sites.networks.values()]
    task = {"task_type": "pearson_correlation", "input_paths": dict.fromkeys(PARTIES, "xyz.csv")}
    cheetah = {"protocol": "CHEETAH", "field": "FM64", "fxp_fraction_bits": 18}
    results = sites.run(sites.jobs(task, spu_config={"cluster_def": {"runtime_config": cheetah}}))
    assert [result["status"] for result in results.values()] == ["success"] * 2, results
    assert [result["result"]["rows"] for result in results.values() if result["result"]] == [300]
    after = [len(network.said) for network in sites.networks.values()]
    assert max(late - early for early, late in zip(before, after, strict=True)) <= 12  # both directions count


def test_a_far_peer(sites: Sites) -> None:
    """20 ms each way."""
    for network in sites.networks.values():
        network.delay = 0.02
    try:
        for result in sites.run(psi(sites)).values():
            assert result["result"]["intersection_count"] == 100
    finally:
        for network in sites.networks.values():
            network.delay = 0.0


@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_a_link_that_is_cut(sites: Sites, seconds: float) -> None:
    """A short cut costs nothing, a long one ends the job at both sites."""
    jobs = sites.jobs({"task_type": "act", "action": "report", "seconds": 4.0})
    for party, job in jobs.items():
        sites[party].worker.send(job)
    for party, job in jobs.items():
        sites[party].worker.until_said(job["execution_id"], "devices_ready")
    cut = time.monotonic()
    for network in sites.networks.values():
        network.die()
    try:
        if seconds < SILENCE:
            time.sleep(seconds)
            for network in sites.networks.values():
                network.revive()
        for party, job in jobs.items():
            result = sites.result(party, job)
            if seconds < SILENCE:
                assert result["status"] == "success", result
            else:
                assert time.monotonic() - cut < SILENCE + 1.5
                assert result["error"].endswith("was silent for 2 s")
    finally:
        for network in sites.networks.values():
            network.revive()
    for result in sites.run(sites.jobs({"task_type": "health_check"})).values():
        assert result["status"] == "success", result
