"""The compose file with metrics and traces, the dashboard, and what Prometheus, Grafana and the collector are told."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.client import SyncClient
from sfworker.settings import load
from tests.deploy.test_alerts import OF_PROMETHEUS, RULES, unknown
from tests.deploy.test_deploy import (
    COMPOSE_FILE,
    accepted,
    test_every_service_is_confined,  # noqa: F401 - of these services, too
    test_redis_keeps_everything_and_is_published_to_this_host_alone,  # noqa: F401
)
from tests.network import free_ports
from tests.running_worker import RunningWorker, envelope, until

OBSERVED_FILE = COMPOSE_FILE.with_name("observed.yaml")
OBSERVABILITY = RULES.parent
DASHBOARD = OBSERVABILITY / "grafana" / "dashboards" / "sfworker.json"
PROCESS = {"process_resident_memory_bytes"}
"""Metrics of Prometheus' own client, which are at each page."""


def merged(below: Any, above: Any) -> Any:
    """Both as compose merges files; what a process is to do is replaced, and so is its health check's command."""
    if isinstance(below, dict) and isinstance(above, dict):
        replaced = {name: above[name] for name in ("command", "test") if name in above}
        return below | {name: merged(below.get(name), value) for name, value in above.items()} | replaced
    return below + above if isinstance(below, list) else above


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    first, second = (yaml.safe_load(file.read_text()) for file in (COMPOSE_FILE, OBSERVED_FILE))
    both: dict[str, Any] = merged(first, {name: part for name, part in second.items() if not name.startswith("x-")})
    return both


def targets(service: dict[str, Any]) -> dict[str, str]:
    """What is mounted where."""
    named = (re.sub(r"^\$\{\w+:-(.+?)\}", r"\1", volume) for volume in service["volumes"])
    return {volume.split(":")[1]: volume.split(":")[0] for volume in named}


def test_references_hold_and_all_is_this_hosts_alone(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"redis", "worker", "collector", "prometheus", "grafana"}
    for service in compose["services"].values():
        for source in targets(service).values():
            known = source in compose["volumes"] or (COMPOSE_FILE.parent / source).exists()
            assert known or source.startswith("./certificates/redis")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert "build" in service or re.fullmatch(r"[\w/.-]+:[\w.-]+@sha256:[0-9a-f]{64}", service["image"])
    assert re.fullmatch(
        r"\$\{GRAFANA_PASSWORD:\?.*\}", compose["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    )


def test_the_workers_reach_redis_by_tls_and_say_how_they_are(compose: dict[str, Any]) -> None:
    worker, redis = compose["services"]["worker"], compose["services"]["redis"]
    environment = {
        name: re.sub(r"\$\{\w+:[-?](.*?)\}", "secret", value) for name, value in worker["environment"].items()
    }
    environment["LOG_LEVEL"], environment["SFWORKER_CONCURRENCY"] = "INFO", "1"
    settings = load({name: value for name, value in environment.items() if not name.startswith("OTEL_")})
    url = urlsplit(settings.redis_url)
    assert (url.scheme, url.hostname) == ("rediss", "redis")
    assert url.query == "ssl_ca_certs=/certificates/redis.pem"
    assert targets(worker)["/certificates/redis.pem"] == "./certificates/redis/redis.pem"  # and not the key
    command = redis["command"]
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert (options["--port"], options["--tls-port"]) == ("0", "6379")
    assert {options[f"--tls-{name}-file"] for name in ("cert", "key")} == {
        f"/certificates/redis.{n}" for n in ("pem", "key")
    }
    assert "--tls" in redis["healthcheck"]["test"][1]

    [scraped, *_] = yaml.safe_load((OBSERVABILITY / "prometheus.yaml").read_text())["scrape_configs"]
    [where] = scraped["dns_sd_configs"]
    assert where["names"] == ["worker"]
    assert settings.health == f"0.0.0.0:{where['port']}"
    collector = yaml.safe_load((OBSERVABILITY / "collector.yaml").read_text())
    port = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{port}"
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])


def certificates_by_its_commands(directory: Path) -> Path:
    """Do as the top of the file says, but for the owners, who take root; returns where the certificate is."""
    comment = [line.removeprefix("#   ") for line in OBSERVED_FILE.read_text().splitlines() if line.startswith("#   ")]
    script = "\n".join(["set -e", *(line for line in comment if not line.startswith(("docker", "chown")))])
    (directory / "deploy").mkdir()
    subprocess.run(["sh", "-c", script], cwd=directory, check=True, capture_output=True)
    assert (directory / "deploy" / ".env").read_text().startswith("GRAFANA_PASSWORD=")
    return directory / "deploy" / "certificates" / "redis"


