"""Trainings whose features are too many to stay on the SPU are the same as those whose features stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer

from tests.jobs import test_glm, test_linear
from tests.running_worker import RunningWorker


@pytest.fixture
def not_holding(redis_url: str, data: Path, tmp_path: Path) -> Iterator[RunningWorker]:
    with RunningWorker(redis_url, tmp_path, data_roots=str(data), jobs="tests.not_held_job") as worker:
        yield worker


def test_weights_are_the_same(worker: RunningWorker, not_holding: RunningWorker, data: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    test_linear.write_halves(data, x[:, :6], y)
    trainings = [
        test_linear.train(data, epochs=3, reveal_rmse=True, reveal_weights=True),
        test_glm.train(data, distribution="Bernoulli", reveal_weights=True),
    ]
    for job in trainings:
        held, shared_anew = (test_linear.succeed(each, job) for each in (worker, not_holding))
        for party in ("alice", "bob"):
            assert shared_anew["weights"][party] == pytest.approx(held["weights"][party], rel=1e-3, abs=1e-3)
        assert shared_anew.get("rmse") == pytest.approx(held.get("rmse"), abs=1e-4)
