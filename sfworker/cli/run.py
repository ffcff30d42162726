"""`sfworker run`: a worker in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sfworker.cli.arguments import count, not_empty

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Take jobs from Redis and run them, until told to stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group", type=not_empty, default="secretflow", help="consumer group to read with (default: %(default)s)"
    )
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--redis", metavar="URL", help="Redis to work from (default: REDIS_URL)")
    server.add_argument(
        "--embedded",
        nargs="?",
        const="",
        metavar="DIRECTORY",
        help="start a Redis for this worker alone; its data are kept in DIRECTORY, or else gone at the end",
    )
    parser.add_argument(
        "--concurrency", type=count, metavar="N", help="number of executions at the same time (default: 1)"
    )
    add_jobs_argument(parser)


def add_jobs_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        action="append",
        metavar="MODULE",
        help="task types of your own: an installed module, or a file by its path (./greeting.py); may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.embedded is None:
        return _run(arguments, arguments.redis)

    from sfworker.cli.child import termination_as_interrupt
    from sfworker.cli.embedded_redis import EmbeddedRedis
    from sfworker.cli.invocation import first_job

    kept_in = Path(arguments.embedded) if arguments.embedded else None
    with termination_as_interrupt(), EmbeddedRedis(kept_in=kept_in) as server:
        print(f"Redis runs at {server.url}. To send a first job from a second terminal:\n\n  {first_job(server.url)}\n")
        sys.stdout.flush()
        return _run(arguments, server.url)


def _run(arguments: argparse.Namespace, redis_url: str | None) -> int:
    from sfworker.cli.connection import require_no_password
    from sfworker.settings import load

    require_no_password(arguments.redis)
    settings = load(redis_url=redis_url, concurrency=arguments.concurrency, jobs=arguments.jobs)

    import uvloop

    if importlib.util.find_spec("secretflow") is None:  # the template would be started again and again
        raise ModuleNotFoundError(name="secretflow")
    code: int = uvloop.run(_serve(settings, arguments.group))
    return code


async def _serve(settings: Settings, group: str) -> int:
    import asyncio

    from sfworker.daemon.worker import serve

    looking = asyncio.create_task(_warn_of_server(settings))
    try:
        return await serve(settings, group)
    finally:
        looking.cancel()


async def _warn_of_server(settings: Settings) -> None:
    """Say in the log what may cost jobs on this server, as `sfworker doctor` does, as soon as it can be asked."""
    import asyncio
    import logging
    from contextlib import suppress

    from redis.exceptions import RedisError

    from sfworker.broker.patience import LONGEST_PAUSE
    from sfworker.cli.findings import Finding
    from sfworker.cli.redis_findings import redis

    log = logging.getLogger("sfworker.doctor")
    findings: list[Finding] = []
    while len(findings) <= 1:  # it is not there yet, or went away while it was asked
        with suppress(RedisError, OSError):
            findings = [finding async for finding in redis(settings)]
        await asyncio.sleep(LONGEST_PAUSE if len(findings) <= 1 else 0)
    for finding in findings:
        if finding.level != "ok":
            log.warning("%s: %s; %s", finding.check, finding.message, finding.remedy)
