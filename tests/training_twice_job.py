"""A task type for tests that trains the same trees by our `Booster` and by SecretFlow's `Xgb`. Given by `--jobs`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from msgspec import Struct
from secretflow.data import FedNdarray, PartitionWay
from secretflow.ml.boost.ss_xgb_v import Xgb

from sfworker.catalog import TaskParams, TaskType, register
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.secure.boosted_trees import Booster

PARTIES = ("alice", "bob")


class TwiceParams(TaskParams, tag="train_twice", frozen=True, kw_only=True):
    """Parameters of the trees as JSON, and how often ours are trained before."""

    booster: str
    rows: int = 300
    trainings: int = 1


class TwiceResult(Struct, frozen=True, kw_only=True):
    """Largest difference of a prediction, and the predictions' deviation."""

    difference: float
    deviation: float


register(
    TaskType(
        name="train_twice", summary="Trains twice", params=TwiceParams, result=TwiceResult, devices=frozenset({"spu"})
    )
)


@TaskDispatcher.register_task("train_twice")
def train_twice(context: JobContext[TwiceParams]) -> TwiceResult | None:
    """Train on numbers of which many are equal to each other."""
    params = context.params
    x = np.random.default_rng(1).normal(size=(params.rows, 6)).round(1)
    scores = x.sum(axis=1) + np.random.default_rng(2).normal(size=params.rows)
    # Where labels are two numbers, different splits have the same gain, of which rounding chooses one.
    is_linear = json.loads(params.booster)["objective"] == "linear"
    label = scores / scores.std() if is_linear else (scores > 0).astype(np.float64)
    columns = {"alice": x[:, :2], "bob": x[:, 2:]}
    devices = {party: context.pyu(party) for party in PARTIES}

    def shared(matrices: dict[str, Any]) -> FedNdarray:
        return FedNdarray(
            {devices[party]: context.at(party, np.array, matrix) for party, matrix in matrices.items()},
            PartitionWay.VERTICAL,
        )

    features, labels = shared(columns), shared({"bob": label.reshape(-1, 1)})

    def predicted(booster: Any) -> Any:
        model = booster.train(json.loads(params.booster), features, labels)
        return np.asarray(context.reveal(model.predict(features)))

    ours = [predicted(Booster(context.spu, None)) for _ in range(params.trainings)]
    theirs = predicted(Xgb(context.spu))
    if not context.is_speaker:
        return None
    return TwiceResult(
        difference=float(max(np.abs(each - theirs).max() for each in ours)), deviation=float(theirs.std())
    )
