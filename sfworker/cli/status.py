"""`sfworker status`: count jobs that are queued, run, wait for a retry or failed for good; list workers and peers."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from sfworker.cli.connection import add_group_argument, add_redis_arguments, connected_redis, settings_from

if TYPE_CHECKING:
    from sfworker.broker.overview import Overview
    from sfworker.gateway_state import GatewayOverview
    from sfworker.settings import Settings

SUMMARY = "Show how many jobs are queued, run or have failed for good, the workers and the peers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_group_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_redis_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    figures, gateway = asyncio.run(_overviews(settings_from(arguments), arguments.group))
    if arguments.json:
        from msgspec import to_builtins

        from sfworker.cli.console import print_json

        print_json({**to_builtins(figures), "gateway": gateway})
    else:
        _print(figures, arguments.group)
        if gateway is not None:
            _print_gateway(gateway)
    return 0


async def _overviews(settings: Settings, group: str) -> tuple[Overview, GatewayOverview | None]:
    from sfworker.broker.keys import Keys
    from sfworker.broker.overview import overview
    from sfworker.cli.known import require_group

    async with connected_redis(settings) as redis:
        keys = Keys(settings.prefix)
        await require_group(redis, keys, group)
        figures = await overview(redis, keys, group, settings.tenants)
    if not settings.tls_certificate:
        return figures, None
    from sfworker.gateway_state import gateway_overview

    return figures, await gateway_overview(settings)


def _print(figures: Overview, group: str) -> None:
    from sfworker.cli.console import console, table

    out = console()
    queues = table("stream", "queued >", "running >", "retrying >", "held >", "dead >")
    for stream in figures.streams:
        counts = (stream.queued, stream.running, stream.retrying, stream.held + stream.limited, stream.dead)
        queues.add_row(stream.stream, *map(str, counts))
    out.print(queues)
    standing = [order.sentence for order in figures.orders] + [limit.sentence for limit in figures.limits]
    for sentence in (*figures.misplaced, *standing):
        print(sentence)
    if figures.dead:
        print("Dead jobs have failed for good; `sfworker dead list` names them.")
    if not figures.workers:
        print(f"no worker serves group {group} now; `sfworker run` starts one")
        return
    workers = table("worker", "since", "running >", "free >", "executions")
    workers.columns[0].ratio = workers.columns[-1].ratio = 1  # the others are not to be folded
    for worker in figures.workers:
        executions = ", ".join(map(str, worker.executions))
        since = f"{worker.started_at[:19]}Z" if worker.started_at else ""
        workers.add_row(worker.worker_id, since, str(worker.running), str(worker.free), executions)
    out.print(workers)


def _print_gateway(gateway: GatewayOverview) -> None:
    from sfworker.cli.console import console, table

    if gateway.state == "runs":
        served = f"workers: {gateway.workers}, executions: {gateway.executions}"
        print(f"The gateway of {gateway.party} listens on {gateway.listens} ({served}).")
    else:
        print(f"No gateway of {gateway.party} answers this user on this host; `sfworker run` starts one.")
    if gateway.certificate_ends:
        print(f"The certificate of {gateway.party} ends at {_minute(gateway.certificate_ends)}.")
    if gateway.trouble:
        print(gateway.trouble)
    peers = table("peer", "address", "certificate", "ends", "round trip >", "streams >", "last seen")
    for peer in gateway.peers:
        trip = "" if peer.round_trip_seconds is None else f"{peer.round_trip_seconds * 1000:.1f} ms"
        ends, seen = _minute(peer.certificate_ends), _minute(peer.seen_at) or "never"
        peers.add_row(peer.party, peer.address, peer.subject or "", ends, trip, str(peer.open_streams), seen)
    console().print(peers)


def _minute(time: str | None) -> str:
    return f"{time[:16]}Z" if time else ""
