"""Dockerfile, compose file, unit and lock: valid, and saying what they are meant to.

No container engine is needed. Where compose is installed, it checks the compose files too.
"""

from __future__ import annotations

import ast
import configparser
import contextlib
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import tomli
import yaml

from sfworker.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
LEFT_OUT = {
    "torch",
    "tensorflow",
    "onnx",
    "ray",
    "sdc-sdk",
    "numba",
    "llvmlite",
    "networkx",
    "sparse",
    "restrictedpython",
}
INSTRUCTIONS = {
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "FROM",
    "HEALTHCHECK",
    "RUN",
    "STOPSIGNAL",
    "USER",
    "WORKDIR",
}


# --- the lock


def lock_sections() -> tuple[str, str, str, str]:
    """What the worker needs, what builds the package, what Ray adds, and what development adds."""
    text = (ROOT / "requirements.lock").read_text()
    runtime, build, ray, development = re.split(r"^# --- .*$", text, flags=re.MULTILINE)
    return runtime, build, ray, development


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;]+)", text, re.MULTILINE))


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;! ]", requirement)[0] for requirement in requirements}


def test_the_lock_pins_everything_with_hashes_and_names_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text()
    blocks = [block for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE) if not block.startswith("#")]
    assert len(blocks) > 100
    assert [block.splitlines()[0] for block in blocks if "==" not in block or "--hash=sha256:" not in block] == []
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash)", text, re.MULTILINE)  # no --index-url, --find-links, -r, -e


def test_the_lock_holds_what_pyproject_asks_for_and_no_deep_learning_stack() -> None:
    document = tomli.loads((ROOT / "pyproject.toml").read_text())
    project, groups = document["project"], document["dependency-groups"]
    runtime, build, ray, development = (pins(section).keys() for section in lock_sections())
    extras = project["optional-dependencies"]
    assert requirement_names(project["dependencies"] + extras["worker"]) <= runtime
    assert requirement_names(groups["build"]) <= runtime | build
    assert requirement_names(extras["ray"]) <= ray
    assert requirement_names(groups["dev"] + extras["demo"] + extras["report"]) <= runtime | build | ray | development
    assert not (runtime | build | development) & LEFT_OUT
    assert ray & LEFT_OUT == {"ray"}
    assert not runtime & build
    assert not (runtime | build) & ray
    assert not (runtime | build | ray) & development
    assert "xgboost" in development  # 300 MB that only tests compare with
    overrides = (ROOT / ".ci" / "overrides").read_text()
    assert not set(re.findall(r"^([a-z-]+) ; sys_platform == 'never'", overrides, re.MULTILINE)) & (runtime | build)


def test_what_the_worker_imports_is_in_the_run_time_part_of_the_lock() -> None:
    """So that the image has it: whatever sfworker imports, wherever in a module, comes from there,
    but for Ray, with which it is built on request; that is imported in sfworker/ray alone."""
    imported: set[str] = set()
    for source in set((ROOT / "sfworker").rglob("*.py")) - set((ROOT / "sfworker" / "ray").rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    provided: set[str] = set()
    for name in pins(lock_sections()[0]):
        with contextlib.suppress(PackageNotFoundError):  # a pin for another processor
            provided |= {path.parts[0].partition(".")[0] for path in files(name) or []}
    drawing = {"jinja2", "markupsafe", "matplotlib"}  # of the extra report, which the image does without
    missing = imported - sys.stdlib_module_names - {"sfworker"} - provided - drawing
    assert missing == set()


# --- the Dockerfile


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) in order, with continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def final_stage() -> list[tuple[str, str]]:
    parsed = instructions()
    return parsed[max(number for number, (name, _) in enumerate(parsed) if name == "FROM") :]


def one(name: str) -> str:
    """The arguments of the final stage's only instruction `name`."""
    (arguments,) = [arguments for instruction, arguments in final_stage() if instruction == name]
    return arguments


