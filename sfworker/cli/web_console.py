"""`sfworker console`: a web page for operators, on this host alone unless the settings say otherwise."""

from __future__ import annotations

import argparse
import asyncio
import socket
from typing import TYPE_CHECKING

from sfworker.cli.connection import add_group_argument, add_redis_arguments, require_no_password
from sfworker.settings import load, variable

if TYPE_CHECKING:
    from sfworker.settings import Settings

SUMMARY = "Serve a web page that shows and does what these commands do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help=f"where to listen (default: {variable('console_listen')})"
    )
    add_group_argument(parser)
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from msgspec.structs import replace

    from sfworker.console.server import listener
    from sfworker.logs import configure

    require_no_password(arguments.redis)
    settings = load(redis_url=arguments.redis, prefix=arguments.prefix, console_listen=arguments.listen)
    # What it logs is about itself, and goes to no file of the worker's.
    with configure(replace(settings, log_file="", job_logs="")), listener(settings) as listening:
        asyncio.run(_serve(settings, arguments.group, listening))
    return 0


async def _serve(settings: Settings, group: str, listening: socket.socket) -> None:
    import signal

    from sfworker.console.server import serving

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with serving(settings, group, listening):
        host, port = listening.getsockname()[:2]
        print(f"The console is at http://{f'[{host}]' if ':' in host else host}:{port}/ until Ctrl-C.", flush=True)
        if not settings.console_token:
            print(f"Everybody on this host can use it, unless {variable('console_token')} is set.", flush=True)
        await stopped.wait()
