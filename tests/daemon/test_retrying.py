"""The decision to try again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sfworker.daemon.retrying import JITTER, LONGEST_DELAY, decide
from sfworker.errors import Failure, InputDataError, TaskExecutionError
from sfworker.wire.envelope import Options

CAN_HELP = Failure.of(TaskExecutionError())
CANNOT_HELP = Failure.of(InputDataError())


def test_only_what_a_retry_can_help_is_tried_again() -> None:
    assert decide(CAN_HELP, 1, Options()).retry
    assert not decide(CANNOT_HELP, 1, Options()).retry


def test_max_retries_are_the_attempts_after_the_first() -> None:
    options = Options(max_retries=2)
    assert [decide(CAN_HELP, used, options).retry for used in (1, 2, 3)] == [True, True, False]
    assert not decide(CAN_HELP, 1, Options(max_retries=0)).retry


def test_delays_double() -> None:
    options = Options(retry_delay=10, max_retries=5)
    assert [decide(CAN_HELP, used, options, chance=0.5).delay_seconds for used in (1, 2, 3)] == [10, 20, 40]


@given(
    used=st.integers(1, 101),
    delay=st.floats(0, 86_400),
    retries=st.integers(0, 100),
    chance=st.none() | st.floats(0, 1),
)
def test_delays_are_bounded(used: int, delay: float, retries: int, chance: float | None) -> None:
    decision = decide(CAN_HELP, used, Options(retry_delay=delay, max_retries=retries), chance)
    assert decision.retry == (used <= retries)
    assert 0 <= decision.delay_seconds <= max(delay, LONGEST_DELAY) * (1 + JITTER)
