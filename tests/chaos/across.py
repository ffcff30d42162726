"""Two parties, each with a Redis, workers and a gateway, and everything between them killed, stopped and cut.

`python -m tests.chaos.across --jobs 1000 --seed 7`. Each job goes to both parties under one execution_id. Faults come
at random as long as jobs do; then everything is given time to end, workers stop, and what must hold is checked from
outside. Exit code 1 where anything is violated.

The rest of the two generals, a success at one party of which the other heard too late, is counted and printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from sfworker.cli.console import console, table
from tests.chaos.across_jobs import jobs_of, kinds, write_inputs, wrong
from tests.chaos.jobs import Kind
from tests.chaos.verdict import Heard, left_behind, violations
from tests.gateway.sites import Site, Sites
from tests.network import Network
from tests.running_worker import PARTIES, RunningWorker, until

LEASE_SECONDS = 3.0
SILENCE_SECONDS = 2.0
SETTLE_SECONDS = 300.0
AHEAD = 12
"""Jobs that are sent and not answered by both, at most."""
BY_FAULTS = {
    *("PeerFailedError", "PeerAbsentError", "PartyProcessLostError", "GatewayLostError", "CrashLoopError"),
    *("ClusterInitializationError", "DeviceInitializationError", "TaskExecutionError"),
}
"""Ends that a job whose attempts were all hit may come to, at both parties."""


@dataclass
class Report:
    """What a run did and found."""

    seed: int
    seconds: float = 0.0
    jobs: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    """Of both parties, as `alice / bob`."""
    faults: Counter[str] = field(default_factory=Counter)
    attempts: list[int] = field(default_factory=list)
    """Of each success at each party."""
    by_faults: list[str] = field(default_factory=list)
    """Jobs that would have succeeded, and failed at both parties."""
    rest: list[str] = field(default_factory=list)
    """Jobs that are a success at one party alone."""
    violations: list[str] = field(default_factory=list)


class Side:
    """One party's side of the run."""

    def __init__(self, site: Site, workers: int) -> None:
        self.site = site
        self.workers = [site.worker]
        self._directory = str(site.data)
        for _ in range(workers - 1):
            self.workers.append(site.another_worker())

    @property
    def client(self) -> Any:
        return self.site.worker.redis

    def gateways(self) -> set[int]:
        """Process ids."""
        marks = (b"gateway", f"SFWORKER_GATEWAY_DIR={self._directory}/".encode())
        return {pid for pid, command, environment in _processes() if marks[0] in command and marks[1] in environment}

    def templates(self, worker: RunningWorker) -> set[int]:
        return worker.children() - self.gateways()

    def parties(self) -> set[int]:
        gateways = self.gateways()
        return {pid for worker in self.workers for pid in worker.processes() - worker.children() - gateways}

    def replace(self, worker: RunningWorker) -> None:
        self.workers.remove(worker)
        self.workers.append(self.site.another_worker())

    def answered(self, ids: list[str]) -> set[str]:
        with self.client.pipeline(transaction=False) as pipe:
            for id_ in ids:
                pipe.exists(f"sf:result:{id_}")
            return {id_ for id_, there in zip(ids, pipe.execute(), strict=True) if there}


