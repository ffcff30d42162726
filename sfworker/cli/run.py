"""`sfworker run`: a worker in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse

SUMMARY = "Take jobs from Redis and run them, until told to stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group", default="secretflow", help="consumer group to read with (default: %(default)s)")
    parser.add_argument("--redis", metavar="URL", help="Redis to work from (default: REDIS_URL)")
    parser.add_argument("--concurrency", type=int, metavar="N", help="executions at the same time (default: 1)")
    parser.add_argument(
        "--jobs", action="append", metavar="MODULE", help="module with task types of your own; may be repeated"
    )


def run(arguments: argparse.Namespace) -> int:
    from sfworker.settings import load

    settings = load(redis_url=arguments.redis, concurrency=arguments.concurrency, jobs=arguments.jobs)

    import uvloop

    from sfworker.daemon.worker import serve

    code: int = uvloop.run(serve(settings, arguments.group))
    return code
