"""The clusters of the other tests are what they claim to be."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.gateway.lab import Lab, missing
from tests.ray.faults import FAULTS, ground
from tests.ray.lab import HEAD, Cluster, Node, in_session
from tests.running_worker import until


@pytest.mark.slow
def test_a_cluster_on_loopback_is_there_and_gone_whatever_dies() -> None:
    with Cluster(Node("one", {"alice": 4}), Node("two", {"bob": 4})) as cluster:
        assert cluster.alive() == {HEAD, "one", "two"}
        assert cluster.actors() == []
        sessions = [node.session for node in cluster.nodes.values()]
        cluster["one"].signal(signal.SIGSTOP)
        os.kill(cluster["two"].raylet, signal.SIGKILL)
        directory = cluster.directory
    assert [pids for pids in map(in_session, sessions) if pids] == []
    assert not directory.exists()


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_cluster_of_hosts_notices_one_that_is_cut_off() -> None:
    with (
        Lab([HEAD, "one", "two"]) as lab,
        Cluster(Node("one", {"alice": 4}), Node("two", {"bob": 4}), lab=lab) as cluster,
    ):
        assert cluster.alive() == {HEAD, "one", "two"}
        assert cluster.address.startswith(lab.address(HEAD))
        lab.pull("two")
        until(lambda: cluster.alive() == {HEAD, "one"}, 30.0)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize("kind", ["one", "hosts"])
def test_every_fault_is_heard_of_within_its_bound(kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as directory, ground(kind, Path(directory)) as made:
        for fault in FAULTS.values():
            if fault.ground == kind:
                fault.run(made)
                made.require_well()
