"""Two tenants that share a worker, and a web side that is none: nobody sees, cancels or blocks others' jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from sfworker.broker.keys import Keys
from sfworker.cli import main
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.client import SyncClient
from tests.integration.test_redis_access import PASSWORDS, act, client_of, url_of, users_file
from tests.running_worker import RunningWorker, until

TENANTS = ["acme", "umbra"]
PREFIXES = {"web": "sf", "web-acme": "sf:tenant:acme", "web-umbra": "sf:tenant:umbra"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    passwords = {f"WEB_PASSWORD_{name}": f"p/{name}" for name in TENANTS}
    file = users_file(tmp_path_factory.mktemp("users"), SFWORKER_TENANTS=",".join(TENANTS), **passwords)
    file.write_text(file.read_text() + "user admin on >admin ~* &* +@all\n")
    with pytest.MonkeyPatch.context() as patch, EmbeddedRedis("--aclfile", str(file)) as server:
        for name in TENANTS:
            patch.setitem(PASSWORDS, f"web-{name}", f"p/{name}")
        yield server


@pytest.fixture(scope="module")
def worker(server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    values = {"tenants": ",".join(TENANTS), "lease_seconds": "1.5", "concurrency": "3", "spare_processes": "0"}
    with RunningWorker(url_of(server, "worker"), tmp_path_factory.mktemp("worker"), **values) as worker:
        yield worker


@pytest.fixture
def webs(server: EmbeddedRedis, worker: RunningWorker) -> Iterator[dict[str, SyncClient]]:
    """A client of each web side. At the end the worker was refused nothing that it needs."""
    with client_of(server, "admin") as admin, ExitStack() as stack:
        admin.execute_command("ACL", "LOG", "RESET")
        yield {u: stack.enter_context(SyncClient(url_of(server, u), prefix=p)) for u, p in PREFIXES.items()}
        refused = {entry[7] for entry in admin.execute_command("ACL", "LOG") if entry[9] == b"worker"}
        assert refused <= {b"client|setinfo"}


@pytest.mark.attack("Redis")
def test_the_same_id_is_three_executions(server: EmbeddedRedis, webs: dict[str, SyncClient]) -> None:
    job = {**act("report", seconds=0.5), "execution_id": "same"}
    sent = {user: web.submit(job) for user, web in webs.items()}
    for user, web in webs.items():
        assert [event["stage"] for event in web.events(sent[user])][-1] == "task_succeeded"
        assert web.wait("same", 30)["status"] == "success"
    with client_of(server, "admin") as seen:
        for prefix in PREFIXES.values():
            said = [fields for _, fields in seen.xrange(f"{prefix}:results")]
            assert [fields[b"kind"] for fields in said].count(b"result") == 1
            assert seen.hget(f"{prefix}:exec:same", "state") == b"done"


@pytest.mark.attack("Redis")
@pytest.mark.parametrize("action", ["hang", "raise", "queued"])
def test_a_cancel_ends_the_tenants_own_execution_alone(
    webs: dict[str, SyncClient], worker: RunningWorker, action: str
) -> None:
    """One that runs, waits for its next attempt, or is queued behind others."""
    name = f"cancelled-{action}"
    running = [webs["web"].submit(act("hang")).execution_id for _ in range(3)] if action == "queued" else []
    for each in running:
        until(lambda each=each: webs["web"].find(each) and webs["web"].find(each).state == "running")  # type: ignore[misc]
    options = {"max_retries": 1, "retry_delay": 2}
    job = {**(act("raise", attempts=1, options=options) if action == "raise" else act("hang")), "execution_id": name}
    if action == "queued":
        job = {**act("succeed"), "execution_id": name}
    expected = {"hang": "running", "raise": "waiting", "queued": "unseen"}[action]
    users = ("web-acme", "web-umbra")
    for user in users:
        webs[user].submit(job)
    for user in users:
        until(lambda user=user: (known := webs[user].find(name)) is not None and known.state == expected)  # type: ignore[misc]
    assert webs["web-acme"].cancel(name)
    assert webs["web-acme"].wait(name, 10)["status"] == "cancelled"
    assert webs["web-umbra"].find(name) is not None
    assert webs["web-umbra"].result(name) is None
    for each in running:
        assert webs["web"].cancel(each)
    if action == "hang":
        assert webs["web-umbra"].cancel(name)
    assert webs["web-umbra"].wait(name, 30)["status"] == ("cancelled" if action == "hang" else "success")


@pytest.mark.attack("Redis")
def test_events_are_heard_by_the_tenant_alone(server: EmbeddedRedis, webs: dict[str, SyncClient]) -> None:
    with ExitStack() as stack:
        heard = {}
        for user, prefix in PREFIXES.items():
            pubsub = heard[user] = stack.enter_context(stack.enter_context(client_of(server, user)).pubsub())
            pubsub.subscribe(Keys(prefix).all_statuses, Keys(prefix).statuses("heard"))
            for _ in range(2):
                assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        webs["web-acme"].submit({**act("succeed"), "execution_id": "heard"})
        webs["web-acme"].wait("heard", 30)
        messages = {
            user: list(iter(lambda each=each: each.get_message(timeout=0.3), None)) for user, each in heard.items()
        }  # type: ignore[misc]
    assert {json.loads(message["data"])["execution_id"] for message in messages["web-acme"]} == {"heard"}
    assert {message["channel"].decode() for message in messages["web-acme"]} == {
        "sf:tenant:acme:task_status",
        "sf:tenant:acme:task_status:heard",
    }
    assert (messages["web"], messages["web-umbra"]) == ([], [])


@pytest.mark.attack("Redis")
@pytest.mark.parametrize("user", PREFIXES)
def test_a_tenants_keys_and_channels_are_refused_to_others(server: EmbeddedRedis, user: str) -> None:
    for other in (Keys(prefix) for whose, prefix in PREFIXES.items() if whose != user):
        for command in (
            *(("XADD", stream, "*", "envelope", "{}") for stream in (*other.job_streams(), other.results)),
            *(("XREAD", "STREAMS", stream, "0") for stream in (other.results, other.notices)),
            *(("GET", key("same")) for key in (other.envelope, other.execution)),
            ("EXISTS", other.envelope("same")),
            ("GET", other.result("same")),
            ("EXISTS", other.result("same")),
            ("SET", other.result("same"), "1"),
            ("SET", other.cancel("same"), "1"),
            ("PUBLISH", other.control, "same"),
            ("SUBSCRIBE", other.all_statuses),
            ("SUBSCRIBE", other.statuses("same")),
            ("PSUBSCRIBE", other.statuses("*")),
        ):
            with client_of(server, user) as client, pytest.raises(NoPermissionError):
                client.execute_command(*command)


@pytest.mark.attack("Redis")
def test_a_tenant_with_many_jobs_does_not_keep_the_other_waiting(webs: dict[str, SyncClient]) -> None:
    many = [webs["web-acme"].submit(act("report", seconds=0.2)).execution_id for _ in range(30)]
    other = webs["web-umbra"].submit(act("succeed")).execution_id
    assert webs["web-umbra"].wait(other, 30)["status"] == "success"
    waiting = [each for each in many if webs["web-acme"].result(each) is None]
    assert len(waiting) > 10
    for each in many:
        webs["web-acme"].wait(each, 60)


def test_people_look_after_a_tenants_jobs_by_its_prefix(
    server: EmbeddedRedis,
    webs: dict[str, SyncClient],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("REDIS_URL", url_of(server, "worker"))
    monkeypatch.setenv("SFWORKER_TENANTS", ",".join(TENANTS))
    buried = webs["web-acme"].submit(act("raise_final")).execution_id
    assert webs["web-acme"].wait(buried, 30)["status"] == "failure"
    assert main(["status", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {stream["stream"]: stream["dead"] for stream in figures["streams"]} == {
        stream: int(stream == "sf:tenant:acme:jobs")
        for prefix in PREFIXES.values()
        for stream in Keys(prefix).job_streams()
    }
    assert main(["doctor", "--quick"]) == 0
    assert main(["replay", "--execution-id", buried]) == 1
    assert main(["replay", "--execution-id", buried, "--prefix", "sf:tenant:umbra"]) == 1
    assert main(["replay", "--execution-id", buried, "--prefix", "sf:tenant:acme"]) == 0
    until(lambda: webs["web-acme"].result(buried))
    assert main(["dead", "purge", buried, "--prefix", "sf:tenant:acme"]) == 0
    # As the tenant itself.
    monkeypatch.setenv("REDIS_URL", url_of(server, "web-acme"))
    monkeypatch.setenv("SFWORKER_PREFIX", "sf:tenant:acme")
    (tmp_path / "job.json").write_text(json.dumps(act("succeed")))
    assert main(["submit", "--wait", str(tmp_path / "job.json")]) == 0
