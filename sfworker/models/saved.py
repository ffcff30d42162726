"""Gives the parts that parties save jointly one id, and checks that a part fits. Runs in party processes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from sfworker.errors import ModelMismatchError
from sfworker.party.context import JobContext


def drawn_id(context: JobContext[Any]) -> str:
    """Draw a random id that is the same in every party's part. Reveals it to every party.

    One party draws it, because parties on machines of their own have nothing random in common.
    """
    drawn: str = context.reveal(context.at(context.parties[0], secrets.token_hex, 8))
    return drawn


def require_same(field: str, what: str, manifest: object, here: Mapping[str, Any], remedy: str) -> None:
    """Raise ModelMismatchError where a field of `manifest` differs from this job's value in `here`, and name it."""
    for name, wanted in here.items():
        there = getattr(manifest, name)
        if there != wanted:
            raise ModelMismatchError(
                f"{field}: the {what}'s {name} is {_shown(there)}, this job's is {_shown(wanted)}; {remedy}"
            )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
