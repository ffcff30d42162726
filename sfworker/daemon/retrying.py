"""Decides whether and when a failed job is tried again. The decision is a value, on which the executor acts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sfworker.errors import Failure
from sfworker.wire.envelope import Options

LONGEST_DELAY = 3600.0
JITTER = 0.2


@dataclass(frozen=True)
class RetryDecision:
    """The decision on a failed attempt, with the delay of the next one."""

    retry: bool
    delay_seconds: float = 0.0


def decide(failure: Failure, attempts_used: int, options: Options, chance: float | None = None) -> RetryDecision:
    """Decide on another attempt after `failure`.

    `attempts_used` counts this failure. The delay doubles with each, up to an hour, give or take a fifth; `chance`
    (0 to 1) replaces the random jitter.
    """
    if not failure.retryable or attempts_used > options.max_retries:
        return RetryDecision(retry=False)
    chance = random.random() if chance is None else chance  # noqa: S311 - jitter, no secret
    longest = max(LONGEST_DELAY, options.retry_delay)
    # The exponent is bounded, because 2.0 ** 1024 is an OverflowError.
    delay = min(options.retry_delay * 2.0 ** min(attempts_used - 1, 30), longest)
    return RetryDecision(retry=True, delay_seconds=delay * (1 + JITTER * (2 * chance - 1)))
