"""Implements `health_check`, which joins the parties and computes once on each device. Runs in party processes."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from sfworker.catalog.basic import HealthCheckParams, HealthCheckResult
from sfworker.errors import TaskExecutionError
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher

_LEFT, _RIGHT = 20, 22


@TaskDispatcher.register_task("health_check")
def health_check(context: JobContext[HealthCheckParams]) -> HealthCheckResult | None:
    """Add two constants on each device. Reveals their sum, which is no secret, to every party.

    Raises TaskExecutionError where a device answers something else.
    """
    checks: dict[str, Callable[[], Any]] = {
        party: partial(context.pyu(party)(_add), _LEFT, _RIGHT) for party in context.parties
    }
    if "spu" in context.devices:
        checks["spu"] = lambda: context.spu(_add)(*_constants(context, list(context.spu.actors)))
    if "heu" in context.devices:
        parties = [*context.heu.evaluator_names(), context.heu.sk_keeper_name()]
        checks["heu"] = lambda: _add(*(value.to(context.heu) for value in _constants(context, parties)))
    seconds = {}
    for device, compute in checks.items():
        began = time.perf_counter()
        if int(context.reveal(compute())) != _LEFT + _RIGHT:
            raise TaskExecutionError(f"{device}: computes a wrong sum; check the device's configuration")
        seconds[device] = round(time.perf_counter() - began, 6)
    if not context.is_speaker:
        return None
    versions = {name: version(name) for name in ("secretflow", "spu")} | {"python": platform.python_version()}
    return HealthCheckResult(healthy=True, parties=context.parties, devices=seconds, versions=versions)


def _constants(context: JobContext[HealthCheckParams], parties: list[str]) -> list[Any]:
    """Return two inputs, from two of a device's parties where it has so many, so that they have to talk."""
    return [context.at(parties[0], int, _LEFT), context.at(parties[-1], int, _RIGHT)]


def _add(left: Any, right: Any) -> Any:
    return left + right
