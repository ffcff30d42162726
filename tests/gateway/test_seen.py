"""What operators see of gateways and peers: metrics and traces in a collector, `status`, and certificates that end."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import secrets
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sfworker.cli import main, peer_findings
from sfworker.gateway.certificates import make_authority, make_certificate
from sfworker.gateway_state import gateway_overview
from sfworker.listening import ask
from sfworker.settings import Settings, load, variable
from sfworker.wire.frames import encode_frame
from tests.console.visiting import visiting
from tests.documents.test_commands import DEPLOY
from tests.documents.test_tables import rows
from tests.gateway.sites import Sites
from tests.gateway.test_strangers import answer, certificate, connect, dial, preface, serves_peers
from tests.integration.exported import Page
from tests.network import HOST, Network, free_ports
from tests.running_worker import PARTIES, envelope, until
from tests.test_telemetry import Collector

SILENCE = 2.0
OTHERS = {"alice": "bob", "bob": "alice"}


class Seen:
    """Sites, and a collector that all their workers and gateways export to."""

    def __init__(self, sites: Sites, collector: Collector) -> None:
        self.sites = sites
        self._collector = collector

    def metrics(self, party: str) -> dict[str, dict[tuple[str, ...], float]]:
        """The figures that a party's gateway has exported last, by metric, peer and other attribute."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for name, values, figure in self._points(party):
            found.setdefault(name, {})[values] = figure
        return found

    def kinds(self) -> set[tuple[str, str]]:
        """Names of the metrics of all gateways, with kind and unit."""
        kinds = set()
        for body in self._collector.bodies("/v1/metrics"):
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                if "-gateway-" not in str(resource.resource):
                    continue
                for metric in (each for scope in resource.scope_metrics for each in scope.metrics):
                    kind = "gauge" if metric.HasField("gauge") else "counter"
                    kind = kind if kind == "gauge" or metric.sum.is_monotonic else "up-down counter"
                    kinds.add((metric.name, f"{kind}, `{metric.unit}`"))
        return kinds

    def exported(self) -> bytes:
        return b"".join(body for _, body in self._collector.received)

    def first_span(self, party: str, execution_id: str) -> Any:
        """The first span of a party's worker for an execution, when it has been exported."""
        return until(lambda: next(self._first_spans(party, execution_id), None))

    def _first_spans(self, party: str, execution_id: str) -> Iterator[Any]:
        for body in self._collector.bodies("/v1/traces"):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for span in (each for scope in resource.scope_spans for each in scope.spans):
                    if named(span)["sfworker.execution.id"] == execution_id and named(span)[
                        "messaging.client.id"
                    ].startswith(party):
                        yield span

    def _points(self, party: str) -> Iterator[tuple[str, tuple[str, ...], float]]:
        for body in self._collector.bodies("/v1/metrics"):
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                if f"-gateway-{party}" not in str(resource.resource):
                    continue
                for metric in (each for scope in resource.scope_metrics for each in scope.metrics):
                    for point in (*metric.sum.data_points, *metric.gauge.data_points):
                        values = tuple(value for _, value in sorted(named(point).items(), reverse=True))
                        yield metric.name, values, point.as_double + point.as_int


def named(part: Any) -> dict[str, str]:
    """Attributes that are texts, of a span, a link, a point or a resource."""
    return defaultdict(str, {item.key: item.value.string_value for item in part.attributes})


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with Collector() as collector, pytest.MonkeyPatch.context() as variables:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        variables.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
        variables.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        directory = tmp_path_factory.mktemp("sites")
        sites = Sites(directory, PARTIES, peer_silence_seconds=str(SILENCE), rendezvous_seconds="4")
        sites["alice"].worker.environment[variable("health")] = f"unix:{directory}/health"
        sites["alice"].settings["gateway_health"] = f"unix:{directory}/gateway-health"
        with sites:
            yield Seen(sites, collector)
        collector.shutdown()
        thread.join()


