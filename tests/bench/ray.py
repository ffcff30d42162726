"""What a Ray cluster costs: one job beside a local mesh and SecretFlow's own way, and many jobs over more nodes."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.gateway import SPU, in_turns, until_success
from tests.bench.measuring import REPETITIONS, Figures, Listener, bare, worker, write_ids
from tests.bench.ray_environment import ray_python
from tests.ray.lab import Cluster, Node
from tests.running_worker import FLOORS, PARTIES, ROOT, RunningWorker, envelope, until

ROWS = 10_000
MOST_MORE = 0.150
TIMES_FASTER = 20
SLOTS = 4
NODES = (1, 2, 4)
SECONDS = 2.0
WAVES = 5


def ray(figures: Figures) -> None:
    """Time of one job, then jobs in a second over one, two and four nodes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        one_job(figures, Path(directory))
        for nodes in NODES:
            many_jobs(figures, Path(directory), nodes)


def of_node(data: Path) -> dict[str, str]:
    """Settings of a node, which are its own."""
    zeros = {f"SFWORKER_{name.upper()}": "0" for name in FLOORS}
    return {"SFWORKER_DATA_ROOTS": str(data), "PYTHONPATH": str(ROOT), **zeros}


def one_job(figures: Figures, directory: Path) -> None:
    """PSI on kept hosts and in a local mesh in turns; then on Ray as SecretFlow 1.13 does it."""
    inputs = write_ids(directory, ROWS)
    nodes = [Node(f"of-{party}", {party: SLOTS}, of_node(directory)) for party in PARTIES]
    with Cluster(*nodes) as cluster, worker(data_roots=str(directory), ray_addresses=cluster.address) as running:
        heard = Listener(running.redis)

        def on(address: str) -> Callable[[], float]:
            def run() -> float:
                began = time.perf_counter()
                job = psi(inputs, directory, address)
                running.send(job)
                ended = until_success(heard, job)
                result = json.loads(running.redis.get(f"sf:result:{job['execution_id']}"))
                if result["result"]["intersection_count"] != ROWS // 2:
                    raise SystemExit(f"psi answered {result}")
                return ended - began

            return run

        median = in_turns({"mesh": on("local"), "hosts": on(cluster.address)}, REPETITIONS)
    python = ray_python(directory / "ray")
    with Cluster(*(Node(f"of-{party}", {party: 16}, cpus=16) for party in PARTIES), python=python) as theirs:
        on_ray = statistics.median(bare(theirs.address, inputs, python))
    more, times = median["hosts"] - median["mesh"], on_ray / median["hosts"]
    figures.add(f"PSI {ROWS:,} x {ROWS:,}, local mesh", f"{median['mesh']:.2f} s")
    figures.add("  parties on kept hosts of a Ray cluster", f"{median['hosts']:.2f} s")
    figures.add("  more than the mesh", f"{more * 1000:.0f} ms", f"<= {MOST_MORE * 1000:.0f} ms", more <= MOST_MORE)
    figures.add("  SecretFlow 1.13's sf.init(parties, address=...), kept head", f"{on_ray:.2f} s")
    figures.add("  times faster", f"{times:.0f}", f">= {TIMES_FASTER}", times >= TIMES_FASTER)


def psi(inputs: dict[str, str], directory: Path, address: str) -> dict[str, Any]:
    task = {
        "task_type": "psi",
        "keys": {party: ["id"] for party in inputs},
        "input_paths": inputs,
        "output_paths": {party: str(directory / f"out-{party}.csv") for party in inputs},
        "receiver": "alice",
    }
    return envelope(task, spu_config=SPU, sf_init_config={"parties": PARTIES, "address": address})


def many_jobs(figures: Figures, directory: Path, count: int) -> None:
    """Jobs that sleep, of parties two on each node, which has room for SLOTS of them at a time."""
    pairs = [[f"a{number}", f"b{number}"] for number in range(count)]
    nodes = [
        Node(f"node-{number}", dict.fromkeys(pair, SLOTS), of_node(directory)) for number, pair in enumerate(pairs)
    ]
    settings = {"data_roots": str(directory), "concurrency": str(count * SLOTS)}
    with Cluster(*nodes) as cluster, worker(ray_addresses=cluster.address, **settings) as running:
        sleeps = {"task_type": "act", "action": "hang", "seconds": SECONDS}
        for pair in pairs:  # so that their hosts are there
            running.run(of(pair, cluster, sleeps | {"seconds": 0.0}))
        jobs = [of(pair, cluster, sleeps) for _ in range(WAVES * SLOTS) for pair in pairs]
        began = time.perf_counter()
        for job in jobs:
            running.send(job)
        until(lambda: running.redis.xlen("sf:jobs") == 0, 60 + 4 * WAVES * SECONDS)
        per_second = len(jobs) / (time.perf_counter() - began)
        require_success(running, jobs)
    most = count * SLOTS / SECONDS
    name = f"jobs of {SECONDS:g} s in a second, {count} nodes with {SLOTS} at a time"
    figures.add(name, f"{per_second:.2f} ({per_second / most:.0%} of what the slots allow)")


def of(pair: list[str], cluster: Cluster, task: dict[str, Any]) -> dict[str, Any]:
    return envelope(task, sf_init_config={"parties": pair, "address": cluster.address})


def require_success(running: RunningWorker, jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        [result] = running.said(job["execution_id"], "result")
        if result["status"] != "success":
            raise SystemExit(f"a job ended as {result}")
