"""`sfworker doctor`: would a worker run here? Each finding says what to do about it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sfworker.cli.connection import add_redis_arguments, settings_from

if TYPE_CHECKING:
    from sfworker.cli.findings import Finding
    from sfworker.settings import Settings

SUMMARY = "Check what a worker needs here, with a remedy for each finding"
_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("ERROR", "bold red")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--quick", action="store_true", help="leave out importing SecretFlow, which takes seconds")
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_examine(settings_from(arguments), quick=arguments.quick, as_json=arguments.json))


async def _examine(settings: Settings, *, quick: bool, as_json: bool) -> int:
    from sfworker.cli.console import console, print_json

    out = console()
    findings: list[Finding] = []
    async for finding in _findings(settings, quick=quick):
        findings.append(finding)
        if not as_json:
            word, style = _MARKS[finding.level]
            out.print(f"{word:8}", style=style, end="")
            out.print(f"{finding.check}: {finding.message}", soft_wrap=True)
            if finding.remedy:
                out.print(f"        -> {finding.remedy}", soft_wrap=True)
    if settings.tls_certificate:
        from sfworker.cli import peer_findings

        findings += (peers := await peer_findings.peers(settings))
        if peers and not as_json:
            _print_peers(settings, peers)
    if as_json:
        print_json({"healthy": all(finding.level != "error" for finding in findings), "findings": findings})
    return 1 if any(finding.level == "error" for finding in findings) else 0


async def _findings(settings: Settings, *, quick: bool) -> AsyncIterator[Finding]:
    """One after the other, so that people see each as soon as it is known."""
    from sfworker.cli import host_findings, redis_findings

    yield host_findings.python()
    for finding in host_findings.variables():
        yield finding
    async for finding in redis_findings.redis(settings):
        yield finding
    for finding in host_findings.data_roots(settings):
        yield finding
    for finding in host_findings.run_dir(settings):
        yield finding
    if settings.tls_certificate:
        from sfworker.cli import peer_findings

        async for finding in peer_findings.own(settings):
            yield finding
    if settings.ray_addresses:
        from sfworker.cli import ray_findings

        async for finding in ray_findings.clusters(settings):
            yield finding
    if not quick:
        yield await asyncio.to_thread(host_findings.secretflow)


def _print_peers(settings: Settings, findings: list[Finding]) -> None:
    from sfworker.cli.console import console, table

    peers = table("peer", "address", "", "found", "what to do")
    for (party, address), finding in zip(settings.peers.items(), findings, strict=True):
        word, style = _MARKS[finding.level]
        peers.add_row(party, address, word, finding.message, finding.remedy or "", style=style)
    console().print(peers)
