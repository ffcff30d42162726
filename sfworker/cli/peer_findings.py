"""`sfworker doctor`, the part of parties elsewhere: the own certificate and gateway, and what peers' gateways say."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from datetime import datetime, timezone

from sfworker.cli.findings import Finding, error, ok, warning
from sfworker.errors import SettingsError
from sfworker.gateway.accounts import Accounts
from sfworker.gateway.dialling import Dialler, NotTakenError
from sfworker.gateway.gateway import WARN_DAYS
from sfworker.gateway.identity import Identity
from sfworker.gateway_state import gateway_overview
from sfworker.pool.remotes import cleaned
from sfworker.settings import Settings, variable
from sfworker.wire.gateway import PROBE, VERSION, Preface

_NEEDED = ("party", "tls_key", "tls_authority")


async def own(settings: Settings) -> AsyncIterator[Finding]:
    """The own certificate and gateway."""
    if missing := [variable(name) for name in _NEEDED if not getattr(settings, name)]:
        yield error("certificate", f"{missing[0]} is not set, so no gateway runs", f"set {', '.join(missing)}")
        return
    yield certificate(settings)
    gateway = await gateway_overview(settings)
    if gateway.state != "runs":
        yield warning("gateway", "none answers this user on this host", "`sfworker run` starts one; look at its log")
    else:
        yield ok("gateway", f"listens on {gateway.listens}")


def certificate(settings: Settings) -> Finding:
    """Return whether the own certificate is good, and for how long."""
    name = variable("tls_certificate")
    try:
        identity = Identity(settings)
    except SettingsError as unusable:
        return error("certificate", str(unusable), "correct the files or the settings; `sfworker certs` makes some")
    if identity.trouble:
        return error("certificate", identity.trouble, f"put a new one in the file that {name} names")
    days = (identity.expires - datetime.now(timezone.utc)).days
    said = f"good until {identity.expires.date()}, for {days} days"
    if days < WARN_DAYS:
        return warning("certificate", said, f"put a new one in the file that {name} names; no restart is needed")
    return ok("certificate", said)


async def peers(settings: Settings) -> list[Finding]:
    """What the gateway of each peer says to this party, all at once; nothing without a certificate to come with."""
    try:
        identity = Identity(settings)
    except SettingsError:
        return []
    dialler = Dialler(settings, identity, Accounts(settings.peers))
    return await asyncio.gather(*(_peer(dialler, party, address) for party, address in settings.peers.items()))


async def _peer(dialler: Dialler, party: str, address: str) -> Finding:
    """Ask a peer's gateway whether it knows this party, as a job's first stream would."""
    preface = Preface(
        version=VERSION, to=party, execution_id=PROBE, channel=PROBE, nonce=secrets.token_hex(16), terms=None
    )
    check, began = f"peer {party}", time.monotonic()
    try:
        _, writer = await dialler.call(address, preface)
    except NotTakenError as told:
        if told.answer.verdict != "known":
            return error(check, cleaned(told.answer.why), _remedy(dialler.party))
        return ok(check, f"knows this party, after {(time.monotonic() - began) * 1000:.0f} ms")
    except (OSError, EOFError) as failure:
        return _failed(check, failure, dialler, party)
    writer.close()
    return error(check, "takes a stream that is none", "let both parties run the same version of sfworker")


def _failed(check: str, failure: OSError | EOFError, dialler: Dialler, party: str) -> Finding:
    proven = dialler.accounts.of(party).seen_at is not None  # in TLS 1.3 it refuses later than it is accepted
    match failure:
        case PermissionError():  # of the dialler, as the certificate is another one
            return error(
                check, cleaned(str(failure)), f"correct its address in {variable('peers')}, or {variable('peer_pins')}"
            )
        case ssl.SSLCertVerificationError():
            remedy = f"let its operator renew it, or correct {variable('tls_authority')}"
            return error(check, f"its certificate is not good ({failure.verify_message})", remedy)
        case ssl.SSLError() | EOFError() | ConnectionError() if proven:
            return error(check, "does not take this party's certificate", _remedy(dialler.party))
        case ssl.SSLError() | EOFError() | ConnectionResetError():
            return warning(check, "ends the connection before TLS", "is that a gateway, and not one under a flood?")
    remedy = f"is its gateway running, does the network let this host through? Else correct {variable('peers')}"
    return warning(check, f"cannot be reached ({type(failure).__name__})", remedy)


def _remedy(party: str) -> str:
    return (
        f"let its operator look at {variable('peers')}, {variable('peer_pins')} and {variable('tls_authority')} there, "
        f"for {party}"
    )
