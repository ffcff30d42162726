"""Certificates of a party's own: what is refused at the start, and how changed ones are taken."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from sfworker import gateway_state
from sfworker.cli import peer_findings
from sfworker.errors import SettingsError
from sfworker.gateway import identity
from sfworker.gateway.certificates import make_authority, make_certificate
from sfworker.gateway.identity import Identity
from sfworker.settings import Settings


@pytest.fixture
def files(tmp_path: Path) -> Path:
    make_authority(tmp_path, 10)
    for party in ("alice", "bob"):
        make_certificate(tmp_path, party, 5)
    return tmp_path


def settings(files: Path, **changes: Any) -> Settings:
    names = {"tls_certificate": "alice.pem", "tls_key": "alice.key", "tls_authority": "authority.pem"}
    paths = {name: str(files / file) for name, file in names.items()}
    return Settings(**{"party": "alice", "peers": {"bob": "h:1"}, **paths, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"party": "bob"}, "SFWORKER_TLS_CERTIFICATE: is not the certificate of bob"),
        ({"tls_key": "/none"}, "SFWORKER_TLS_KEY: there is no such file"),
        ({"peer_pins": {"carol": ["0" * 64]}}, "SFWORKER_PEER_PINS: carol is not in SFWORKER_PEERS"),
    ],
)
def test_what_cannot_be_used(files: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Identity(settings(files, **changes))


def test_another_partys_key(files: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be used together"):
        Identity(settings(files, tls_key=str(files / "bob.key")))


def test_new_files_are_taken_and_wrong_ones_are_not(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "AGAIN_SECONDS", 0.0)
    own = Identity(settings(files))
    first, expires = own.server, own.expires
    assert own.server is first
    for ending in ("pem", "key"):
        (files / f"alice.{ending}").rename(files / f"old.{ending}")
        os.link(files / f"bob.{ending}", files / f"alice.{ending}")
    assert own.server is first
    assert own.trouble.startswith("changed certificates cannot be used (SFWORKER_TLS_CERTIFICATE: is not the ")
    for ending in ("pem", "key"):
        (files / f"alice.{ending}").unlink()
    assert own.server is first
    assert own.trouble.endswith("(No such file or directory); the old ones stay")
    for ending in ("pem", "key"):  # those that it has read
        (files / f"old.{ending}").rename(files / f"alice.{ending}")
    assert (own.trouble, own.server) == ("", first)
    for ending in ("pem", "key"):
        (files / f"alice.{ending}").unlink()
    time.sleep(1.1)  # certificates tell whole seconds
    make_certificate(files, "alice", 5)
    assert own.server is not first
    assert own.expires > expires
    assert own.trouble == ""


@pytest.mark.parametrize("days", [3, 0])
def test_a_certificate_lasts_no_longer_than_its_authority(tmp_path: Path, days: int) -> None:
    make_authority(tmp_path, days)
    make_certificate(tmp_path, "alice", 5)
    own = Identity(settings(tmp_path))
    assert abs(own.expires - datetime.now(timezone.utc) - timedelta(days=days)) < timedelta(minutes=1)
    assert ("the certificate has expired on" in own.trouble) == (days == 0)


@pytest.mark.parametrize(
    ("days", "changes", "level", "said"),
    [
        (400, {}, "ok", "for 399 days"),
        (30, {}, "warning", "for 29 days"),
        (31, {}, "ok", "for 30 days"),
        (400, {"tls_key": "/none"}, "error", "SFWORKER_TLS_KEY: there is no such file"),
        (400, {"party": "bob"}, "error", "SFWORKER_TLS_CERTIFICATE: is not the certificate of bob"),
    ],
)
def test_doctor_tells_how_long_a_certificate_is_good(
    tmp_path: Path, days: int, changes: dict[str, Any], level: str, said: str
) -> None:
    make_authority(tmp_path, 500)
    make_certificate(tmp_path, "alice", days)
    found = peer_findings.certificate(settings(tmp_path, **changes))
    assert (found.level, said in found.message) == (level, True), found
    assert str(tmp_path) not in f"{found.message}{found.remedy}"


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\1\xc1", b"\0\0", b"", "another user's"])
async def test_a_socket_of_something_else_is_no_gateway(
    files: Path, said: bytes | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands at the gateway's place need not be one, nor this user's."""
    asked = settings(files, gateway_dir=str(files))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(said, bytes):
            await reader.read(1)
            writer.write(said)
        else:
            heard.append(await reader.read(1))
        writer.close()

    heard: list[bytes] = []
    if isinstance(said, str):
        monkeypatch.setattr(gateway_state, "is_own", lambda connection: False)
    async with await asyncio.start_unix_server(answer, asked.gateway_socket()):
        state = await gateway_state.gateway_overview(asked)
    assert (state.state, state.party, state.trouble) == ("does not answer", "alice", "")
    assert not any(heard)  # a stranger is not even asked
