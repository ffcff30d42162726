"""Trees as SecretFlow's own `Xgb` grows them, to the last digits, on real SPUs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running_worker import RunningWorker, envelope

TOLERANCE = {"FM128": 1e-5, "FM64": 1e-3}
"""Of a prediction, where the gains of two splits are not the same but for rounding."""


@pytest.fixture
def twice(redis_url: str, tmp_path: Path) -> Iterator[RunningWorker]:
    with RunningWorker(redis_url, tmp_path / "worker", jobs="tests.training_twice_job") as worker:
        yield worker


SMALL = {"num_boost_round": 2, "max_depth": 3, "objective": "logistic", "sketch_eps": 0.1}


def difference(
    worker: RunningWorker, runtime: dict[str, Any], booster: dict[str, Any], seconds: float = 100.0, **task: Any
) -> float:
    """The largest difference of a prediction, of trees that say something."""
    task = {"task_type": "train_twice", "booster": json.dumps(SMALL | booster), **task}
    options = {"time_limit": int(seconds), "soft_time_limit": int(seconds)}
    job = envelope(task, spu_config={"cluster_def": {"runtime_config": runtime}}, options=options)
    result = worker.run(job, seconds)
    assert result["status"] == "success", result["error"]
    assert result["result"]["deviation"] > 0.05
    return float(result["result"]["difference"])


def test_trees_are_secretflows_own(twice: RunningWorker) -> None:
    assert difference(twice, {"protocol": "SEMI2K", "field": "FM128"}, {}) < TOLERANCE["FM128"]


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "field"), [("SEMI2K", "FM64"), ("CHEETAH", "FM64"), ("CHEETAH", "FM128")])
def test_trees_are_secretflows_own_in_other_arithmetic(twice: RunningWorker, protocol: str, field: str) -> None:
    assert difference(twice, {"protocol": protocol, "field": field}, {}, rows=200) < TOLERANCE[field]


@pytest.mark.slow
@pytest.mark.parametrize(
    "booster",
    [
        {"objective": "linear", "reg_lambda": 0.0, "max_depth": 5},
        {"max_depth": 1, "num_boost_round": 1},
        {"base_score": 0.5, "learning_rate": 1.0},
    ],
)
def test_trees_of_other_parameters_are_secretflows_own(twice: RunningWorker, booster: dict[str, Any]) -> None:
    runtime = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}
    assert difference(twice, runtime, booster) < TOLERANCE["FM128"]


@pytest.mark.slow
def test_parties_stay_in_step_through_trainings_that_open_a_map_once(twice: RunningWorker) -> None:
    """Values of many sizes come and go, and none of them ever gets the address of a map."""
    booster = {"num_boost_round": 10, "max_depth": 4, "sketch_eps": 0.25, "objective": "linear"}
    runtime = {"protocol": "SEMI2K", "field": "FM128"}
    assert difference(twice, runtime, booster, 900.0, trainings=12) < TOLERANCE["FM128"]
