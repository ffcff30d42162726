"""What parties at sites of their own hear of each other's ends, and how soon."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.sites import Sites
from tests.running_worker import PARTIES, kill, until

RENDEZVOUS = 3.0
SILENCE = 2.0


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    directory = tmp_path_factory.mktemp("sites")
    with Sites(directory, PARTIES, rendezvous_seconds=str(RENDEZVOUS), peer_silence_seconds=str(SILENCE)) as sites:
        yield sites


def act(action: str, at: str | None = "alice", **more: Any) -> dict[str, Any]:
    return {"task_type": "act", "action": action, "at": at, **more}


def begun(sites: Sites, jobs: dict[str, dict[str, Any]]) -> None:
    """Send the jobs and wait until both sites compute."""
    for party, job in jobs.items():
        sites[party].worker.send(job)
    for party, job in jobs.items():
        sites[party].worker.until_said(job["execution_id"], "devices_ready")


def until_idle(sites: Sites) -> None:
    for site in sites.sites.values():
        site.worker.until_clean()


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("raise_final", "party alice failed with InputDataError: task_config.action: told to raise; no retry helps"),
        ("kill", "party alice failed with PartyProcessLostError: the process of alice was killed"),
        ("exit", "party alice failed with PartyProcessLostError: the process of alice "),
        ("abort", "party alice failed with PartyProcessLostError: the process of alice "),
    ],
)
def test_the_other_party_hears_the_cause(sites: Sites, action: str, said: str) -> None:
    results = sites.run(sites.jobs(act(action)))
    assert results["bob"]["error_type"] == "PeerFailedError"
    assert results["bob"]["error"].startswith(said), results["bob"]["error"]
    assert results["alice"]["error_type"] == said.split()[4].rstrip(":")
    until_idle(sites)


def test_a_cancelled_job_ends_at_both(sites: Sites) -> None:
    jobs = sites.jobs(act("hang"))
    begun(sites, jobs)
    execution_id = jobs["alice"]["execution_id"]
    sites["alice"].worker.redis.set(f"sf:cancel:{execution_id}", 1, ex=100)
    sites["alice"].worker.redis.publish("sf:control", execution_id)
    assert sites.result("alice", jobs["alice"])["status"] == "cancelled"
    assert "JobCancelledError" in sites.result("bob", jobs["bob"])["error"]


def test_a_worker_that_is_killed_is_missed_at_once(sites: Sites) -> None:
    jobs = sites.jobs(act("hang"), options={"max_retries": 0})
    begun(sites, jobs)
    worker = sites["alice"].worker
    worker.kill()
    killed = time.monotonic()
    result = sites.result("bob", jobs["bob"])
    assert time.monotonic() - killed < 2
    assert "its worker ended" in result["error"]
    worker.start()
    # Its own execution comes back, and hears that bob has answered.
    result = sites.result("alice", jobs["alice"], 60)
    assert result["error_type"] == "PeerFailedError"
    assert "has ended this execution" in result["error"]
    until_idle(sites)


@pytest.mark.parametrize("what", ["process", "gateway"])
def test_a_party_that_has_succeeded_is_needed_until_all_have(sites: Sites, what: str) -> None:
    """The other hears at once that it is gone. Neither succeeds with an attempt that the other has not ended."""
    bob = sites["bob"]
    jobs = sites.jobs(act("succeed", "bob", seconds=30.0, attempts=1), options={"max_retries": 2, "retry_delay": 0.5})
    acted = bob.worker.log().count("acting: succeed")
    begun(sites, jobs)
    until(lambda: bob.worker.log().count("acting: succeed") > acted)
    time.sleep(0.3)  # from the job's last line to the frame that says so
    if what == "gateway":
        assert bob.gateway is not None
        kill(bob.gateway.pid)
        bob.gateway.wait()
        bob.start_gateway()
    else:
        kill(bob.worker.party())
    gone = time.monotonic()
    sites["alice"].worker.until_said(jobs["alice"]["execution_id"], "task_retrying")
    assert time.monotonic() - gone < 3
    for party in PARTIES:
        result = sites.result(party, jobs[party])
        assert (result["status"], result["task_metadata"]["attempt"]) == ("success", 2), result


def test_a_gateway_that_was_paused_hears_what_was_said_meanwhile(sites: Sites) -> None:
    """It does not take its own pause for the other's silence."""
    bob = sites["bob"]
    jobs = sites.jobs(act("succeed", "bob", seconds=1.5))
    acted = bob.worker.log().count("acting: succeed")
    begun(sites, jobs)
    until(lambda: bob.worker.log().count("acting: succeed") > acted)
    time.sleep(0.3)  # from the job's last line to the frame that says so
    assert bob.gateway is not None
    os.kill(bob.gateway.pid, signal.SIGSTOP)
    try:
        time.sleep(SILENCE + 0.8)
    finally:
        os.kill(bob.gateway.pid, signal.SIGCONT)
    for party in PARTIES:
        result = sites.result(party, jobs[party])
        assert result["status"] == "success", result


def test_a_retry_meets_a_retry(sites: Sites) -> None:
    jobs = sites.jobs(act("raise", None, attempts=1), options={"max_retries": 2, "retry_delay": 0.5})
    for result in sites.run(jobs).values():
        assert result["status"] == "success", result
        assert result["task_metadata"]["attempt"] == 2


