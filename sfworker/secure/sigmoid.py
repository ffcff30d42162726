"""Computes the sigmoid, on an SPU or in the plain.

SecretFlow's models approximate it by a root, which is 0.1 off in places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

HALVINGS = 10
"""Halvings of an exponent, so that a short series is right to nine digits. As many squarings follow."""


FARTHEST = 32.0
"""Score from which on a sigmoid is 1."""


def sigmoid(scores: Any) -> Any:
    """Return 1 / (1 + exp(-scores)), as exact as the SPU's exponential is."""
    return _sigmoid(scores, jnp.exp)


def exact_sigmoid(scores: Any) -> Any:
    """Return the same by an exponential that costs more and does not lose digits with the exponent."""
    return _sigmoid(jnp.clip(scores, -FARTHEST, FARTHEST), exponential)


def _sigmoid(scores: Any, to_powers: Callable[[Any], Any]) -> Any:
    is_negative = scores < 0
    # The exponential of a large number would overflow.
    upper = _reciprocal(1 + to_powers(jnp.where(is_negative, scores, -scores)))
    return jnp.where(is_negative, 1 - upper, upper)


def _reciprocal(numbers: Any) -> Any:
    """Return 1 / numbers from 1 to 2, right to nine digits, in a third of the messages of the SPU's own for all."""
    found = 24 / 17 - 8 / 17 * numbers  # right to a 17th, which each step squares
    for _ in range(3):
        found = found * (2 - numbers * found)
    return found


def exponential(exponents: Any) -> Any:
    """Return exp(exponents), right to seven digits where SecretFlow's own loses one with each tenfold exponent."""
    small = exponents / 2**HALVINGS
    power = 1 + small * (1 + small / 2 * (1 + small / 3 * (1 + small / 4)))
    for _ in range(HALVINGS):
        power = jnp.square(power)
    return power
