"""Sentences about an execution or a group: what is known of it, when it was answered, how to go on."""

from __future__ import annotations

import argparse
import shlex
from datetime import datetime
from typing import TYPE_CHECKING

from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sfworker.broker.keys import Keys
    from sfworker.client import Known

_WORDS = {
    "unseen": "has not begun, if it was sent,",
    "sent": "was sent before",
    "queued": "is queued",
    "running": "runs",
    "waiting": "waits for its next attempt",
}


def unknown(execution_id: str) -> str:
    return f"no job {execution_id} is known here"


def sentence(execution_id: str, known: Known | None) -> str:
    """Say what state an execution is in."""
    if known is None:
        return unknown(execution_id)
    if known.state == "answered":
        return f"{execution_id} was answered{_at(known.answered_at)}"
    return f"{execution_id} {_WORDS[known.state]}"


def command_line(arguments: argparse.Namespace, *words: str) -> str:
    """Return the command line of another subcommand on the same Redis, to be copied."""
    from sfworker.cli.invocation import command

    if arguments.redis is not None:
        words += ("--redis", arguments.redis if "@" not in arguments.redis else "URL")  # a password is not repeated
    if arguments.prefix is not None:
        words += ("--prefix", arguments.prefix)
    return f"{command()} {shlex.join(words)}"


async def require_group(redis: Redis, keys: Keys, group: str) -> None:
    """Raise SecretFlowTaskError where there are groups, but not this one. Before any worker's first start is none."""
    from sfworker.broker.overview import consumers

    groups = sorted(await consumers(redis, keys))
    if groups and group not in groups:
        raise SecretFlowTaskError(f"no worker has ever served group {group} here; there is {', '.join(groups)}")


def _at(time: str | None) -> str:
    """Put a time in words: local, and with the date unless that is today's."""
    try:
        local = datetime.fromisoformat(time or "").astimezone()
    except ValueError:
        return ""
    today = local.date() == datetime.now().astimezone().date()
    return f" at {local:%H:%M:%S}" if today else f" on {local:%Y-%m-%d} at {local:%H:%M:%S}"
