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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfworker.wire.frames import LENGTH_BYTES, encode_frame, frame_length
from sfworker.wire.gateway import Alive, Open, Opened, Terms, decode_from_gateway
from tests.bench.measuring import PAUSE, REPETITIONS, Figures, Listener, worker
from tests.gateway.sites import Site, Sites
from tests.network import Network
from tests.running_worker import PARTIES, envelope

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}}}
DELAY = 0.02
TARGETS = {"psi 100,000": 0.10, "psi 1,000,000": 0.10, "ss_lr": 0.15, "ss_xgb": 0.15}
FAR = {"psi 100,000": REPETITIONS, "ss_lr": 2}
"""Jobs that are measured with delay, too, and how often: they take half a minute then."""
SENT_BYTES = 1 << 30
IDLE, BUSY = 1000, 100
STREAMS_OF_ONE = 100
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
    sites = Sites(bare_gateways, PARTIES, max_strangers="2000", max_strangers_per_address="2000")
    with ExitStack() as stack:
        for site in sites.sites.values():
            stack.callback(site.stop)
            site.start_gateway()
        hellos = [hello(sites, number) for number in range(100)]
        p50, p99 = (1000 * float(np.quantile(hellos, share)) for share in (0.5, 0.99))
        figures.add("both parties' Open to the first byte through", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        rates, costs = zip(*(through(sites, number) for number in range(REPETITIONS)), strict=True)
        figures.add("one stream through two gateways", f"{statistics.median(rates) / 1e6:.0f} MB/s")
        figures.add("  processor time of both for 1 GB", f"{statistics.median(costs):.1f} s")
        before = [rss(site) for site in sites.sites.values()]
        with many(sites, IDLE) as _:
            idle = [rss(site) for site in sites.sites.values()]
            with many(sites, BUSY, "busy") as ends, pumping(ends):
                time.sleep(5)
                busy = [rss(site) for site in sites.sites.values()]
        figures.add("a gateway's memory", f"{max(before) / 1e6:.0f} MB")
        figures.add(f"  with {IDLE:,} idle streams", f"{max(idle) / 1e6:.0f} MB")
        figures.add(f"  with {BUSY} busy ones beside", f"{max(busy) / 1e6:.0f} MB")


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
    count = 10_000 if kind == "ss_lr" else 2_000
    x = chance.normal(size=(count, 10))
    y = (x @ np.linspace(-1, 1, 10) + chance.normal(size=count) > 0) * 1
    ours = {"alice": list("abcde"), "bob": list("fghij")}
    for number, (party, columns) in enumerate(ours.items()):
        frame = pd.DataFrame(x[:, 5 * number : 5 * number + 5], columns=columns).rename_axis("id").reset_index()
        (frame.assign(y=y) if party == "alice" else frame).to_csv(paths[party], index=False)
    model = {party: str(place / f"model-{party}") for party in PARTIES}
    about = {"label": {"party": "alice", "column": "y"}, "features": ours, "input_paths": paths, "model_path": model}
    if kind == "ss_lr":
        return {"task_type": kind, "epochs": 5, "batch_size": 1024, **about}
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


class Attempt:
    """One party's part in an execution, as its worker and its party process have it with the gateway."""

    def __init__(self, site: Site, execution_id: str, addresses: dict[str, str]) -> None:
        self.rank = PARTIES.index(site.party)
        self.directory = tempfile.mkdtemp(dir=site.data)
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(f"{site.settings['gateway_dir']}/control.sock")
        terms = Terms(parties=list(PARTIES), task_type="bench", parameters="", devices="")
        opened = Open(execution_id=execution_id, directory=self.directory, terms=terms, addresses=addresses)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.directory}/fed-{self.rank}.sock")
        self.listener.listen(STREAMS_OF_ONE)
        self.control.sendall(encode_frame(opened))

    def wait(self) -> None:
        """Wait until the sockets that stand in for the other party are there."""
        length = frame_length(self.control.recv(LENGTH_BYTES, socket.MSG_WAITALL))
        answer = decode_from_gateway(self.control.recv(length, socket.MSG_WAITALL))
        if answer != Opened():
            raise SystemExit(f"the gateway answered {answer}")

    def call(self) -> socket.socket:
        """Open a stream to the other party."""
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(f"{self.directory}/fed-{1 - self.rank}.sock")
        return stream

    def close(self) -> None:
        self.control.close()
        self.listener.close()


@contextmanager
def execution(sites: Sites, execution_id: str) -> Iterator[tuple[Attempt, Attempt]]:
    """Both parties' attempts, whose workers say each second that they are alive."""
    with ExitStack() as stack:
        both = []
        for party in PARTIES:
            other = next(each for each in PARTIES if each != party)
            attempt = Attempt(sites[party], execution_id, {other: sites[other].settings["gateway_listen"]})
            stack.callback(attempt.close)
            both.append(attempt)
        for attempt in both:
            attempt.wait()
        ended = threading.Event()

        def say_alive() -> None:
            while not ended.wait(1.0):
                for attempt in both:
                    attempt.control.sendall(encode_frame(Alive()))

        alive = threading.Thread(target=say_alive)
        alive.start()
        stack.callback(alive.join)
        stack.callback(ended.set)
        yield both[0], both[1]


def hello(sites: Sites, number: int) -> float:
    """Seconds from both parties' Open to the first byte that arrives at the other party."""
    began = time.perf_counter()
    with execution(sites, f"hello-{number}") as (alice, bob), alice.call() as there:
        there.sendall(b"1")
        with bob.listener.accept()[0] as here:
            here.recv(1)
            return time.perf_counter() - began


def through(sites: Sites, number: int) -> tuple[float, float]:
    """Bytes per second of one stream, and seconds of processor time that both gateways take for 1 GB."""
    with execution(sites, f"through-{number}") as (alice, bob), alice.call() as there:
        there.sendall(b"1")
        with bob.listener.accept()[0] as here:
            here.recv(1)
            used, began = cpu(sites), time.perf_counter()
            sender = threading.Thread(target=send, args=(there, SENT_BYTES))
            sender.start()
            left, buffer = SENT_BYTES, bytearray(1 << 20)
            while left:
                left -= here.recv_into(buffer)
            sender.join()
            return SENT_BYTES / (time.perf_counter() - began), (cpu(sites) - used) / (SENT_BYTES / 1e9)


def send(stream: socket.socket, count: int) -> None:
    for _ in range(count // len(_CHUNK)):
        stream.sendall(_CHUNK)


@contextmanager
def many(sites: Sites, count: int, kind: str = "idle") -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Streams through both gateways, over which one byte has gone, as their two ends."""
    with ExitStack() as stack:
        ends = []
        for number in range(count // STREAMS_OF_ONE):
            alice, bob = stack.enter_context(execution(sites, f"{kind}-{number}"))
            for _ in range(STREAMS_OF_ONE):
                there = stack.enter_context(alice.call())
                there.sendall(b"1")
                here = stack.enter_context(bob.listener.accept()[0])
                here.recv(1)
                ends.append((there, here))
        yield ends


@contextmanager
def pumping(ends: list[tuple[socket.socket, socket.socket]]) -> Iterator[None]:
    """Keep all streams full, and their readers slow, for the block."""
    ended = threading.Event()

    def write() -> None:
        for there, _ in ends:
            there.setblocking(False)
        while not ended.is_set():
            for there, here in ends:
                try:
                    there.send(_CHUNK)
                except BlockingIOError:
                    here.recv(1 << 16, socket.MSG_DONTWAIT) if readable(here) else None

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def readable(stream: socket.socket) -> bool:
    try:
        return bool(stream.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


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
