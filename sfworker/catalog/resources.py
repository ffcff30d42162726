"""Bounds the resources that an envelope asks for by those that this worker grants."""

from __future__ import annotations

from dataclasses import dataclass

from sfworker.errors import ParameterValidationError
from sfworker.settings import Settings, variable
from sfworker.wire.envelope import Options


@dataclass(frozen=True)
class Limit:
    """An amount, and what may be done where it is not enough."""

    amount: int
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Resources:
    """None: as much as there is."""

    memory: Limit | None
    """Bytes of memory of all its processes together."""
    scratch: Limit | None
    """Bytes of disk under its scratch directories."""
    threads: Limit | None
    """Processors that each of its processes computes on."""


def granted(options: Options, settings: Settings) -> Resources:
    """Raises ParameterValidationError where the envelope asks for more than the worker grants."""
    return Resources(
        memory=_limit("memory_limit_bytes", options, settings),
        scratch=_limit("scratch_limit_bytes", options, settings),
        threads=_limit("threads", options, settings),
    )


def _limit(name: str, options: Options, settings: Settings) -> Limit | None:
    asked: int | None = getattr(options, name)
    usual: int = getattr(settings, name)
    most: int = getattr(settings, f"max_{name}")
    if most and asked is not None and asked > most:
        bound = variable(f"max_{name}")
        raise ParameterValidationError(f"options.{name}: {asked}, but this worker grants at most {most} ({bound})")
    amount = asked or min((each for each in (usual, most) if each), default=0)
    if not amount:
        return None
    if amount == most:
        return Limit(amount, f"no more is granted by this worker ({variable(f'max_{name}')})")
    return Limit(amount, f"raise options.{name}" + (f" (at most {most} here)" if most else ""))
