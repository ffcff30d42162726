"""What kept programs save: trainings that compile theirs, that read them, and in a kept session, in turns."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.gateway import SPU, task, until_success
from tests.bench.measuring import PAUSE, Figures, Listener, worker
from tests.bench.sessions import REPETITIONS, spread
from tests.running_worker import envelope

JOBS = ("ss_lr 10,000", "ss_xgb 2,000")
OWN, READ, WARM = "compiled by the job", "read by it", "kept in its session"
SETTINGS = {
    OWN: {"programs_bytes": "0"},
    READ: {},
    WARM: {"session_jobs": "1000", "session_memory_bytes": "8000000000"},
}
MOST_MORE = 0.10


def programs(figures: Figures) -> None:
    """The same training from append to answer, each the second of its kind or a later one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, ExitStack() as stack:
        data = Path(directory) / "data"
        data.mkdir()
        workers = {how: stack.enter_context(worker(data_roots=str(data), **each)) for how, each in SETTINGS.items()}
        heard = {how: Listener(each.redis) for how, each in workers.items()}
        for name in JOBS:
            task_config = task(name, data)
            seconds: dict[str, list[float]] = {how: [] for how in workers}
            for _ in range(REPETITIONS + 1):
                for how, each in workers.items():
                    time.sleep(5 * PAUSE)  # so that a session is ready for the next job
                    options = {"session": "reuse"} if how == WARM else {}
                    job = envelope(task_config, spu_config=SPU, options=options)
                    began = time.perf_counter()
                    each.send(job)
                    seconds[how].append(until_success(heard[how], job) - began)
            for how, each_time in seconds.items():
                figures.add(f"{name}, programs {how}", spread(each_time[1:]))
            read, warm = (statistics.median(seconds[how][1:]) for how in (READ, WARM))
            more = read / warm - 1
            figures.add("  read more than in a kept session", f"{more:+.1%}", f"<= {MOST_MORE:.0%}", more <= MOST_MORE)
