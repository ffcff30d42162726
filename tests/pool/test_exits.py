"""Exit codes as sentences."""

from __future__ import annotations

import pytest

from sfworker.pool.exits import sentence


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "ended with exit code 0 before its execution ended"),
        (3, "ended with exit code 3 before its execution ended"),
        (-11, "was killed by signal 11 (SIGSEGV)"),
        (-9, "was killed by signal 9 (SIGKILL), perhaps for want of memory"),
        (-99, "was killed by signal 99 (unknown)"),
        (None, "ended together with the process that started it"),
    ],
)
def test_sentences(status: int | None, said: str) -> None:
    assert sentence(status) == said


def test_the_kernel_says_whether_it_has_killed_for_want_of_memory() -> None:
    assert sentence(-9, memory_ran_out=True) == "was killed by signal 9 (SIGKILL): this machine ran out of memory"
    assert "memory" not in sentence(-11, memory_ran_out=True)
