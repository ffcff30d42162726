"""Proves which party this is, and checks which one a peer is, by certificates. They are read anew when they change.

A party's certificate names it in exactly one URI of its subject alternative names, `sfworker:party:<name>`. The chain
is checked against the operator's authority on both sides, and host names are not: addresses may change, parties do not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography import x509

from sfworker.errors import SettingsError
from sfworker.settings import Settings, variable

_log = logging.getLogger("sfworker.gateway")
PARTY_URI = "sfworker:party:"
AGAIN_SECONDS = 5.0
"""Time after which files that could not be used are read again."""
_FILES = ("tls_certificate", "tls_key", "tls_authority")


class Identity:
    """A party's own certificate and key, and what it accepts of others."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where a file cannot be used, or the certificate is not this party's."""
        self._settings = settings
        self._pins = settings.peer_pins
        self._seen: tuple[tuple[int, int], ...] = ()
        self._not_before = 0.0
        if unknown := set(self._pins) - set(settings.peers):
            raise SettingsError(f"{variable('peer_pins')}: {min(unknown)} is not in {variable('peers')}")
        self._refusal = ""
        self._read()

    @property
    def server(self) -> ssl.SSLContext:
        """The context of connections that peers open."""
        self._read_anew()
        return self._server

    @property
    def client(self) -> ssl.SSLContext:
        """The context of connections to peers."""
        self._read_anew()
        return self._client

    @property
    def expires(self) -> datetime:
        """The moment at which this party's certificate, or one that it is signed by, is no longer good."""
        self._read_anew()
        return self.validity[1]

    @property
    def is_good(self) -> bool:
        """True where this party's certificate, and those that it is signed by, are good now."""
        self._read_anew()
        begins, expires = self.validity
        return begins <= datetime.now(timezone.utc) < expires

    @property
    def trouble(self) -> str:
        """Sentences on why peers will not take this party's streams, or that new files cannot be used, or nothing."""
        if self.is_good:
            return self._refusal
        begins, expires = self.validity
        now = datetime.now(timezone.utc)
        what = f"has expired on {expires.date()}" if now >= expires else f"is not good before {begins.date()}"
        ended = f"{variable('tls_certificate')}: the certificate {what}, so jobs with parties elsewhere fail"
        return f"{ended}; {self._refusal}" if self._refusal else ended

    def party_of(self, connection: ssl.SSLObject) -> str:
        """Return the peer's party. Raises PermissionError, in words for this party's own log, where it is none.

        The chain was checked by the handshake.
        """
        [*names] = parties_named(connection.getpeercert() or {})
        if len(names) != 1:
            raise PermissionError("its certificate names no party, or several")
        [party] = names
        if party == self._settings.party:
            raise PermissionError("its certificate is this party's own")
        pinned = self._pins.get(party)
        if pinned and hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest() not in pinned:
            raise PermissionError(f"its certificate is none of those that {variable('peer_pins')} lists for it")
        return party

    def _read_anew(self) -> None:
        """Read the files where one has changed. `trouble` says where new ones cannot be used."""
        if time.monotonic() < self._not_before:
            return
        try:
            if self._seen != self._state():
                self._read()
                _log.info("certificates were read anew; this party's ends on %s", self.validity[1].date())
            self._refusal = ""
        except (SettingsError, OSError) as error:  # half written ones will be whole soon
            self._not_before = time.monotonic() + AGAIN_SECONDS
            told = error if isinstance(error, SettingsError) else _reason(error)
            self._refusal = f"changed certificates cannot be used ({told}); the old ones stay"

    def _read(self) -> None:
        try:
            seen = self._state()
            chain = x509.load_pem_x509_certificates(_path(self._settings, "tls_certificate").read_bytes())
            server, client = self._context(ssl.PROTOCOL_TLS_SERVER), self._context(ssl.PROTOCOL_TLS_CLIENT)
            _require_own(chain[0], self._settings.party)
        except (OSError, ValueError, x509.DuplicateExtension) as error:
            missing = [variable(name) for name in _FILES if not _path(self._settings, name).exists()]
            if missing:
                raise SettingsError(f"{missing[0]}: there is no such file") from None
            names = ", ".join(variable(name) for name in _FILES)
            raise SettingsError(f"{names}: cannot be used together ({_reason(error)})") from None
        self._server, self._client = server, client
        self.validity = _validity(chain, client)
        self._seen = seen

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # a session that is taken up again would not look at the chain
        context.load_cert_chain(self._settings.tls_certificate, self._settings.tls_key, _no_password)
        context.load_verify_locations(_path(self._settings, "tls_authority"))
        return context

    def _state(self) -> tuple[tuple[int, int], ...]:
        found = [os.stat(_path(self._settings, name)) for name in _FILES]
        return tuple((each.st_mtime_ns, each.st_ino) for each in found)


def _validity(chain: list[x509.Certificate], context: ssl.SSLContext) -> tuple[datetime, datetime]:
    """Return from when to when the whole chain is good, with the best of the authorities that have signed its end."""
    authorities = map(x509.load_der_x509_certificate, context.get_ca_certs(binary_form=True))
    signers = [each for each in authorities if each.subject == chain[-1].issuer]
    parts = [*chain, *sorted(signers, key=lambda each: each.not_valid_after_utc)[-1:]]
    return max(each.not_valid_before_utc for each in parts), min(each.not_valid_after_utc for each in parts)


def parties_named(certificate: Any) -> list[str]:
    """Return the parties that a certificate, as `ssl` decodes it, is for."""
    names = certificate.get("subjectAltName", ())
    return [text.removeprefix(PARTY_URI) for kind, text in names if kind == "URI" and text.startswith(PARTY_URI)]


def _require_own(certificate: x509.Certificate, party: str) -> None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        found = []
    if [name for name in found if name.startswith(PARTY_URI)] != [f"{PARTY_URI}{party}"]:
        raise SettingsError(
            f"{variable('tls_certificate')}: is not the certificate of {party} ({variable('party')}); its subject "
            f"alternative names have to hold the URI {PARTY_URI}{party}, and no other party's"
        )


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # OpenSSL would ask the terminal


def _path(settings: Settings, name: str) -> Path:
    return Path(getattr(settings, name))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or type(error).__name__
