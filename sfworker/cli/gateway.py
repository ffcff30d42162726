"""`sfworker gateway`: the port of this party for jobs with parties elsewhere."""

from __future__ import annotations

import argparse

SUMMARY = "Run this party's gateway, by which its workers reach the parties elsewhere"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--while-needed", action="store_true", help="end when no worker of this host is there any more")


def run(arguments: argparse.Namespace) -> int:
    import uvloop

    from sfworker.cli.child import termination_as_interrupt
    from sfworker.gateway.gateway import serve
    from sfworker.logs import configure
    from sfworker.settings import load

    settings = load()
    with termination_as_interrupt(), configure(settings, f"gateway-{settings.party}"):
        uvloop.run(serve(settings, while_needed=arguments.while_needed))
    return 0
