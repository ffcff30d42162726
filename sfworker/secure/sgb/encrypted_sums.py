"""Sums up the encrypted gradients of SecretFlow's `sgb` with fewer operations. Runs in party processes.

The sums are the same ciphertexts, bit for bit: HEU adds by multiplying modulo a number, and the order does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from heu.numpy import CiphertextArray
from secretflow.device.device.heu import HEUActor, process_data

MOST_BINS = 11
"""Of a feature. The bins of two features together are numbered in an int8, as HEU wants it."""
LEAST_ROWS = 1_000
"""Of a node. With fewer, adding up the joint bins takes what they save."""

_stock_sums = HEUActor.batch_feature_wise_bucket_sum
_stock_operation = HEUActor.do_binary_op


def use_fewer_operations() -> None:
    """Replace how all trainings of this process, ours and the component's, sum up by bins and subtract."""
    HEUActor.batch_feature_wise_bucket_sum = _sums
    HEUActor.do_binary_op = _operation


def _sums(self: Any, data: Any, nodes: Any, bins_of_rows: Any, bins: Any, cumsum: bool = False) -> list[Any]:
    """Return for each node the sums of its rows by bins of one feature after the other, (bins * features, 1)."""
    nodes, bins_of_rows, bins = process_data([nodes, bins_of_rows, bins])
    fits = isinstance(data, CiphertextArray) and bins <= MOST_BINS and bins_of_rows.shape[1] > 1
    return [
        _by_pairs(self, data, node, bins_of_rows, bins, cumsum)
        if fits and np.count_nonzero(node) >= LEAST_ROWS
        else _stock_sums(self, data, [node], bins_of_rows, bins, cumsum)[0]
        for node in nodes
    ]


def _by_pairs(
    self: Any, data: Any, node: npt.NDArray[Any], bins_of_rows: npt.NDArray[Any], bins: int, cumsum: bool
) -> Any:
    """Add each row once for two features, to the sum of their joint bin, and these few sums to the bins of either."""
    features, joint = bins_of_rows.shape[1], bins * bins
    sums_of = self.evaluator.feature_wise_bucket_sum
    second = np.pad(bins_of_rows[:, 1::2], ((0, 0), (0, features % 2)))
    cells = sums_of(data, node, _numbers(bins_of_rows[:, ::2] * bins + second), joint, False)
    of_either = np.stack(np.divmod(np.arange(joint), bins), axis=1)
    sums = cells[[0] * (bins * features)]  # an array of that length; its numbers are replaced
    for feature in range(0, features, 2):
        own = cells[feature // 2 * joint : (feature // 2 + 1) * joint]
        both = sums_of(own, np.ones(joint, np.int8), _numbers(of_either[:, : features - feature]), bins, cumsum)
        sums[feature * bins : feature * bins + both.rows] = both
    return sums


def _numbers(bins: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    return np.ascontiguousarray(bins, dtype=np.int8)


def _operation(self: Any, name: str, one: Any, other: Any) -> Any:
    columns = [each for each in (one, other) if isinstance(each, CiphertextArray) and each.cols == 1]
    if name == "sub" and len(columns) == 2 and one.rows == other.rows:
        return self.evaluator.add(one, _negative(self.evaluator, other))
    return _stock_operation(self, name, one, other)


def _negative(evaluator: Any, numbers: CiphertextArray) -> CiphertextArray:
    """Return the negatives of a column, with one inversion modulo, which takes as long as eighty additions.

    As -a = -(a + b) + b and -b = -(a + b) + a, half as many are to be inverted, and of these again.
    """
    half = numbers.rows // 2
    if half == 0:
        return evaluator.sub(evaluator.sub(numbers, numbers), numbers)
    first, second = numbers[:half], numbers[half : 2 * half]
    both = _negative(evaluator, evaluator.add(first, second))
    negatives = numbers[:]
    negatives[:half] = evaluator.add(both, second)
    negatives[half : 2 * half] = evaluator.add(both, first)
    if numbers.rows % 2:
        negatives[2 * half :] = _negative(evaluator, numbers[2 * half :])
    return negatives
