"""Trains linear models on an SPU by mini-batch gradient descent over all rows. Runs in party processes.

SecretFlow's trainers leave out the rows after the last full batch, which may be half of them. Here an epoch has as many
batches as it takes, of as many rows as there are for each, and of one more in the first ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from secretflow.device import SPUCompilerNumReturnsPolicy
from secretflow.device.driver import reveal
from secretflow.ml.linear import RegType, SSRegression
from secretflow.ml.linear.ss_sgd.model import Penalty
from secretflow.utils.sigmoid import SigType
from secretflow.utils.sigmoid import sigmoid as curve

from sfworker.errors import ParameterValidationError
from sfworker.secure.sigmoid import sigmoid

STEPS = 500
"""Steps after which a training has settled where nothing is hard, with the default learning rate."""
BATCHES = 16
"""Batches of an epoch of few rows."""
SMALLEST_BATCH, LARGEST_BATCH, FEWEST_EPOCHS = 32, 1024, 10
MOST_CELLS = 40_000_000
"""Cells of the features that go to the SPU at a time."""
SETTLED = 0.1
"""Share of the largest weight by which as many epochs again may change a weight of a settled model."""
LARGEST_WEIGHT = 1e6
"""Bound of a weight. It leaves room for products in every field, and steps from columns of any sense stay below it."""


@dataclass(frozen=True)
class Schedule:
    """How often a training goes through its rows, and how many of them each step takes."""

    rows: int
    batch_size: int
    """At most as many rows are in a batch."""
    epochs: int

    @classmethod
    def of(cls, rows: int, batch_size: int | None, epochs: int | None) -> Schedule:
        """Return the schedule that was asked for. What is None follows from the number of rows."""
        size = batch_size or max(SMALLEST_BATCH, min(LARGEST_BATCH, rows // BATCHES))
        steps = math.ceil(rows / size)
        return cls(rows, min(size, rows), epochs or max(FEWEST_EPOCHS, math.ceil(STEPS / steps)))

    def runs(self, most_rows: int) -> list[Run]:
        """Return the batches of an epoch as runs of equal ones, which have at most about `most_rows` rows each."""
        batches = math.ceil(self.rows / self.batch_size)
        size, larger = divmod(self.rows, batches)
        found: list[Run] = []
        for batch_size, count in ((size + 1, larger), (size, batches - larger)):
            at_once = max(1, most_rows // batch_size)
            for begun in range(0, count, at_once):
                start = found[-1].rows.stop if found else 0
                found.append(Run(start, batch_size, min(at_once, count - begun)))
        return found


@dataclass(frozen=True)
class Run:
    """Batches of equal size in a row."""

    start: int
    batch_size: int
    count: int

    @property
    def rows(self) -> slice:
        """The rows of all its batches."""
        return slice(self.start, self.start + self.batch_size * self.count)


class Regression(SSRegression):  # type: ignore[misc]
    """SecretFlow's linear and logistic regression over all rows, with the true sigmoid where it is asked for."""

    def __init__(self, spu: Any, schedule: Schedule) -> None:
        super().__init__(spu)
        self._schedule = schedule
        self._shared: list[tuple[Run, Any, Any]] = []
        self.before: Any = None
        """Weights before the last epoch."""

    def _epoch(self, weights: Any, _: int) -> Any:
        self.before = weights
        self._shared = self._shared or [self._share(run) for run in self._schedule.runs(MOST_CELLS // self.num_feat)]
        for run, x, y in self._shared:
            weights = self.spu(_descend, static_argnames=_STATIC)(
                x,
                y,
                weights,
                batch_size=run.batch_size,
                count=run.count,
                learning_rate=self.learning_rate,
                l2_norm=self.l2_norm if self.penalty is Penalty.L2 else 0.0,
                sigmoid_type=self.sig_type if self.reg_type is RegType.Logistic else None,
            )
        return weights

    def _share(self, run: Run) -> tuple[Run, Any, Any]:
        x = [part.to(self.spu) for part in self.x[run.rows].partitions.values()]
        [y] = [part.to(self.spu) for part in self.y[run.rows].partitions.values()]
        return run, self.spu(_with_intercept)(x), y


def _with_intercept(parts: list[Any]) -> Any:
    return jnp.concatenate([*parts, jnp.ones((parts[0].shape[0], 1), parts[0].dtype)], axis=1)


_STATIC = ("batch_size", "count", "learning_rate", "l2_norm", "sigmoid_type")


def _descend(
    x: Any,
    y: Any,
    weights: Any,
    batch_size: int,
    count: int,
    learning_rate: float,
    l2_norm: float,
    sigmoid_type: SigType | None,
) -> Any:
    """Take a step for each batch. The last weight is the intercept's, which the penalty spares."""
    y = y.reshape((-1, 1))
    penalised = jnp.ones((x.shape[1], 1)).at[-1, 0].set(0.0)
    for start in range(0, count * batch_size, batch_size):
        batch = x[start : start + batch_size]
        predicted = batch @ weights
        if sigmoid_type is not None:
            predicted = sigmoid(predicted) if sigmoid_type is SigType.REAL else curve(predicted, sigmoid_type)
        gradient = batch.T @ (predicted - y[start : start + batch_size])
        if l2_norm:
            gradient = gradient + l2_norm * penalised * weights
        weights = weights - (learning_rate / batch_size) * gradient
    return weights


def settled(spu: Any, before: Any, after: Any, epochs: int) -> bool:
    """Return whether a model would stay as it is in as many epochs again. Every party learns it.

    `before` are the weights before the last of `epochs`. One that follows from all of them is right for a slow descent
    too, whose single epochs change little. Raises ParameterValidationError where the weights have grown out of bounds.
    """
    is_settled, is_bounded = reveal(
        list(spu(_compared, static_argnames="epochs", **_TWO)(before, after, epochs=epochs))
    )
    if not is_bounded:
        raise ParameterValidationError(
            "task_config.learning_rate: is too large, as the model's weights grew without end; set a smaller one, and "
            "standardize where that is off"
        )
    return bool(is_settled)


_TWO = {"num_returns_policy": SPUCompilerNumReturnsPolicy.FROM_USER, "user_specified_num_returns": 2}


def _compared(before: Any, after: Any, epochs: int) -> Any:
    if before is None:  # after the first epoch
        before = jnp.zeros_like(after)
    largest = jnp.max(jnp.abs(after))
    # Out of bounds nothing can be compared, as differences overflow.
    return jnp.max(jnp.abs(after - before)) <= largest * (SETTLED / epochs), largest < LARGEST_WEIGHT