def test_its_commands_make_a_certificate_that_clients_take(tmp_path: Path) -> None:
    made = certificates_by_its_commands(tmp_path)
    assert (made / "redis.key").stat().st_mode & 0o077 == 0
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made / "redis.pem", made / "redis.key")
    for name in ("redis", "localhost"):
        there, here = socket.socketpair()
        with there, here:
            thread = threading.Thread(target=lambda: server.wrap_socket(there, server_side=True).close())  # noqa: B023
            thread.start()
            client = ssl.create_default_context(cafile=str(made / "redis.pem"))
            client.wrap_socket(here, server_hostname=name).close()
            thread.join()


@pytest.mark.slow
def test_its_redis_serves_a_worker_over_tls(compose: dict[str, Any], tmp_path: Path) -> None:
    """The command of the file, on a port of this host."""
    if shutil.which("redis-server") is None:
        pytest.skip("no Redis that speaks TLS is installed; on Debian: apt-get install redis-server")
    made, [port] = certificates_by_its_commands(tmp_path), free_ports(1)
    places = {"/etc/sfworker/": f"{COMPOSE_FILE.parent}/", "/certificates/": f"{made}/"}
    words = compose["services"]["redis"]["command"]
    for there, here in places.items():
        words = [word.replace(there, here) for word in words]
    words = ["/bin/sh", *(str(port) if word == "6379" else word for word in words[1:]), "--dir", str(tmp_path)]
    passwords = {"WORKER_PASSWORD": "of-the-worker", "WEB_PASSWORD": "of-the-web-side"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            bound_to_this_process(words), env=os.environ | passwords, stdout=log, stderr=log, cwd=tmp_path
        )
    try:
        until(lambda: b"Ready to accept connections" in (tmp_path / "log").read_bytes())
        url = f"rediss://{{}}@localhost:{port}/0?ssl_ca_certs={made}/redis.pem"
        with (
            RunningWorker(url.format("worker:of-the-worker"), tmp_path / "worker") as worker,
            SyncClient(url.format("web:of-the-web-side")) as client,
        ):
            submission = client.submit(envelope({"task_type": "hello"}))
            assert client.wait(submission.execution_id, 30)["status"] == "success"
            assert f"rediss://localhost:{port}/0" in worker.log()
        with socket.create_connection(("localhost", port)) as plain, suppress(ConnectionResetError):
            plain.sendall(b"PING\r\n")
            assert b"PONG" not in plain.recv(100)
    finally:
        stop(process, 10.0)


def test_grafana_finds_prometheus_and_the_dashboard(compose: dict[str, Any]) -> None:
    grafana = compose["services"]["grafana"]
    provisioning = OBSERVABILITY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "sfworker.yaml").read_text())["providers"]
    assert targets(grafana)[provider["options"]["path"]] == "./observability/grafana/dashboards"
    dashboard = json.loads(DASHBOARD.read_text())
    sources = {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"}
    assert sources == {source["uid"]}


def queries() -> list[str]:
    """All that the dashboard asks Prometheus."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_asks_for_what_exists_and_shows_what_it_asks_for() -> None:
    assert len(queries()) > 20
    for query in queries():
        assert unknown(query) == set(), query
        others = set(re.findall(r"\b[a-z]+_[a-z_]+\b(?= *[{\[)])", re.sub(r'"[^"]*"', "", query)))
        assert {name for name in others if name.startswith("process_")} <= PROCESS
    dashboard = json.loads(DASHBOARD.read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel.get("targets", []):
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert shown <= kept | ({"instance", "sfworker_peer"} if not kept else OF_PROMETHEUS), panel["title"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_promtool_takes_the_configuration_and_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; on Debian: apt-get install prometheus")
    given = (query.replace("$__rate_interval", "1m").replace("$instance", ".*") for query in queries())
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(given)]
    (tmp_path / "queries.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    for words in (("config", OBSERVABILITY / "prometheus.yaml"), ("rules", tmp_path / "queries.json")):
        answer = subprocess.run([promtool, "check", *words], capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_collector_takes_its_configuration() -> None:
    collector = shutil.which("otelcol-contrib") or shutil.which("otelcol")
    if collector is None:
        pytest.skip("the OpenTelemetry collector is not installed; the checks above read its file without it")
    words = [collector, "validate", f"--config={OBSERVABILITY / 'collector.yaml'}"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr


def test_docker_compose_accepts_both_files() -> None:
    accepted(COMPOSE_FILE, OBSERVED_FILE)
