"""Exit codes as sentences."""

from __future__ import annotations

import pytest

from sfworker.pool.exits import sentence


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "ended with exit code 0 before it reported an outcome"),
        (3, "ended with exit code 3 before it reported an outcome"),
        (-11, "was killed by signal 11 (SIGSEGV)"),
        (-9, "was killed by signal 9 (SIGKILL); if nobody killed it, this machine ran out of memory"),
        (-99, "was killed by signal 99 (unknown)"),
        (None, "ended together with the process that started it"),
    ],
)
def test_sentences(status: int | None, said: str) -> None:
    assert sentence(status) == said
