"""Sessions other than the mesh of one host, and party processes that are not forked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.integration.test_redis_access import Authority
from tests.network import HOST, free_ports
from tests.running_worker import PARTIES, RunningWorker, envelope

RUNTIME = {"protocol": "SEMI2K", "field": "FM128"}


class Machines:
    """As on two machines: each party has a worker and a Redis of its own; they always meet on the same TCP ports."""

    def __init__(self, workers: list[RunningWorker]) -> None:
        self.workers = dict(zip(PARTIES, workers, strict=True))
        ports = free_ports(4)
        self._fed = {party: {"address": f"{HOST}:{port}"} for party, port in zip(PARTIES, ports[:2], strict=True)}
        self._spu = {party: f"{HOST}:{port}" for party, port in zip(PARTIES, ports[2:], strict=True)}

    def jobs(
        self, task: dict[str, Any], tls: dict[str, dict[str, Any]] | None = None, **options: Any
    ) -> dict[str, dict[str, Any]]:
        """What each party's worker is sent for one computation; `tls`: options of each party's SPU link."""
        nodes = [{"party": party, "address": self._spu[party]} for party in PARTIES]
        if tls:
            nodes = [node | {"tls_opts": tls[node["party"]]} for node in nodes]
        spu = {"cluster_def": {"runtime_config": RUNTIME, "nodes": nodes}}
        job = envelope(task, spu_config=spu, options=options)
        configs = {party: {"cluster_config": {"parties": self._fed, "self_party": party}} for party in PARTIES}
        return {party: job | {"sf_init_config": configs[party]} for party in PARTIES}

    def run(self, jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Each party's result, when nothing of it is left over."""
        for party, job in jobs.items():
            self.workers[party].send(job)
        results = {}
        for party, job in jobs.items():
            self.workers[party].until_ended(job["execution_id"])
            [results[party]] = self.workers[party].said(job["execution_id"], "result")
        for party in jobs:
            self.workers[party].until_clean()
        return results


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with ExitStack() as stack:
        servers = [stack.enter_context(EmbeddedRedis()) for _ in PARTIES]
        directories = [tmp_path_factory.mktemp(party) for party in PARTIES]
        workers = [RunningWorker(server.url, path) for server, path in zip(servers, directories, strict=True)]
        yield Machines([stack.enter_context(worker) for worker in workers])


def test_two_workers_are_one_party_each(machines: Machines) -> None:
    results = machines.run(machines.jobs({"task_type": "health_check"}))
    for party, result in results.items():
        assert result["status"] == "success"
        assert set(result["performance_metrics"]["peak_rss_bytes"]) == {party}
        assert result["task_metadata"]["devices_used"] == ["alice", "bob", "spu"]


def test_the_same_ports_serve_one_job_after_the_other(machines: Machines) -> None:
    for action in ("raise_final", "exit", "succeed"):
        for result in machines.run(machines.jobs({"task_type": "act", "action": action})).values():
            assert result["status"] == ("success" if action == "succeed" else "failure")


@pytest.mark.parametrize("with_spu", [False, True])
def test_a_party_whose_peer_never_comes_ends_at_its_own_time_limit(machines: Machines, with_spu: bool) -> None:
    job = machines.jobs({"task_type": "health_check"}, soft_time_limit=1.0, time_limit=3.0)["alice"]
    if not with_spu:
        del job["spu_config"]
    result = machines.run({"alice": job})["alice"]
    assert result["error_type"] in {"SoftTimeLimitExceededError", "TimeLimitExceededError"}


def test_the_spus_link_speaks_tls(machines: Machines, tmp_path: Path) -> None:
    def options(authority: Authority, party: str) -> dict[str, Any]:
        certificate, key = authority.issue(party, HOST)
        own = {"certificate_path": str(certificate), "private_key_path": str(key)}
        own |= {"ca_file_path": str(authority.certificate), "verify_depth": 1}
        return {"server_ssl_opts": own, "client_ssl_opts": own}

    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    trusted = {party: options(ours, party) for party in PARTIES}
    for result in machines.run(machines.jobs({"task_type": "health_check"}, trusted)).values():
        assert result["status"] == "success"
    doubtful = {"alice": trusted["alice"], "bob": options(theirs, "bob")}
    limits = {"soft_time_limit": 2.0, "time_limit": 4.0}
    for result in machines.run(machines.jobs({"task_type": "health_check"}, doubtful, **limits)).values():
        assert result["status"] == "failure"


@pytest.mark.parametrize("config", [{"engine": "ray"}, {"address": "10.0.0.1:6379"}])
def test_sessions_on_ray_are_refused(worker: RunningWorker, config: dict[str, str]) -> None:
    job = envelope({"task_type": "health_check"})
    job["sf_init_config"] = {"parties": PARTIES, **config}
    result = worker.run(job)
    assert result["error_type"] == "ParameterValidationError"
    assert "sf_init_config" in result["error"]
    assert "cluster_config" in result["error"]


def test_party_processes_may_be_fresh_interpreters(tmp_path: Path) -> None:
    with (
        EmbeddedRedis() as redis,
        RunningWorker(redis.url, tmp_path, start_method="spawn", spare_processes="0") as worker,
    ):
        result = worker.run(envelope({"task_type": "act", "action": "succeed"}), 90)
        assert result["status"] == "success"
        worker.until_clean(spares=0)


def test_without_a_session_each_party_keeps_to_its_own_data_roots(tmp_path: Path) -> None:
    roots = {party: str(tmp_path / party) for party in PARTIES}
    with EmbeddedRedis() as redis, RunningWorker(redis.url, tmp_path, data_roots=roots) as worker:
        result = worker.run(envelope({"task_type": "act_alone", "output_paths": {"bob": f"{roots['alice']}/out"}}))
        assert result["error_type"] == "ParameterValidationError"
        assert "outside the data roots" in result["error"]
        # Where the parties have machines of their own, each worker writes for its own party.
        addresses = {party: {"address": "127.0.0.1:1"} for party in PARTIES}
        job = envelope({"task_type": "act_alone", "output_paths": {"alice": "out", "bob": "out"}})
        job["sf_init_config"] = {"cluster_config": {"parties": addresses, "self_party": "bob"}}
        assert worker.run(job)["status"] == "success"
    assert [path.parent.name for path in tmp_path.glob("*/out")] == ["bob"]
