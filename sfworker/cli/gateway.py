"""`sfworker gateway`: the port of this party for jobs with parties elsewhere."""

from __future__ import annotations

import argparse
import os
import resource

SUMMARY = "Run this party's gateway, by which its workers reach the parties elsewhere"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--while-needed", action="store_true", help="end when no worker of this host is there any more")


def run(arguments: argparse.Namespace) -> int:
    import uvloop

    from sfworker import __version__
    from sfworker.errors import SettingsError
    from sfworker.gateway.gateway import Gateway
    from sfworker.gateway.place import own_place
    from sfworker.logs import configure
    from sfworker.settings import load, variable
    from sfworker.telemetry import export
    from sfworker.wire.entry import leave_no_core

    settings = load()
    for name in ("party", "tls_certificate", "tls_key", "tls_authority"):
        if not getattr(settings, name):
            raise SettingsError(f"{variable(name)}: a gateway needs it; see `sfworker certs` for certificates")
    os.umask(0o077)
    leave_no_core()  # what parties send each other is in its memory
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = arguments.while_needed
    with own_place(settings, while_needed=needed) as place, configure(settings, f"gateway-{settings.party}"):
        gateway = Gateway(settings, place, while_needed=needed)
        instance_id = f"{settings.hostname()}-gateway-{settings.party}"
        exported = export(
            os.environ, instance_id, __version__, gateway.instruments(), has_server=bool(settings.gateway_health)
        )
        try:
            uvloop.run(gateway.run(exported.page))
        finally:
            exported.close()
    return 0
