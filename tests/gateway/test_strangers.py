"""What comes to a gateway's port and is no peer, while a job of real peers runs."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sfworker.gateway.certificates import make_authority, make_certificate
from sfworker.wire.frames import encode_frame
from sfworker.wire.gateway import Preface, Terms, decode_answer
from tests.gateway.sites import Sites
from tests.network import HOST
from tests.running_worker import PARTIES, until

TERMS = Terms(parties=["alice", "bob"], task_type="psi", parameters="0" * 64, devices="0" * 64)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    with Sites(tmp_path_factory.mktemp("sites"), PARTIES) as sites:
        yield sites


def preface(**changes: Any) -> Preface:
    parts = {"version": 1, "to": "alice", "execution_id": secrets.token_hex(4), "channel": "control"}
    return Preface(**{**parts, "nonce": secrets.token_hex(16), "terms": TERMS, **changes})


def connect(sites: Sites, certificate: Path | None, authority: Path | None = None) -> ssl.SSLSocket:
    """A connection to alice's gateway with a certificate (and its key beside it)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority or sites.certificates / "authority.pem")
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context.wrap_socket(dial(sites))


def dial(sites: Sites, source: str = HOST) -> socket.socket:
    port = int(sites["alice"].settings["gateway_listen"].rpartition(":")[2])
    return socket.create_connection((HOST, port), timeout=10, source_address=(source, 0))


def answer(connection: socket.socket) -> Any:
    """The gateway's answer, or None where it closes instead."""
    try:
        length = connection.recv(4)
        return decode_answer(connection.recv(struct.unpack(">I", length)[0])) if length else None
    except (ssl.SSLError, ConnectionError):
        return None


def certificate(sites: Sites, directory: Path, names: list[str], days: tuple[int, int] = (-1, 5)) -> Path:
    """A certificate of the sites' authority for `names`, from day to day."""
    authority = x509.load_pem_x509_certificate((sites.certificates / "authority.pem").read_bytes())
    signing: Any = serialization.load_pem_private_key((sites.certificates / "authority.key").read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bob")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    if names:
        uris = [x509.UniformResourceIdentifier(name) for name in names]
        made = made.add_extension(x509.SubjectAlternativeName(uris), critical=False)
    encoding = serialization.Encoding.PEM
    (directory / "c.pem").write_bytes(made.sign(signing, hashes.SHA256()).public_bytes(encoding))
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "c.key").write_bytes(private)
    return directory / "c.pem"


def said(sites: Sites, text: str) -> None:
    until(lambda: text in sites["alice"].gateway_log(), 10)


def serves_peers(sites: Sites) -> None:
    for result in sites.run(sites.jobs({"task_type": "health_check"})).values():
        assert result["status"] == "success", result


def test_a_peer_is_answered(sites: Sites) -> None:
    with connect(sites, sites.certificates / "bob.pem") as connection:
        connection.sendall(encode_frame(preface()))
        assert answer(connection).verdict == "not_here"


@pytest.mark.attack("gateway")
@pytest.mark.parametrize(
    ("names", "days", "cause"),
    [
        (["sfworker:party:bob"], (-5, -1), "no TLS of a party (CERTIFICATE_VERIFY_FAILED)"),
        (["sfworker:party:bob"], (1, 5), "no TLS of a party (CERTIFICATE_VERIFY_FAILED)"),
        ([], (-1, 5), "its certificate names no party, or several"),
        (["sfworker:party:bob", "sfworker:party:carol"], (-1, 5), "its certificate names no party, or several"),
        (["sfworker:party:alice"], (-1, 5), "its certificate is this party's own"),
        (["sfworker:party:mallory"], (-1, 5), "this party does not know mallory as a peer"),
    ],
)
def test_certificates_that_are_no_peers(
    sites: Sites, tmp_path: Path, names: list[str], days: tuple[int, int], cause: str
) -> None:
    with connect(sites, certificate(sites, tmp_path, names, days)) as connection:
        try:
            connection.sendall(encode_frame(preface()))
            found = answer(connection)
        except (ssl.SSLError, ConnectionError):
            found = None
    assert found is None or found.verdict in {"refused", "not_here"}
    said(sites, cause)


