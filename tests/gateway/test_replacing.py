"""What a stopping gateway does with the executions that it carries, and how the next one takes its place."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.gateway.sites import Site, Sites
from tests.running_worker import PARTIES, until

DRAIN = 4.0


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    directory = tmp_path_factory.mktemp("sites")
    settings = {"drain_timeout": str(DRAIN), "rendezvous_seconds": "4", "concurrency": "2"}
    with Sites(directory, PARTIES, **settings) as sites:
        for party in PARTIES:
            pd.DataFrame({"id": range(100)}).to_csv(sites[party].data / "in.csv", index=False)
        yield sites


def begin(sites: Sites, task: dict[str, Any], stage: str = "devices_ready") -> dict[str, dict[str, Any]]:
    jobs = sites.jobs(task)
    for party, job in jobs.items():
        sites[party].worker.send(job)
    for party, job in jobs.items():
        sites[party].worker.until_said(job["execution_id"], stage)
    return jobs


def psi() -> dict[str, Any]:
    task = {"task_type": "psi", "keys": {party: ["id"] for party in PARTIES}, "receiver": "alice"}
    return task | {"input_paths": dict.fromkeys(PARTIES, "in.csv"), "output_paths": dict.fromkeys(PARTIES, "out.csv")}


def replace_gateway(site: Site) -> Any:
    """Tell the one that runs to stop, and start the next at once. The first may still run."""
    first = site.gateway
    assert first is not None
    first.send_signal(signal.SIGTERM)
    until(lambda: not (site.data / "gateway" / "control.sock").exists())
    site.gateway = None
    site.start_gateway()
    return first


def require_first_attempts(sites: Sites, jobs: dict[str, dict[str, Any]]) -> None:
    for party, job in jobs.items():
        result = sites.result(party, job)
        assert (result["status"], result["task_metadata"]["attempt"]) == ("success", 1), result


def test_what_runs_goes_on_and_what_comes_goes_to_the_next(sites: Sites) -> None:
    alice = sites["alice"]
    running = begin(sites, {"task_type": "act", "action": "report", "seconds": 3.0})
    first = replace_gateway(alice)
    require_first_attempts(sites, begin(sites, psi(), "task_succeeded"))
    assert first.poll() is None
    assert alice.worker.said(running["alice"]["execution_id"], "result") == []
    require_first_attempts(sites, running)
    first.wait(10)
    assert [each.name for each in (alice.data / "gateway").glob("*.sock")] == ["control.sock"]


def test_an_execution_that_waits_for_its_peer_meets_it_through_the_next(sites: Sites) -> None:
    """All its streams come to a gateway that does not know it."""
    jobs = sites.jobs(psi())
    sites["alice"].worker.send(jobs["alice"])
    sites["alice"].worker.until_said(jobs["alice"]["execution_id"], "task_started")
    until(lambda: len(list((sites["alice"].worker.run_dir).glob("*/*/fed-1.sock"))) == 1)
    first = replace_gateway(sites["alice"])
    sites["bob"].worker.send(jobs["bob"])
    require_first_attempts(sites, jobs)
    first.wait(10)


@pytest.mark.parametrize("signals", [1, 2])
def test_what_does_not_end_in_time_is_given_back_and_uses_up_no_attempt(sites: Sites, signals: int) -> None:
    jobs = begin(sites, {"task_type": "act", "action": "hang", "attempts": 1})
    stopped = time.monotonic()
    first = replace_gateway(sites["alice"])
    if signals == 2:
        first.send_signal(signal.SIGTERM)
    for party, job in jobs.items():
        assert sites.result(party, job)["status"] == "success"
        [retry] = [each for each in sites[party].worker.said(job["execution_id"]) if each["status"] == "RETRY"]
        assert retry["retry_count"] == 0, retry
    assert time.monotonic() - stopped > (DRAIN if signals == 1 else 0)
    first.wait(10)


@pytest.mark.attack("host")
def test_a_workers_own_gateway_gives_way_to_the_operators(sites: Sites) -> None:
    alice = sites["alice"]
    assert alice.gateway is not None
    alice.gateway.kill()
    alice.gateway.wait()
    [its] = until(lambda: [pid for pid in alice.worker.children() if "--while-needed" in _command(pid)])
    until(lambda: "listens on" in alice.worker.console())
    assert "-m" not in _command(its).split("\0")  # which would import from the worker's directory
    assert b"REDIS_URL=" not in Path(f"/proc/{its}/environ").read_bytes()
    assert int(Path(f"/proc/{its}/coredump_filter").read_text(), 16) == 0
    running = begin(sites, {"task_type": "act", "action": "report", "seconds": 3.0})
    alice.start_gateway()
    require_first_attempts(sites, begin(sites, psi(), "task_succeeded"))
    require_first_attempts(sites, running)
    until(lambda: its not in alice.worker.children())


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
