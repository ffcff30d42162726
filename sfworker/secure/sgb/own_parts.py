"""Gives each training of SecretFlow's `sgb` parts of its own. Runs in party processes.

Upstream they are defaults of dataclasses, so that all trainings of a process share them, and what they hold of one, its
gradients among that, would stay in a kept session.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from secretflow.ml.boost.sgb_v.factory.booster.global_ordermap_booster import GlobalOrdermapBoosterComponents
from secretflow.ml.boost.sgb_v.factory.components.bucket_sum_calculator.bucket_sum_calculator import (
    BucketSumCalculatorComponents,
)
from secretflow.ml.boost.sgb_v.factory.components.bucket_sum_calculator.leaf_wise_bucket_sum_calculator import (
    LeafWiseBucketSumCalculatorComponents,
)
from secretflow.ml.boost.sgb_v.factory.components.tree_trainer.leaf_wise_tree_trainer import (
    LeafWiseTreeTrainerComponents,
)
from secretflow.ml.boost.sgb_v.factory.components.tree_trainer.level_wise_tree_trainer import (
    LevelWiseTreeTrainerComponents,
)


def use_own_parts() -> None:
    """Copy the defaults for each training of this process, ours and the component's."""
    for each in (
        BucketSumCalculatorComponents,
        GlobalOrdermapBoosterComponents,
        LeafWiseBucketSumCalculatorComponents,
        LeafWiseTreeTrainerComponents,
        LevelWiseTreeTrainerComponents,
    ):
        each.__init__ = _with_own_parts


def _with_own_parts(self: Any) -> None:
    for each in dataclasses.fields(self):
        setattr(self, each.name, copy.deepcopy(each.default))
