"""Waiting for Redis."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as AwayError

from sfworker.broker import patience


def test_pauses_double_with_jitter_up_to_a_bound() -> None:
    for attempt in range(40):
        longest = min(patience.FIRST_PAUSE * 2.0**attempt, patience.LONGEST_PAUSE)
        assert all(longest / 2 <= patience.pause(attempt) <= longest for _ in range(20))


async def test_it_tries_until_redis_answers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.0)
    replies = [AwayError("secret"), OSError(), 7]

    async def action() -> int:
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        assert isinstance(reply, int)
        return reply

    with caplog.at_level("INFO"):
        assert await patience.patiently("a job's result", action) == 7
    assert "a job's result waits" in caplog.text
    assert "secret" not in caplog.text


async def test_other_errors_are_not_waited_for() -> None:
    async def action() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await patience.patiently("nothing", action)
