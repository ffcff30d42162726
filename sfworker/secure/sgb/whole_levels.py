"""Sends the label's party of SecretFlow's `sgb` a level's sums together. Runs in party processes.

Upstream each node's travel and are decrypted by themselves: 31 messages for a tree of depth 5, where here are 5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from secretflow.device import HEUObject
from secretflow.device.device.heu import HEUActor, process_data
from secretflow.ml.boost.sgb_v.factory.components.bucket_sum_calculator.bucket_sum_calculator import (
    BucketSumCalculator,
)

_stock = BucketSumCalculator.calculate_bucket_sum_level_wise


def use_whole_levels() -> None:
    """Replace how sums reach the label's party in all trainings of this process, ours and the component's."""
    HEUActor.joined = _joined
    BucketSumCalculator.calculate_bucket_sum_level_wise = _sums_of_level


def _sums_of_level(
    self: Any,
    shuffler: Any,
    gradients: Any,
    nodes: Any,
    is_lefts: Any,
    bins_of_rows: Any,
    bins: int,
    bucket_lists: Any,
    encryptor: Any,
    node_count: Any,
    *others: Any,
) -> Any:
    """Return the sums of gradients and of hessians at the label's party, for each node of the level (1, all bins).

    Every party sends its own of each node in an order that is drawn anew for the node.
    """
    if self.params.label_holder_feature_only or self.params.enable_packbits:
        given = (shuffler, gradients, nodes, is_lefts, bins_of_rows, bins, bucket_lists, encryptor, node_count)
        return _stock(self, *given, *others)
    cache, told = self.components.level_wise_cache, []
    shuffler.reset_shuffle_masks()
    cache.reset_level_caches()
    for number, party in enumerate(self.workers):
        own = gradients[party].batch_feature_wise_bucket_sum(nodes, bins_of_rows.partitions[party], bins + 1, True)
        cache.collect_level_node_GH(party, own, is_lefts)
        sums = cache.get_level_nodes_GH(party)
        orders = [shuffler.create_shuffle_mask(number, node, bucket_lists[number]) for node in range(len(sums))]
        first, parts = sums[0], [[each.data for each in both] for both in (sums, orders)]
        joined = self.heu.get_participant(party.party).joined.remote(*parts)
        shown = HEUObject(self.heu, joined, first.location, first.is_plain)
        told.append(shown.to(self.label_holder, encryptor.get_move_config(self.label_holder)))
    return self.label_holder(_by_node, num_returns=2)(told, node_count)


def _joined(self: Any, sums: Any, orders: Any) -> Any:
    """Return the arrays one below the other, each in its order. HEU joins none, but takes a row as often as asked."""
    ordered = [each[list(map(int, order))] for each, order in zip(*process_data([sums, orders]), strict=True)]
    joined = ordered[0][[0] * sum(each.rows for each in ordered)]
    end = 0
    for each in ordered:
        begin, end = end, end + each.rows
        joined[begin:end] = each
    return joined


def _by_node(of_parties: list[npt.NDArray[Any]], nodes: int) -> tuple[list[npt.NDArray[Any]], ...]:
    of_nodes = [np.concatenate(parts) for parts in zip(*(np.split(each, nodes) for each in of_parties), strict=True)]
    return tuple([sums[:, column].reshape(1, -1) for sums in of_nodes] for column in (0, 1))
