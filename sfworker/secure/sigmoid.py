"""Computes the sigmoid, on an SPU or in the plain.

SecretFlow's models approximate it by a root, which is 0.1 off in places.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

HALVINGS = 10
"""Halvings of an exponent, so that a short series is right to nine digits. As many squarings follow."""


def sigmoid(scores: Any) -> Any:
    """Return 1 / (1 + exp(-scores)), as exact as the SPU's exponential is."""
    upper = 1 / (1 + jnp.exp(-jnp.abs(scores)))  # the exponential of a large number would overflow
    return jnp.where(scores > 0, upper, 1 - upper)


def exponential(exponents: Any) -> Any:
    """Return exp(exponents), right to seven digits where SecretFlow's own loses one with each tenfold exponent."""
    small = exponents / 2**HALVINGS
    power = 1 + small * (1 + small / 2 * (1 + small / 3 * (1 + small / 4)))
    for _ in range(HALVINGS):
        power = jnp.square(power)
    return power
