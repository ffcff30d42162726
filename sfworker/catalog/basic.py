"""`hello` and `health_check`: is a worker there, and can its parties compute together?"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from sfworker.catalog.base import TaskParams, TaskType, register


class HelloParams(TaskParams, tag="hello", frozen=True, kw_only=True):
    """A greeting from a process of its own; no session is started."""

    name: Annotated[str, Meta(max_length=256, description="Whom to greet.")] = "world"


class HelloResult(Struct, frozen=True, kw_only=True):
    """The result of `hello`."""

    message: str


class HealthCheckParams(TaskParams, tag="health_check", frozen=True, kw_only=True):
    """Joins the parties and computes on every device that the envelope configures."""


class HealthCheckResult(Struct, frozen=True, kw_only=True):
    """The result of `health_check`."""

    healthy: bool
    parties: list[str]
    devices: dict[str, float]
    """Seconds that a first small computation took on each device."""
    versions: dict[str, str]


HELLO = register(
    TaskType(
        name="hello", summary="Greets, from a process of its own", params=HelloParams, result=HelloResult, session=False
    )
)
HEALTH_CHECK = register(
    TaskType(
        name="health_check",
        summary="Joins the parties and computes once on each configured device",
        params=HealthCheckParams,
        result=HealthCheckResult,
    )
)
