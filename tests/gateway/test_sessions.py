"""Executions whose parties are at sites of their own, through gateways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.gateway.sites import Sites, gateway_of
from tests.running_worker import PARTIES, RunningWorker, kill, until


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with Sites(tmp_path_factory.mktemp("sites"), PARTIES, rendezvous_seconds="8", concurrency="2") as sites:
        yield sites


def test_two_sites_are_one_party_each(sites: Sites) -> None:
    for party, result in sites.run(sites.jobs({"task_type": "health_check"})).items():
        assert result["status"] == "success", result
        assert set(result["performance_metrics"]["peak_rss_bytes"]) == {party}
        assert result["task_metadata"]["devices_used"] == ["alice", "bob", "spu"]
        assert result["disclosures"][-1].startswith("alice deals the correlated randomness of SEMI2K")


def test_psi(sites: Sites) -> None:
    for number, party in enumerate(PARTIES):
        ids = range(500 * number, 500 * number + 1000)
        pd.DataFrame({"id": ids, party: ids}).to_csv(sites[party].data / "in.csv", index=False)
    task = {
        "task_type": "psi",
        "input_paths": dict.fromkeys(PARTIES, "in.csv"),
        "output_paths": dict.fromkeys(PARTIES, "out.csv"),
        "keys": {party: ["id"] for party in PARTIES},
        "receiver": "alice",
    }
    for party, result in sites.run(sites.jobs(task)).items():
        assert result["status"] == "success", result
        assert result["result"]["intersection_count"] == 500
        assert result["result"]["output_paths"] == {party: "out.csv"}
        assert len(pd.read_csv(sites[party].data / "out.csv")) == 500


def test_what_a_job_was_not_to_write_is_none_at_both(sites: Sites) -> None:
    for party, columns in {"alice": {"x": [1.0, 3.0, None]}, "bob": {"z": [None, 4.0, 6.0]}}.items():
        pd.DataFrame(columns).to_csv(sites[party].data / "in.csv", index=False)
    task = {"task_type": "fillna", "strategy": "mean"}
    task |= {"input_paths": dict.fromkeys(PARTIES, "in.csv"), "output_paths": dict.fromkeys(PARTIES, "out.csv")}
    for party, result in sites.run(sites.jobs(task)).items():
        assert result["status"] == "success", result
        assert result["result"]["model_path"] is None
        assert result["result"]["output_paths"] == {party: "out.csv"}
    assert list(pd.read_csv(sites["alice"].data / "out.csv")["x"]) == [1.0, 3.0, 2.0]
    assert list(pd.read_csv(sites["bob"].data / "out.csv")["z"]) == [5.0, 4.0, 6.0]


def test_one_port_serves_one_job_after_the_other_and_two_at_once(sites: Sites) -> None:
    for action in ("raise_final", "exit", "succeed"):
        for result in sites.run(sites.jobs({"task_type": "act", "action": action})).values():
            assert result["status"] == ("success" if action == "succeed" else "failure")
    both = [sites.jobs({"task_type": "health_check"}) for _ in range(2)]
    for jobs in both:
        for party, job in jobs.items():
            sites[party].worker.send(job)
    for jobs in both:
        for party, job in jobs.items():
            assert sites.result(party, job)["status"] == "success"


def test_a_worker_starts_the_gateway_that_it_needs_and_takes_it_along(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Sites(tmp_path_factory.mktemp("own"), PARTIES, gateways=False, rendezvous_seconds="4") as sites:
        for result in sites.run(sites.jobs({"task_type": "health_check"})).values():
            assert result["status"] == "success", result
        gateways = {party: sites[party].gateway_of_worker() for party in PARTIES}
        kill(gateways["alice"])  # another one is started
        until(lambda: sites["alice"].gateway_of_worker() not in {0, gateways["alice"]})
        gateways["alice"] = sites["alice"].gateway_of_worker()
        for result in sites.run(sites.jobs({"task_type": "health_check"})).values():
            assert result["status"] == "success", result
    for pid in gateways.values():
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 20)  # type: ignore[misc]


@pytest.mark.slow
def test_workers_with_changed_settings_get_a_gateway_with_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One that an earlier worker has started ends with that worker, though the new one wants a gateway, too."""
    with Sites(tmp_path_factory.mktemp("own"), PARTIES, gateways=False, rendezvous_seconds="4") as sites:
        alice = sites["alice"]
        directory = tmp_path_factory.mktemp("next")
        changed = {**alice.settings, "data_roots": str(directory), "peer_silence_seconds": "7"}
        with RunningWorker(alice.redis.url, directory, **changed) as worker:
            until(lambda: "the gateway runs with another SFWORKER_PEER_SILENCE_SECONDS; restart it" in worker.log())
            alice.worker.stop()
            gateway = until(lambda: gateway_of(worker), 30)
            for result in sites.run(sites.jobs({"task_type": "health_check"})).values():
                assert result["status"] == "success", result
            assert gateway_of(worker) == gateway
