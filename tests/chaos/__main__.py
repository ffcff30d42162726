"""Several workers on one Redis, thousands of jobs, and everything killed, paused and restarted: `make chaos`.

`make chaos ARGS="--seconds 600 --seed 7"`. Faults come at random for that long; then everything is given time to end,
workers stop, and what must hold is checked from outside. Exit code 1 where anything is violated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from sfworker.cli.console import console, table
from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.chaos import jobs
from tests.chaos.verdict import Heard, left_behind, violations
from tests.running_worker import RunningWorker

LEASE_SECONDS = 3.0
SETTLE_SECONDS = 240.0
GROWN_UP = 15.0
"""Seconds after which a daemon has done all kinds of things once."""
MAX_GROWTH = 30.0


@dataclass
class Report:
    """What a run did and found."""

    seed: int
    seconds: float
    jobs: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the kill -9 of a worker to the RUNNING event of each job that it had, on another worker."""
    growth: list[float] = field(default_factory=list)
    """Megabytes by which the memory of each worker's daemon grew after its first seconds."""
    violations: list[str] = field(default_factory=list)


class Chaos:
    """One run."""

    def __init__(self, directory: Path, seconds: float, seed: int, workers: int, jobs_per_second: float) -> None:
        self.report = Report(seed, seconds)
        self._directory = directory
        self._chance = random.Random(seed)
        self._count = workers
        self._pause = 1 / jobs_per_second
        self._data = directory / "data"
        self._data.mkdir()
        self._kinds = jobs.kinds(self._data, LEASE_SECONDS)
        self._sent: dict[str, jobs.Kind] = {}
        self._cancelled: set[str] = set()
        self._workers: list[RunningWorker] = []
        self._killed_at: dict[str, float] = {}
        """By worker id, in Unix seconds."""
        self._waking: list[tuple[float, int]] = []
        self._memory: dict[int, tuple[float, float]] = {}
        """Of each daemon: when it was seen first, and its megabytes when it was grown up."""
        self._numbers = 0

    def run(self) -> Report:
        """Raises AssertionError where not even the end is reached."""
        with ExitStack() as stack:
            self._redis = stack.enter_context(EmbeddedRedis("--appendfsync", "everysec"))
            self._client: Any = stack.enter_context(Redis.from_url(self._redis.url))
            for _ in range(self._count):
                self._start_worker()
            try:
                self._make_trouble()
                self._settle()
            finally:
                for worker in self._workers:
                    self._wake_all()
                    worker.stop()
            self._check()
        return self.report

    # --- trouble

    def _make_trouble(self) -> None:
        ends = time.monotonic() + self.report.seconds
        next_fault = time.monotonic() + 3
        while time.monotonic() < ends:
            self._send()
            if time.monotonic() > next_fault:
                fault = self._chance.choices(
                    [
                        self._kill_daemon,
                        self._kill_template,
                        self._kill_party,
                        self._pause_daemon,
                        self._restart_redis,
                        self._kill_clients,
                        self._drain,
                    ],
                    [2, 2, 6, 1, 1, 2, 1],
                )[0]
                fault()
                next_fault = time.monotonic() + self._chance.uniform(1, 6)
            self._wake_due()
            self._weigh()
            time.sleep(self._chance.uniform(0, 2 * self._pause))

    def _send(self) -> None:
        kind = jobs.choose(self._chance, self._kinds)
        number = len(self._sent)
        envelope = jobs.envelope(kind, number, self._data)
        stream = self._chance.choice(["sf:jobs", "sf:jobs", "sf:jobs:high", "sf:jobs:low"])
        times = 2 if self._chance.random() < 0.03 else 1
        self._sent[envelope["execution_id"]] = kind
        self.report.jobs[kind.name] += 1
        for _ in range(times):
            self._patiently(lambda: self._client.xadd(stream, {"envelope": json.dumps(envelope)}))
        self.report.faults["sent twice"] += times - 1
        if self._chance.random() < 0.03:
            chosen = self._chance.choice([*self._sent][-20:])  # one that may still wait or run
            self._cancelled.add(chosen)
            self.report.faults["cancelled"] += 1
            self._patiently(lambda: self._client.set(f"sf:cancel:{chosen}", "1", ex=600))
            self._patiently(lambda: self._client.publish("sf:control", chosen))

    def _patiently(self, command: Callable[[], Any]) -> Any:
        """As a web side does, which sends again after a lost connection."""
        while True:
            try:
                return command()
            except (RedisError, OSError):
                time.sleep(0.05)

    def _start_worker(self) -> None:
        self._numbers += 1
        directory = self._directory / f"worker-{self._numbers}"
        directory.mkdir()
        worker = RunningWorker(
            self._redis.url,
            directory,
            data_roots=str(self._data),
            worker_hostname=f"w{self._numbers}",
            lease_seconds=str(LEASE_SECONDS),
            concurrency="2",
            drain_timeout="3",
            cancel_grace_seconds="0.5",
            results_maxlen="10000000",
            max_running_of_types="hello=2,act_alone=1,psi=1",  # so that places of what was killed are free again
        )
        worker.start()
        self._workers.append(worker)

    def _replace(self, worker: RunningWorker) -> None:
        self._workers.remove(worker)
        self._start_worker()

    def _any_worker(self) -> RunningWorker:
        return self._chance.choice(self._workers)

    def _kill_daemon(self) -> None:
        self.report.faults["kill -9 daemon"] += 1
        worker = self._any_worker()
        self._killed_at[f"{worker.name}-{worker.process.pid}"] = time.time()
        worker.kill()
        self._replace(worker)

    def _kill_template(self) -> None:
        self.report.faults["kill -9 template"] += 1
        worker = self._any_worker()
        _kill_one(self._chance.choice([worker.children(), {worker.template()}]))  # of the nursery or its own

    def _kill_party(self) -> None:
        self.report.faults["kill -9 party process"] += 1
        parties = [pid for worker in self._workers for pid in worker.processes() - worker.children()]
        _kill_one(set(self._chance.sample(parties, 1)) if parties else set())

    def _pause_daemon(self) -> None:
        self.report.faults["SIGSTOP past the lease"] += 1
        pid = self._any_worker().process.pid
        os.kill(pid, signal.SIGSTOP)
        self._waking.append((time.monotonic() + 2 * LEASE_SECONDS, pid))

    def _restart_redis(self) -> None:
        self.report.faults["kill -9 Redis"] += 1
        self._redis.stop(0.0)
        time.sleep(self._chance.uniform(0, LEASE_SECONDS / 2))
        self._redis.start()

    def _kill_clients(self) -> None:
        self.report.faults["CLIENT KILL"] += 1
        for kind in ("normal", "pubsub"):
            self._patiently(lambda kind=kind: self._client.client_kill_filter(_type=kind, skipme=True))  # type: ignore[misc]

    def _drain(self) -> None:
        self.report.faults["rolling drain"] += 1
        worker = self._any_worker()
        self._wake_all()
        worker.stop()
        self._replace(worker)

    def _wake_due(self) -> None:
        for at, pid in list(self._waking):
            if time.monotonic() >= at:
                self._waking.remove((at, pid))
                _signal(pid, signal.SIGCONT)

    def _wake_all(self) -> None:
        while self._waking:
            _signal(self._waking.pop()[1], signal.SIGCONT)

    def _weigh(self) -> None:
        for worker in self._workers:
            pid, now = worker.process.pid, time.monotonic()
            since, at_first = self._memory.setdefault(pid, (now, 0.0))
            if now - since > GROWN_UP:
                megabytes = _resident(pid)
                self._memory[pid] = (since, at_first or megabytes)
                self.report.growth.append(megabytes - (at_first or megabytes))

    # --- the end

    def _settle(self) -> None:
        """Wait until every job is answered, or for as long as that may take at most."""
        self._wake_all()
        give_up = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < give_up:
            answered = self._patiently(lambda: self._client.exists(*(f"sf:result:{id_}" for id_ in self._sent)))
            if answered == len(self._sent):
                return
            time.sleep(0.5)

    def _check(self) -> None:
        heard = Heard(self._client)
        for execution_id in self._sent:
            for result in heard.results[execution_id]:
                self.report.answers[result["status"]] += 1
        self._measure_recoveries(heard)
        self.report.violations = [
            *violations(self._client, self._sent, self._cancelled),
            *(f"a daemon grew by {each:.0f} MB" for each in [max(self.report.growth, default=0)] if each > MAX_GROWTH),
            *left_behind(self._data, [*self._directory.glob("worker-*-run")], str(self._directory)),
        ]

    def _measure_recoveries(self, heard: Heard) -> None:
        for events in heard.events.values():
            starts = [event for event in events if event["stage"] == "task_started"]
            for before, after in pairwise(starts):
                killed = next((at for id_, at in self._killed_at.items() if before["worker_id"].startswith(id_)), 0.0)
                if _unix(before["timestamp"]) < killed < _unix(after["timestamp"]):
                    self.report.recoveries.append(_unix(after["timestamp"]) - killed)


