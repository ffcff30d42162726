"""The figures, as one table: `make bench`, or `make bench ARGS="latency rates"` for a part of them.

Every figure is taken from outside, on Redis, as a web side sees it; medians of five or more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.cli.console import console, table
from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.bench.files import files, files_10m
from tests.bench.gateway import gateway
from tests.bench.history import history
from tests.bench.measuring import PAUSE, REPETITIONS, Figures, Listener, bare, cpu, worker, write_ids
from tests.bench.programs import programs
from tests.bench.queue import queue
from tests.bench.ray import ray
from tests.bench.recovery import recovery
from tests.bench.renewals import renewals
from tests.bench.sessions import sessions
from tests.bench.telemetry import telemetry
from tests.bench.trainings import protocols, trainings
from tests.running_worker import envelope, until

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}}}


def latency(figures: Figures) -> None:
    """From the append to the RUNNING event, and to the first line of a job's function."""
    to_event, to_line = [], []
    with worker() as running:
        listener = Listener(running.redis)
        for _ in range(210):
            time.sleep(PAUSE)
            job = envelope({"task_type": "act_alone"})
            sent, appended = time.time(), time.perf_counter()
            running.send(job)
            to_event.append(listener.until(job["execution_id"], "RUNNING")[0] - appended)
            listener.until(job["execution_id"], "SUCCESS")
            result = json.loads(running.redis.get(f"sf:result:{job['execution_id']}"))
            to_line.append(result["result"]["first_line_at"] - sent)
    for what, seconds, targets in (
        ("XADD to RUNNING event, idle worker", to_event[10:], (1.3, 2.5)),
        ("XADD to the first line of a job in a fresh process", to_line[10:], (8.0, 12.0)),
    ):
        p50, p99 = (1000 * percentile(seconds, share) for share in (0.5, 0.99))
        target = f"p50 < {targets[0]:g} ms, p99 < {targets[1]:g} ms"
        figures.add(what, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", target, p50 < targets[0] and p99 < targets[1])


def rates(figures: Figures) -> None:
    """Jobs per second with a fresh process each, and without any; memory; idle processor use."""
    with worker(concurrency="2") as running:
        rate(running.redis, 200)  # threads, pools and caches are made once
        time.sleep(2)
        daemon, template = running.process.pid, running.template()
        before, idle_from, idle = rss(daemon), time.perf_counter(), cpu(daemon) + cpu(template)
        time.sleep(10)
        share = (cpu(daemon) + cpu(template) - idle) / (time.perf_counter() - idle_from)
        per_second = [rate(running.redis, 200) for _ in range(REPETITIONS)]
        after = rss(daemon)
    median = statistics.median(per_second)
    figures.add("hello jobs per second, a fresh process each", f"{median:.0f}", "> 150", median > 150)
    figures.add("daemon memory", f"{before / 1e6:.1f} MB", "< 80 MB", before < 80e6)
    grown = f"{after / 1e6:.1f} MB ({(after - before) / 1e6:+.1f})"
    figures.add("daemon memory after 1,000 jobs", grown, "no growth", after - before < 2e6)
    figures.add("processor use when idle, daemon and template", f"{share:.2%} of a core", "< 1 %", share < 0.01)
    with EmbeddedRedis() as redis, Redis.from_url(redis.url) as client:
        command = [sys.executable, "-m", "tests.bench.stub_worker", redis.url, "64"]
        stub = subprocess.Popen(bound_to_this_process(command), start_new_session=True, stderr=subprocess.DEVNULL)
        until(lambda: client.exists("sf:jobs"), 20)
        per_second = [rate(client, 3000) for _ in range(REPETITIONS)]
        stop(stub, 5)
    median = statistics.median(per_second)
    figures.add("state changes alone (stub pool), jobs per second", f"{median:.0f}", "> 4,000", median > 4000)


def rate(redis: Any, jobs: int) -> float:
    """How many hello jobs per second are answered, from the first append to the last answer.

    Looked at a few hundred times a second, not by hearing every event: that would take a third of the machine.
    """
    pipeline = redis.pipeline(transaction=False)
    for _ in range(jobs):
        pipeline.xadd("sf:jobs", {"envelope": json.dumps(envelope({"task_type": "hello"}))})
    began = time.perf_counter()
    pipeline.execute()
    until(lambda: redis.xlen("sf:jobs") == 0, 120)
    return jobs / (time.perf_counter() - began)


def psi(figures: Figures) -> None:
    """PSI of 100,000 and of 1,000,000 rows a side, end to end, beside the same without sfworker."""
    with tempfile.TemporaryDirectory() as directory:
        for rows in (100_000, 1_000_000):
            inputs = write_ids(Path(directory), rows)
            ours = statistics.median(psi_seconds(rows, inputs))
            name = f"PSI {rows:,} x {rows:,}, append to result"
            if rows == 100_000:
                figures.add(name, f"{ours:.2f} s", "<= 0.33 s", ours <= 0.33)
            mesh = statistics.median(bare("mesh", inputs, sys.executable))
            if rows == 1_000_000:
                figures.add(name, f"{ours:.2f} s")
            figures.add("  the same in a bare mesh script", f"{mesh:.2f} s")
            if rows == 1_000_000:
                figures.add("  more than the bare script", f"{ours / mesh - 1:+.1%}", "<= 5 %", ours / mesh <= 1.05)


def psi_seconds(rows: int, inputs: dict[str, str]) -> list[float]:
    seconds = []
    root = Path(inputs["alice"]).parent
    with worker(data_roots=str(root)) as running, tempfile.TemporaryDirectory(dir=root) as out:
        listener = Listener(running.redis)
        for _ in range(REPETITIONS + 1):
            time.sleep(PAUSE)
            task = {
                "task_type": "psi",
                "keys": {party: ["id"] for party in inputs},
                "input_paths": inputs,
                "output_paths": {party: f"{out}/{party}.csv" for party in inputs},
                "receiver": "alice",
            }
            job = envelope(task, spu_config=SPU)
            began = time.perf_counter()
            running.send(job)
            ended, event = listener.until(job["execution_id"], "SUCCESS", "FAILURE")
            result = json.loads(running.redis.get(f"sf:result:{job['execution_id']}"))
            if event["status"] != "SUCCESS" or result["result"]["intersection_count"] != rows // 2:
                raise SystemExit(f"psi answered {result}")
            seconds.append(ended - began)
    return seconds[1:]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def rss(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


PARTS: dict[str, Callable[[Figures], None]] = {"latency": latency, "rates": rates, "recovery": recovery, "psi": psi}
ON_REQUEST: dict[str, Callable[[Figures], None]] = {
    "gateway": gateway,
    "programs": programs,
    "trainings": trainings,
    "protocols": protocols,
    "sessions": sessions,
    "ray": ray,
    "queue": queue,
    "renewals": renewals,
    "history": history,
    "telemetry": telemetry,
    "files": files,
    "files-10m": files_10m,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all of these), {', '.join(ON_REQUEST)}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    arguments = parser.parse_args()
    parts = PARTS | ON_REQUEST
    if unknown := set(arguments.parts) - parts.keys():
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(parts)}")
    figures = Figures()
    for name in arguments.parts or PARTS:
        parts[name](figures)
    if arguments.json:
        print(json.dumps([dict(zip(("what", "measured", "target", "met"), row, strict=True)) for row in figures.rows]))
        return 0
    out = table("what", "measured >", "target >", "")
    for what, measured, target, met in figures.rows:
        out.add_row(what, measured, target, {True: "met", False: "MISSED", None: ""}[met])
    console().print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
