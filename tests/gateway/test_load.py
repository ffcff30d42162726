"""Several workers of each party behind one gateway under load, meanwhile killed or replaced."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest

from tests.chaos.across_jobs import jobs_of, kinds, write_inputs, wrong
from tests.gateway.sites import Sites
from tests.running_worker import PARTIES, RunningWorker, until

pytestmark = pytest.mark.slow
SENT = {"psi", "health_check", "table_statistics", "succeeds"}
AHEAD = 12


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    settings: dict[str, Any] = {"concurrency": "2", "drain_timeout": "20", "rendezvous_seconds": "20"}
    with Sites(tmp_path_factory.mktemp("sites"), PARTIES, **settings) as sites:
        write_inputs(sites)
        for party in PARTIES:
            sites[party].another_worker()
        yield sites


class Load:
    """Sends jobs to both parties, as many at a time as keep all workers busy, until `enough` says so."""

    def __init__(self, sites: Sites, enough: Callable[[int], bool]) -> None:
        self._sites = sites
        self._enough = enough
        self._kinds = [kind for kind in kinds() if kind.name in SENT]
        self.sent: dict[str, Any] = {}
        self.thread = Thread(target=self._send)
        self.thread.start()

    def _send(self) -> None:
        while not self._enough(len(self.sent)):
            kind = self._kinds[len(self.sent) % len(self._kinds)]
            jobs = jobs_of(self._sites, kind)
            for party, job in jobs.items():
                self._sites[party].worker.send(job)
            self.sent[jobs[PARTIES[0]]["execution_id"]] = kind
            until(lambda: self.open() < AHEAD, 120)

    def open(self) -> int:
        """How many are not answered by both."""
        keys = [f"sf:result:{execution_id}" for execution_id in self.sent]
        return len(keys) - min(int(self._sites[party].worker.redis.exists(*keys)) for party in PARTIES)

    def results(self) -> list[list[dict[str, Any]]]:
        """Those of both parties, each a right success."""
        self.thread.join()
        until(lambda: not self.open(), 120)
        found = []
        for execution_id, kind in self.sent.items():
            results = [
                json.loads(self._sites[party].worker.redis.get(f"sf:result:{execution_id}")) for party in PARTIES
            ]
            assert [result["status"] for result in results] == ["success"] * 2, results
            assert list(wrong(self._sites, kind, execution_id, results)) == []
            found.append(results)
        return found

    def retries(self, *, counted: bool) -> list[str]:
        """Sentences of the retries of both parties that used up an attempt, or of those that did not."""
        said = []
        for party in PARTIES:
            for _, fields in self._sites[party].worker.redis.xrange("sf:results"):
                event = json.loads(fields[b"payload"])
                is_retry = event.get("stage") == "task_retrying" and event["execution_id"] in self.sent
                if is_retry and bool(event["retry_count"]) == counted:
                    said.append(f"{party}: {event['error']}")
        return said


@contextmanager
def under_load(sites: Sites) -> Iterator[Load]:
    """Load as long as the block."""
    over = Event()
    load = Load(sites, lambda sent: over.is_set())
    try:
        until(lambda: len(load.sent) > AHEAD)
        yield load
    finally:
        over.set()
        load.thread.join()


def test_an_execution_may_land_on_any_worker_of_each_party(sites: Sites) -> None:
    load = Load(sites, lambda sent: sent == 200)
    results = load.results()
    met = Counter(tuple(result["task_metadata"]["worker_id"] for result in both) for both in results)
    print(met)
    assert len(met) == 4
    assert {result["task_metadata"]["attempt"] for both in results for result in both} == {1}


def test_a_gateway_that_is_killed_costs_no_attempt_and_no_job(sites: Sites) -> None:
    alice = sites["alice"]
    with under_load(sites) as load:
        for _ in range(5):
            sent = len(load.sent)
            assert alice.gateway is not None
            alice.gateway.kill()
            alice.gateway.wait()
            alice.start_gateway()
            until(lambda sent=sent: len(load.sent) > sent + 20, 60)  # type: ignore[misc]
    results = load.results()
    used, free = load.retries(counted=True), load.retries(counted=False)
    print(f"{len(results)} jobs, 5 kills: {len(used)} attempts used up, {len(free)} retries that used up none")
    assert used == [], Counter(used)


def test_replacing_workers_and_gateways_one_after_the_other_costs_no_attempt(sites: Sites) -> None:
    alice = sites["alice"]
    with under_load(sites) as load:
        for worker in [alice.worker, *alice.others]:
            _replace(worker)
        for _ in range(3):
            sent = len(load.sent)
            first = alice.gateway
            assert first is not None
            first.send_signal(signal.SIGTERM)
            until(lambda: not (alice.data / "gateway" / "control.sock").exists())
            alice.start_gateway()
            until(lambda sent=sent: len(load.sent) > sent + 20, 60)  # type: ignore[misc]
            first.wait(25)
    results = load.results()
    free = load.retries(counted=False)
    print(f"{len(results)} jobs: {len(free)} retries that used up no attempt: {Counter(free)}")
    assert load.retries(counted=True) == []


def _replace(worker: RunningWorker) -> None:
    assert worker.stop() == 0
    worker.start()
