"""Parties on hosts of their own, in network namespaces: what they hear of faults, and what shows outside."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateway.faults import FAULTS, Ground, ground
from tests.gateway.lab import Lab, Namespace, missing
from tests.gateway.sites import Sites
from tests.running_worker import PARTIES, RunningWorker

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(request.param, tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        pytest.param(each.ground, name, marks=[pytest.mark.slow] if each.slow else [], id=name)
        for name, each in FAULTS.items()
    ],
    indirect=["made"],
    scope="module",
)
def test_a_fault_is_known_by_name_and_cause(made: Ground, fault: str) -> None:
    FAULTS[fault].run(made)
    made.require_well()


CONTAINER = ["/usr/bin/unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""What a container is here: process ids of its own, from 1 on."""


@pytest.mark.slow
def test_worker_and_gateway_in_containers_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They share the run directory and nothing else: neither network nor process ids, and the worker has no key."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(PARTIES))
        sites = Sites(tmp_path_factory.mktemp("containers"), PARTIES, lab=lab)
        for party, site in sites.sites.items():
            apart = stack.enter_context(Namespace())
            settings = {name: value for name, value in site.settings.items() if not name.startswith("tls_")}
            site.within = [*lab[party].enter, *CONTAINER]
            site.worker.redis.close()
            within = [*apart.enter, *CONTAINER]
            site.worker = RunningWorker(site.redis.url, site.data, started_by=within, **settings)
            stack.callback(site.worker.redis.close)
        with sites:
            ground = Ground(lab, sites)
            since = time.monotonic()
            ground.require_joined(ground.send(ground.psi()), since)
            # A second worker looks for what dead ones have left, and cannot see the first one's processes.
            jobs = ground.begin({"task_type": "act", "action": "report", "seconds": 8.0})
            site = sites["alice"]
            other = RunningWorker(site.redis.url, site.data, started_by=[*lab["bob"].enter, *CONTAINER])
            stack.callback(other.redis.close)
            other.start()
            _end_inside(other.process)
            for heard in ground.hear(jobs, since).values():
                heard.require("SUCCESS", within=60.0)
            for site in sites.sites.values():
                _end_inside(site.worker.process)
                assert site.gateway is not None
                _end_inside(site.gateway)


def _end_inside(container: subprocess.Popen[bytes]) -> None:
    """End the first process of a container, as its engine does."""
    [first] = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGTERM)
    assert container.wait(20) == 0
