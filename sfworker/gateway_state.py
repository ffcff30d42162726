"""Asks this host's gateway how it and its peers are, for `sfworker status` and `sfworker doctor`.

The gateway's socket is asked, not Redis: what is there may be read by others, who need not know peers' addresses and
certificates. So it is known only on the gateway's host, to its user.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from msgspec import Struct

from sfworker.errors import SettingsError
from sfworker.gateway.identity import Identity
from sfworker.pool.gateway import NOT_OWN, is_own
from sfworker.pool.remotes import cleaned
from sfworker.settings import Settings
from sfworker.wire.events import timestamp
from sfworker.wire.frames import FrameError, encode_frame, read_body
from sfworker.wire.gateway import Ask, GatewayState, PeerState, decode_state

SECONDS = 5.0


class PeerOverview(Struct, frozen=True, kw_only=True):
    """Holds what the gateway has last seen of a peer. What it has not seen since it was started is None."""

    party: str
    address: str
    subject: str | None = None
    certificate_ends: str | None = None
    round_trip_seconds: float | None = None
    seen_at: str | None = None
    open_streams: int = 0


class GatewayOverview(Struct, frozen=True, kw_only=True):
    """Holds the state of this host's gateway and of its peers."""

    party: str
    state: Literal["runs", "does not answer"]
    listens: str
    certificate_ends: str | None = None
    trouble: str = ""
    workers: int = 0
    executions: int = 0
    peers: list[PeerOverview]


async def gateway_overview(settings: Settings) -> GatewayOverview:
    """Return how the gateway of `settings` is."""
    try:
        state = await asyncio.wait_for(_ask(settings.gateway_socket()), SECONDS)
    except (OSError, EOFError, asyncio.TimeoutError, FrameError, msgspec.DecodeError):  # or it is no gateway
        ends, trouble = _own_certificate(settings)
        return GatewayOverview(
            party=settings.party,
            state="does not answer",
            listens=settings.gateway_listen,
            certificate_ends=ends,
            trouble=trouble,
            peers=[PeerOverview(party=party, address=address) for party, address in settings.peers.items()],
        )
    return GatewayOverview(
        party=state.party,
        state="runs",
        listens=state.listens,
        certificate_ends=timestamp(state.certificate_ends),
        trouble=state.trouble,
        workers=state.workers,
        executions=state.executions,
        peers=[_peer(each) for each in state.peers],
    )


def _own_certificate(settings: Settings) -> tuple[str | None, str]:
    """Return when it ends, and a sentence where it is of no use."""
    try:
        identity = Identity(settings)
    except SettingsError as error:
        return None, str(error)
    return timestamp(identity.expires.timestamp()), identity.trouble


async def _ask(path: str) -> GatewayState:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        if not is_own(writer.get_extra_info("socket")):
            raise PermissionError(NOT_OWN)
        writer.write(encode_frame(Ask()))
        return decode_state(await read_body(reader))
    finally:
        writer.close()


def _peer(state: PeerState) -> PeerOverview:
    return PeerOverview(
        party=state.party,
        address=state.address,
        subject=cleaned(state.subject) or None,
        certificate_ends=_time(state.certificate_ends),
        round_trip_seconds=state.round_trip_seconds,
        seen_at=_time(state.seen_at),
        open_streams=state.open_streams,
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)
