"""What the queue alone costs, beside other Python workers on the same Redis, whose jobs compute nothing either.

Each turn starts server and worker anew. While a worker is stopped, its jobs are queued; then they are counted from the
moment that it goes on.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.bench.environment import make_environment
from tests.bench.measuring import REPETITIONS, Figures, Listener
from tests.bench.queue_peers import AT_A_TIME, PAUSE, Times
from tests.running_worker import ROOT, RunningWorker, envelope, until

ASKED = 200
WARMED_UP = 20
LOOK = 0.01
MOST_SECONDS = 120
_CLOCK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Queue:
    """One of the workers that are compared: how it is started, sent to and looked at."""

    name: str
    jobs: int
    """Jobs that are queued at once."""
    worker: Callable[[str], Any]
    """A block in which the worker runs, by the server's URL. Its value is the worker's process id."""
    fill: Callable[[Any, int], object]
    ask: Callable[[Any, int], list[Times]]
    left: Callable[[Any], int]
    """Jobs that are not answered yet, by one command."""


def queue(figures: Figures) -> None:
    """Time to a job's begin and to its answer on an idle worker; rate and costs of a job where many are queued."""
    with tempfile.TemporaryDirectory() as directory:
        python = make_environment(Path(directory), Path(__file__).with_name("queue.txt"))
        queues = (
            _of_peer(python, "taskiq", 3000, lambda redis: _unsettled(redis, "taskiq")),
            _of_peer(python, "saq", 3000, lambda redis: redis.zcard("saq:default:incomplete")),
            Queue("ours, stub pool", 3000, stub, _fill, _ask, lambda redis: redis.xlen("sf:jobs")),
            _of_peer(python, "rq", 300, lambda redis: redis.zcard("rq:wip:default") or redis.llen("rq:queue:default")),
            Queue("ours, a fresh process each", 300, fresh, _fill, _ask, lambda redis: redis.xlen("sf:jobs")),
        )
        turns = [[measure(each) for each in queues] for _ in range(REPETITIONS)]
    for name, *measured in zip((each.name for each in queues), *turns, strict=True):
        figures.add(f"{name}, jobs per second", shown([one["rate"] for one in measured], "{:,.0f}"))
        for what in ("pickup", "round trip"):
            p50, p99 = ([one[f"{what} {share}"] for one in measured] for share in ("p50", "p99"))
            figures.add(f"  {what} of one on an idle worker, p50", shown(p50, "{:.2f}") + " ms")
            figures.add("    p99", shown(p99, "{:.2f}") + " ms")
        figures.add("  Redis commands of a job", shown([one["commands"] for one in measured], "{:.1f}"))
        for who in ("Redis", "worker"):
            figures.add(f"  processor time of {who}", shown([one[who] for one in measured], "{:,.0f}") + " µs")


def shown(values: list[float], form: str) -> str:
    """The median, and in brackets the range."""
    median, least, most = (form.format(each) for each in (statistics.median(values), min(values), max(values)))
    return f"{median} ({least} to {most})"


def measure(queue: Queue) -> dict[str, float]:
    """One turn. Latencies in ms, costs in µs of a job."""
    # The strictest setting there is, and the one with which an answered job survives a power cut.
    with (
        EmbeddedRedis("--appendfsync", "always") as server,
        Redis.from_url(server.url) as redis,
        queue.worker(server.url) as pid,
    ):
        queue.ask(redis, WARMED_UP)
        times = queue.ask(redis, ASKED)
        os.kill(pid, signal.SIGSTOP)
        queue.fill(redis, queue.jobs)
        redis.config_resetstat()
        of_redis, of_worker, looks = cpu_of_tree(server.pid), cpu_of_tree(pid), 0
        began = time.perf_counter()
        os.kill(pid, signal.SIGCONT)
        while queue.left(redis):
            looks += 1
            time.sleep(LOOK)
            if time.perf_counter() - began > MOST_SECONDS:
                raise SystemExit(f"{queue.name} has left jobs for {MOST_SECONDS} s")
        seconds = time.perf_counter() - began
        of_worker, of_redis = cpu_of_tree(pid) - of_worker, cpu_of_tree(server.pid) - of_redis
        calls = sum(each["calls"] for each in redis.info("commandstats").values())
    found = {
        "rate": queue.jobs / seconds,
        "commands": (calls - looks) / queue.jobs,
        "Redis": 1e6 * of_redis / queue.jobs,
        "worker": 1e6 * of_worker / queue.jobs,
    }
    pickup, answered = [begun - sent for sent, begun, _ in times], [heard - sent for sent, _, heard in times]
    for what, seconds_of in (("pickup", sorted(pickup)), ("round trip", sorted(answered))):
        found[f"{what} p50"] = 1000 * statistics.median(seconds_of)
        found[f"{what} p99"] = 1000 * seconds_of[int(len(seconds_of) * 0.99)]
    return found