class Across:
    """One run."""

    def __init__(self, sites: Sites, directory: Path, jobs: int, seed: int, workers: int, *, is_short: bool) -> None:
        self.report = Report(seed)
        self._sites = sites
        self._directory = directory
        self._jobs = jobs
        self._pauses = (0.5, 1.5) if is_short else (1.0, 6.0)
        self._is_short = is_short
        self._chance = random.Random(seed)
        self._kinds = [kind for kind in kinds() if not is_short or kind.name not in {"hangs", "longer than the lease"}]
        self._sent: dict[str, Kind] = {}
        self._open: list[str] = []
        self._cancelled: set[str] = set()
        self._due: list[tuple[float, Callable[[], None]]] = []
        """What ends faults that last, and when."""
        self._sides = [Side(sites[party], workers) for party in PARTIES]
        write_inputs(sites)

    def run(self) -> None:
        """Raises AssertionError where not even the end is reached."""
        began = time.monotonic()
        self._make_trouble()
        self._settle()
        self.report.seconds = time.monotonic() - began

    # --- trouble

    def _make_trouble(self) -> None:
        faults: dict[Callable[[Side], None], float] = {
            self._kill_party: 6,
            self._kill_gateway: 2,
            self._stop_gateway: 2,
            self._restart_redis: 1,
            self._kill_clients: 2,
            self._cut_link: 4,
            self._stall_link: 2,
        }
        if not self._is_short:
            faults |= {self._kill_daemon: 2, self._kill_template: 2, self._replace_worker: 1}
            faults |= {self._pause_daemon: 1, self._pause_gateway: 1}
        next_fault = time.monotonic() + self._pauses[0]
        while len(self._sent) < self._jobs:
            if len(self._open) < AHEAD:
                self._send()
            else:
                self._look()
            if time.monotonic() > next_fault:
                [fault] = self._chance.choices([*faults], [*faults.values()])
                fault(self._chance.choice(self._sides))
                next_fault = time.monotonic() + self._chance.uniform(*self._pauses)
            self._end_due()
            time.sleep(self._chance.uniform(0.0, 0.2))

    def _send(self) -> None:
        [kind] = self._chance.choices(self._kinds, [kind.weight for kind in self._kinds])
        jobs = jobs_of(self._sites, kind)
        [execution_id] = {job["execution_id"] for job in jobs.values()}
        self._sent[execution_id] = kind
        self._open.append(execution_id)
        self.report.jobs[kind.name] += 1
        for side in self._chance.sample(self._sides, 2):
            job = {"envelope": json.dumps(jobs[side.site.party])}
            for _ in range(2 if self._chance.random() < 0.03 else 1):
                _patiently(lambda side=side, job=job: side.client.xadd("sf:jobs", job))  # type: ignore[misc]
            if self._chance.random() < 0.05:
                time.sleep(self._chance.uniform(0.0, 1.0))
        if self._chance.random() < 0.03:
            chosen, side = self._chance.choice(self._open), self._chance.choice(self._sides)
            self._cancelled.add(chosen)
            self.report.faults["cancelled"] += 1
            _patiently(lambda: side.client.set(f"sf:cancel:{chosen}", "1", ex=600))
            _patiently(lambda: side.client.publish("sf:control", chosen))

    def _look(self) -> None:
        with suppress(RedisError, OSError):
            self._open = [*set.union(*(set(self._open) - side.answered(self._open) for side in self._sides))]
            self._open.sort(key=[*self._sent].index)

    def _kill_daemon(self, side: Side) -> None:
        self.report.faults["kill -9 daemon"] += 1
        worker = self._chance.choice(side.workers)
        worker.kill()
        side.replace(worker)

    def _kill_template(self, side: Side) -> None:
        self.report.faults["kill -9 template"] += 1
        _signal(side.templates(self._chance.choice(side.workers)), signal.SIGKILL)

    def _kill_party(self, side: Side) -> None:
        self.report.faults["kill -9 party process"] += 1
        parties = sorted(side.parties())
        _signal({self._chance.choice(parties)} if parties else set(), signal.SIGKILL)

    def _kill_gateway(self, side: Side) -> None:
        self.report.faults["kill -9 gateway"] += 1
        _signal(side.gateways(), signal.SIGKILL)

    def _stop_gateway(self, side: Side) -> None:
        self.report.faults["SIGTERM to the gateway"] += 1
        _signal(side.gateways(), signal.SIGTERM)

    def _pause_daemon(self, side: Side) -> None:
        self.report.faults["SIGSTOP of a daemon past the lease"] += 1
        self._pause({self._chance.choice(side.workers).process.pid}, 2 * LEASE_SECONDS)

    def _pause_gateway(self, side: Side) -> None:
        self.report.faults["SIGSTOP of the gateway past the silence"] += 1
        self._pause(side.gateways(), 2 * SILENCE_SECONDS)

    def _pause(self, pids: set[int], seconds: float) -> None:
        _signal(pids, signal.SIGSTOP)
        self._due.append((time.monotonic() + seconds, lambda: _signal(pids, signal.SIGCONT)))

    def _replace_worker(self, side: Side) -> None:
        self.report.faults["a worker replaced"] += 1
        worker = self._chance.choice(side.workers)
        _signal({worker.process.pid}, signal.SIGCONT)
        worker.stop()
        side.replace(worker)

    def _restart_redis(self, side: Side) -> None:
        self.report.faults["kill -9 Redis"] += 1
        side.site.redis.stop(0.0)
        time.sleep(self._chance.uniform(0, LEASE_SECONDS / 2))
        side.site.redis.start()

    def _kill_clients(self, side: Side) -> None:
        self.report.faults["CLIENT KILL"] += 1
        for kind in ("normal", "pubsub"):
            _patiently(lambda kind=kind: side.client.client_kill_filter(_type=kind, skipme=True))  # type: ignore[misc]

    def _cut_link(self, side: Side) -> None:
        self.report.faults["link reset"] += 1
        self._sites.networks[side.site.party].cut()

    def _stall_link(self, side: Side) -> None:
        self.report.faults["link stalled"] += 1
        network = self._sites.networks[side.site.party]
        network.die()
        self._due.append((time.monotonic() + self._chance.uniform(0.2, 2 * SILENCE_SECONDS), network.revive))

    def _end_due(self, *, all_: bool = False) -> None:
        for at, end in list(self._due):
            if all_ or time.monotonic() >= at:
                self._due.remove((at, end))
                end()

    # --- the end

    def _settle(self) -> None:
        """Wait until every job is answered, or for as long as that may take at most."""
        self._end_due(all_=True)
        give_up = time.monotonic() + SETTLE_SECONDS
        while self._open and time.monotonic() < give_up:
            self._look()
            time.sleep(0.2)

    def check(self) -> None:
        """Look from outside at what is left, the workers stopped."""
        for side in self._sides:
            for worker in side.workers:
                worker.stop()
            _signal(side.gateways(), signal.SIGTERM)
        until(lambda: not any(side.gateways() for side in self._sides))
        heard = [Heard(side.client) for side in self._sides]
        for side in self._sides:
            for text in violations(side.client, self._sent, self._cancelled):
                self.report.violations.append(f"{side.site.party}: {text}")
            for path in (side.site.data / "gateway").iterdir():
                if path.name != "lock":
                    self.report.violations.append(f"{side.site.party}: left by the gateway: {path.name}")
            for key in side.client.scan_iter("sf:worker:*"):
                self.report.violations.append(f"{side.site.party}: a worker is still listed: {key}")
            run_dirs = [*self._directory.glob(f"{side.site.party}*-run")]
            self.report.violations += left_behind(side.site.data, run_dirs, str(side.site.data))
        for execution_id, kind in self._sent.items():
            results = [each.results[execution_id] for each in heard]
            if all(len(each) == 1 for each in results):
                self.report.violations += self._compare(execution_id, kind, [each[0] for each in results])

    def _compare(self, execution_id: str, kind: Kind, results: list[dict[str, Any]]) -> Iterator[str]:
        states = [result["status"] for result in results]
        self.report.answers[" / ".join(states)] += 1
        told = "; ".join(
            f"{party} {result['status']} {result.get('error_type', '')}: {result.get('error', '')}"
            for party, result in zip(PARTIES, results, strict=True)
        )
        for party, result in zip(PARTIES, results, strict=True):
            if result["status"] != "success" and (self._sites[party].data / f"{execution_id}.csv").exists():
                yield f"{execution_id} ({kind.name}) left an output at {party}, where it failed: {told}"
        won = [result for result in results if result["status"] == "success"]
        self.report.attempts += [result["task_metadata"]["attempt"] for result in won]
        if len(won) == 2:
            yield from wrong(self._sites, kind, execution_id, results)
        elif won:
            self.report.rest.append(f"{execution_id} ({kind.name}): {told}")
        elif "success" in kind.answers and execution_id not in self._cancelled:
            self.report.by_faults.append(f"{execution_id} ({kind.name}): {told}")
            if not {result["error_type"] for result in results} <= BY_FAULTS:
                yield f"{execution_id} ({kind.name}) failed for another reason: {told}"


