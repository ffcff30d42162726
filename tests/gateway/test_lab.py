"""Parties on hosts of their own, in network namespaces: what they hear of faults, and what shows outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfworker.gateway.dialling import split
from tests.gateway.attempts import open_streams
from tests.gateway.faults import FAULTS, HEALTH_PORT, STRANGER, Ground, ground
from tests.gateway.lab import Lab, Namespace, missing, streams
from tests.gateway.sites import Sites
from tests.gateway.test_links import require_tls
from tests.jobs.test_required_alone import CASES, FLAT_HEU, REFUSED, ROWS, SAVED
from tests.running_worker import PARTIES, RunningWorker, envelope, until

two = pytest.mark.parametrize("made", ["two"], indirect=True, scope="module")
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


@two
def test_only_the_gateway_and_the_health_port_listen(made: Ground) -> None:
    """Also while two parties of one host compute, whose links have no port."""
    host, site = made.lab["alice"], made.sites["alice"]
    expected = {("tcp", split(site.settings["gateway_listen"])[1]), ("tcp", HEALTH_PORT)}
    local = envelope({"task_type": "act", "action": "report", "seconds": 1.0})
    site.worker.send(local)
    jobs = made.begin({"task_type": "act", "action": "report", "seconds": 1.0})
    site.worker.until_said(local["execution_id"], "devices_ready")
    assert host.listening() == expected
    since = time.monotonic()
    assert {
        ("tcp", port) for port in made.lab[STRANGER].make(partial(open_ports, made.lab.address("alice")))
    } == expected
    for each in made.hear(jobs, since).values():
        each.require("SUCCESS", within=30.0)
    assert site.worker.until_ended(local["execution_id"])["status"] == "SUCCESS"


def open_ports(address: str) -> set[int]:
    found = set()
    for port in range(1, 1 << 16):
        with socket.socket() as probe:
            probe.settimeout(5.0)
            if probe.connect_ex((address, port)) == 0:
                found.add(port)
    return found


@two
def test_nothing_but_tls_passes_between_hosts_and_idle_links_are_kept(made: Ground) -> None:
    with made.lab.captured("alice") as frames:
        jobs = made.begin({"task_type": "act", "action": "report", "seconds": 1.0})
        connections = Path(f"/proc/{made.lab['alice'].pid}/net/tcp").read_text().splitlines()[1:]
        timers = [line.split()[5][:2] for line in connections if line.split()[3] == "01"]
        assert len(timers) >= 4
        assert timers.count("00") <= 1, connections  # the kernel asks on all but the stream of its own pings
        made.require_joined(made.send(made.psi()), time.monotonic())
        for each in made.hear(jobs, time.monotonic()).values():
            each.require("SUCCESS", within=30.0)
    require_tls_between(made, frames, [jobs["alice"]["execution_id"], "intersection"])


def require_tls_between(made: Ground, frames: list[bytes], plain: list[str]) -> None:
    """Require that gateways were all that spoke to each other, and of what passed only that it was TLS can be seen."""
    said = streams(frames)
    assert len(said) >= 4  # both parties' pings, both directions
    ports = {made.lab.address(party): split(made.sites[party].settings["gateway_listen"])[1] for party in PARTIES}
    for (source, source_port, target, target_port), each in said.items():
        assert {source, target} == set(ports)
        assert source_port == ports[source] or target_port == ports[target]
        require_tls(each, ["sfworker:party", "alice", "input_paths", *plain])


@pytest.mark.slow
@two
def test_nothing_but_tls_passes_for_any_task_type(made: Ground) -> None:
    """The cases of `test_required_alone`, those that apply what others have saved last."""
    random = np.random.default_rng(5)
    x = random.normal(size=(ROWS, 4)).round(6)
    alice = {"x0": x[:, 0], "x1": x[:, 1], "grade": (x[:, 2] > 0.5) * 1, "y": (x.sum(axis=1) + x[:, 2] > 0) * 1}
    for party, columns in {"alice": alice, "bob": {"z0": x[:, 3]}}.items():
        ids = {"id": random.permutation(ROWS) + 1000}
        pd.DataFrame(ids | columns).to_csv(made.sites[party].data / f"{party}.csv", index=False)
    for case in sorted(CASES, key=lambda case: case in SAVED):
        if case in ("component", "model_export"):  # whose parameters name files of one host
            continue
        task = dict(CASES[case])
        if case == "scaler":
            task["model_path"] = {party: f"scaler/model_path-{party}" for party in PARTIES}
        # Their beginnings were captured with the job before.
        until(lambda: not any(map(open_streams, made.sites.sites.values())))
        with made.lab.captured("alice") as frames:
            results = made.sites.run(made.sites.jobs(task, heu_config=FLAT_HEU), 120.0)
        print(f"{case}: {sum(map(len, frames))} bytes")
        outcomes = [result.get("error") or "success" for result in results.values()]
        print(f"{case}: {outcomes}")
        assert (outcomes == ["success", "success"]) == (case not in REFUSED), outcomes
        if case not in REFUSED:
            require_tls_between(made, frames, ["grade", str(x[0, 0]), f'"{task["task_type"]}"'])


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