@pytest.mark.attack("gateway")
def test_no_certificate_and_one_of_another_authority(sites: Sites, tmp_path: Path) -> None:
    make_authority(tmp_path, 5)
    make_certificate(tmp_path, "bob", 5)
    for given in (None, tmp_path / "bob.pem"):
        with connect(sites, given) as connection:
            try:
                connection.sendall(encode_frame(preface()))
                assert answer(connection) is None
            except (ssl.SSLError, ConnectionError):
                pass
    said(sites, "no TLS of a party (PEER_DID_NOT_RETURN_A_CERTIFICATE)")
    said(sites, "no TLS of a party (CERTIFICATE_VERIFY_FAILED)")


@pytest.mark.attack("gateway")
@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"\xff\xff\xff\xff", None),
        (struct.pack(">I", 9000) + bytes(9000), None),
        (struct.pack(">I", 4) + b"\x81\xa1a\xc1", None),
        (encode_frame(preface(version=2)), "refused"),
        (encode_frame(preface(to="carol")), "refused"),
        (encode_frame(preface(channel="spu-0")), "not_here"),
        (encode_frame(preface(channel="../fed")), "not_here"),
        (encode_frame(preface(execution_id="a\nb")), None),
        (encode_frame(preface(nonce="0")), None),
        (encode_frame(preface(traceparent="00-1-2-01")), None),
    ],
)
def test_prefaces_that_are_none(sites: Sites, body: bytes, verdict: str | None) -> None:
    with connect(sites, sites.certificates / "bob.pem") as connection:
        connection.sendall(body)
        found = answer(connection)
        assert (found and found.verdict) == verdict
    with connect(sites, sites.certificates / "bob.pem") as connection:  # the next one is answered, this one at once
        connection.sendall(encode_frame(preface(channel="spu-0")))
        following = answer(connection)
        assert following is not None
        assert following.verdict == "not_here"


@pytest.mark.attack("gateway")
def test_garbage_and_silence_are_given_up(sites: Sites) -> None:
    with dial(sites) as noise, dial(sites) as silent, connect(sites, sites.certificates / "bob.pem") as waiting:
        began = time.monotonic()
        noise.sendall(os.urandom(100))
        while noise.recv(100):
            pass
        assert silent.recv(1) == b""
        assert waiting.recv(1) == b""
        assert time.monotonic() - began < 8
    said(sites, "no TLS")
    said(sites, "bob, which sent no preface in time")


@pytest.mark.attack("gateway")
@pytest.mark.parametrize("source", ["127.0.0.2", HOST])
def test_a_flood_while_a_job_runs(sites: Sites, source: str) -> None:
    """Also from a peer's own address, as behind one router."""
    flood: list[socket.socket] = []
    try:
        flood += [dial(sites, source) for _ in range(100)]
        serves_peers(sites)
    finally:
        for connection in flood:
            connection.close()
    said(sites, "too many connections that have not said who they are")
    serves_peers(sites)


@pytest.mark.attack("gateway")
def test_a_peer_cannot_be_another_one(sites: Sites) -> None:
    """A stream for an execution of alice and bob that comes from somebody else's certificate is refused."""
    make_certificate(sites.certificates, "carol", 5)
    job = sites.jobs({"task_type": "act", "action": "hang", "seconds": 3.0})
    for party, each in job.items():
        sites[party].worker.send(each)
    sites["alice"].worker.until_said(job["alice"]["execution_id"], "devices_ready")
    execution_id = ":" + job["alice"]["execution_id"]  # of no tenant
    for channel in ("control", "fed", "spu-0"):
        with connect(sites, sites.certificates / "carol.pem") as connection:
            connection.sendall(encode_frame(preface(execution_id=execution_id, channel=channel)))
            assert answer(connection).verdict == "refused"
    with connect(sites, sites.certificates / "bob.pem") as connection:  # the right party without the nonce
        connection.sendall(encode_frame(preface(execution_id=execution_id, channel="fed")))
        assert answer(connection).verdict == "refused"
    for party, each in job.items():
        assert sites.result(party, each)["status"] == "success"
