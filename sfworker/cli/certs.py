"""`sfworker certs`: certificates for trying jobs with parties on machines of their own."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from sfworker.cli.arguments import count

SUMMARY = "Make a development authority and certificates of parties"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="where the files go; an authority that is there already signs")
    parser.add_argument("parties", nargs="+", metavar="PARTY", help="party that gets a certificate")
    parser.add_argument("--days", type=count, default=90, help="how long they are good (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    from sfworker.cli.console import say
    from sfworker.errors import SettingsError
    from sfworker.gateway.certificates import AUTHORITY, make_authority, make_certificate

    directory: Path = arguments.directory
    for party in arguments.parties:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", party) or party == AUTHORITY:
            raise SettingsError(f"{party!r} is no name of a party")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_authority(directory, 10 * arguments.days)
    made = {
        f"{directory / party}.pem": make_certificate(directory, party, arguments.days) for party in arguments.parties
    }
    sentences = [f"{file}  {fingerprint}" for file, fingerprint in made.items()]
    warning = f"\nKeep {directory / AUTHORITY}.key apart: whoever has it can be any party."
    say({"certificates": made}, *sentences, warning, as_json=arguments.json)
    return 0
