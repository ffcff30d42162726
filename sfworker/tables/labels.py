"""Checks labels at the party that holds them. Runs in party processes."""

from __future__ import annotations

import math

import numpy as np

from sfworker.errors import InputDataError
from sfworker.tables import aligned
from sfworker.tables.files import Matrix


def binary(label: Matrix, wants: str, least: int = 0) -> Matrix:
    """Return `label`, which has to hold both 0 and 1, each in `least` rows, and nothing else.

    Raises InputDataError, in which `wants` ("a model") says who needs that.
    """
    distinct = set(np.unique(label).tolist())
    if not distinct <= {0.0, 1.0}:
        raise InputDataError(f"task_config.label: {wants} needs a label of 0 and 1; recode the column")
    if len(distinct) == 1:
        raise InputDataError(f"task_config.label: every row has the same label; {wants} needs rows of both")
    if min((label == 1).sum(), (label == 0).sum()) < least:
        raise InputDataError(
            f"task_config.label: fewer than {least} rows have one of the labels, and the operator lets nothing of them "
            f"be revealed (SFWORKER_MIN_GROUP_ROWS); add rows"
        )
    return label


def standardized(label: Matrix) -> Matrix:
    """Return `label` with mean 0 and deviation 1, or all 0 where every row has the same."""
    means, deviations = aligned.means_and_deviations(label)
    found: Matrix = (label - means) / np.where(deviations, deviations, 1.0)
    return found


def scale(label: Matrix) -> tuple[float, float, int]:
    """Return mean and deviation in a unit that is a power of two, and its exponent, so that the deviation is near 1.

    The deviation of labels that are all the same counts as their size.
    """
    [mean], [deviation] = (each.tolist() for each in aligned.means_and_deviations(label))
    deviation = deviation or abs(mean) or 1.0
    exponent = math.frexp(deviation)[1]
    return math.ldexp(mean, -exponent), math.ldexp(deviation, -exponent), exponent
