"""Trains SecretFlow's `Xgb` with a fraction of its messages and products. Runs in party processes.

What it shows is what SecretFlow's own shows: the bucket that splits each node, and with it whose feature that is.

A product with the buckets' map costs what masking and opening the map costs, for a few rows at a time. So the gradients
of all nodes of a level are multiplied together, and the map is opened once where it stays the same.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import secretflow.distributed as sfd
from secretflow.device import SPUCompilerNumReturnsPolicy
from secretflow.ml.boost.ss_xgb_v import Xgb
from secretflow.ml.boost.ss_xgb_v.checkpoint import SSXGBCheckpointData, build_ss_xgb_model

from sfworker.secure.largest import largest
from sfworker.secure.secret_matrices import blocks, product
from sfworker.session.opened_once import kept, opened_once

MOST_CELLS = 500_000
"""Cells of the map that are multiplied at a time."""


class Booster(Xgb):  # type: ignore[misc]
    """SecretFlow's Xgb, which goes on after a checkpoint with what the checkpoint's trees predict."""

    def __init__(self, spu: Any, resumed: SSXGBCheckpointData | None) -> None:
        super().__init__(spu)
        self._resumed = resumed

    def _global_setup(self) -> None:
        super()._global_setup()
        # What is opened takes as much memory as the map, so this is for the size of one fragment.
        self._is_opened_once = self.fragment_count == 1 and self.subsample == 1 and self.colsample == 1
        if self._is_opened_once:
            kept(self.bucket_map[0])
        if self._resumed is not None:
            model = build_ss_xgb_model(self._resumed, self.spu[0])
            for tree, weight in zip(model.trees, model.weights, strict=True):
                super()._update_pred(tree, weight)

    def _train_tree(self) -> tuple[dict[Any, Any], Any]:
        spu = self.spu[0]
        maps = (self.bucket_map, self.sub_choices, self.col_choices[0])
        static = {"reg_lambda": self.reg_lambda, "is_opened_once": self._is_opened_once}
        gradients, sums, buckets, sides = spu(_roots, static_argnames=tuple(static), **_returns(4))(
            self.ghs, *maps, **static
        )
        self._lefts: list[list[Any]] = []
        while True:
            self._lefts.append([self._left_rows(worker, buckets) for worker in self.workers])
            if len(self._lefts) == self.depth:
                break
            gradients, sums, buckets, sides = spu(_children, static_argnames=tuple(static), **_returns(4))(
                gradients, sums, self._lefts[-1], *maps, **static
            )
        weight = spu(_leaf_weights, static_argnames="learning_rate")(sides, learning_rate=self.lr)
        sfd.get(weight.meta)  # waits, so that progress is true
        return {worker.device: worker.tree_finish() for worker in self.workers}, weight

    def _left_rows(self, worker: Any, buckets: Any) -> Any:
        """Share which rows go left in the nodes whose feature is this worker's."""
        numbers = worker.device(_whole)(buckets.to(worker.device))
        return worker.device(_dense)(worker.do_split(numbers), self.samples).to(self.spu[0])

    def _update_pred(self, tree: dict[Any, Any], weight: Any) -> None:
        updated = self.spu[0](_predicted, **_returns(self.fragment_count))(self.pred, self._lefts, weight)
        self.pred: list[Any] = updated if isinstance(updated, list) else [updated]


def _returns(count: int) -> dict[str, Any]:
    return {"num_returns_policy": SPUCompilerNumReturnsPolicy.FROM_USER, "user_specified_num_returns": count}


def _whole(numbers: Any) -> list[int]:
    return [int(number) for number in np.rint(np.asarray(numbers))]


def _dense(lefts: list[Any], rows: int) -> Any:
    """Return a row for each node, zeros where another party has its feature: other shapes were other programs."""
    return np.concatenate([left if left.size else np.zeros((1, rows), np.int8) for left in lefts])


