"""Computes the sigmoid, on an SPU or in the plain.

SecretFlow's models approximate it by a root, which is 0.1 off in places.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def sigmoid(scores: Any) -> Any:
    """Return 1 / (1 + exp(-scores)), as exact as the SPU's exponential is."""
    upper = 1 / (1 + jnp.exp(-jnp.abs(scores)))  # the exponential of a large number would overflow
    return jnp.where(scores > 0, upper, 1 - upper)
