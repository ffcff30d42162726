"""A training that is cut off goes on from its last checkpoint; from outside, with a party process that is killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from tests.jobs import test_boosting, test_glm, test_linear
from tests.running_worker import RunningWorker, kill, until


@pytest.fixture(autouse=True)
def files(data: Path) -> None:
    # No two splits of these are equally good. Where they are, the rounding of shares decides, each time anew.
    draw = np.random.default_rng(7)
    x = draw.normal(size=(600, 6))
    test_linear.write_halves(data, x, (x[:, 0] - x[:, 4] + draw.normal(size=600) > 0).astype(int))


def lr(data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return test_linear.train(data, epochs=20, batch_size=32, reveal_rmse=True), test_linear.predict(data)


def glm(data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return test_glm.train(data, distribution="Bernoulli", epochs=200), test_glm.predict(data)


def xgb(data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return test_boosting.train(data, "ss_xgb", num_boost_round=6, max_depth=3), test_boosting.predict(data, "ss_xgb")


def sgb(data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return test_boosting.train(data, "sgb", num_boost_round=24, max_depth=3), test_boosting.predict(data, "sgb")


@pytest.mark.parametrize(
    ("training", "party"), [(lr, 0), pytest.param(glm, 1, marks=pytest.mark.slow), (xgb, 0), (sgb, 1)]
)
def test_a_training_whose_party_is_killed_goes_on(worker: RunningWorker, data: Path, training: Any, party: int) -> None:
    job, prediction = training(data)
    job["options"] |= {"max_retries": 1, "retry_delay": 0}
    sent = worker.send(job)
    worker.until_said(sent, "progress")
    kill(worker.party(party))
    worker.until_ended(sent)
    events = worker.said(sent)
    assert [event["status"] for event in events if event["stage"] != "progress"] == (
        ["RUNNING"] * 3 + ["RETRY"] + ["RUNNING"] * 3 + ["SUCCESS"]
    )
    first, second = [[event for event in events if event["attempt"] == attempt] for attempt in (1, 2)]
    assert progress(second)[0] > progress(first)[-1]
    result, asked = worker.said(sent, "result")[0]["result"], job["task_config"]
    assert result.get("epochs") == asked.get("epochs")
    assert result.get("trees") == asked.get("num_boost_round")
    if errors := result.get("rmse"):
        before = round(progress(first)[-1] * len(errors))  # epochs of the attempt that was cut off
        assert errors.count(None) >= before
        assert None not in errors[errors.count(None) :]
    assert predictions(worker, prediction, data) == pytest.approx(undisturbed(worker, training, data), abs=1e-3)
    assert not list(data.glob(".*"))


@pytest.mark.parametrize("ending", ["cancelled", "cancelled while it waits", "failed"])
def test_nothing_is_kept_of_a_training_that_ends(worker: RunningWorker, data: Path, ending: str) -> None:
    job, _ = lr(data)
    waits = ending == "cancelled while it waits"
    job["options"] |= {"max_retries": int(waits), "retry_delay": 3600}
    sent = worker.send(job)
    worker.until_said(sent, "progress")
    if ending != "cancelled":
        kill(worker.party(0))
    if waits:
        worker.until_said(sent, "task_retrying")
        assert list(data.glob(".*.checkpoint"))
    if ending != "failed":
        worker.redis.set(f"sf:cancel:{sent}", 1)
        worker.redis.publish("sf:control", sent)
    worker.until_ended(sent)
    until(lambda: not list(data.glob(".*")))


@pytest.mark.slow
def test_parts_of_two_attempts_are_no_step(worker: RunningWorker, data: Path) -> None:
    """As where a party's disk was away during one attempt: both have a step of that number, of different trainings."""
    job, prediction = lr(data)
    job["options"] |= {"max_retries": 2, "retry_delay": 1.0}
    sent = worker.send(job)
    kill_in(worker, sent, 1)
    one, other = sorted(data.glob(".*.checkpoint"))
    old = shutil.copytree(one, data / "old")
    for path in [*one.iterdir(), *other.iterdir()]:
        path.unlink()
    kill_in(worker, sent, 2)
    make_old(one, old, other)
    worker.until_ended(sent)
    third = [event for event in worker.said(sent) if event["attempt"] == 3]
    assert third[-1]["status"] == "SUCCESS", third[-1]
    assert progress(third)[0] == pytest.approx(1 / 20)
    assert predictions(worker, prediction, data) == pytest.approx(undisturbed(worker, lr, data), abs=1e-3)


def kill_in(worker: RunningWorker, sent: str, attempt: int) -> None:
    """Kill a party in this attempt's training, and wait until the attempt has ended."""
    until(lambda: progress([event for event in worker.said(sent) if event["attempt"] == attempt]))
    kill(worker.party(0))
    until(lambda: [e["attempt"] for e in worker.said(sent) if e["stage"] == "task_retrying"][attempt - 1 :])


def make_old(directory: Path, old: Path, other: Path) -> None:
    """Replace a party's steps by an older attempt's, under the numbers of the other party's."""
    part, *_ = [msgspec.msgpack.decode(path.read_bytes()) for path in old.iterdir()]
    shutil.rmtree(old)
    for path in directory.iterdir():
        path.unlink()
    for path in other.iterdir():
        (directory / path.name).write_bytes(msgspec.msgpack.encode({**part, "step": int(path.stem)}))


def progress(events: list[dict[str, Any]]) -> list[float]:
    return [event["progress"] for event in events if event["stage"] == "progress"]


def predictions(worker: RunningWorker, job: dict[str, Any], data: Path) -> Any:
    assert worker.run(job)["status"] == "success"
    [written] = job["task_config"]["output_paths"].values()
    return np.asarray(pd.read_csv(written)["pred"])


def undisturbed(worker: RunningWorker, training: Any, data: Path) -> Any:
    """Predictions of the same training, run in one go."""
    job, prediction = training(data)
    assert worker.run(job)["status"] == "success"
    return predictions(worker, prediction, data)
