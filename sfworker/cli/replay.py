"""`sfworker replay`: let executions that failed for good start anew."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.connection import (
    add_group_argument,
    add_redis_arguments,
    connected_broker,
    connected_client,
    connected_redis,
    settings_from,
)

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Run executions again that failed for good"
_REASONS = {
    "not dead": "is not among the dead, nothing changed",
    "gone": "cannot be replayed, its payload was deleted from the stream; send it under another execution_id",
    "superseded": "was sent again since, and that job stands; nothing changed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--execution-id", metavar="ID", help="this one; its entry's id, where it has none")
    which.add_argument("--all", action="store_true", help="all of them")
    which.add_argument("--error-type", metavar="TYPE", help="those that failed with this error, such as InputDataError")
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    settings, group = settings_from(arguments), arguments.group
    if arguments.execution_id is not None:
        return asyncio.run(replay_one(settings, group, arguments.execution_id))
    return asyncio.run(_replay_all(settings, group, arguments.error_type))


async def replay_one(settings: Settings, group: str, known_as: str) -> int:
    """Replay one by its execution_id or entry id."""
    async with connected_client(settings) as client:
        outcome = await client.replay(known_as, group)
    print(f"{known_as}: {_REASONS.get(outcome, outcome)}")
    return 0 if outcome == "replayed" else 1


async def _replay_all(settings: Settings, group: str, error_type: str | None) -> int:
    from sfworker.broker.dead import dead_jobs
    from sfworker.publish.status_notifier import StatusNotifier

    replayed, refused = 0, 0
    async with connected_redis(settings) as redis, connected_broker(settings, group) as broker:
        notifier = StatusNotifier(broker, worker_id="")
        async for job in dead_jobs(redis, broker.keys, group):
            if error_type is None or job.error_type == error_type:
                outcome = await notifier.replayed(job.attempt)
                if outcome == "replayed":
                    replayed += 1
                elif outcome != "not dead":  # somebody else has replayed it meanwhile
                    refused += 1
                    print(f"{job.attempt.known_as}: {_REASONS[outcome]}")
    print(f"{replayed} replayed")
    return 1 if refused else 0
