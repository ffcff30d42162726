"""The compose file of two parties: they meet by their gateways alone, and worker and gateway find each other."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sfworker.gateway.identity import Identity
from sfworker.settings import Settings, load
from tests.deploy.test_deploy import (
    COMPOSE_FILE,
    ROOT,
    seconds,
    test_every_service_is_confined,  # noqa: F401 - of this file's services, too
)
from tests.running_worker import PARTIES

PARTIES_FILE = COMPOSE_FILE.with_name("parties.yaml")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(PARTIES_FILE.read_text())
    return loaded


def settings(compose: dict[str, Any], service: str, **changes: str) -> Settings:
    environment = compose["services"][service]["environment"]
    return load({name: re.sub(r"\$\{\w+:\?.*?\}", "secret", value) for name, value in environment.items()} | changes)


def mounts(compose: dict[str, Any], service: str) -> dict[str, str]:
    """What lies where."""
    volumes = (re.sub(r"^\$\{\w+:-(.+?)\}", r"\1", each) for each in compose["services"][service]["volumes"])
    return {volume.split(":")[1]: volume.split(":")[0] for volume in volumes}


def test_references_hold(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {f"{party}-{what}" for party in PARTIES for what in ("redis", "gateway", "worker")}
    for name, service in services.items():
        party = name.partition("-")[0]
        assert all(other.startswith(party) for other in service.get("depends_on", {}))
        for source in mounts(compose, name).values():
            known = source in compose["volumes"] or (PARTIES_FILE.parent / source).is_file()
            assert known or source == f"./certificates/{party}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    first = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["redis"]
    for party in PARTIES:
        redis = services[f"{party}-redis"]
        assert {name: redis[name] for name in ("image", "command", "user")} == {
            name: first[name] for name in ("image", "command", "user")
        }
        for text in redis["environment"].values():
            assert re.fullmatch(r"\$\{\w+_PASSWORD:\?.*\}", text)


def test_parties_meet_by_their_gateways_alone(compose: dict[str, Any]) -> None:
    of_parties: dict[str, set[str]] = {party: set() for party in PARTIES}
    for name, service in compose["services"].items():
        party, _, what = name.partition("-")
        assert ("link" in service["networks"]) == (what == "gateway")
        of_parties[party] |= set(service["networks"]) - {"link"}
        of_parties[party] |= {
            source for source in mounts(compose, name).values() if not source.endswith((".sh", ".acl"))
        }
    assert not of_parties["alice"] & of_parties["bob"]
    for party in PARTIES:
        assert compose["services"][f"{party}-worker"]["networks"] == [party]
        assert compose["networks"][party] == {"internal": True}  # whatever a job does, it reaches nobody
    assert compose["networks"]["link"] == {"internal": True}


@pytest.mark.parametrize("party", PARTIES)
def test_worker_and_gateway_find_each_other(compose: dict[str, Any], party: str) -> None:
    worker, gateway = settings(compose, f"{party}-worker"), settings(compose, f"{party}-gateway")
    assert (worker.party, worker.peers) == (gateway.party, gateway.peers)
    assert worker.gateway_socket() == gateway.gateway_socket()
    # Attempts have their sockets in the run directory.
    places = [mounts(compose, f"{party}-{what}") for what in ("worker", "gateway")]
    assert places[0][worker.run_dir] == places[1][worker.run_dir] == f"{party}-run"
    assert worker.gateway_dir.startswith(f"{worker.run_dir}/")
    assert worker.has_gateway()
    assert not worker.tls_certificate  # so it starts none of its own, and has no key
    assert set(places[0]) == {"/data", worker.run_dir}
    [peer] = set(PARTIES) - {party}
    port = gateway.gateway_listen.rpartition(":")[2]
    assert gateway.peers == {peer: f"{peer}-gateway:{port}"}
    user = re.findall(r"^USER (\d+):(\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
    options = dict(each.split("=") for each in compose["volumes"][f"{party}-run"]["driver_opts"]["o"].split(","))
    assert (options["uid"], options["gid"], options["mode"]) == (*user, "0700")
    service = compose["services"][f"{party}-worker"]
    assert seconds(service["stop_grace_period"]) >= worker.drain_timeout + worker.cancel_grace_seconds + 5


def test_the_health_check_of_a_gateway_asks_it(compose: dict[str, Any], tmp_path: Path) -> None:
    [_, python, *words] = compose["services"]["alice-gateway"]["healthcheck"]["test"]
    assert python == "python"
    path = settings(compose, "alice-gateway").gateway_socket()
    assert f'"{path}"' in words[-1]
    words[-1] = words[-1].replace(path, str(tmp_path / "control.sock"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        assert subprocess.run([sys.executable, *words], capture_output=True, check=False).returncode == 1
        listener.listen()
        assert subprocess.run([sys.executable, *words], capture_output=True, check=False).returncode == 0


def test_its_commands_make_what_it_mounts(compose: dict[str, Any], tmp_path: Path) -> None:
    """But for the owner, who takes root."""
    comment = [line.removeprefix("#   ") for line in PARTIES_FILE.read_text().splitlines() if line.startswith("#   ")]
    commands = [line for line in comment if not line.startswith(("docker", "chown"))]
    assert len(comment) - len(commands) == 2
    (tmp_path / "deploy").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(["set -e", *commands])
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env={"PATH": path}, check=True, capture_output=True)
    passwords = dict(line.split("=") for line in (tmp_path / "deploy" / ".env").read_text().splitlines())
    assert set(passwords) == set(re.findall(r"\$\{(\w+):\?", PARTIES_FILE.read_text()))
    assert len(set(passwords.values())) == 4
    for party in PARTIES:
        mounted = tmp_path / "deploy" / mounts(compose, f"{party}-gateway")["/certificates"]
        variables = compose["services"][f"{party}-gateway"]["environment"]
        names = {name: value for name, value in variables.items() if name.startswith("SFWORKER_TLS_")}
        there = {name: value.replace("/certificates", str(mounted)) for name, value in names.items()}
        Identity(settings(compose, f"{party}-gateway", **there))
