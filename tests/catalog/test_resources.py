"""What an execution may use: its envelope's options within the worker's settings."""

from __future__ import annotations

import pytest

from sfworker.catalog.resources import Limit, granted
from sfworker.errors import ParameterValidationError
from sfworker.settings import Settings
from sfworker.wire.envelope import Options


def test_nothing_is_limited_by_default() -> None:
    resources = granted(Options(), Settings())
    assert (resources.memory, resources.scratch, resources.threads) == (None, None, None)


@pytest.mark.parametrize(
    ("asked", "usual", "most", "limit"),
    [
        (5, 0, 0, Limit(5, "raise options.memory_limit_bytes")),
        (5, 3, 0, Limit(5, "raise options.memory_limit_bytes")),
        (None, 3, 0, Limit(3, "raise options.memory_limit_bytes")),
        (None, 3, 9, Limit(3, "raise options.memory_limit_bytes (at most 9 here)")),
        (None, 0, 9, Limit(9, "no more is granted by this worker (SFWORKER_MAX_MEMORY_LIMIT_BYTES)")),
        (None, 12, 9, Limit(9, "no more is granted by this worker (SFWORKER_MAX_MEMORY_LIMIT_BYTES)")),
        (9, 3, 9, Limit(9, "no more is granted by this worker (SFWORKER_MAX_MEMORY_LIMIT_BYTES)")),
    ],
)
def test_options_over_the_default_within_the_bound(asked: int | None, usual: int, most: int, limit: Limit) -> None:
    settings = Settings(memory_limit_bytes=usual, max_memory_limit_bytes=most)
    assert granted(Options(memory_limit_bytes=asked), settings).memory == limit


@pytest.mark.attack("limits")
@pytest.mark.parametrize("name", ["memory_limit_bytes", "scratch_limit_bytes", "threads"])
def test_more_than_the_bound_is_refused_by_name(name: str) -> None:
    settings = Settings(**{f"max_{name}": 4})  # type: ignore[arg-type]
    with pytest.raises(ParameterValidationError, match=rf"^options\.{name}: 5, .* at most 4 \(SFWORKER_MAX_"):
        granted(Options(**{name: 5}), settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["time_limit", "soft_time_limit"])
def test_time_is_within_the_bound(name: str) -> None:
    settings = Settings(max_time_limit=600)
    with pytest.raises(ParameterValidationError, match=rf"^options\.{name}: 601, .* at most 600 \(SFWORKER_MAX_TIME_"):
        granted(Options(**{name: 601}), settings)  # type: ignore[arg-type]
    resources = granted(Options(), settings)  # whose defaults, 3000 and 3600, nobody asked for
    assert (resources.soft_seconds, resources.seconds) == (600, 600)
    asked = granted(Options(time_limit=86_400), Settings())
    assert (asked.soft_seconds, asked.seconds) == (3000, 86_400)
    with pytest.raises(ParameterValidationError, match="SFWORKER_MAX_TIME_LIMIT"):
        granted(Options(time_limit=30 * 86_400), Settings())


def test_retries_are_within_the_bound() -> None:
    assert granted(Options(max_retries=20), Settings()).retries == 20
    with pytest.raises(ParameterValidationError, match=r"^options\.max_retries: 21, .* at most 20 \(SFWORKER_MAX_RETR"):
        granted(Options(max_retries=21), Settings())
    assert granted(Options(), Settings(max_retries=0)).retries == 0


def test_the_delay_of_retries_has_a_least() -> None:
    assert granted(Options(retry_delay=1), Settings()).retry_delay == 1
    with pytest.raises(
        ParameterValidationError, match=r"^options\.retry_delay: 0\.5, .* at least 1 s \(SFWORKER_MIN_R"
    ):
        granted(Options(retry_delay=0.5), Settings())
    assert granted(Options(), Settings(min_retry_delay=600)).retry_delay == 600  # nobody asked for the default, 60
