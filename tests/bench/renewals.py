"""How late leases are renewed while every slot's job tells its progress without a pause."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

from tests.bench.measuring import REPETITIONS, Figures, worker
from tests.bench.queue import shown
from tests.running_worker import envelope

SLOTS = 64
LEASE_SECONDS = 3.0
FLOOD_SECONDS = 10.0
BOUND_MS = 100
WORKERS = "sf:workers:secretflow"


def renewals(figures: Figures) -> None:
    """The longest time by which a renewal was late, while 64 jobs flood the daemon, and while they wait."""
    with worker(concurrency=str(SLOTS), lease_seconds=str(LEASE_SECONDS)) as running:
        for action in ("hang", "flood"):
            late = [1000 * lateness(running, action) for _ in range(REPETITIONS)]
            figures.add(
                f"latest renewal of {FLOOD_SECONDS:.0f} s, {SLOTS} jobs that {action}",
                shown(late, "{:.0f}") + " ms",
                f"< {BOUND_MS} ms",
                max(late) < BOUND_MS,
            )


def lateness(running: Any, action: str) -> float:
    """Seconds by which the latest renewal came after its time, by Redis' clock, which each renewal notes."""
    jobs = [envelope({"task_type": "act_alone", "action": action, "seconds": FLOOD_SECONDS}) for _ in range(SLOTS)]
    for job in jobs:
        running.send(job)
    seen: list[int] = []
    while running.redis.xlen("sf:jobs"):
        [(_, noted)] = [each for each in running.redis.hgetall(WORKERS).items() if not each[0].startswith(b"@")]
        if (renewed := int(noted.split()[0])) not in seen[-1:]:
            seen.append(renewed)
        time.sleep(0.02)
    for job in jobs:
        assert json.loads(running.redis.get(f"sf:result:{job['execution_id']}"))["status"] == "success"
    seconds, microseconds = running.redis.time()
    seen.append(1000 * seconds + microseconds // 1000)
    return max(after - before for before, after in pairwise(seen)) / 1000 - LEASE_SECONDS / 3
