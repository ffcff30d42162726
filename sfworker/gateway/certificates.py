"""Makes a development authority and certificates of parties. Production has an authority of its own.

Keys are of the curve P-256. Files are for their owner alone, and none that exists is replaced.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sfworker.errors import SettingsError
from sfworker.gateway.identity import PARTY_URI

AUTHORITY = "authority"
_BEFORE = timedelta(hours=1)
"""Certificates are good a little earlier, as clocks differ."""


def make_authority(directory: Path, days: int) -> None:
    """Make `authority.pem` and `authority.key` where there are none. Raises SettingsError."""
    if (directory / f"{AUTHORITY}.pem").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("sfworker development authority")
    builder = _builder(name, name, key, days).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(usage, True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    _write(directory / AUTHORITY, key, builder.sign(key, hashes.SHA256()))


def make_certificate(directory: Path, party: str, days: int) -> str:
    """Make `<party>.pem` and `<party>.key`, signed by the authority in `directory`, and return its fingerprint.

    Raises SettingsError where they exist or the authority's files cannot be used.
    """
    try:
        authority = x509.load_pem_x509_certificate((directory / f"{AUTHORITY}.pem").read_bytes())
        signing = serialization.load_pem_private_key((directory / f"{AUTHORITY}.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the authority's files cannot be used ({type(error).__name__})") from None
    if not isinstance(signing, ec.EllipticCurvePrivateKey):
        raise SettingsError("the authority's key is none of those that this command makes")
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{PARTY_URI}{party}")])
    builder = (
        _builder(_name(party), authority.subject, key, days)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    )
    certificate = builder.sign(signing, hashes.SHA256())
    _write(directory / party, key, certificate)
    return certificate.fingerprint(hashes.SHA256()).hex()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + timedelta(days=days))
    )


def _write(path: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, content in ((f"{path}.key", private), (f"{path}.pem", certificate.public_bytes(encoding))):
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise SettingsError(f"{os.path.basename(name)}: cannot be made there ({error.strerror})") from None
        with open(descriptor, "wb") as file:
            file.write(content)
