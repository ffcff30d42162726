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


@pytest.mark.parametrize("name", ["memory_limit_bytes", "scratch_limit_bytes", "threads"])
def test_more_than_the_bound_is_refused_by_name(name: str) -> None:
    settings = Settings(**{f"max_{name}": 4})  # type: ignore[arg-type]
    with pytest.raises(ParameterValidationError, match=rf"^options\.{name}: 5, .* at most 4 \(SFWORKER_MAX_"):
        granted(Options(**{name: 5}), settings)  # type: ignore[arg-type]
