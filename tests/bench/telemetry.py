"""What traces and metrics cost the daemon, which has to stay below a millisecond of processor time a job."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from tests.bench.measuring import Figures, cpu, worker
from tests.running_worker import envelope, until
from tests.test_telemetry import Collector

JOBS = 200


def telemetry(figures: Figures) -> None:
    """Processor time of the daemon by job, without telemetry and with all of it sent to a collector."""
    for task_type, what in (("act_alone", "one process"), ("act", "two parties that join")):
        off, on = seconds_by_job(task_type, collected=False), seconds_by_job(task_type, collected=True)
        cost = f"{1000 * (on - off):.2f} ms more than {1000 * off:.2f}"
        figures.add(f"traces and metrics, a job of {what}", cost, "< 1 ms", on - off < 0.001)


def seconds_by_job(task_type: str, *, collected: bool) -> float:
    """Return the daemon's processor time by job."""
    with ExitStack() as stack:
        if collected:
            collector = stack.enter_context(Collector())
            threading.Thread(target=collector.serve_forever, daemon=True).start()
            stack.callback(collector.shutdown)
            stack.enter_context(pytest.MonkeyPatch.context()).setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        running = stack.enter_context(worker(concurrency="2"))
        for count in (JOBS // 4, JOBS):  # threads, pools and caches are made at first
            before = cpu(running.process.pid)
            for _ in range(count):
                running.send(envelope({"task_type": task_type}))
            until(lambda: running.redis.xlen("sf:jobs") == 0, 600)
        return (cpu(running.process.pid) - before) / JOBS
