"""What all that parties save together has in common: one id, and a check of what a part was saved with.

Runs in party processes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from sfworker.errors import ModelMismatchError
from sfworker.party.context import JobContext


def drawn_id(context: JobContext[Any]) -> str:
    """A random id that is the same in every party's part. Revealed to every party.

    Drawn by one party: on machines of their own, parties have nothing else random in common.
    """
    drawn: str = context.reveal(context.at(context.parties[0], secrets.token_hex, 8))
    return drawn


def require_same(field: str, what: str, manifest: object, here: Mapping[str, Any], remedy: str) -> None:
    """Raises ModelMismatchError, saying which, where a field of `manifest` differs from this job's, in `here`."""
    for name, wanted in here.items():
        there = getattr(manifest, name)
        if there != wanted:
            raise ModelMismatchError(
                f"{field}: the {what}'s {name} is {_shown(there)}, this job's is {_shown(wanted)}; {remedy}"
            )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
