"""A drill for whoever is woken: trouble is made on a real worker, and the operator's page leads to the cause.

For each trouble the alert of deploy/observability/alerts.yaml fires, which promtool works out from what the worker told
at /metrics before and after; and the three commands of its runbook, taken from the page, name the cause.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.gateway.certificates import make_authority, make_certificate
from sfworker.listening import ask
from tests.deploy.test_alerts import RULES, runbook
from tests.documents.shell import ROOT
from tests.documents.test_commands import DEPLOY
from tests.integration.exported import Page
from tests.mounting import PAGE, mounted
from tests.network import HOST, free_ports
from tests.running_worker import RunningWorker, envelope, until

assert DEPLOY == ROOT / "deploy" / "README.md"
BEFORE = 20
"""Minutes for which what was told before the trouble stands, in promtool's time."""
LEASE = 1.5
JUDGES = ["sfworker doctor", "python -I -m sfworker.daemon.health"]
"""Commands whose exit code says whether all is well, which it is not here."""


class Night:
    """A worker and its gateway, and somebody who is woken."""

    def __init__(self, worker: RunningWorker, directory: Path, addresses: dict[str, str]) -> None:
        self.worker = worker
        self.disk = worker.log_file.parent / "disk"
        self._directory = directory
        self.addresses = addresses

    def pages(self) -> dict[str, Page]:
        """What Prometheus is told now, by instance."""
        return {name: Page(address) for name, address in self.addresses.items()}

    def figure(self, instance: str, name: str, **labels: str) -> float:
        return Page(self.addresses[instance]).figure(name, **labels)

    def fires(self, alert: str, before: dict[str, Page], minutes: int = 5) -> None:
        """Let promtool work out that the alert fires where what is told now stands for `minutes`, and not before.

        The last step of a test, as it is skipped without promtool.
        """
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.skip("promtool is not installed, so no alert was fired; on Debian: apt-get install prometheus")
        test = {
            "rule_files": [str(RULES)],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": _series(before, self.pages(), minutes),
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                            "eval_time": f"{minute}m",
                            "exp_samples": [{"labels": "{}", "value": 1}] if minute > BEFORE else [],
                        }
                        for minute in (BEFORE - 1, BEFORE + minutes)
                    ],
                }
            ],
        }
        file = self._directory / f"{alert}.json"
        file.write_text(json.dumps(test))  # which is YAML, too
        answer = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr

    def walk(self, alert: str, execution_id: str = "") -> list[str]:
        """Do as the alert's runbook says, and return what each command prints."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**self.worker.environment, "PATH": path, "COLUMNS": "200"}

        def run(command: str) -> str:
            typed = re.sub(r"\bID\b", execution_id, command)
            done = subprocess.run(
                ["bash", "-c", f"set -o pipefail; {typed}"],
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0 or command.startswith(tuple(JUDGES)), f"{command}\n{done.stdout}{done.stderr}"
            return done.stdout

        with ThreadPoolExecutor() as threads:
            return list(threads.map(run, runbook(alert)))

    def act(self, action: str, **parameters: Any) -> str:
        """Send a job; returns its execution_id."""
        return self.worker.send(envelope({"task_type": "act_alone", "action": action, **parameters}))

    def cancel(self, execution_id: str) -> None:
        self.worker.redis.set(f"sf:cancel:{execution_id}", "1", ex=100)
        self.worker.redis.publish("sf:control", execution_id)
        self.worker.until_ended(execution_id)


def _series(before: dict[str, Page], after: dict[str, Page], minutes: int) -> list[dict[str, str]]:
    """Both as promtool takes series: what was told, for BEFORE minutes, then what is told."""

    def told(pages: dict[str, Page]) -> dict[str, float]:
        found = {}
        for instance, page in pages.items():
            for sample in page.samples:
                labels = {**sample.labels, "instance": instance}
                listed = ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
                if sample.name.startswith("sfworker_"):
                    found[f"{sample.name}{{{listed}}}"] = sample.value
        return found

    was, now = told(before), told(after)
    return [
        {
            "series": name,
            "values": (f"{was[name]:f}x{BEFORE - 1} " if name in was else f"_x{BEFORE} ")  # the first counts by itself
            + (f"{now[name]:f}x{minutes}" if name in now else "stale"),
        }
        for name in was | now
    ]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    directory, data = tmp_path_factory.mktemp("night"), tmp_path_factory.mktemp("data")
    certificates = directory / "certificates"
    certificates.mkdir(mode=0o700)
    make_authority(certificates, 100)
    make_certificate(certificates, "alice", 90)
    listens, nobody, *ports = free_ports(4)
    addresses = {name: f"{HOST}:{port}" for name, port in zip(("worker", "gateway"), ports, strict=True)}
    settings = {
        "health": addresses["worker"],
        "gateway_health": addresses["gateway"],
        "lease_seconds": str(LEASE),
        "cancel_grace_seconds": "0.2",
        "job_logs": str(directory / "logs"),
        "party": "alice",
        "peers": f"bob={HOST}:{nobody}",
        "trusted_dealer": "alice",
        "gateway_listen": f"{HOST}:{listens}",
        "gateway_dir": str(directory / "own"),
        "rendezvous_seconds": "1",
        "tls_certificate": str(certificates / "alice.pem"),
        "tls_key": str(certificates / "alice.key"),
        "tls_authority": str(certificates / "authority.pem"),
    }
    with EmbeddedRedis("--appendfsync", "no") as server, RunningWorker(server.url, data, **settings) as worker:
        night = Night(worker, directory, addresses)
        until(lambda: night.figure("worker", "ready") == 1)
        until(lambda: _is_there(addresses["gateway"]))
        yield night


def test_a_stuck_job(night: Night) -> None:
    before = night.pages()
    stuck = night.act("hang")
    try:
        night.worker.until_said(stuck, "task_started")
        until(lambda: night.figure("worker", "executions_running") == 1)
        until(lambda: "acting: hang" in night.walk("SfworkerJobStuck", stuck)[2])
        runs, shown, log = night.walk("SfworkerJobStuck", stuck)
        assert stuck in runs
        assert "running" in shown
        assert "acting: hang" in log
        night.fires("SfworkerJobStuck", before, minutes=80)
    finally:
        night.cancel(stuck)


def test_a_peer_that_is_away(night: Night) -> None:
    before = night.pages()
    job = envelope({"task_type": "health_check"})
    job |= {"sf_init_config": {"cluster_config": {"parties": {"alice": {}, "bob": {}}, "self_party": "alice"}}}
    execution_id = night.worker.send(job)
    try:
        until(lambda: night.figure("gateway", "peer_rendezvous_total", outcome="absent") >= 1, 30)
        status, doctor, waiting = night.walk("SfworkerPeerAway")
        assert re.search(r"^ *bob +\S+:\d+ ", status, re.MULTILINE), status
        assert re.search(r"\bbob +\S+ +\w+ +cannot be reached", doctor), doctor
        assert execution_id in waiting
        night.fires("SfworkerPeerAway", before)
    finally:
        night.cancel(execution_id)


REFUSALS: dict[str, tuple[list[str], list[str], str, str, str]] = {
    "permission": (
        ["ACL", "SETUSER", "default", "-evalsha"],
        ["ACL", "SETUSER", "default", "+@all"],
        "redis_away",
        "evalsha",
        "NoPermissionError",
    ),
    "memory": (
        ["CONFIG", "SET", "maxmemory", "1"],
        ["CONFIG", "SET", "maxmemory", "0"],
        "redis_away",
        "all of maxmemory is used",
        "OutOfMemoryError",
    ),
    "key": (
        ["SET", "sf:results", "a string"],
        ["DEL", "sf:results"],
        "misplaced_keys",
        "sf:results holds a string instead of a stream",
        "sf:results holds a string instead of a stream",
    ),
}
"""What makes Redis refuse, what mends it; the state, and what `doctor` and the log say."""


@pytest.mark.slow
@pytest.mark.parametrize("why", REFUSALS)
def test_a_redis_that_refuses(night: Night, why: str) -> None:
    before = night.pages()
    trouble, remedy, state, in_doctor, in_log = REFUSALS[why]
    redis = night.worker.redis
    redis.execute_command(*trouble)
    try:
        until(
            lambda: f'sfworker_ready{{sfworker_state="{state}"}} 0.0' in ask(night.addresses["worker"], "/metrics")[1],
            30,
        )
        health, doctor, log = night.walk("SfworkerRedisAway")
        assert json.loads(health)["state"] == state
        assert in_doctor in " ".join(doctor.lower().split())
        assert in_log in log
        night.fires("SfworkerRedisAway", before)
    finally:
        redis.execute_command(*remedy)
    until(lambda: _is_ready(night), 30)


def test_a_full_disk(night: Night) -> None:
    before = night.pages()
    with mounted(night.disk, PAGE):
        (night.disk / "filler").write_bytes(bytes(PAGE))
        failed = night.act("succeed", output_paths={"alice": "disk/out.csv"})
        assert night.worker.until_ended(failed)["error_type"] == "ResultSaveError"
        until(lambda: night.figure("worker", "executions_total", error_type="ResultSaveError") == 1, 5)
        listed, shown, _ = night.walk("SfworkerDiskFull", failed)
        assert failed in listed
        assert "the disk of the outputs is full" in shown
        night.fires("SfworkerDiskFull", before)


@pytest.mark.slow
def test_a_dead_template(night: Night) -> None:
    before = night.pages()
    os.kill(night.worker.template(), signal.SIGKILL)
    until(lambda: night.figure("worker", "incidents_total", sfworker_incident="template_restart") == 1)
    health, log, _ = night.walk("SfworkerTemplateRestarts")
    assert json.loads(health)["state"] in {"template_lost", "starting", "ready"}
    assert re.search(r"the template process .*signal 9", log), log
    night.fires("SfworkerTemplateRestarts", before)


def _is_ready(night: Night) -> bool:
    return night.figure("worker", "ready", sfworker_state="ready") == 1


def _is_there(address: str) -> bool:
    try:
        return ask(address, "/healthz")[0] == 200
    except OSError:
        return False


@pytest.mark.slow
def test_a_real_prometheus_reads_worker_and_gateway_and_takes_every_rule(night: Night, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("Prometheus is not installed; on Debian: apt-get install prometheus")
    [port] = free_ports(1)
    jobs = [{"job_name": name, "static_configs": [{"targets": [at]}]} for name, at in night.addresses.items()]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = {"global": every, "rule_files": [str(RULES)], "scrape_configs": jobs}
    (tmp_path / "prometheus.json").write_text(json.dumps(config))  # which is YAML, too
    words = [f"--config.file={tmp_path}/prometheus.json", f"--storage.tsdb.path={tmp_path}/data"]
    command = [prometheus, *words, f"--web.listen-address={HOST}:{port}"]

    def told(path: str) -> dict[str, Any]:
        try:
            with urlopen(f"http://{HOST}:{port}/api/v1/{path}", timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)["data"]
                return found
        except OSError:
            return {}

    def value(query: str) -> str:
        [result] = told(f"query?query={quote(query)}")["result"] or [{"value": ["", ""]}]
        return str(result["value"][1])

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(bound_to_this_process(command), stdout=log, stderr=log)
    try:
        until(lambda: told("rules"), 60)
        until(lambda: value("sum(sfworker_ready)") == "1", 30)
        until(lambda: value("count(sfworker_certificate_remaining_seconds)") == "1", 30)
        assert value("sum(up)") == "2"
        rules = until(lambda: [r for g in told("rules")["groups"] for r in g["rules"] if r["health"] != "unknown"], 30)
        assert [rule for rule in rules if rule["health"] != "ok"] == []
        until(lambda: value('count(ALERTS{alertname="SfworkerNoWorker"})') == "")
    finally:
        stop(process, 10.0)
