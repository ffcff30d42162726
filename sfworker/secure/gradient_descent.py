"""Trains linear models on an SPU by mini-batch gradient descent over all rows. Runs in party processes.

SecretFlow's trainers leave out the rows after the last full batch, which may be half of them. Here an epoch has as many
batches as it takes, of as many rows as there are for each, and of one more in the first ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import secretflow.distributed as sfd
from secretflow.data import FedNdarray
from secretflow.device import SPUCompilerNumReturnsPolicy, SPUObject
from secretflow.device.driver import reveal
from secretflow.ml.linear import SSGLM, SSRegression
from secretflow.ml.linear.linear_model import RegType
from secretflow.ml.linear.ss_glm import model as glm_model
from secretflow.ml.linear.ss_glm.core.distribution import DistributionType
from secretflow.ml.linear.ss_sgd.model import Penalty
from secretflow.utils.sigmoid import SigType, sigmoid

from sfworker.errors import ParameterValidationError
from sfworker.secure.irls import cross_products
from sfworker.secure.largest import largest
from sfworker.secure.sigmoid import exact_sigmoid
from sfworker.session.opened_once import kept, opened_once

STEPS = 500
"""Steps after which a training has settled where nothing is hard, with the default learning rate."""
BATCHES = 16
"""Batches of an epoch of few rows."""
SMALLEST_BATCH, LARGEST_BATCH, FEWEST_EPOCHS = 32, 1024, 10
MOST_SCORES = 2_000_000
"""Scores, of rows and epochs, of which errors are computed at a time."""
MOST_CELLS = 2_500_000
"""Cells of the features that go to the SPU at a time."""
MOST_HELD = 25_000_000
"""Cells of the features that stay on the SPU for all epochs, masked and opened once: three times 16 bytes for each."""
SETTLED = 0.1
"""Share of the largest weight by which as many epochs again may change a weight of a settled model."""
LEAST_FACTOR = 2**16
"""Units of the last fraction bit that a factor has at least, so that its rounding is none to speak of."""
LARGEST_WEIGHT = 1e6
"""Bound of a weight. It leaves room for products in every field, and steps from columns of any sense stay below it."""


@dataclass(frozen=True)
class Schedule:
    """Says how often a training goes through its rows, and how many of them each step takes."""

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
    """SecretFlow's linear and logistic regression over all rows."""

    before: Any = None
    """Weights before the last epoch."""
    path: list[Any] | None = None
    """Weights after each epoch that is run, kept where this is a list."""

    def _pre_check(self, x: Any, y: Any, epochs: int, learning_rate: float, batch_size: int, *others: Any) -> None:
        super()._pre_check(x, y, epochs, learning_rate, batch_size, *others)
        self._is_held = _is_held(x)
        self._runs = Schedule.of(self.samples, batch_size, epochs).runs(MOST_CELLS // self.num_feat)
        self._held: list[tuple[Any, Any]] = []

    def _shared(self) -> Iterator[tuple[Any, Any]]:
        """Yield features and label of each run, which are shared anew for each epoch where all are too many to stay.

        Then what is computed of the rows before has to be waited for, or all would be there at once.
        """
        if self._is_held and not self._held:
            self._held = [(kept(x), y) for x, y in map(self._share, self._runs)]
        yield from self._held or map(self._share, self._runs)

    def _epoch(self, weights: Any, epoch: int) -> Any:
        self.before = weights
        for run, (x, y) in zip(self._runs, self._shared(), strict=True):
            if not self._is_held:
                sfd.get(weights.meta)  # while the next rows are being shared
            weights = self.spu(_descended, static_argnames=_STATIC)(
                x,
                y,
                weights,
                is_held=self._is_held,
                batch_size=run.batch_size,
                learning_rate=self.learning_rate,
                l2_norm=self.l2_norm if self.penalty == Penalty.L2 else 0.0,
                sig_type=self.sig_type if self.reg_type == RegType.Logistic else None,
                fraction_bits=self.spu.conf.fxp_fraction_bits,
            )
        if self.path is not None:
            self.path.append(weights)
        return weights

    def squared_errors(self) -> Iterator[Any]:
        """Yield sums of squared errors over all rows, after some epochs of `path` at a time."""
        path = self.path or []
        at_once = max(1, MOST_SCORES // self.samples)
        for start in range(0, len(path), at_once):
            total = None
            for x, y in self._shared():
                sums = self.spu(_squared_errors, static_argnames=("sig_type",))(
                    x,
                    y,
                    path[start : start + at_once],
                    sig_type=self.sig_type if self.reg_type == RegType.Logistic else None,
                )
                if not self._is_held and total is not None:
                    sfd.get(total.meta)
                total = sums if total is None else self.spu(jnp.add)(total, sums)
            yield total

    def _share(self, run: Run) -> tuple[Any, Any]:
        x = [part.to(self.spu) for part in self.x[run.rows].partitions.values()]
        [y] = [part.to(self.spu) for part in self.y[run.rows].partitions.values()]
        return self.spu(_with_intercept)(x), y


class Glm(SSGLM):  # type: ignore[misc]
    """SecretFlow's generalised linear model, whose SGD goes over all rows and whose IRLS has no needless division."""

    def _pre_check(self, *arguments: Any) -> None:
        super()._pre_check(*arguments)
        self._runs: list[Run] = []
        if self.epochs > self.irls_epochs:
            self._runs = Schedule.of(self.samples, self.sgd_batch_size, self.epochs).runs(self.infeed_batch_size)
            self.infeed_total_batch = len(self._runs)
            if self.samples == getattr(self, "samples_val", None):  # as many rows are told from these by nothing
                self.infeed_total_batch_val = len(self._runs)

    def _next_infeed_batch(self, values: Any, step: int, samples: int | None = None, *others: Any) -> Any:
        if others or not self._runs or samples not in (None, self.samples):
            return super()._next_infeed_batch(values, step, samples, *others)
        rows = self._runs[step].rows
        if isinstance(values, FedNdarray):
            return values[rows]
        on_device = self.spu if isinstance(values, SPUObject) else values.device
        return on_device(lambda each: each[rows])(values)

    def _epoch(self, weights: Any, epoch: int) -> Any:
        if epoch >= self.irls_epochs:
            return super()._epoch(weights, epoch)
        start, is_held = (None, None), _is_held(self.x)
        if epoch == 0:
            offset = self.offset.partitions.get(self.y_device) if self.offset else None
            labels = self.y.partitions[self.y_device]
            start = self.y_device(glm_model._irls_first_epoch)(labels, offset, self.link, self.dist)
        sums: Any = None
        for step in range(self.infeed_total_batch):
            starts = [each if each is None else self._next_infeed_batch(each, step) for each in start]
            x, *others = self._build_batch_cache(step)
            parts = self.spu(cross_products, static_argnames=_STATIC_OF_IRLS, **_TWO)(
                kept(x) if is_held else x,
                *others,
                weights,
                *starts,
                is_held=is_held,
                link=self.link.link_type(),
                distribution=self.dist.dist_type(),
                power=_POWERS.get(self.dist.dist_type(), getattr(self.dist, "_power", None)),
            )
            sums = parts if sums is None else self.spu(_added, **_TWO)(*sums, *parts)
            sfd.get(sums[0].meta)  # waits, or all rows would be on their way at once
            if not is_held:
                self.batch_cache["train"].clear()
        features, responses = sums
        inverse = self.y_device(glm_model.J_inv)(features.to(self.y_device), self.l2_lambda)
        return self.spu(glm_model._irls_update_w_from_accumulated_partials, static_argnames="l2_lambda")(
            inverse.to(self.spu), responses, weights, l2_lambda=self.l2_lambda
        )

    def _sgd_step(self, weights: Any, x: Any, *others: Any) -> Any:
        [run] = [
            run for run, shared in zip(self._runs, self.batch_cache["train"].values(), strict=False) if shared[0] is x
        ]
        self.sgd_batch_size = run.batch_size
        return super()._sgd_step(weights, x, *others)


def _is_held(x: FedNdarray) -> bool:
    """Return whether features stay on the SPU for all epochs."""
    return bool(math.prod(x.shape) <= MOST_HELD)


_POWERS = {DistributionType.Poisson: 1.0, DistributionType.Gamma: 2.0}
"""Powers of the mean that variances are. Tweedie's is a parameter."""


def _added(features: Any, responses: Any, more_features: Any, more_responses: Any) -> Any:
    return features + more_features, responses + more_responses


def _with_intercept(parts: list[Any]) -> Any:
    return jnp.concatenate([*parts, jnp.ones((parts[0].shape[0], 1), parts[0].dtype)], axis=1)


def _descended(
    x: Any,
    y: Any,
    weights: Any,
    *,
    is_held: bool,
    batch_size: int,
    learning_rate: float,
    l2_norm: float,
    sig_type: SigType | None,
    fraction_bits: int,
) -> Any:
    """Return the weights after a step for each batch, as SecretFlow makes them in nearly twice the messages."""
    x, factor = opened_once(x) if is_held else x, learning_rate / batch_size
    decay = np.full((x.shape[1], 1), l2_norm * factor)
    decay[-1] = 0.0  # the intercept
    for start in range(0, x.shape[0], batch_size):
        rows, labels = x[start : start + batch_size], y[start : start + batch_size]
        predicted = _response(rows @ weights, sig_type)
        gradient = rows.T @ (predicted - labels)
        if factor * 2**fraction_bits < LEAST_FACTOR:
            gradient, factor_left = gradient / batch_size, learning_rate
        else:
            factor_left = factor
        if l2_norm:
            # One product for both, as each costs a message. XLA would take apart what is not summed up.
            both = jnp.stack([gradient, weights]) * np.stack([np.full_like(decay, factor_left), decay])
            weights = weights - jnp.sum(both, axis=0)
        else:
            weights = weights - gradient * factor_left
    return weights


def _squared_errors(x: Any, y: Any, path: list[Any], *, sig_type: SigType | None) -> Any:
    """Return sums of squared errors of predictions, which have the true sigmoid where polynomials stand for it."""
    scores = x @ jnp.concatenate(path, axis=1)
    if sig_type in (SigType.DF, SigType.SR):
        predicted = sigmoid(scores, sig_type)
    else:
        predicted = scores if sig_type is None else exact_sigmoid(scores)
    return jnp.sum(jnp.square(predicted - y), axis=0)


def _response(scores: Any, sig_type: SigType | None) -> Any:
    """Return what a linear model (None) or a logistic one predicts."""
    if sig_type is None:
        return scores
    if sig_type is not SigType.T1:
        return sigmoid(scores, sig_type)
    line = 0.5 + scores * 0.25
    # Below 0 and above 1 is asked, and mended, at once.
    is_beyond = jnp.stack([line, 1 - line]) < 0
    return line + jnp.sum(jnp.where(is_beyond, jnp.stack([-line, 1 - line]), 0), axis=0)


_STATIC = ("is_held", "batch_size", "learning_rate", "l2_norm", "sig_type", "fraction_bits")
_STATIC_OF_IRLS = ("is_held", "link", "distribution", "power")
_TWO = {"num_returns_policy": SPUCompilerNumReturnsPolicy.FROM_USER, "user_specified_num_returns": 2}


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


def _compared(before: Any, after: Any, epochs: int) -> Any:
    if before is None:  # after the first epoch
        before = jnp.zeros_like(after)
    # Out of bounds nothing can be compared, as differences overflow.
    change, size = _largest_sizes(after - before, after)
    beyond = jnp.stack([size * (SETTLED / epochs), LARGEST_WEIGHT * jnp.ones_like(size)]) < jnp.stack([change, size])
    return ~beyond[0], ~beyond[1]


def _largest_sizes(*values: Any) -> Any:
    """Return the largest size of each of several columns of weights."""
    return largest(jnp.abs(jnp.stack([value.reshape(-1) for value in values]))[None])[0]
