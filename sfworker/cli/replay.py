"""`sfworker replay`: run jobs again that failed for good."""

from __future__ import annotations

import argparse
import asyncio
import re
from typing import TYPE_CHECKING

from sfworker.cli.arguments import not_empty
from sfworker.cli.connection import (
    add_group_argument,
    add_redis_arguments,
    connected_client,
    connected_redis,
    connected_to_group,
    settings_from,
)
from sfworker.cli.many import add_many_arguments, for_many, require_many
from sfworker.errors import SecretFlowTaskError

if TYPE_CHECKING:
    from sfworker.broker.dead import DeadJob
    from sfworker.settings import Settings

SUMMARY = "Run jobs again that failed for good"
LOOKED_THROUGH = 1000
"""Newest entries of each stream that are looked through for one that is not among those that failed for good."""
_REASONS = {
    "gone": "cannot be replayed, its payload was deleted from the stream; send it under another execution_id",
    "superseded": "was sent again since, and that job stands; nothing is changed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--execution-id", type=not_empty, metavar="ID", help="this one; the entry's id of one that has none"
    )
    which.add_argument("--all", action="store_true", help="all of them")
    which.add_argument("--error-type", metavar="TYPE", help="those that failed with this error, such as InputDataError")
    add_many_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    settings, group = settings_from(arguments), arguments.group
    if arguments.execution_id is not None:
        require_many(arguments, "--all or --error-type")
        return asyncio.run(replay_one(settings, group, arguments.execution_id, as_json=arguments.json))
    return asyncio.run(_replay_many(settings, arguments))


async def replay_one(settings: Settings, group: str, known_as: str, *, as_json: bool) -> int:
    """Replay one by its execution_id or entry id. Raises SecretFlowTaskError where it cannot be."""
    from sfworker.cli.console import say

    async with connected_client(settings) as client:
        outcome = await client.replay(known_as, group)
        if outcome == "not dead":
            raise SecretFlowTaskError(await why_not_dead(settings, group, known_as))
    if outcome != "replayed":
        raise SecretFlowTaskError(f"{known_as} {_REASONS[outcome]}")
    facts = {"meant": 1, "replayed": 1, "refused": {}}
    say(facts, f"{known_as} is replayed: it runs again as soon as a worker is free", as_json=as_json)
    return 0


async def why_not_dead(settings: Settings, group: str, known_as: str) -> str:
    """Return a sentence about one that is not among the jobs that failed for good."""
    from sfworker.broker.keys import Keys
    from sfworker.cli.known import require_group, sentence, unknown

    async with connected_redis(settings) as redis:
        await require_group(redis, Keys(settings.prefix), group)
    async with connected_client(settings) as client:
        known = await client.find(known_as, LOOKED_THROUGH)
    if known is None:
        # An entry may be there all the same, as one that has not failed for good.
        return f"no job {known_as} has failed for good" if re.fullmatch(r"\d+-\d+", known_as) else unknown(known_as)
    if known.group not in {None, group}:
        return f"{known_as} is a job of group {known.group}, not of {group}"
    return f"{sentence(known_as, known)} and is not among the jobs that failed for good"


async def _replay_many(settings: Settings, arguments: argparse.Namespace) -> int:
    from sfworker.cli.console import say
    from sfworker.publish.status_notifier import StatusNotifier

    group, error_type = arguments.group, arguments.error_type
    refused: dict[str, str] = {}
    async with connected_to_group(settings, group) as (redis, broker):
        notifier = StatusNotifier(broker, worker_id="")

        async def replay(job: DeadJob) -> bool:
            outcome = await notifier.replayed(job.attempt)
            if outcome in _REASONS:  # else, somebody else may have replayed it meanwhile
                refused[job.attempt.known_as] = _REASONS[outcome]
            return outcome == "replayed"

        figures, sentence = await for_many(redis, broker.keys, arguments, "replayed", replay, error_type)
    if error_type is not None and not figures["meant"] and arguments.older_than is None:
        raise SecretFlowTaskError(f"no job has failed for good with {error_type}; nothing is replayed")
    sentences = [*(f"{known_as} {reason}" for known_as, reason in refused.items()), sentence]
    say({**figures, "refused": refused}, *sentences, as_json=arguments.json)
    return 1 if refused else 0
