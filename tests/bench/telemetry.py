"""What traces and metrics cost the daemon by job, which is to stay below a millisecond of processor time.

It is the daemon's part of a job alone, as what a whole job takes differs by more than that from run to run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import pytest

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.telemetry import EndedAttempt, Telemetry
from sfworker.wire.frames import MOST_SPANS
from tests.bench.measuring import REPETITIONS, Figures
from tests.test_telemetry import ATTRIBUTES, TRACEPARENT

JOBS = 15  # whose spans fit into the queue to the collector
_COLLECTOR = """
from tests.test_telemetry import Collector
collector = Collector()
print(collector.url, flush=True)
collector.serve_forever()
"""


def telemetry(figures: Figures) -> None:
    """Processor time of recording a job and sending it to a collector, which is another process."""
    command = bound_to_this_process([sys.executable, "-c", _COLLECTOR])
    collector = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert collector.stdout is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.stdout.readline().decode().strip())
        usual, longest = (seconds_by_job(steps) for steps in (3, MOST_SPANS))
    stop(collector, 5.0)
    figures.add("traces and metrics, a job of two parties", f"{1000 * usual:.2f} ms", "< 1 ms", usual < 0.001)
    figures.add(f"  one whose parties tell {MOST_SPANS} spans each", f"{1000 * longest:.2f} ms")


def seconds_by_job(steps: int) -> float:
    """Return the processor time by job whose parties tell as many steps."""
    taken = []
    for _ in range(REPETITIONS):
        recording = Telemetry.from_environ(os.environ, "bench-1", "0", "secretflow")
        began = time.process_time()
        for _ in range(JOBS):
            _job(recording, steps)
        recording.close()  # which sends all
        taken.append((time.process_time() - began) / JOBS)
    return statistics.median(taken)


def _job(recording: Telemetry, steps: int) -> None:
    """Record what `TaskExecutor` does of a job."""
    now = time.time()
    trace = recording.execution(TRACEPARENT, now, ATTRIBUTES)
    for name in ("queue", "cluster", "devices"):
        trace.span(name, now, now)
    task = trace.span("task", now, now)
    for party in ("alice", "bob"):
        for _ in range(steps):
            trace.span("run", now, now, task, party=party)
    trace.span("publish", now, now)
    seconds = dict.fromkeys(("queue", "cluster", "devices", "execution", "total"), 0.5)
    recording.finished(EndedAttempt("psi", "success", "", "sf:jobs", "", seconds, 1 << 28))
    trace.end("success")
