"""How long it takes until things go on: from what befalls a worker, a job or Redis to what the web side hears next."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from redis import Redis

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.bench.measuring import PAUSE, REPETITIONS, Figures, Listener, worker
from tests.running_worker import RunningWorker, envelope, kill, until


def recovery(figures: Figures) -> None:
    """Each at least five times."""
    with worker() as running:
        listener = Listener(running.redis)
        _say(figures, "kill -9 of a party process to its event", 0.5, [_party(running, listener) for _ in range(10)])
        for action, what in (("hang", "cancel to CANCELLED, a job that obeys"), ("stubborn", "  one that does not")):
            _say(figures, what, 2.0, [_cancel(running, listener, action) for _ in range(REPETITIONS)])
    seconds = [_template() for _ in range(REPETITIONS)]
    _say(figures, "kill -9 of the template to the job's next attempt", None, seconds)
    seconds = [_redis() for _ in range(REPETITIONS)]
    _say(figures, "Redis is back after a kill -9 to the answer of a job that ended meanwhile", None, seconds)
    seconds = [_worker() for _ in range(REPETITIONS)]
    _say(figures, "kill -9 of a worker to the job's next attempt elsewhere, default lease", 20.0, seconds)


def _say(figures: Figures, what: str, target: float | None, seconds: list[float]) -> None:
    said = f"median {statistics.median(seconds):.3g} s, longest {max(seconds):.3g} s"
    if target is None:
        figures.add(what, said)
    else:
        figures.add(what, said, f"< {target:g} s", max(seconds) < target)


def _hang(running: RunningWorker, action: str = "hang", **parameters: int) -> str:
    """A job that now hangs in its own code."""
    execution_id = running.send(envelope({"task_type": "act", "action": action, **parameters}))
    running.until_said(execution_id, "devices_ready")
    time.sleep(PAUSE)
    return execution_id


def _party(running: RunningWorker, listener: Listener) -> float:
    execution_id = _hang(running)
    victim = until(running.parties_with_children)[0]
    killed = time.perf_counter()
    kill(victim)
    seconds = listener.until(execution_id, "FAILURE", "RETRY")[0] - killed
    running.until_clean()
    return seconds


def _cancel(running: RunningWorker, listener: Listener, action: str) -> float:
    execution_id = _hang(running, action)
    asked = time.perf_counter()
    running.redis.set(f"sf:cancel:{execution_id}", "1")
    running.redis.publish("sf:control", execution_id)
    return listener.until(execution_id, "CANCELLED")[0] - asked


def _template() -> float:
    """With a worker of its own: a second death within a minute is answered more slowly."""
    with worker() as running:
        listener = Listener(running.redis)
        execution_id = _hang(running, attempts=1)
        killed = time.perf_counter()
        kill(running.template())
        seconds = listener.until(execution_id, "RUNNING", attempt=2)[0] - killed
        listener.until(execution_id, "SUCCESS")
        return seconds


def _redis() -> float:
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedRedis() as redis,
        RunningWorker(redis.url, Path(directory)) as running,
    ):
        execution_id = running.send(envelope({"task_type": "act_alone", "action": "report", "seconds": 1}))
        running.until_said(execution_id, "task_started")
        redis.stop(0)
        time.sleep(3)
        redis.start()
        back = time.perf_counter()
        until(lambda: running.redis.exists(f"sf:result:{execution_id}"), 30)
        return time.perf_counter() - back


def _worker() -> float:
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedRedis() as redis,
        Redis.from_url(redis.url) as client,
        RunningWorker(redis.url, Path(directory, "first")) as first,
    ):
        listener = Listener(client)
        execution_id = _hang(first, attempts=1)
        with RunningWorker(redis.url, Path(directory, "second")):
            killed = time.perf_counter()
            first.kill()
            seconds = listener.until(execution_id, "RUNNING", attempt=2)[0] - killed
            listener.until(execution_id, "SUCCESS")
            return seconds
