"""What gateways cost: jobs across sites beside a local mesh and SecretFlow alone, and bare streams."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bench.measuring import PAUSE, REPETITIONS, Figures, Listener, worker
from tests.gateway.attempts import Attempt, echoed, gateways_alone
from tests.gateway.sites import Site, Sites
from tests.network import Network
from tests.running_worker import PARTIES, envelope

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}}}
DELAY = 0.02
TARGETS = {"psi 100,000": 0.10, "psi 1,000,000": 0.10, "ss_lr 10,000": 0.15, "ss_xgb 2,000": 0.15}
FAR = {"psi 100,000": REPETITIONS, "ss_lr 10,000": 1}
"""Jobs that are measured with delay, too, and how often: they take half a minute then."""
SENT_BYTES = 1 << 30
IDLE, BUSY = 1000, 100
STREAMS_OF_ONE = 50
_CHUNK = bytes(1 << 20)
Run = Callable[[], float]


def gateway(figures: Figures) -> None:
    """Figures of jobs, then of streams."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        data = Path(directory) / "data"
        data.mkdir()
        tasks = {name: task(name, data) for name in TARGETS}
        jobs(figures, Path(directory), data, tasks)
        far_jobs(figures, Path(directory), data, {name: tasks[name] for name in FAR})
        streams(figures, Path(directory))


def jobs(figures: Figures, directory: Path, data: Path, tasks: dict[str, dict[str, Any]]) -> None:
    """The same job in a local mesh, across two sites, and in SecretFlow alone, in turns."""
    near = directory / "near"
    near.mkdir()
    with worker(data_roots=str(data)) as local, Sites(near, PARTIES, data_roots=str(data)) as sites:
        heard = Listener(local.redis)
        for name, task_config in tasks.items():

            def in_mesh(task_config: dict[str, Any] = task_config) -> float:
                job = envelope(task_config, spu_config=SPU)
                began = time.perf_counter()
                local.send(job)
                return until_success(heard, job) - began

            runs = {"mesh": in_mesh, "sites": across(sites, task_config), "bare": bare(name, data)}
            median = in_turns(runs, REPETITIONS)
            more = median["sites"] / median["mesh"] - 1
            target = TARGETS[name]
            figures.add(f"{name}, local mesh", f"{median['mesh']:.2f} s")
            figures.add("  through two gateways", f"{median['sites']:.2f} s")
            figures.add("  more than the mesh", f"{more:+.1%}", f"<= {target:.0%}", more <= target)
            figures.add("  SecretFlow alone, TCP with TLS", f"{median['bare']:.2f} s")


def far_jobs(figures: Figures, directory: Path, data: Path, tasks: dict[str, dict[str, Any]]) -> None:
    """The same with 20 ms in each direction."""
    far = directory / "far"
    far.mkdir()
    with Sites(far, PARTIES, data_roots=str(data), networks=Network) as sites:
        for network in sites.networks.values():
            network.delay = DELAY
        for name, task_config in tasks.items():
            median = in_turns({"sites": across(sites, task_config), "bare": bare(name, data, DELAY)}, FAR[name])
            figures.add(f"{name}, through two gateways, 20 ms each way", f"{median['sites']:.2f} s")
            figures.add(
                "  SecretFlow alone, TCP with TLS",
                f"{median['bare']:.2f} s",
                "gateways no slower",
                median["sites"] <= median["bare"],
            )


