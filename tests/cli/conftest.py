"""The command line, run in this process against the embedded Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from redis import Redis

from sfworker.cli import main
from sfworker.settings import Settings, variable
from tests.cli.states import JOBS, one_in_each_state


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def sfworker(redis_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `sfworker <words>` with REDIS_URL set, and no other setting of the machine it runs on."""
    for name in Settings.__struct_fields__:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.setenv("REDIS_URL", redis_url)

    def command(*words: str) -> Outcome:
        try:
            code = main(words)
        except SystemExit as exit_:  # argparse
            code = int(exit_.code or 0)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return command


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
def jobs(redis: Any, redis_url: str) -> list[str]:
    """The ids of one execution in each state, oldest first."""
    asyncio.run(one_in_each_state(redis, redis_url))
    return JOBS
