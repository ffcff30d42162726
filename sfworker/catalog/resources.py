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
    soft_seconds: float
    """Time until it is asked to stop."""
    seconds: float
    """Time until it is killed."""
    retries: int
    """Attempts after the first."""
    retry_delay: float
    """Seconds before the first of these."""


def granted(options: Options, settings: Settings) -> Resources:
    """Raises ParameterValidationError where the envelope asks for more than the worker grants."""
    return Resources(
        memory=_limit("memory_limit_bytes", options, settings),
        scratch=_limit("scratch_limit_bytes", options, settings),
        threads=_limit("threads", options, settings),
        soft_seconds=_cut("soft_time_limit", options, settings.max_time_limit, "max_time_limit"),
        seconds=_cut("time_limit", options, settings.max_time_limit, "max_time_limit"),
        retries=int(_cut("max_retries", options, settings.max_retries, "max_retries")),
        retry_delay=_retry_delay(options, settings),
    )


def _retry_delay(options: Options, settings: Settings) -> float:
    asked, least = options.retry_delay, settings.min_retry_delay
    if asked < least and asked != Options().retry_delay:
        raise ParameterValidationError(
            f"options.retry_delay: {asked:.15g}, but this worker waits at least {least:.15g} s "
            f"({variable('min_retry_delay')})"
        )
    return max(asked, least)


def _limit(name: str, options: Options, settings: Settings) -> Limit | None:
    asked: int | None = getattr(options, name)
    usual: int = getattr(settings, name)
    most: int = getattr(settings, f"max_{name}")
    if most and asked is not None and asked > most:
        raise _refusal(name, asked, most, f"max_{name}")
    amount = asked or min((each for each in (usual, most) if each), default=0)
    if not amount:
        return None
    if amount == most:
        return Limit(amount, f"no more is granted by this worker ({variable(f'max_{name}')})")
    return Limit(amount, f"raise options.{name}" + (f" (at most {most} here)" if most else ""))


def _cut(name: str, options: Options, most: float, setting: str) -> float:
    """Return an option, whose default, for which nobody asked, is cut to what is granted."""
    asked: float = getattr(options, name)
    if asked > most and asked != getattr(Options(), name):
        raise _refusal(name, asked, most, setting)
    return min(asked, most)


def _refusal(name: str, asked: float, most: float, setting: str) -> ParameterValidationError:
    return ParameterValidationError(
        f"options.{name}: {asked:.15g}, but this worker grants at most {most:.15g} ({variable(setting)})"
    )
