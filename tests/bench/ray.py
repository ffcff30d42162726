"""What a Ray cluster costs: one job beside a local mesh and SecretFlow's own way, and many jobs over more nodes."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.gateway import SPU, in_turns, until_success
from tests.bench.measuring import REPETITIONS, Figures, Listener, bare, worker, write_ids
from tests.bench.ray_environment import ray_python
from tests.ray.lab import Cluster, Node, in_session
from tests.ray.nodes import TEMPLATE, OnNodes, children
from tests.running_worker import FLOORS, PARTIES, ROOT, RunningWorker, envelope, until

ROWS = 10_000
MOST_MORE = 0.150
TIMES_FASTER = 20
SLOTS = 4
NODES = (1, 2, 4)
WAITS = (2.0, 30.0)
"""Seconds that jobs wait: so short that this machine's processors are the bound, and so long that the slots are."""
WAVES = 2
GCS = b"gcs_server"
_CLOCK = os.sysconf("SC_CLK_TCK")


def ray(figures: Figures) -> None:
    """Time of one job, then jobs in a second over one, two and four nodes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        one_job(figures, Path(directory))
        for seconds in WAITS:
            for nodes in NODES:
                many_jobs(figures, Path(directory), nodes, seconds)


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


def many_jobs(figures: Figures, directory: Path, count: int, seconds: float) -> None:
    """Jobs that sleep, of parties two on each node, which has room for SLOTS of them at a time.

    Where the most nodes are as busy as they can be, whose processor time it is.
    """
    pairs = [[f"a{number}", f"b{number}"] for number in range(count)]
    nodes = [
        Node(f"node-{number}", dict.fromkeys(pair, SLOTS), of_node(directory)) for number, pair in enumerate(pairs)
    ]
    settings = {"data_roots": str(directory), "concurrency": str(count * SLOTS)}
    with Cluster(*nodes) as cluster, worker(ray_addresses=cluster.address, **settings) as running:
        sleeps = {"task_type": "act", "action": "hang", "seconds": seconds}
        for pair in pairs:  # so that their hosts are there
            running.run(of(pair, cluster, sleeps | {"seconds": 0.0}), 180.0)
        jobs = [of(pair, cluster, sleeps) for _ in range(WAVES * SLOTS) for pair in pairs]
        before, began = processor_time(running, cluster, directory), time.perf_counter()
        for job in jobs:
            running.send(job)
        until(lambda: running.redis.xlen("sf:jobs") == 0, 120 + 8 * WAVES * seconds)
        per_second = len(jobs) / (time.perf_counter() - began)
        used = processor_time(running, cluster, directory)
        require_success(running, jobs)
    most = count * SLOTS / seconds
    name = f"jobs of {seconds:g} s in a second, {count} nodes with {SLOTS} at a time"
    figures.add(name, f"{per_second:.2f} ({per_second / most:.0%} of what the slots allow)")
    if (count, seconds) == (NODES[-1], WAITS[0]):
        for who, spent in used.items():
            each = 1000 * (spent - before[who]) / len(jobs)
            figures.add(
                f"  processor time of a job: {who}", f"{each:.1f} ms ({1000 / max(each, 0.1):.0f} jobs/s fill one)"
            )


def processor_time(running: RunningWorker, cluster: Cluster, directory: Path) -> dict[str, float]:
    """Seconds of processor that each kind of process has used, party processes with their template."""
    cpu = running.redis.info("cpu")
    ray = {pid for node in cluster.nodes.values() for pid in in_session(node.session)}
    bridges = [pid for pid in running.children() if b"sfworker.ray.bridge" in command(pid)]
    serving = OnNodes(running, cluster, directory).serving(b"sfworker.ray.node")
    return {
        "parties' processes": sum(map(used, children(*serving, program=TEMPLATE))),
        "their nodes' processes": sum(used(pid, with_children=False) for pid in serving),
        "their gateways": sum(map(used, children(*serving, program=b"gateway"))),
        "Ray's workers, hosts among them": sum(used(pid) for pid in ray if command(pid).startswith(b"ray::")),
        "Ray's own, on all nodes": sum(used(pid) for pid in ray if not command(pid).startswith((b"ray::", GCS))),
        "Ray's head (GCS)": sum(used(pid) for pid in ray if GCS in command(pid)),
        "the bridge": sum(map(used, bridges)),
        "the worker": used(running.process.pid, with_children=False),
        "Redis": float(cpu["used_cpu_user"] + cpu["used_cpu_sys"]),
    }


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def used(pid: int, *, with_children: bool = True) -> float:
    """Seconds of processor that a process and its ended children have used."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return sum(map(int, times if with_children else times[:2])) / _CLOCK


def of(pair: list[str], cluster: Cluster, task: dict[str, Any]) -> dict[str, Any]:
    return envelope(task, sf_init_config={"parties": pair, "address": cluster.address})


def require_success(running: RunningWorker, jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        [result] = running.said(job["execution_id"], "result")
        if result["status"] != "success":
            raise SystemExit(f"a job ended as {result}")
