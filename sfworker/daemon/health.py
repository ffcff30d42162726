"""Answers over HTTP whether the daemon's event loop lives and whether it could claim a job now.

    GET /healthz   200 while the event loop answers
    GET /readyz    200 where a job could be claimed now, or a free slot is all that is missing; else 503

Both answer `{"state": ..., "reason": ...}`. `python -m sfworker.daemon.health` asks, as a container's health check.
"""

from __future__ import annotations

import argparse
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from sfworker.errors import SettingsError
from sfworker.listening import State, ask
from sfworker.settings import load, variable

if TYPE_CHECKING:
    from sfworker.pool.pool import Pool
    from sfworker.telemetry import Telemetry

SILENCE_SECONDS = 5.0
"""Longest silence of Redis beyond the waits of the worker's own loops."""


class Readiness:
    """Tells whether the worker could claim a job now, by how its own dealings with the template and Redis went."""

    def __init__(self, pool: Pool, lease_seconds: float, telemetry: Telemetry) -> None:
        self.draining = False
        self._telemetry = telemetry
        self._pool = pool
        # Where every slot is taken, the renewals of leases are all that asks Redis for anything.
        self._patience = lease_seconds / 3 + SILENCE_SECONDS
        self._failed_at: dict[str, float] = {}
        self._answered_at: float | None = None
        self._misplaced = ""
        self._serves = True

    def redis_answered(self, asked_by: str) -> None:
        if self._failed_at.pop(asked_by, None) is not None and not self._failed_at:
            self._telemetry.count("reconnect")
        self._answered_at = time.monotonic()

    def redis_failed(self, asked_by: str) -> None:
        self._failed_at[asked_by] = time.monotonic()

    def misplaced(self, sentences: list[str], *, serves: bool) -> None:
        """Note what was found in the place of keys, and whether jobs can be taken all the same."""
        self._misplaced, self._serves = "; ".join(sentences), serves

    def state(self) -> State:
        """Return the state as it is known, without asking Redis or the template."""
        if self.draining:
            return State("draining", "the worker was told to stop and takes no new jobs")
        if self._pool.trouble:
            return State("template_lost", self._pool.trouble)
        if not self._pool.is_ready:
            return State("starting", "the template process imports SecretFlow")
        return self._state_of_redis(time.monotonic() - self._patience)

    def _state_of_redis(self, lately: float) -> State:
        if any(failed_at > lately for failed_at in self._failed_at.values()):
            return State("redis_away", "Redis is away or refuses")
        if self._answered_at is None:
            return State("starting", "Redis has not answered yet")
        if self._answered_at < lately:
            return State("redis_away", f"Redis has been silent for more than {self._patience:.0f} s")
        return State("ready" if self._serves else "misplaced_keys", self._misplaced or self._pool.gateway.trouble)


def main() -> int:
    """Ask a worker and print its answer. Returns exit code 0 where the status is 200, else 1."""
    parser = argparse.ArgumentParser(prog="python -m sfworker.daemon.health", description="Ask a worker how it is.")
    parser.add_argument("address", nargs="?", help=f"HOST:PORT or unix:/PATH (default: {variable('health')})")
    parser.add_argument("--live", action="store_true", help="ask only whether it lives, not whether it is ready")
    arguments = parser.parse_args()
    try:
        address = arguments.address or load().health
        if not address:
            raise SettingsError(f"{variable('health')}: not set, so the worker does not say how it is")
        status, body = ask(address, "/healthz" if arguments.live else "/readyz")
    except SettingsError as error:
        print(error)
        return 1
    except OSError as error:
        print(f"the worker does not answer ({error.strerror or error})")
        return 1
    print(body)
    return 0 if status == HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
