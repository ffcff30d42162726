"""Parties on sites of their own: each with a Redis, a worker, a gateway and certificates."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.gateway.certificates import make_authority, make_certificate
from sfworker.settings import Settings, variable
from tests.gateway.lab import Lab
from tests.network import HOST, Network, free_ports
from tests.processes import told
from tests.running_worker import RunningWorker, envelope, until

RUNTIME = {"protocol": "SEMI2K", "field": "FM128"}


class Site:
    """One party's side. Files of jobs lie in `data`."""

    def __init__(
        self,
        party: str,
        directory: Path,
        certificates: Path,
        listen: str,
        peers: dict[str, str],
        within: Sequence[str],
        **settings: Any,
    ) -> None:
        self.party = party
        self.data = directory / party
        self.data.mkdir()
        self._stack = ExitStack()
        self.redis = self._stack.enter_context(EmbeddedRedis())
        addresses = [f"{each}={their}" for each, their in peers.items() if each != party]
        self.settings: dict[str, Any] = {
            "party": party,
            "worker_hostname": f"{party}-host",
            "peers": ",".join(addresses),
            "trusted_dealer": "alice",
            "gateway_listen": listen,
            "gateway_dir": str(self.data / "gateway"),
            "tls_certificate": str(certificates / f"{party}.pem"),
            "tls_key": str(certificates / f"{party}.key"),
            "tls_authority": str(certificates / "authority.pem"),
            **settings,
        }
        self.within = within
        self.worker = RunningWorker(self.redis.url, self.data, started_by=within, **self.settings)
        self._stack.callback(self.worker.redis.close)
        self.others: list[RunningWorker] = []
        self.gateway: subprocess.Popen[bytes] | None = None

    def another_worker(self) -> RunningWorker:
        """Start one more, which reads and writes the same files."""
        directory = self.data.with_name(f"{self.party}-{len(self.others) + 2}")
        worker = RunningWorker(self.redis.url, directory, **{"data_roots": str(self.data), **self.settings})
        self._stack.callback(worker.redis.close)
        self.others.append(worker)
        worker.start()
        return worker

    def start_gateway(self, *program: str, **changes: str) -> None:
        """Start the gateway, or a `program` that is one, with changed settings, and wait until it listens."""
        ours = {variable(name) for name in Settings.__struct_fields__}
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        environment |= {variable(name): value for name, value in {**self.settings, **changes}.items()}
        listening = self.gateway_log().count("listens on")
        with (self.data / "gateway.log").open("ab") as log:
            words = program or ("-m", "sfworker")
            command = bound_to_this_process([*self.within, sys.executable, *words, "gateway"])
            self.gateway = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        gateway = self.gateway
        until(lambda: self.gateway_log().count("listens on") > listening or gateway.poll() is not None)
        assert gateway.poll() is None, self.gateway_log()

    def stop_gateway(self) -> None:
        if self.gateway is not None:
            stop(self.gateway, 5.0)

    def gateway_log(self) -> str:
        log = self.data / "gateway.log"
        return log.read_text() if log.exists() else ""

    def gateway_of_worker(self) -> int:
        return gateway_of(self.worker)

    def stop(self) -> None:
        for worker in (self.worker, *self.others):
            if hasattr(worker, "process"):
                worker.stop()
        self.stop_gateway()
        self._stack.close()


def gateway_of(worker: RunningWorker) -> int:
    """Process id of the gateway that the worker has started, or 0."""
    for pid in worker.processes():
        if b"\0gateway\0" in told(pid, "cmdline"):
            return pid
    return 0


class Sites:
    """All parties. Use as a context. Without `gateways` the workers start them.

    `networks` stand before the gateways' ports, so that peers see those in place of these. In a `lab` each party is on
    the host of its name; else `within` is a program that starts workers and gateways.
    """

    def __init__(
        self,
        directory: Path,
        parties: list[str],
        *,
        gateways: bool = True,
        networks: Callable[[int], Network] | None = None,
        lab: Lab | None = None,
        within: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        certificates = directory / "certificates"
        certificates.mkdir(mode=0o700)
        make_authority(certificates, 10)
        for party in parties:
            make_certificate(certificates, party, 5)
        ports = dict(zip(parties, free_ports(len(parties)), strict=True))
        self.parties = parties
        self._gateways = gateways
        self.certificates = certificates
        self._stack = ExitStack()
        self.networks = {
            party: self._stack.enter_context(networks(port)) for party, port in ports.items() if networks is not None
        }
        listen = {party: f"{lab.address(party) if lab else HOST}:{port}" for party, port in ports.items()}
        seen = {party: f"{HOST}:{network.port}" for party, network in self.networks.items()} or listen
        self.sites = {
            party: Site(
                party, directory, certificates, listen[party], seen, lab[party].enter if lab else within, **settings
            )
            for party in parties
        }

    def __enter__(self) -> Sites:
        for site in self.sites.values():
            if self._gateways:
                site.start_gateway()
            site.worker.begin()
        for site in self.sites.values():
            site.worker.until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for site in self.sites.values():
            site.stop()
            if error is not None:  # which pytest shows
                print(f"{site.party}:\n{site.worker.log()}")
        self._stack.close()

    def __getitem__(self, party: str) -> Site:
        return self.sites[party]

    def jobs(self, task: dict[str, Any], protocol: str = "SEMI2K", **more: Any) -> dict[str, dict[str, Any]]:
        """What each party's worker is sent for one computation."""
        spu = {"cluster_def": {"runtime_config": {**RUNTIME, "protocol": protocol}}}
        job = envelope(task, **{"spu_config": spu, **more})
        parties: dict[str, Any] = {party: {} for party in self.parties}
        return {
            party: job | {"sf_init_config": {"cluster_config": {"parties": parties, "self_party": party}}}
            for party in self.parties
        }

    def run(self, jobs: dict[str, dict[str, Any]], seconds: float = 60.0) -> dict[str, dict[str, Any]]:
        """Each party's result, when nothing of it is left over."""
        for party, job in jobs.items():
            self[party].worker.send(job)
        return {party: self.result(party, job, seconds) for party, job in jobs.items()}

    def result(self, party: str, job: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
        worker = self[party].worker
        worker.until_ended(job["execution_id"], seconds)
        [result] = worker.said(job["execution_id"], "result")
        return result