def test_a_peer_that_comes_late_is_waited_for_and_no_attempt_is_used_up(sites: Sites) -> None:
    jobs = sites.jobs(act("succeed", None), options={"max_retries": 0})
    sites["alice"].worker.send(jobs["alice"])
    sites["alice"].worker.until_said(jobs["alice"]["execution_id"], "task_retrying")
    sites["bob"].worker.send(jobs["bob"])
    for party in PARTIES:
        assert sites.result(party, jobs[party])["status"] == "success"
    [retry] = [e for e in sites["alice"].worker.said(jobs["alice"]["execution_id"]) if e["status"] == "RETRY"]
    assert (retry["error_type"], retry["retry_count"]) == ("PeerAbsentError", 0)
    # The wait varies by a third, so that two sites that swap jobs do not miss each other for ever.
    assert re.match(r"party bob did not come within [23] s: it has not begun this execution", retry["error"])


def test_another_job_under_the_same_id_is_told_at_both(sites: Sites) -> None:
    jobs = sites.jobs(act("succeed", None))
    jobs["bob"]["task_config"] = act("hang")
    for result in sites.run(jobs).values():
        assert result["error_type"] == "PeerFailedError"
        assert "another job under this execution_id: its parameters differ" in result["error"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"self_party": "bob"}, "self_party: this worker computes for alice alone"),
        ({"parties": {"alice": {}, "carol": {}}}, "parties: names a party that this worker has no address of"),
        ({"parties": {"alice": {}}}, "parties: names no other party"),
        ({"parties": {"bob": {}, "alice": {}}}, "SEMI2K lets bob, the first"),
        ({"parties": {"alice": {}, "bob": {"address": "169.254.169.254:80"}}}, "parties.bob.address: is not that of"),
    ],
)
def test_an_envelope_widens_nothing(sites: Sites, change: dict[str, Any], said: str) -> None:
    job = sites.jobs(act("succeed", None))["alice"]
    job["sf_init_config"]["cluster_config"] |= change
    result = sites["alice"].worker.run(job)
    assert result["error_type"] == "ParameterValidationError"
    assert said in result["error"]


def test_a_refused_job_ends_at_its_peer_too(sites: Sites) -> None:
    jobs = sites.jobs(act("succeed", None))
    jobs["bob"]["task_config"] = {**act("succeed", None), "unheard_of": 1}
    results = sites.run(jobs)
    assert results["bob"]["error_type"] == "ParameterValidationError"
    assert results["alice"]["error"].startswith("party bob has ended this execution (ParameterValidationError")


def test_a_job_that_is_replayed_at_both_runs_again(sites: Sites) -> None:
    mended = sites["alice"].data / "mended"
    jobs = sites.jobs(act("raise_final", until=str(mended)))
    for result in sites.run(jobs).values():
        assert result["status"] == "failure"
    mended.touch()
    for party in PARTIES:
        replay(sites[party].redis.url, jobs[party]["execution_id"])
        time.sleep(0.5)  # alice comes first, and is not told that bob has ended
    for party in PARTIES:
        worker = sites[party].worker
        [_, result] = until(lambda w=worker: (s := w.said(jobs["bob"]["execution_id"], "result"))[1:] and s)  # type: ignore[misc]
        assert result["status"] == "success", result


def replay(redis_url: str, execution_id: str) -> None:
    command = [sys.executable, "-m", "sfworker", "replay", "--execution-id", execution_id]
    subprocess.run(command, env={**os.environ, "REDIS_URL": redis_url}, check=True, capture_output=True)


def test_a_gateway_that_is_killed_and_comes_back(sites: Sites) -> None:
    jobs = sites.jobs(act("hang", attempts=1, seconds=30.0), options={"max_retries": 1, "retry_delay": 0.5})
    begun(sites, jobs)
    gateway = sites["alice"].gateway
    assert gateway is not None
    kill(gateway.pid)
    gateway.wait()
    for party in PARTIES:
        sites[party].worker.until_said(jobs[party]["execution_id"], "task_retrying", 5)
    sites["alice"].start_gateway()
    for party in PARTIES:
        result = sites.result(party, jobs[party], 60)
        assert result["status"] == "success", result
    until(lambda: "connection" in sites["alice"].worker.log())


@pytest.mark.parametrize("what", ["worker", "gateway"])
def test_a_site_that_hangs_is_missed(sites: Sites, what: str) -> None:
    jobs = sites.jobs(act("hang", "bob"))
    begun(sites, jobs)
    gateway = sites["alice"].gateway
    assert gateway is not None
    pid = gateway.pid if what == "gateway" else sites["alice"].worker.process.pid
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        result = sites.result("bob", jobs["bob"])
        assert time.monotonic() - stopped < SILENCE + 1.5
        assert result["error"] == "party alice was silent for 2 s"
    finally:
        os.kill(pid, signal.SIGCONT)
    result = sites.result("alice", jobs["alice"])
    assert result["error"] == "party bob failed with PeerFailedError: party alice was silent for 2 s"
    until_idle(sites)
