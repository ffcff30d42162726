"""Two parties in SecretFlow's production mode over TCP, SPU's link with TLS, without sfworker; prints seconds as JSON.

    python -m tests.bench.bare_tls JOB REPETITIONS DIRECTORY DELAY

JOB is `psi`, `ss_lr` or `ss_xgb` on `alice.csv` and `bob.csv` of DIRECTORY, DELAY the seconds by which both links are
slower in each direction. Counts from the start of a session to the known result, SecretFlow being imported already.
SecretFlow's own messages, which are few, go without TLS: its client takes a server's credentials and fails with any.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.bench.bare_jobs import ss_lr, ss_xgb
from tests.bench.bare_psi import PARTIES, RUNTIME, psi_arguments, seconds_of_parties
from tests.network import HOST, Network, free_ports


def make_certificate(directory: Path) -> None:
    """Make one certificate that signs itself, which both parties use: what TLS costs does not depend on whose it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")]), datetime.now(timezone.utc)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address(HOST))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (directory / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def session(party: str, certificates: Path, listens: list[int], calls: list[int]) -> Any:
    """Join, and return the SPU. `listens` and `calls` are the ports of alice's and bob's fed and SPU links."""
    import secretflow as sf

    rank = PARTIES.index(party)
    fed = {name: {"address": f"{HOST}:{calls[number]}"} for number, name in enumerate(PARTIES)}
    fed[party] |= {"listen_addr": f"{HOST}:{listens[rank]}"}
    sf.init(
        cluster_config={"parties": fed, "self_party": party},
        ray_mode=False,
        job_name="bare",
        logging_level="error",
    )
    certificate = str(certificates / "cert.pem")
    options = {"certificate_path": certificate, "private_key_path": str(certificates / "key.pem")}
    options |= {"ca_file_path": certificate, "verify_depth": 1}
    tls = {"server_ssl_opts": options, "client_ssl_opts": options}
    nodes = [
        {
            "party": name,
            "address": f"{HOST}:{calls[2 + number]}",
            "listen_address": f"{HOST}:{listens[2 + number]}",
            "tls_opts": tls,
        }
        for number, name in enumerate(PARTIES)
    ]
    return sf.SPU({"nodes": nodes, "runtime_config": RUNTIME})


def psi(spu: Any, inputs: dict[str, str], directory: str) -> None:
    spu.psi(**psi_arguments(inputs, directory))


JOBS = {
    "psi": psi,
    "ss_lr": lambda spu, inputs, _: ss_lr(spu, inputs),
    "ss_xgb": lambda spu, inputs, _: ss_xgb(spu, inputs, num_boost_round=3, max_depth=3),
}


def one(job: str, data: Path, certificates: Path, delay: float) -> float:
    ports = free_ports(4)
    with ExitStack() as stack:
        calls = ports
        if delay:
            networks = [stack.enter_context(Network(port)) for port in ports]
            for network in networks:
                network.delay = delay
            calls = [network.port for network in networks]
        directory = stack.enter_context(tempfile.TemporaryDirectory())

        def work(party: str) -> None:
            inputs = {}
            for name in PARTIES:
                inputs[name] = f"{directory}/{name}-{party}.csv"  # upstream leaves a file beside its input
                os.symlink(data / f"{name}.csv", inputs[name])
            os.environ["TMPDIR"] = tempfile.tempdir = directory
            os.chdir(directory)  # upstream writes its log there
            JOBS[job](session(party, certificates, ports, calls), inputs, directory)

        return seconds_of_parties(work)


def main(job: str, repetitions: int, directory: Path, delay: float) -> None:
    import secretflow  # noqa: F401

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as certificates:
        make_certificate(Path(certificates))
        seconds = [one(job, directory, Path(certificates), delay) for _ in range(repetitions)]
    print("SECONDS", json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
