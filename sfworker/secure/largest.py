"""Finds largest numbers on the SPU in a fraction of the messages that `jnp.max` and `jnp.argmax` take there.

These compare by pairs, and `argmax` in four ways each time. What a comparison costs is the messages, not the numbers.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

_CONTENDERS = 4
"""Numbers of which all pairs are compared at once."""


def largest(carried: Any) -> Any:
    """Return along the last axis what stands where the first of `carried` is largest, at the first such place."""
    while (width := carried.shape[-1]) > 1:
        several = min(_CONTENDERS, width)
        # Repeats lose against the original before them.
        padding = jnp.broadcast_to(carried[..., -1:], (*carried.shape[:-1], -width % several))
        groups = jnp.concatenate([carried, padding], axis=-1).reshape(*carried.shape[:-1], -1, several)
        carried = jnp.sum(jnp.where(_wins(groups[0]), groups, 0), axis=-1)
    return carried[..., 0]


def _wins(groups: Any) -> Any:
    """Return which number of each group is its largest, by one comparison of all pairs."""
    several = groups.shape[-1]
    pairs = [(one, other) for one in range(several) for other in range(one + 1, several)]
    ones, others = (jnp.stack([groups[..., pair[side]] for pair in pairs]) for side in (0, 1))
    loses = ones < others
    beats = {pair: ~loses[at] for at, pair in enumerate(pairs)}
    beats |= {(other, one): loses[at] for at, (one, other) in enumerate(pairs)}
    wins: Any = True
    for step in range(1, several):
        wins &= jnp.stack([beats[one, (one + step) % several] for one in range(several)], axis=-1)
    return wins