def streams(figures: Figures, directory: Path) -> None:
    """Bytes, hellos and memory of two gateways, without workers."""
    bare_gateways = directory / "gateways"
    bare_gateways.mkdir()
    with gateways_alone(bare_gateways, PARTIES) as sites:
        hellos = [hello(sites, number) for number in range(100)]
        p50, p99 = (1000 * float(np.quantile(hellos, share)) for share in (0.5, 0.99))
        figures.add("both parties' Open to the first byte back", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        rates, costs = zip(*(through(sites, number) for number in range(REPETITIONS)), strict=True)
        figures.add(
            "one stream through two gateways, sum of both directions", f"{statistics.median(rates) / 1e6:.0f} MB/s"
        )
        figures.add("  processor time of both for 1 GB", f"{statistics.median(costs):.1f} s")
        before = [rss(site) for site in sites.sites.values()]
        with many(sites, IDLE, "idle"):
            idle = [rss(site) for site in sites.sites.values()]
            with many(sites, BUSY, "busy") as busy_streams, filled(busy_streams):
                busy = [rss(site) for site in sites.sites.values()]
        figures.add("a gateway's memory", f"{max(before) / 1e6:.0f} MB")
        figures.add(f"  with {IDLE:,} idle streams", f"{max(idle) / 1e6:.0f} MB")
        figures.add(f"  with {BUSY} beside that are full, as nobody reads", f"{max(busy) / 1e6:.0f} MB")


def task(name: str, data: Path) -> dict[str, Any]:
    """Write the files of a job below `data`, and return its task."""
    kind, _, rows = name.partition(" ")
    place = data / name.replace(" ", "-").replace(",", "")
    place.mkdir()
    paths = {party: str(place / f"{party}.csv") for party in PARTIES}
    chance = np.random.default_rng(1)
    if kind == "psi":
        count = int(rows.replace(",", ""))
        for number, party in enumerate(PARTIES):
            ids = chance.permutation(np.arange(count)) + number * count // 2
            pd.DataFrame({"id": [f"{each:010d}" for each in ids]}).to_csv(paths[party], index=False)
        outputs = {party: str(place / f"out-{party}.csv") for party in PARTIES}
        keys = {party: ["id"] for party in PARTIES}
        return {"task_type": "psi", "keys": keys, "receiver": "alice", "input_paths": paths, "output_paths": outputs}
    count = int(rows.replace(",", ""))
    x = chance.normal(size=(count, 20))
    y = (x @ np.linspace(-1, 1, 20) + chance.normal(size=count) > 0) * 1
    ours = {"alice": list("abcdefghij"), "bob": list("klmnopqrst")}
    for number, (party, columns) in enumerate(ours.items()):
        frame = pd.DataFrame(x[:, 10 * number : 10 * number + 10], columns=columns).rename_axis("id").reset_index()
        (frame.assign(y=y) if party == "alice" else frame).to_csv(paths[party], index=False)
    model = {party: str(place / f"model-{party}") for party in PARTIES}
    about = {"label": {"party": "alice", "column": "y"}, "features": ours, "input_paths": paths, "model_path": model}
    if kind == "ss_lr":
        return {"task_type": kind, "epochs": 3, "batch_size": 1024, **about}
    return {"task_type": kind, "num_boost_round": 3, "max_depth": 3, "objective": "logistic", **about}


def across(sites: Sites, task_config: dict[str, Any]) -> Run:
    heard = {party: Listener(sites[party].worker.redis) for party in PARTIES}

    def run() -> float:
        sent = sites.jobs(task_config, spu_config=SPU)
        began = time.perf_counter()
        for party, job in sent.items():
            sites[party].worker.send(job)
        return max(until_success(heard[party], job) for party, job in sent.items()) - began

    return run


def bare(name: str, data: Path, delay: float = 0.0) -> Run:
    place = data / name.replace(" ", "-").replace(",", "")

    def run() -> float:
        command = [sys.executable, "-m", "tests.bench.bare_tls", name.partition(" ")[0], "1", str(place), str(delay)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "SECONDS " not in done.stdout or done.returncode:
            raise SystemExit(done.stderr)
        [seconds] = json.loads(done.stdout.rpartition("SECONDS ")[2])
        return float(seconds)

    return run


def in_turns(runs: dict[str, Run], repetitions: int) -> dict[str, float]:
    """Run each in turn, once more than is counted, and return medians."""
    seconds: dict[str, list[float]] = {how: [] for how in runs}
    for _ in range(repetitions + 1):
        for how, run in runs.items():
            time.sleep(PAUSE)
            seconds[how].append(run())
    return {how: statistics.median(each[1:]) for how, each in seconds.items()}


def until_success(heard: Listener, job: dict[str, Any]) -> float:
    ended, event = heard.until(job["execution_id"], "SUCCESS", "FAILURE")
    if event["status"] != "SUCCESS":
        raise SystemExit(f"the job ended as {event}")
    return ended


@contextmanager
def execution(sites: Sites, execution_id: str) -> Iterator[tuple[Attempt, Attempt]]:
    """Both parties' attempts."""
    alice, bob = sites.sites.values()
    with Attempt(alice, execution_id, PARTIES) as one, Attempt(bob, execution_id, PARTIES) as other:
        yield one, other


def hello(sites: Sites, number: int) -> float:
    """Seconds from both parties' Open to the first byte that the other party has sent back."""
    began = time.perf_counter()
    with execution(sites, f"hello-{number}") as (alice, _), alice.stream(1) as stream:
        echoed(stream, b"1")
        return time.perf_counter() - began


def through(sites: Sites, number: int) -> tuple[float, float]:
    """Bytes per second to the other party and back, and seconds of processor time of both gateways for 1 GB."""
    with execution(sites, f"through-{number}") as (alice, _), alice.stream(1) as stream:
        echoed(stream, b"1")
        used, began = cpu(sites), time.perf_counter()
        sender = threading.Thread(target=send, args=(stream, SENT_BYTES))
        sender.start()
        left, buffer = SENT_BYTES, bytearray(1 << 20)
        while left:
            left -= stream.recv_into(buffer)
        sender.join()
        return 2 * SENT_BYTES / (time.perf_counter() - began), (cpu(sites) - used) / (2 * SENT_BYTES / 1e9)


def send(stream: socket.socket, count: int) -> None:
    for _ in range(count // len(_CHUNK)):
        stream.sendall(_CHUNK)


@contextmanager
def many(sites: Sites, count: int, kind: str) -> Iterator[list[tuple[Attempt, socket.socket]]]:
    """Streams through both gateways, over which one byte has gone, and whose party it went to."""
    with ExitStack() as stack:
        opened = []
        for number in range(count // STREAMS_OF_ONE):
            alice, bob = stack.enter_context(execution(sites, f"{kind}-{number}"))
            for _ in range(STREAMS_OF_ONE):
                stream = stack.enter_context(alice.stream(1))
                echoed(stream, b"1")
                opened.append((bob, stream))
        yield opened


@contextmanager
def filled(opened: list[tuple[Attempt, socket.socket]]) -> Iterator[None]:
    """Fill streams whose other party does not read until no more can be written."""
    for party, stream in opened:
        party.reads.clear()
        stream.settimeout(0.2)
        with suppress(TimeoutError):
            send(stream, SENT_BYTES)
    yield
    for party, _ in opened:
        party.reads.set()


def cpu(sites: Sites) -> float:
    """Seconds of processor time of all gateways."""
    ticks = 0
    for site in sites.sites.values():
        fields = Path(f"/proc/{process(site)}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss(site: Site) -> int:
    [line] = [line for line in Path(f"/proc/{process(site)}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1]) * 1024


def process(site: Site) -> int:
    if site.gateway is None:
        raise SystemExit(f"the gateway of {site.party} does not run")
    return site.gateway.pid