@pytest.fixture
def as_operator(seen: Seen, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command with the settings of a party's site, and others by name; returns what it printed."""

    def command(site: str, *words: str, **settings: str) -> str:
        given = {variable(name): value for name, value in settings.items()}
        with monkeypatch.context() as variables:
            for name, value in {**seen.sites[site].worker.environment, **given}.items():
                variables.setenv(name, value)
            main(words)
        return capsys.readouterr().out

    return command


def findings(told: str) -> dict[str, tuple[str, str]]:
    return {each["check"]: (each["level"], each["message"]) for each in json.loads(told)["findings"]}


def test_both_gateways_count_the_same(seen: Seen) -> None:
    serves_peers(seen.sites)

    def agree() -> bool:
        alice, bob = (seen.metrics(party)["sfworker.peer.bytes"] for party in PARTIES)
        return (
            alice["bob", "sent"] == bob["alice", "received"] > 1000 < alice["bob", "received"] == bob["alice", "sent"]
        )

    until(lambda: all("sfworker.peer.round_trip" in seen.metrics(party) for party in PARTIES))
    until(agree)
    assert min(seen.metrics("alice")["sfworker.peer.bytes"].values()) > 1000
    for party in PARTIES:
        until(lambda party=party: seen.metrics(party)["sfworker.peer.streams"] == {(OTHERS[party],): 0})  # type: ignore[misc]
        metrics, peer = seen.metrics(party), OTHERS[party]
        assert metrics["sfworker.peer.rendezvous"][peer, "met"] == 1
        assert 0 < metrics["sfworker.peer.rendezvous.duration"][peer, "met"] < 4
        assert 0 < metrics["sfworker.peer.round_trip"][peer,] < 1
        assert set(metrics["sfworker.gateway.refused"].values()) == {0}
        for figure in metrics["sfworker.certificate.remaining"].values():
            assert 4 * 86_400 < figure < 5 * 86_400
        assert set(metrics["sfworker.certificate.remaining"]) == {("",), (peer,)}


def test_status_lists_the_peers(seen: Seen, as_operator: Callable[..., str]) -> None:
    site = seen.sites["alice"]
    gateway = json.loads(as_operator("alice", "status", "--json"))["gateway"]
    [peer] = gateway.pop("peers")
    ends = gateway.pop("certificate_ends")
    assert 4 < (datetime.fromisoformat(ends) - datetime.now(timezone.utc)) / timedelta(days=1) < 5
    assert gateway == {
        "party": "alice",
        "state": "runs",
        "listens": site.settings["gateway_listen"],
        "trouble": "",
        "workers": 1,
        "executions": 0,
    }
    assert (datetime.now(timezone.utc) - datetime.fromisoformat(peer.pop("seen_at"))).total_seconds() < 60
    assert 0 < peer.pop("round_trip_seconds") < 1
    assert abs(datetime.fromisoformat(peer.pop("certificate_ends")) - datetime.fromisoformat(ends)) < timedelta(
        minutes=1
    )
    address = site.settings["peers"].removeprefix("bob=")
    assert peer == {"party": "bob", "address": address, "subject": "commonName=bob", "open_streams": 0}
    told = as_operator("alice", "status")
    assert f"The gateway of alice listens on {site.settings['gateway_listen']} (workers: 1, executions: 0)." in told
    assert re.search(rf"^ +bob +{address} +commonName=bob +\S+Z +[\d.]+ ms +0 +\S+Z", told, re.MULTILINE), told
    redis = site.worker.redis
    said = b"".join(redis.dump(key) for key in redis.keys("*"))  # whom it may concern there need not know
    assert address.encode() not in said


def test_doctor_asks_the_peers(seen: Seen, as_operator: Callable[..., str], tmp_path: Path) -> None:
    bobs = seen.sites["alice"].settings["peers"].removeprefix("bob=")
    nobody = f"{HOST}:{free_ports(1)[0]}"
    alices = seen.sites["alice"].settings["gateway_listen"]
    make_authority(tmp_path, 5)
    make_certificate(tmp_path, "alice", 5)
    peers = f"bob={bobs},carol={bobs},dave={nobody}"
    found = findings(as_operator("alice", "doctor", "--quick", "--json", peers=peers))
    assert found["certificate"][0] == "warning"
    assert found["gateway"] == ("ok", f"listens on {alices}")
    assert found["peer bob"][0] == "ok"
    assert found["peer bob"][1].startswith("knows this party, after ")
    assert found["peer carol"] == ("error", "its address has the certificate of bob")
    assert found["peer dave"] == ("warning", "cannot be reached (ConnectionRefusedError)")
    told = as_operator("alice", "doctor", "--quick")
    assert re.search(rf"^ +bob +{bobs} +ok +knows this party, after \d+ ms", told, re.MULTILINE), told
    pinned = findings(as_operator("alice", "doctor", "--quick", "--json", peer_pins=f"bob={'0' * 64}"))
    assert pinned["peer bob"] == ("error", "its certificate is none of those that SFWORKER_PEER_PINS lists for it")

    def as_alice(files: Path, **settings: str) -> dict[str, tuple[str, str]]:
        own = {"tls_certificate": f"{files}.pem", "tls_key": f"{files}.key"}
        return findings(as_operator("alice", "doctor", "--quick", "--json", **own, **settings))

    other = {"tls_authority": str(tmp_path / "authority.pem")}
    found = findings(as_operator("alice", "doctor", "--quick", "--json", **other))
    assert found["peer bob"][0] == "error"
    assert found["peer bob"][1].startswith("its certificate is not good (")
    assert as_alice(tmp_path / "alice")["peer bob"] == ("error", "does not take this party's certificate")
    make_certificate(seen.sites.certificates, "zoe", 5)
    zoe = as_alice(seen.sites.certificates / "zoe", party="zoe")
    assert zoe["peer bob"] == ("error", "does not know zoe as a peer")


def test_a_certificate_that_has_ended_stops_no_job_of_one_host(
    seen: Seen, as_operator: Callable[..., str], tmp_path: Path
) -> None:
    sentence = r"SFWORKER_TLS_CERTIFICATE: the certificate has expired on [-\d]+, so jobs with parties elsewhere fail"
    health = seen.sites["alice"].worker.environment[variable("health")]
    ended = certificate(seen.sites, tmp_path, ["sfworker:party:alice"], (-5, -1))
    files = [(seen.sites.certificates / "alice").with_suffix(suffix) for suffix in (".pem", ".key")]
    good = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(ended.with_suffix(file.suffix).read_bytes())
    try:
        until(lambda: re.search(sentence, ask(health, "/readyz")[1]))
        assert ask(health, "/readyz")[0] == 200
        assert seen.sites["alice"].worker.run(envelope({"task_type": "health_check"}))["status"] == "success"
        until(lambda: seen.metrics("alice")["sfworker.certificate.remaining"]["",] < -86_000)
        assert re.search(f"^{sentence}$", as_operator("alice", "status"), re.MULTILINE)
        [level, message] = findings(as_operator("alice", "doctor", "--quick", "--json"))["certificate"]
        assert level == "error"
        assert re.fullmatch(sentence, message)
    finally:
        for file, content in zip(files, good, strict=True):
            file.write_bytes(content)
    until(lambda: not json.loads(ask(health, "/readyz")[1]).get("reason"))
    serves_peers(seen.sites)
    log = seen.sites["alice"].gateway_log()  # where nothing is said again before a day is over
    assert (log.count("this party's certificate ends on"), len(re.findall(sentence, log))) == (2, 1)


def test_traces_of_both_parties_are_linked(seen: Seen) -> None:
    jobs = seen.sites.jobs({"task_type": "health_check"})
    webs = {party: (secrets.token_hex(16), secrets.token_hex(8)) for party in PARTIES}
    for party, (trace, span) in webs.items():
        entry = {"envelope": json.dumps(jobs[party]), "traceparent": f"00-{trace}-{span}-01", "tracestate": "a=4711"}
        seen.sites[party].worker.redis.xadd("sf:jobs", entry)
    spans = {party: seen.first_span(party, jobs[party]["execution_id"]) for party in PARTIES}
    for party, other in OTHERS.items():
        assert (spans[party].trace_id.hex(), spans[party].parent_span_id.hex()) == webs[party]
        [link] = spans[party].links
        assert (link.trace_id, link.span_id) == (spans[other].trace_id, spans[other].span_id)
        assert (named(link), link.trace_state) == ({"sfworker.party": other}, "")


@pytest.mark.slow
def test_one_that_links_no_traces_neither_sends_nor_takes_them(seen: Seen) -> None:
    worker = seen.sites["bob"].worker
    worker.stop()
    worker.environment[variable("link_traces")] = "false"
    worker.start()
    jobs = seen.sites.jobs({"task_type": "health_check"})
    for result in seen.sites.run(jobs).values():
        assert result["status"] == "success", result
    for party in PARTIES:
        assert not seen.first_span(party, jobs[party]["execution_id"]).links


def test_streams_that_are_open_and_a_silence(seen: Seen) -> None:
    sites = seen.sites
    jobs = sites.jobs({"task_type": "act", "action": "report", "seconds": 20.0})
    for party, job in jobs.items():
        sites[party].worker.send(job)
    for party, job in jobs.items():
        sites[party].worker.until_said(job["execution_id"], "devices_ready")
    until(lambda: seen.metrics("alice")["sfworker.peer.streams"]["bob",] >= 3)
    gateway = sites["bob"].gateway
    assert gateway is not None
    gateway.send_signal(signal.SIGSTOP)
    try:
        assert sites.result("alice", jobs["alice"])["error"].endswith("was silent for 2 s")
        until(lambda: seen.metrics("alice")["sfworker.peer.silences"] == {("bob",): 1})
    finally:
        gateway.send_signal(signal.SIGCONT)
    assert sites.result("bob", jobs["bob"])["status"] == "failure"


def test_a_peer_that_does_not_come(seen: Seen) -> None:
    jobs = seen.sites.jobs({"task_type": "health_check"})
    worker = seen.sites["alice"].worker
    worker.send(jobs["alice"])
    until(lambda: seen.metrics("alice")["sfworker.peer.rendezvous"]["bob", "absent"])
    assert 2.5 < seen.metrics("alice")["sfworker.peer.rendezvous.duration"]["bob", "absent"] < 6
    worker.redis.set(f"sf:cancel:{jobs['alice']['execution_id']}", 1, ex=100)
    worker.redis.publish("sf:control", jobs["alice"]["execution_id"])
    assert worker.until_ended(jobs["alice"]["execution_id"])["status"] == "CANCELLED"


def test_causes_of_refusals_are_a_closed_set(seen: Seen, tmp_path: Path) -> None:
    sites, authority = seen.sites, seen.sites.certificates
    make_certificate(authority, "mallory", 5)
    with dial(sites) as noise:
        noise.sendall(os.urandom(100))
        while noise.recv(100):
            pass
    with connect(sites, None) as nobody:
        assert answer(nobody) is None
    for name, body in (
        ("alice", encode_frame(preface())),
        ("mallory", encode_frame(preface())),
        ("bob", b"\xff" * 8),
        ("bob", encode_frame(preface(version=9))),
    ):
        with connect(sites, authority / f"{name}.pem") as connection:
            connection.sendall(body)
            answer(connection)
    strangers = {("", cause) for cause in ("handshake", "certificate", "unknown_peer", "crowd")}
    expected = strangers | {("bob", "preface"), ("bob", "stream")}

    def refused() -> dict[tuple[str, ...], float]:
        return {key: count for key, count in seen.metrics("alice")["sfworker.gateway.refused"].items() if count}

    crowd = [dial(sites) for _ in range(20)]
    try:
        until(lambda: not expected - refused().keys())
    finally:
        for each in crowd:
            each.close()
    assert refused().keys() == expected
    assert refused()["", "certificate"] == 2


def test_each_metric_is_in_the_table(seen: Seen) -> None:
    listed = rows(DEPLOY, "metric of a gateway")
    assert {(name.strip("`"), kind) for name, kind, _, _ in listed} == seen.kinds()
    page = Page(seen.sites["alice"].settings["gateway_health"])
    told = {sample.name for sample in page.samples if sample.name.startswith("sfworker_")}
    assert told == {name.strip("`") for _, _, name, _ in listed}
    assert 4 * 86_400 < page.figure("certificate_remaining_seconds", sfworker_peer="") < 5 * 86_400
    assert "process_resident_memory_bytes" in {sample.name for sample in page.samples}


def test_a_gateway_says_how_it_is_and_leaves_its_port_to_the_next(seen: Seen) -> None:
    site = seen.sites["alice"]
    address = site.settings["gateway_health"]
    assert ask(address, "/healthz") == (200, '{"state":"alive","reason":""}')
    assert ask(address, "/readyz") == (200, '{"state":"ready","reason":""}')
    former = site.gateway
    assert former is not None
    for harmless in (signal.SIGHUP, signal.SIGUSR1):  # as scripts that rotate logs send
        former.send_signal(harmless)
        assert ask(address, "/readyz") == (200, '{"state":"ready","reason":""}')
    former.terminate()
    site.start_gateway()
    assert former.wait(20) == 0
    assert ask(address, "/readyz") == (200, '{"state":"ready","reason":""}')
    status, said = ask(address, "/metrics")
    assert (status, "sfworker_certificate_remaining_seconds" in said) == (200, True)


def test_no_strangers_name_and_no_address_is_exported(seen: Seen) -> None:
    said = seen.exported()
    for word in ("mallory", seen.sites["alice"].settings["peers"].removeprefix("bob="), "commonName"):
        assert word.encode() not in said
    assert b"unknown_peer" in said


def test_a_peer_that_pins_another_certificate_and_one_whose_own_has_ended(tmp_path: Path) -> None:
    sites = Sites(tmp_path, PARTIES)
    sites["bob"].settings["peer_pins"] = f"alice={'0' * 64}"
    health = sites["bob"].settings["gateway_health"] = f"unix:{tmp_path}/health"
    settings = load({variable(name): value for name, value in sites["alice"].settings.items()})
    try:
        sites["bob"].start_gateway()
        [finding] = asyncio.run(peer_findings.peers(settings))
        assert (finding.level, finding.message) == ("error", "does not take this certificate")
        ended = certificate(sites, tmp_path, ["sfworker:party:bob"], (-5, -1))
        for suffix in (".pem", ".key"):
            (sites.certificates / "bob").with_suffix(suffix).write_bytes(ended.with_suffix(suffix).read_bytes())
        [finding] = asyncio.run(peer_findings.peers(settings))
        assert (finding.level, finding.message) == ("error", "its certificate is not good (certificate has expired)")
        status, said = ask(health, "/readyz")
        assert (status, json.loads(said)["state"]) == (503, "certificate_not_good")
        assert "SFWORKER_TLS_CERTIFICATE: the certificate has expired on" in said
    finally:
        for party in PARTIES:
            sites[party].stop()


async def peers_in_the_console(settings: Settings) -> str:
    """The page as it is put in, without marks of what is data."""
    names = (
        "party",
        "peers",
        "run_dir",
        "gateway_dir",
        "gateway_listen",
        "tls_certificate",
        "tls_key",
        "tls_authority",
    )
    async with visiting(settings.redis_url, **{name: getattr(settings, name) for name in names}) as visitor:
        return re.sub(r"</?bdi[^>]*>", "", await visitor.page("/peers"))


@pytest.mark.slow
def test_round_trips_are_as_long_as_the_networks_and_two_workers_share_a_gateway(tmp_path: Path) -> None:
    sites = Sites(tmp_path, PARTIES, networks=Network, rendezvous_seconds="8")
    with sites:
        second = copy.copy(sites["bob"].worker)
        second.environment = {**second.environment, variable("worker_hostname"): "second"}
        second.start()
        try:
            for network in sites.networks.values():
                network.delay = 0.1
            serves_peers(sites)
            for party in PARTIES:
                settings = load({variable(name): value for name, value in sites[party].settings.items()})
                gateway = asyncio.run(gateway_overview(settings))
                [peer] = gateway.peers
                assert gateway.workers == (2 if party == "bob" else 1)
                assert peer.round_trip_seconds is not None
                assert 0.2 <= peer.round_trip_seconds < 0.5
                page = asyncio.run(peers_in_the_console(settings))
                assert f"The gateway of {party} listens on {gateway.listens}." in page
                assert re.search(rf"{peer.address}</td>.*>[\d.]+ ms</td>", page.replace("\n", " "))
        finally:
            second.stop()
