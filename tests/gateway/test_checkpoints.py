"""A training across sites that is cut off at one goes on at both from the same step, or from the start."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gateway.conftest import Both
from tests.integration.test_checkpoints import glm, lr, make_old, predictions, progress, sgb, xgb
from tests.jobs import test_linear
from tests.running_worker import PARTIES, kill, until

pytestmark = pytest.mark.slow
Files = dict[str, Path]


@pytest.fixture(autouse=True)
def files(data: Path) -> None:
    draw = np.random.default_rng(7)
    x = draw.normal(size=(600, 6))
    test_linear.write_halves(data, x, (x[:, 0] - x[:, 4] + draw.normal(size=600) > 0).astype(int))


def attempts(both: Both, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The job with retries, as each site gets it."""
    job["options"] |= {"max_retries": 4, "retry_delay": 2.0}
    return both.jobs(job)


def kill_at(both: Both, party: str, jobs: dict[str, dict[str, Any]], attempt: int) -> None:
    """Kill a site's process in this attempt's training, and wait until the attempt has ended at both."""
    sent = jobs[party]["execution_id"]
    until(lambda: progress(of_attempt(both, sent, attempt)), 60)
    kill(both.sites[party].worker.party())
    for each in jobs:
        until(lambda each=each: retries(both, each, sent) >= attempt)  # type: ignore[misc]


def retries(both: Both, party: str, sent: str) -> int:
    return len([event for event in both.sites[party].worker.said(sent) if event["stage"] == "task_retrying"])


def of_attempt(both: Both, sent: str, attempt: int) -> list[dict[str, Any]]:
    """Events of either site; one of them tells the progress."""
    return [e for party in PARTIES for e in both.sites[party].worker.said(sent) if e["attempt"] == attempt]


def resumed(both: Both, party: str, sent: str) -> list[int]:
    """The steps after which a site has gone on."""
    lines = [line for line in both.sites[party].worker.log().splitlines() if f'"{sent}"' in line]
    return [int(step) for line in lines for step in re.findall(r"goes on after step (\d+)", line)]


def kept(both: Both, data: Path) -> Files:
    """Each site's directory of steps, which that site's worker has been told of."""
    found = {}
    for party in PARTIES:
        redis = both.sites[party].worker.redis
        said = [value for key in redis.scan_iter("sf:exec:*") for value in redis.hgetall(key).values()]
        [found[party]] = [path for path in data.glob(".*.checkpoint") if any(path.name.encode() in v for v in said)]
    return found


def same_as_undisturbed(both: Both, data: Path, training: Callable[[Path], Any], prediction: dict[str, Any]) -> None:
    after = predictions(both, prediction, data)  # type: ignore[arg-type]
    job, again = training(data)
    assert both.run(job)["status"] == "success"
    assert after == pytest.approx(predictions(both, again, data), abs=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("training", "party"), [(lr, "alice"), (lr, "bob"), (glm, "bob"), (xgb, "alice"), (sgb, "bob")]
)
def test_both_go_on_from_the_same_step(both: Both, data: Path, training: Any, party: str) -> None:
    job, prediction = training(data)
    jobs = attempts(both, job)
    sent = job["execution_id"]
    for each, one in jobs.items():
        both.sites[each].worker.send(one)
    kill_at(both, party, jobs, 1)
    for each in jobs:
        result = both.sites.result(each, jobs[each], 90)
        assert result["status"] == "success", result
        assert result["task_metadata"]["attempt"] == 2
    [step] = resumed(both, "alice", sent)
    assert resumed(both, "bob", sent) == [step]
    assert progress(of_attempt(both, sent, 2))[0] > progress(of_attempt(both, sent, 1))[0]
    same_as_undisturbed(both, data, training, prediction)
    until(lambda: not list(data.glob(".*")))


@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize("what", ["gone", "of another attempt", "half of it"])
def test_a_site_without_its_step_takes_both_to_the_start(both: Both, data: Path, party: str, what: str) -> None:
    job, prediction = lr(data)
    jobs = attempts(both, job)
    sent = job["execution_id"]
    for each, one in jobs.items():
        both.sites[each].worker.send(one)
    kill_at(both, "bob", jobs, 1)
    directories = kept(both, data)
    other = directories[next(each for each in PARTIES if each != party)]
    mine = directories[party]
    last = 1
    if what == "of another attempt":
        old = mine.rename(data / "old")
        mine.mkdir()
        for path in other.iterdir():
            path.unlink()
        kill_at(both, "alice", jobs, 2)
        make_old(mine, old, other)
        last = 2
    for path in mine.iterdir():
        if what == "gone":
            path.unlink()
        elif what == "half of it":
            os.truncate(path, path.stat().st_size // 2)
    for each in jobs:
        result = both.sites.result(each, jobs[each], 90)
        assert result["status"] == "success", result
        assert result["task_metadata"]["attempt"] == last + 1
        assert resumed(both, each, sent) == []
    assert progress(of_attempt(both, sent, last + 1))[0] == pytest.approx(1 / 20)
    same_as_undisturbed(both, data, lr, prediction)
    until(lambda: not list(data.glob(".*")))


def test_a_worker_that_is_killed_in_a_training(both: Both, data: Path) -> None:
    """Its next one waits for the lease, the other site for it, and both go on from the same step."""
    job, prediction = lr(data)
    jobs = attempts(both, job)
    sent = job["execution_id"]
    for each, one in jobs.items():
        both.sites[each].worker.send(one)
    until(lambda: progress(of_attempt(both, sent, 1)), 60)
    both.sites["bob"].worker.kill()
    both.sites["bob"].worker.start()
    began = time.monotonic()
    for each in jobs:
        assert both.sites.result(each, jobs[each], 150)["status"] == "success"
    print(f"answered after {time.monotonic() - began:.1f} s")
    assert resumed(both, "alice", sent) == resumed(both, "bob", sent) != []
    same_as_undisturbed(both, data, lr, prediction)