# Functions on the SPU. Gradients and their sums have a row for each node, those of the first order before those of the
# second. A product of numbers and of zeros and ones is exact and takes one message, as long as nothing is broadcast.


def _roots(
    pairs: list[Any], maps: list[Any], rows: list[Any], columns: Any, *, reg_lambda: float, is_opened_once: bool
) -> tuple[list[Any], Any, Any, Any]:
    """Return gradients by fragment, their sums by bucket, and the best splits."""
    gradients = [jnp.concatenate(pair) for pair in pairs]
    sums = _sums(gradients, maps, rows, columns, is_opened_once)
    return gradients, sums, *_best_splits(sums, reg_lambda)


def _children(
    gradients: list[Any],
    sums: Any,
    parts: list[Any],
    maps: list[Any],
    rows: list[Any],
    columns: Any,
    *,
    reg_lambda: float,
    is_opened_once: bool,
) -> tuple[list[Any], Any, Any, Any]:
    """Return the same of the nodes' children, of which `parts` say which rows are left ones."""
    is_left, start, left = sum(parts), 0, []
    for each, whole_map, drawn in zip(gradients, maps, rows, strict=True):
        of_fragment = is_left[:, start : start + whole_map.shape[0]]
        start += whole_map.shape[0]
        chosen = of_fragment if drawn is None else of_fragment[:, drawn]
        left.append(each * jnp.concatenate([chosen, chosen]))
    left_sums = _sums(left, maps, rows, columns, is_opened_once)
    children = _both(left_sums, sums)
    of_rows = [_both(one, each) for one, each in zip(left, gradients, strict=True)]
    return of_rows, children, *_best_splits(children, reg_lambda)


def _both(left: Any, whole: Any) -> Any:
    """Return each node's left and right child in turn."""
    return jnp.stack([left, whole - left], axis=1).reshape(-1, whole.shape[-1])


def _sums(gradients: list[Any], maps: list[Any], rows: list[Any], columns: Any, is_opened_once: bool) -> Any:
    total: Any = 0
    for each, whole_map, drawn in zip(gradients, maps, rows, strict=True):
        buckets = opened_once(whole_map) if is_opened_once else whole_map
        buckets = buckets if columns is None else buckets[:, columns]
        buckets = buckets if drawn is None else buckets[drawn]
        # A product takes up to ten times the memory of what it multiplies.
        for part in blocks(buckets.shape[0], buckets.shape[1], MOST_CELLS):
            total += product(each[:, part].T, buckets[part])
    return total


def _best_splits(sums: Any, reg_lambda: float) -> tuple[Any, Any]:
    """Return the number of each node's best bucket, and the weights left and right of it before the learning rate."""
    left = sums.reshape(2, sums.shape[0] // 2, -1)
    whole = left[:, :, -1:]  # the last bucket holds all rows
    first, second = jnp.stack([left, whole - left], axis=1)
    weights = first / (second + reg_lambda)  # 0 where a side has no rows, as their sums are exactly 0
    gains = jnp.sum(weights * first, axis=0)
    numbers = jnp.broadcast_to(jnp.arange(gains.shape[1], dtype=gains.dtype), gains.shape)
    _, number, *sides = largest(jnp.stack([gains, numbers, *weights]))
    return number, jnp.stack(sides, axis=1).reshape(-1, 1)


def _leaf_weights(sides: Any, learning_rate: float) -> Any:
    return -learning_rate * sides


def _predicted(predictions: list[Any], lefts: list[list[Any]], weight: Any) -> Any:
    """Add to each fragment's predictions what the tree predicts, from its leaves up to its root."""
    values = weight
    for parts in reversed(lefts):
        is_left, (left, right) = sum(parts), (values[::2], values[1::2])
        values = right + is_left * jnp.broadcast_to(left - right, is_left.shape)
    ends = np.cumsum([each.shape[1] for each in predictions])[:-1]
    return [each + more for each, more in zip(predictions, jnp.split(values, ends, axis=1), strict=True)]