def cpu_of_tree(pid: int) -> float:
    """Seconds of processor time of a process, of those that it has started and of all of them that have ended."""
    seconds = {}
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        parents[int(path.parent.name)] = int(fields[1])
        seconds[int(path.parent.name)] = sum(int(field) for field in fields[11:15]) / _CLOCK
    tree, found = {pid}, {pid}
    while found:
        found = {child for child, parent in parents.items() if parent in found}
        tree |= found
    return sum(seconds[each] for each in tree)


def _of_peer(python: str, name: str, jobs: int, left: Callable[[Any], int]) -> Queue:
    """Another worker, whose processes are all of `queue_peers`."""

    def command(role: str, url: str, *more: int) -> list[str]:
        return [python, "-m", "tests.bench.queue_peers", role, name, url, *map(str, more)]

    def send(role: str, redis: Any, number: int) -> Any:
        done = subprocess.run(command(role, _url(redis), number), cwd=ROOT, check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)

    @contextmanager
    def worker(url: str) -> Iterator[int]:
        with running(command("work", url)) as pid:
            yield pid

    return Queue(name, jobs, worker, partial(send, "fill"), partial(send, "ask"), left)


@contextmanager
def running(command: list[str]) -> Iterator[int]:
    process = subprocess.Popen(
        bound_to_this_process(command), cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        stop(process, 0)


@contextmanager
def stub(url: str) -> Iterator[int]:
    """Our worker with a pool that computes nothing."""
    with running([sys.executable, "-m", "tests.bench.stub_worker", url, str(AT_A_TIME)]) as pid:
        with Redis.from_url(url) as redis:
            until(lambda: redis.exists("sf:jobs"), 20)
        yield pid


@contextmanager
def fresh(url: str) -> Iterator[int]:
    """Our whole worker: a template forks a process for each job, which runs the task type `act_alone`."""
    with (
        tempfile.TemporaryDirectory() as directory,
        RunningWorker(url, Path(directory) / "worker", concurrency="2", log_level="INFO") as worker,
    ):
        yield worker.process.pid


def _fill(redis: Any, number: int) -> None:
    pipeline = redis.pipeline(transaction=False)
    for _ in range(number):
        pipeline.xadd("sf:jobs", {"envelope": json.dumps(envelope({"task_type": "act_alone"}))})
    pipeline.execute()


def _ask(redis: Any, number: int) -> list[Times]:
    listener, times = Listener(redis), []
    for _ in range(number):
        time.sleep(PAUSE)
        job = envelope({"task_type": "act_alone"})
        sent = time.time()
        redis.xadd("sf:jobs", {"envelope": json.dumps(job)})
        listener.until(job["execution_id"], "SUCCESS")
        answered = time.time()
        result = json.loads(redis.get(f"sf:result:{job['execution_id']}"))
        times.append((sent, result["result"]["first_line_at"], answered))
    return times


def _unsettled(redis: Any, stream: str) -> int:
    [group] = redis.xinfo_groups(stream)
    return int(group["pending"] + group["lag"])


def _url(redis: Any) -> str:
    return f"unix://{redis.connection_pool.connection_kwargs['path']}"
