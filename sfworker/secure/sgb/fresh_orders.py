"""Draws from fresh numbers what SecretFlow's `sgb` draws from the job's seed to hide it. Runs in party processes.

The seed is in the envelope, so who reads that could undo the order in which a party sends sums of its bins, and the one
that hides which rows GOSS has taken for their gradients, and could take off the noise of gains. Which rows and columns
are sampled still comes from the seed: all parties learn that anyway.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from secretflow.ml.boost.sgb_v.factory.components.order_map_manager.order_map_actor import OrderMapActor
from secretflow.ml.boost.sgb_v.factory.components.sampler.sample_actor import SampleActor
from secretflow.ml.boost.sgb_v.factory.components.shuffler import shuffler_core
from secretflow.ml.boost.sgb_v.factory.components.shuffler.worker_shuffler import WorkerShuffler

_stock_goss = SampleActor.goss


def use_fresh_orders() -> None:
    """Make `sgb` of this process, ours and the component, hide by fresh numbers what it hides."""
    shuffler_core.create_permuation_with_last_number_fixed = _permutation
    WorkerShuffler.__init__ = _shuffler
    OrderMapActor.build_order_map = _order_map
    SampleActor.goss = _goss


def _permutation(size: int) -> npt.NDArray[np.int64]:
    """Return a permutation that leaves the last number in its place."""
    drawn = np.frombuffer(os.urandom(8 * (size - 1)), dtype=np.uint64)
    return np.append(np.argsort(drawn), size - 1)


# The two as they are upstream, except that they do not seed NumPy's global state, which others draw from.


def _shuffler(self: Any, seed: int) -> None:
    self.shuffler = shuffler_core.Shuffler()


def _order_map(self: Any, x: Any, buckets: int, seed: int) -> Any:
    self.ordermap_context.build_maps(np.array(x, order="F"), buckets)
    return self.ordermap_context.get_order_map()


def _goss(self: Any, *arguments: Any) -> Any:
    self.rng = np.random.default_rng()
    return _stock_goss(self, *arguments)
