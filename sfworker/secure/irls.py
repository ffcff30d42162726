"""Sums up what a step of IRLS needs of all rows, on the SPU. Runs in party processes.

SecretFlow's own takes three divisions for each row, and multiplies as many rows at once as there are features, which
the SPU does many times slower than a few.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from secretflow.ml.linear.ss_glm.core import Linker, get_link
from secretflow.ml.linear.ss_glm.core.distribution import DistributionType, get_dist
from secretflow.ml.linear.ss_glm.core.link import LinkLog, LinkLogit, LinkType

from sfworker.secure.secret_matrices import product
from sfworker.secure.sigmoid import exponential, sigmoid
from sfworker.session.opened_once import opened_once


class Logit(LinkLogit):  # type: ignore[misc]
    """SecretFlow's logit link with the true sigmoid in place of an approximation."""

    def response(self, eta: Any) -> Any:
        return sigmoid(eta)


class Log(LinkLog):  # type: ignore[misc]
    """SecretFlow's log link with a more exact exponential."""

    def response(self, eta: Any) -> Any:
        return exponential(eta)


def link_of(kind: LinkType | str) -> Linker:
    """Return our link of a kind, or SecretFlow's where we have none."""
    ours = {LinkType.Logit: Logit, LinkType.Log: Log}
    return ours[kind]() if (kind := LinkType(kind)) in ours else get_link(kind)


def cross_products(
    x: Any,
    y: Any,
    offset: Any,
    weight: Any,
    model: Any,
    start_weights: Any,
    start_responses: Any,
    *,
    is_held: bool,
    link: LinkType,
    distribution: DistributionType,
    power: float | None,
) -> tuple[Any, Any]:
    """Return the weighted products of the features with each other, and with the working responses."""
    x = opened_once(x) if is_held else x
    if model is None:
        weights = start_weights.reshape(-1, 1)
        weighted = weights * start_responses.reshape(-1, 1)
    else:
        linear = x @ model.reshape(-1, 1)
        predictors = linear if offset is None else linear + offset.reshape(-1, 1)
        means, weights, slopes = _working(predictors, link, distribution, power)
        weighted = weights * linear + slopes * (y.reshape(-1, 1) - means)
    if weight is not None:
        weights, weighted = weights * weight.reshape(-1, 1), weighted * weight.reshape(-1, 1)
    products = product(jnp.concatenate([x * weights, weighted], axis=1), x)
    return products[:-1], products[-1:].T


def _working(predictors: Any, link: LinkType, distribution: DistributionType, power: float | None) -> Any:
    """Return rows' means, weights, and what their errors count, where the variance is the mean to the `power`.

    With m' the derivative of the mean, and v the variance, these are m, m'^2 / v and m' / v.
    """
    if link is LinkType.Logit and distribution is DistributionType.Bernoulli:
        means = sigmoid(predictors)
        return means, means * (1 - means), jnp.ones_like(means)
    if link is LinkType.Log and power is not None:
        exponents = (1.0, 2.0 - power, 1.0 - power)
        taken = sorted({exponent for exponent in exponents if exponent})
        powers = dict(zip(taken, exponential(jnp.stack([each * predictors for each in taken])), strict=True))
        return tuple(powers.get(exponent, jnp.ones_like(predictors)) for exponent in exponents)
    linker = link_of(link)
    means = linker.response(predictors)
    derivatives = linker.response_derivative(means)
    slopes = derivatives / get_dist(distribution, 1.0, 1.0 if power is None else power).variance(means)
    return means, derivatives * slopes, slopes
