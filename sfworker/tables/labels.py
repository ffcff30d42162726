"""Checks labels at the party that holds them. Runs in party processes."""

from __future__ import annotations

import numpy as np

from sfworker.errors import InputDataError
from sfworker.tables.files import Matrix


def binary(label: Matrix, wants: str) -> Matrix:
    """Return `label`, which has to hold both 0 and 1 and nothing else.

    Raises InputDataError, in which `wants` ("a model") says who needs that.
    """
    distinct = set(np.unique(label).tolist())
    if not distinct <= {0.0, 1.0}:
        raise InputDataError(f"task_config.label: {wants} needs a label of 0 and 1; recode the column")
    if len(distinct) == 1:
        raise InputDataError(f"task_config.label: every row has the same label; {wants} needs rows of both")
    return label
