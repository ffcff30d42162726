"""What kept sessions save: jobs in fresh sessions and in a kept one, in turns, on one host, across sites and on Ray."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.gateway import SPU, task, until_success
from tests.bench.measuring import PAUSE, Figures, Listener, worker
from tests.bench.ray import of_node
from tests.gateway.sites import Sites
from tests.ray.lab import Cluster, Node
from tests.running_worker import PARTIES, envelope

REPETITIONS = 9
JOBS = ("psi 10,000", "ss_lr 10,000")
HOW = {"fresh": "a session each", "reuse": "a kept session"}
Run = Callable[[str], tuple[float, float]]
"""Runs a job with this `options.session`, and returns the seconds from its append to its answer, and those that it
computed."""


def sessions(figures: Figures) -> None:
    """Figures of each job, on one host, across two sites and on a Ray cluster of two nodes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        data, near = Path(directory) / "data", Path(directory) / "sites"
        data.mkdir()
        near.mkdir()
        tasks = {name: task(name, data) for name in JOBS}
        # A slot more, as a kept session gives way to a fresh job where there is one.
        settings: dict[str, Any] = {"session_jobs": "1000", "concurrency": "2", "data_roots": str(data)}
        with worker(**settings) as local:
            for name, task_config in tasks.items():
                measure(figures, f"{name}, on one host", locally(local, task_config))
        with Sites(near, PARTIES, **settings) as sites:
            for name, task_config in tasks.items():
                measure(figures, f"{name}, through two gateways", across(sites, task_config))
        nodes = [Node(f"of-{party}", {party: 2}, of_node(data)) for party in PARTIES]
        with Cluster(*nodes) as cluster, worker(**settings, ray_addresses=cluster.address) as placed:
            for name, task_config in tasks.items():
                measure(figures, f"{name}, on a Ray cluster", locally(placed, task_config, cluster.address))


def measure(figures: Figures, name: str, run: Run) -> None:
    found: dict[str, list[tuple[float, float]]] = {how: [] for how in HOW}
    for _ in range(REPETITIONS + 1):  # the first is not counted
        for how, each in found.items():
            time.sleep(5 * PAUSE)  # so that a session is ready for the next job
            each.append(run(how))
    for how, each in found.items():
        totals, computed = zip(*each[1:], strict=True)
        rest = [total - own for total, own in each[1:]]
        figures.add(f"{name}, {HOW[how]}", spread(totals))
        figures.add("  of which its function", spread(computed))
        figures.add("  and all else", spread(rest))


def spread(seconds: Any) -> str:
    return f"{statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})"


def locally(running: Any, task_config: dict[str, Any], address: str = "local") -> Run:
    heard = Listener(running.redis)

    def run(how: str) -> tuple[float, float]:
        job = envelope(task_config, spu_config=SPU, options={"session": how})
        job["sf_init_config"]["address"] = address
        began = time.perf_counter()
        running.send(job)
        return until_success(heard, job) - began, computed(running, job)

    return run


def across(sites: Sites, task_config: dict[str, Any]) -> Run:
    heard = {party: Listener(sites[party].worker.redis) for party in PARTIES}

    def run(how: str) -> tuple[float, float]:
        sent = sites.jobs(task_config, spu_config=SPU, options={"session": how})
        began = time.perf_counter()
        for party, job in sent.items():
            sites[party].worker.send(job)
        seconds = max(until_success(heard[party], job) for party, job in sent.items()) - began
        return seconds, max(computed(sites[party].worker, job) for party, job in sent.items())

    return run


def computed(running: Any, job: dict[str, Any]) -> float:
    metrics = json.loads(running.redis.get(f"sf:result:{job['execution_id']}"))["performance_metrics"]
    return float(metrics["execution_seconds"])