def _patiently(command: Callable[[], Any]) -> Any:
    """As a web side does, which sends again after a lost connection."""
    while True:
        try:
            return command()
        except (RedisError, OSError):
            time.sleep(0.05)


def _processes() -> Iterator[tuple[int, bytes, bytes]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                if b"sfworker" in command:
                    yield int(name), command, Path(f"/proc/{name}/environ").read_bytes()


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def show(report: Report) -> None:
    """As tables."""
    out = console()
    columns = (("jobs", report.jobs), ("answers of alice / bob", report.answers), ("faults", report.faults))
    for title, counts in columns:
        listed = table(title, "number >")
        for name, number in sorted(counts.items()):
            listed.add_row(name, str(number))
        listed.add_row("all", str(counts.total()))
        out.print(listed)
    attempts = Counter(report.attempts)
    out.print("attempts of successes: " + ", ".join(f"{each}: {attempts[each]}" for each in sorted(attempts)))
    for text in report.by_faults:
        out.print(f"failed at both, by faults: {text}")
    for text in report.rest:
        out.print(f"rest of the two generals: {text}")
    for violation in report.violations:
        out.print(f"VIOLATED: {violation}")
    out.print(
        f"seed {report.seed}, {report.seconds:.0f} s: {report.jobs.total()} jobs, {len(report.by_faults)} failed at "
        f"both by faults, {len(report.rest)} rest, {len(report.violations)} violations"
    )


def run(jobs: int, seed: int, workers: int = 2, *, is_short: bool = False) -> Report:
    """Run it. A short one leaves out the faults after which a worker takes seconds to come back."""
    settings = {
        "lease_seconds": str(LEASE_SECONDS),
        "peer_silence_seconds": str(SILENCE_SECONDS),
        "rendezvous_seconds": "6",
        "max_peer_waits": "8",
        "concurrency": "2",
        "drain_timeout": "3",
        "cancel_grace_seconds": "0.5",
        "results_maxlen": "10000000",
    }
    with tempfile.TemporaryDirectory(prefix="sfworker-across-") as name:
        directory = Path(name)
        with Sites(directory, PARTIES, gateways=False, networks=Network, **settings) as sites:
            across = Across(sites, directory, jobs, seed, workers, is_short=is_short)
            across.run()
            across.check()
    return across.report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.across")
    parser.add_argument("--jobs", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults (default: random)")
    parser.add_argument("--workers", type=int, default=2, help="of each party (default: %(default)s)")
    arguments = parser.parse_args()
    console(stderr=True).print(f"seed {arguments.seed}")
    report = run(arguments.jobs, arguments.seed, arguments.workers)
    show(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
