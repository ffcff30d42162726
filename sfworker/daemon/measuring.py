"""Reads regularly what nothing else tells metrics: the streams' figures, how the worker is, the event loop's delay."""

from __future__ import annotations

import anyio
from redis.exceptions import RedisError

from sfworker.broker.broker import Broker
from sfworker.broker.gauges import Gauges
from sfworker.daemon.health import Readiness
from sfworker.telemetry import Reading, Telemetry

STREAMS_SECONDS = 5.0
LOOP_SECONDS = 1.0


class Measuring:
    """Measures where anybody wants metrics, and does nothing otherwise."""

    def __init__(self, broker: Broker, telemetry: Telemetry, readiness: Readiness) -> None:
        self._broker = broker
        self._readiness = readiness
        self._telemetry = telemetry

    async def streams(self) -> None:
        """Read the streams' figures every few seconds. Those that Redis does not tell are told no more."""
        while self._telemetry.measures:
            try:
                jobs, results = await self._broker.gauges()
            except (RedisError, OSError):  # which the other loops log
                pass
            else:
                self._telemetry.streams([_reading(each) for each in jobs], [_reading(each) for each in results])
            await anyio.sleep(STREAMS_SECONDS)

    async def event_loop(self) -> None:
        """Tell once a second how the worker is, and by how much the event loop wakes too late."""
        while self._telemetry.measures:
            self._telemetry.ready(self._readiness.state().state)
            due = anyio.current_time() + LOOP_SECONDS
            await anyio.sleep_until(due)
            self._telemetry.loop_was_late(anyio.current_time() - due)


def _reading(gauges: Gauges) -> Reading:
    return Reading(gauges.stream, gauges.tenant, gauges.group, gauges.figures)