def _unix(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _kill_one(pids: set[int]) -> None:
    for pid in sorted(pids)[:1]:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def show(report: Report) -> None:
    """As tables."""
    out = console()
    for title, counts in (("jobs", report.jobs), ("answers", report.answers), ("faults", report.faults)):
        listed = table(title, "number >")
        for name, number in sorted(counts.items()):
            listed.add_row(name, str(number))
        listed.add_row("all", str(counts.total()))
        out.print(listed)
    times = sorted(report.recoveries)
    if times:
        p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
        out.print(
            f"{len(times)} jobs went on elsewhere after the kill -9 of their worker (lease {LEASE_SECONDS:.0f} s): "
            f"p50 {statistics.median(times):.1f} s, p99 {p99:.1f} s, longest {times[-1]:.1f} s"
        )
    if report.growth:
        out.print(
            f"memory of a daemon grew by {max(report.growth):.1f} MB at most, from {GROWN_UP:.0f} s after its start"
        )
    for violation in report.violations:
        out.print(f"VIOLATED: {violation}")
    out.print(f"seed {report.seed}, {report.seconds:.0f} s: {len(report.violations)} violations")


def run(seconds: float, seed: int, workers: int = 2, jobs_per_second: float = 10.0) -> Report:
    with tempfile.TemporaryDirectory(prefix="sfworker-chaos-") as directory:
        return Chaos(Path(directory), seconds, seed, workers, jobs_per_second).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults come (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults (default: random)")
    parser.add_argument("--workers", type=int, default=2, help="at a time (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="jobs per second (default: %(default)s)")
    arguments = parser.parse_args()
    console(stderr=True).print(f"seed {arguments.seed}")
    report = run(arguments.seconds, arguments.seed, arguments.workers, arguments.rate)
    show(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
