"""Values that `sfworker doctor` yields, one per thing looked at, with a remedy where one is needed."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Finding(Struct, frozen=True, kw_only=True):
    """One thing looked at. A worker with a `warning` works; with an `error` it does not."""

    check: str
    level: Literal["ok", "warning", "error"]
    message: str
    remedy: str | None = None


def ok(check: str, message: str) -> Finding:
    return Finding(check=check, level="ok", message=message)


def warning(check: str, message: str, remedy: str) -> Finding:
    return Finding(check=check, level="warning", message=message, remedy=remedy)


def error(check: str, message: str, remedy: str) -> Finding:
    return Finding(check=check, level="error", message=message, remedy=remedy)