def test_the_dockerfile_holds_only_known_instructions_and_builds_in_stages() -> None:
    parsed = instructions()
    base, ray = [arguments for name, arguments in parsed if name == "ARG"]
    assert ray == "RAY="  # asked for, or not there
    assert re.fullmatch(r"BASE=python:3\.10-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert {name for name, _ in parsed} <= INSTRUCTIONS
    assert [arguments for name, arguments in parsed if name == "FROM"] == ["${BASE} AS build", "${BASE}"]


def test_one_command_renews_the_digests(tmp_path: Path) -> None:
    for name in ("Dockerfile", "deploy/compose.yaml", "deploy/parties.yaml", "deploy/observed.yaml", ".ci/images"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] && echo "sha256:$(echo $4 | sha256sum | cut -c-64)"\n'
    )
    docker.chmod(0o755)
    subprocess.run(["sh", tmp_path / ".ci" / "images"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    redis = [(f"deploy/{name}.yaml", "redis:7-bookworm") for name in ("compose", "parties")]
    for name, tag in (("Dockerfile", "python:3.10-slim-bookworm"), *redis):
        digest = hashlib.sha256(f"{tag}\n".encode()).hexdigest()
        assert re.findall(r"[a-z]+:[\w.-]+@sha256:[0-9a-f]+", (tmp_path / name).read_text()) == [
            f"{tag}@sha256:{digest}"
        ]
    observed = re.findall(r"([a-z/-]+:[\w.-]+)@sha256:([0-9a-f]+)", (tmp_path / "deploy" / "observed.yaml").read_text())
    assert [tag.partition(":")[0] for tag, _ in observed] == [
        *("otel/opentelemetry-collector-contrib", "prom/prometheus", "grafana/grafana")
    ]
    assert all(digest == hashlib.sha256(f"{tag}\n".encode()).hexdigest() for tag, digest in observed)
    docker.write_text("#!/bin/sh\nexit 1\n")
    failed = subprocess.run(
        ["sh", tmp_path / ".ci" / "images"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False
    )
    assert failed.returncode != 0


def test_every_copied_file_exists_and_reaches_the_build() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    stages = {
        arguments.split(" AS ")[1] for name, arguments in instructions() if " AS " in arguments and name == "FROM"
    }
    for name, arguments in instructions():
        if name not in {"COPY", "ADD"}:
            continue
        words = arguments.split()
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


def test_the_image_installs_the_lock_as_it_is() -> None:
    installs = [
        arguments for name, arguments in instructions() if name == "RUN" and re.search(r"\bpip .*install", arguments)
    ]
    from_lock, package, removal = installs
    assert "chosen=ray.lock; else chosen=runtime.lock" in from_lock
    assert 'bin/python install --no-deps --require-hashes -r "$chosen"' in from_lock
    assert "pip wheel --no-deps --no-build-isolation" in package
    runtime, build, ray, _ = lock_sections()
    for name, section in {"runtime": runtime, "build": build, "ray": runtime + build + ray}.items():
        [how] = re.findall(rf"(sed '[^']+') requirements\.lock > {name}\.lock", from_lock)
        chosen = subprocess.run(
            ["sh", "-c", f"{how} requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert pins(chosen.stdout) == pins(section)
    assert "pip uninstall" in removal


def test_the_final_image_has_no_root_no_build_tools_and_passes_signals() -> None:
    user, _, group = one("USER").partition(":")
    assert int(user) > 0  # a number, so that an orchestrator can see that it is not root
    assert int(group) > 0
    packages = " ".join(arguments for name, arguments in final_stage() if name == "RUN")
    assert not re.search(r"\b(gcc|g\+\+|make|build-essential|git|curl|python3-dev)\b", packages)
    assert one("STOPSIGNAL") == "SIGTERM"
    assert json.loads(one("ENTRYPOINT")) == ["tini", "--", "sfworker"]
    assert json.loads(one("CMD"))[0] == "run"
    assert "PYTHONUNBUFFERED=1" in one("ENV")


def test_the_health_check_asks_the_worker_where_it_listens(tmp_path: Path) -> None:
    [address] = re.findall(r"SFWORKER_HEALTH=(\S+)", one("ENV"))
    assert address.startswith("unix:/tmp/")  # all that is writable
    [python, *arguments] = json.loads(one("HEALTHCHECK").partition("CMD ")[2])
    assert python == "python"
    environment = {"SFWORKER_HEALTH": f"unix:{tmp_path}/health"}
    answer = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stderr) == (1, "")
    assert answer.stdout == "the worker does not answer (No such file or directory)\n"


# --- the compose file


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load(COMPOSE_FILE.read_text())
    assert isinstance(loaded, dict)
    return loaded


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def test_references_in_the_compose_file_hold(compose: dict[str, Any]) -> None:
    assert set(compose) == {"name", "services", "volumes"}
    services = compose["services"]
    assert set(services) == {"redis", "worker"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service["volumes"]:
            name = re.sub(r"^\$\{\w+:-(\w+)\}", r"\1", volume).split(":")[0]
            assert name in compose["volumes"] or (COMPOSE_FILE.parent / name).is_file()
    assert services["worker"]["depends_on"]["redis"] == {"condition": "service_healthy"}
    assert "healthcheck" in services["redis"]
    context = (COMPOSE_FILE.parent / services["worker"]["build"]["context"]).resolve()
    assert (context / services["worker"]["build"]["dockerfile"]).is_file()


def test_every_service_is_confined(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert any(mount.startswith("/tmp") for mount in service["tmpfs"])
        assert service["restart"] == "unless-stopped"
        assert "privileged" not in service


def test_redis_keeps_everything_and_is_published_to_this_host_alone(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]
    assert redis["image"].startswith("redis:7")
    command = " ".join(redis["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert all(port.startswith("127.0.0.1:") for port in redis["ports"])
    assert any(volume.endswith(":/data") for volume in redis["volumes"])


def test_redis_knows_its_users_and_every_password_has_to_be_chosen(compose: dict[str, Any]) -> None:
    redis, worker = compose["services"]["redis"], compose["services"]["worker"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in redis["volumes"]}
    assert redis["command"][0] == "sh"
    assert mounted[redis["command"][1]] == "./with-users.sh"
    assert mounted[str(Path(redis["command"][1]).with_name("users.acl"))] == "./users.acl"
    assert worker["environment"]["SFWORKER_PREFIX"] == redis["environment"]["SFWORKER_PREFIX"]
    for text in (*redis["environment"].values(), worker["environment"]["REDIS_URL"]):
        assert "PASSWORD" not in text or re.search(r"\$\{\w+_PASSWORD:\?", text)


def test_two_workers_get_the_time_to_drain(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    assert worker["deploy"]["replicas"] == 2
    assert "ports" not in worker
    assert "container_name" not in worker
    environment = {name: re.sub(r"\$\{\w+:[-?](.*?)\}", r"\1", value) for name, value in worker["environment"].items()}
    known = {"redis_url": "REDIS_URL", "log_level": "LOG_LEVEL"}
    fields = {known.get(name, f"SFWORKER_{name.upper()}"): name for name in Settings.__struct_fields__}
    assert set(environment) <= set(fields)
    settings = load(environment)
    assert settings.roots_of("alice") != settings.roots_of("bob")
    assert seconds(worker["stop_grace_period"]) >= settings.drain_timeout + settings.cancel_grace_seconds + 5
    assert urlsplit(settings.redis_url).hostname == "redis"


UNITS = ["sfworker", "sfworker-gateway"]


def unit_of(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "deploy" / f"{name}.service")
    return unit


def variables_of(name: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(unit_of(name)["Service"]["Environment"]))


def test_worker_and_gateway_are_services_that_find_each_other() -> None:
    worker, gateway = (unit_of(name)["Service"] for name in UNITS)
    assert [each["ExecStart"].split()[1] for each in (worker, gateway)] == ["run", "gateway"]
    party = {
        "SFWORKER_PARTY": "alice",
        "SFWORKER_PEERS": "bob=bob:9443",
        "SFWORKER_GATEWAY_DIR": "/run/sfworker-gateway",
    }
    of_worker, of_gateway = (load(variables_of(name) | party) for name in UNITS)
    assert of_gateway.gateway_dir == load(variables_of("sfworker-gateway")).gateway_dir
    assert of_gateway.gateway_dir == f"/run/{gateway['RuntimeDirectory']}"
    assert gateway["RuntimeDirectoryMode"] == "0700"  # or the gateway refuses it
    assert of_worker.gateway_socket() == of_gateway.gateway_socket()
    assert of_worker.run_dir == of_gateway.run_dir == f"/var/cache/{worker['CacheDirectory']}"
    assert worker["CacheDirectory"] == gateway["CacheDirectory"]
    assert worker["User"] == gateway["User"]
    assert len({of_worker.health, of_gateway.gateway_health}) == 2
    # All that is written has a directory that the sandbox lets through, and each party one of its own.
    writable = {
        f"{below}/{directory}"
        for kind, below in (("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log"))
        for directory in worker[kind].split()
    }
    roots = {party: [str(root) for root in of_worker.roots_of(party)] for party in ("alice", "bob")}
    assert roots == {"alice": ["/var/lib/sfworker/alice"], "bob": ["/var/lib/sfworker/bob"]}
    used = {*roots["alice"], *roots["bob"], of_worker.job_logs, str(Path(of_worker.log_file).parent)}
    assert used | {str(Path(of_gateway.log_file).parent)} <= writable
    for service, settings in ((worker, of_worker), (gateway, of_gateway)):
        assert int(service["TimeoutStopSec"]) >= settings.drain_timeout + settings.cancel_grace_seconds + 5


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit_and_calls_it_well_confined(name: str, tmp_path: Path) -> None:
    systemd = shutil.which("systemd-analyze")
    if systemd is None:
        pytest.skip("systemd-analyze is not installed; the test above reads the units without it")
    unit = unit_of(name)
    # Neither that user nor that program is here.
    unit["Service"]["User"], unit["Service"]["ExecStart"] = "root", f"{sys.executable} -m sfworker"
    file = tmp_path / f"{name}.service"
    with file.open("w") as written:
        unit.write(written, space_around_delimiters=False)
    unit_itself = str(ROOT / "deploy" / file.name)
    for words in (["verify", str(file)], ["security", "--offline=true", "--threshold=20", unit_itself]):
        answer = subprocess.run([systemd, *words], capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stderr == ""


def test_logs_of_services_are_rotated(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "logrotate").read_text()
    [pattern] = re.findall(r"^(/\S+) \{$", text, re.MULTILINE)
    for name in UNITS:
        assert fnmatch.fnmatch(variables_of(name)["LOG_FILE"], pattern)
        assert fnmatch.fnmatch(f"{name}.service", re.findall(r"systemctl reload '(\S+)'", text)[0])
        assert unit_of(name)["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"
    logrotate = shutil.which("logrotate", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if logrotate is None:
        pytest.skip("logrotate is not installed; on Debian: apt-get install logrotate")
    log = tmp_path / "worker.log"
    log.write_text("a line\n")
    own = re.sub(r"su \S+ \S+\n", "", text.replace(pattern, f"{tmp_path}/*.log"))  # that user is not here
    file = tmp_path / "logrotate"
    file.write_text(re.sub(r"systemctl reload '\S+'", f"touch {tmp_path}/reloaded", own))
    file.chmod(0o644)
    state = ["--state", str(tmp_path / "state")]
    for words in (["--debug", str(file)], ["--force", *state, str(file)]):
        answer = subprocess.run([logrotate, *words], capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 0, answer.stderr
        assert "error" not in answer.stderr.lower()
    assert not log.exists()
    assert (tmp_path / "worker.log.1").read_text() == "a line\n"
    assert (tmp_path / "reloaded").exists()


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed; the tests above read the Dockerfile without it")
    answer = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout) == (0, "")


def accepted(*files: Path) -> None:
    """Let compose, as docker's plugin or as a program of its own, take these files together."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        compose = [docker, "compose"]
    elif alone := shutil.which("docker-compose"):
        compose = [alone]
    else:
        pytest.skip("compose is not installed; the checks above read the files without it")
    named = [word for file in files for word in ("--file", str(file))]
    needed = re.findall(r"\$\{(\w+):\?", "".join(file.read_text() for file in files))
    environment = {**os.environ, **dict.fromkeys(needed, "secret")}
    command = [*compose, *named, "config", "--quiet"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("file", ["compose.yaml", "parties.yaml"])
def test_docker_compose_accepts_the_file(file: str) -> None:
    accepted(COMPOSE_FILE.with_name(file))
