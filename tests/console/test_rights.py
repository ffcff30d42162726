"""The user `console` of deploy/users.acl: all pages and buttons work as it, and it may do little else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from sfworker.broker.broker import open_broker
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.settings import Settings
from tests.cli.states import JOBS, one_in_each_state
from tests.console.test_acting import PSI, done
from tests.console.visiting import visiting
from tests.integration.test_redis_access import users_file

PASSWORD = "console/1"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    file = users_file(tmp_path_factory.mktemp("users"), CONSOLE_PASSWORD=PASSWORD)
    file.write_text(f"{file.read_text()}user admin on >admin ~* &* +@all\n")
    with EmbeddedRedis("--aclfile", str(file)) as server:
        yield server


def url(server: EmbeddedRedis, user: str, password: str) -> str:
    return f"unix://{user}:{quote(password, safe='')}@{server.socket_path}"


async def test_every_page_and_button_works_with_these_rights_and_needs_them(guarded: EmbeddedRedis) -> None:
    with Redis.from_url(url(guarded, "admin", "admin")) as admin:
        await one_in_each_state(admin, url(guarded, "admin", "admin"))
        await _press_everything(guarded, admin)
        refused = admin.execute_command("ACL", "LOG")
        # redis-py tells its own version, too, and does without where that is refused.
        assert {entry[7] for entry in refused} <= {b"client", b"client|setinfo"}


async def _press_everything(guarded: EmbeddedRedis, admin: Any) -> None:
    async with open_broker(Settings(redis_url=url(guarded, "admin", "admin")), "secretflow", "w-1") as broker:
        await broker.heartbeat(b'{"worker_id":"w-1","concurrency":1,"running":1,"free":0}')
        await broker.renew([])
    admin.hset("sf:orders:secretflow", "limit running type psi", "1 1")
    admin.script_flush()
    admin.config_resetstat()
    async with visiting(f"{url(guarded, 'console', PASSWORD)}?db=0", tenants=["acme"]) as visitor:
        pages = ["/", "/executions", "/dead", "/control", "/submit?type=psi", "/peers"]
        for path in [*pages, *(f"/execution?id={quote(job)}" for job in JOBS)]:
            await visitor.page(path)
        await done(visitor, "/replay", id="failed")
        await done(visitor, "/replay-many", error_type="")
        await done(visitor, "/pause", what="type", task_type="psi")
        await done(visitor, "/resume", order="pause type psi")
        await done(visitor, "/retry-now", id="waits")
        await done(visitor, "/retry-all")
        await done(visitor, "/drain", worker="w-1")
        await done(visitor, "/cancel", id="runs")
        await done(visitor, "/submit", **PSI)
    statistics: dict[str, Any] = admin.info("commandstats")
    sent = {name.removeprefix("cmdstat_") for name in statistics}
    [rules] = {line for line in _users("users.acl") if line.startswith("user console ")}
    granted = {word for word in re.findall(r"\+([\w|]+)", rules) if not word.startswith("evalsha")}
    assert granted - sent <= {"select"}
    [before_7_0] = [line for line in _users("users-6.2.acl") if line.startswith("user console ")]
    assert granted == {word for word in re.findall(r"\+([\w|]+)", before_7_0) if not word.startswith("evalsha")}


def _users(file: str) -> list[str]:
    return (Path(__file__).parents[2] / "deploy" / file).read_text().splitlines()


@pytest.mark.attack("Redis")
@pytest.mark.parametrize(
    "command",
    [
        ("XREADGROUP", "GROUP", "secretflow", "c", "STREAMS", "sf:jobs", ">"),
        ("XACK", "sf:jobs", "secretflow", "1-1"),
        ("XDEL", "sf:jobs", "1-1"),
        ("XTRIM", "sf:jobs", "MAXLEN", "0"),
        ("XGROUP", "DESTROY", "sf:jobs", "secretflow"),
        ("XGROUP", "DELCONSUMER", "sf:jobs", "secretflow", "w"),
        ("SET", "sf:result:e-1", "{}"),
        ("SET", "sf:envelope:e-1", "{}"),
        ("SET", "sf:worker:w", "{}"),
        ("DEL", "sf:jobs"),
        ("DEL", "sf:exec:e-1"),
        ("DEL", "sf:orders:secretflow"),
        ("HSET", "sf:workers:secretflow", "w", "1 1"),
        ("ZADD", "sf:ended:failure", "1", "e"),
        ("XADD", "sf:notices", "*", "execution_id", "e"),
        ("GET", "other"),
        ("SET", "other", "1"),
        ("SUBSCRIBE", "sf:control"),
        ("PUBLISH", "other", ""),
        ("EVAL", "return 1", "0"),
        ("EVALSHA", "0" * 40, "0"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "dir"),
        ("ACL", "LIST"),
        ("INFO",),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_it_takes_no_job_answers_none_and_administers_nothing(guarded: EmbeddedRedis, command: tuple[str, ...]) -> None:
    with Redis.from_url(url(guarded, "console", PASSWORD)) as redis, pytest.raises(NoPermissionError):
        redis.execute_command(*command)


def test_without_a_password_there_is_no_such_user(tmp_path: Path) -> None:
    assert "user console " not in users_file(tmp_path).read_text()
