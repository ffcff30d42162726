"""`sfworker report`: where it takes a result from, and what it says where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.cli.conftest import Command

USERS = Path(__file__).parents[2] / "deploy" / "users.acl"
RESULT: dict[str, Any] = {
    "status": "success",
    "result": {"message": "Hello!"},
    "task_metadata": {
        **{"task_id": "t", "subtask_id": "s", "execution_id": "e-1", "task_type": "hello"},
        **{"started_at": None, "completed_at": "2026-01-01T00:00:00+00:00"},
    },
}


@pytest.fixture
def redis(redis_url: str) -> Any:
    with Redis.from_url(redis_url) as redis:
        yield redis


def test_a_result_in_redis(sfworker: Command, redis: Any, tmp_path: Path) -> None:
    redis.set("sf:result:e-1", json.dumps(RESULT))
    page, directory = tmp_path / "report.html", tmp_path / "tables"
    outcome = sfworker("report", "e-1", "-o", str(page), "--csv", str(directory))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [str(page), str(directory / "summary.csv")]
    assert "Hello!" in page.read_text()
    assert (directory / "summary.csv").read_text() == "name,value\nmessage,Hello!\n"


def test_the_web_sides_user_may_draw(
    sfworker: Command, redis: Any, redis_server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.set("sf:result:e-1", json.dumps(RESULT))
    [line] = [line for line in USERS.read_text().splitlines() if line.startswith("user web ")]
    rules = [rule for rule in line.split()[2:] if not rule.startswith("#")]
    redis.execute_command("ACL", "SETUSER", "web", "reset", *rules, ">word")
    monkeypatch.setenv("REDIS_URL", f"unix://web:word@{redis_server.socket_path}")
    outcome = sfworker("report", "e-1", "-o", str(tmp_path / "report.html"))
    redis.execute_command("ACL", "DELUSER", "web")
    assert (outcome.code, outcome.err) == (0, "")


def test_tables_alone_need_nothing_that_draws(
    sfworker: Command, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.set("sf:result:e-1", json.dumps(RESULT))
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "jinja2", "sfworker.report.page"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert sfworker("report", "e-1", "--csv", str(tmp_path)).code == 0
    outcome = sfworker("report", "e-1", "-o", str(tmp_path / "report.html"))
    assert outcome.code == 2
    assert "`pip install 'sfworker[report]'` brings it" in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "x"], "either the ID of an execution or --file"),
        (["e-1", "--file", "x", "-o", "x"], "either the ID of an execution or --file"),
        (["e-1"], "needs -o FILE for a page, --csv DIRECTORY for tables"),
        (["--file", "{missing}", "-o", "x"], "--file: cannot be read"),
        (["--file", "{broken}", "-o", "x"], "this is no result of sfworker"),
        (["--file", "{envelope}", "-o", "x"], "this is no result of sfworker"),
        (["--file", "{result}", "--envelope", "{envelope}", "-o", "x"], "--envelope: is another execution's"),
        (["--file", "{result}", "--envelope", "{broken}", "-o", "x"], "holds no JSON object"),
        (["--file", "{result}", "-o", "{missing}/x"], "cannot be written (No such file or directory)"),
        (["--file", "{result}", "--csv", "{result}"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_said(sfworker: Command, tmp_path: Path, words: list[str], said: str) -> None:
    places = {name: tmp_path / name for name in ("missing", "broken", "envelope", "result")}
    places["broken"].write_text("{")
    places["envelope"].write_text(json.dumps({"execution_id": "e-2"}))
    places["result"].write_text(json.dumps(RESULT))
    outcome = sfworker("report", *(word.format(**places) for word in words))
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.out == ""


def test_an_execution_without_a_result(sfworker: Command, redis: Any) -> None:
    outcome = sfworker("report", "e-9", "-o", "x")
    assert (outcome.code, outcome.err) == (1, "sfworker: no job e-9 is known here\n")
    redis.xadd("sf:jobs", {"envelope": json.dumps({"execution_id": "e-2"})})
    outcome = sfworker("report", "e-2", "-o", "x")
    assert outcome.code == 1
    assert "has no result yet; `" in outcome.err
    redis.hset("sf:exec:e-3", mapping={"state": "done", "group": "secretflow"})
    outcome = sfworker("report", "e-3", "-o", "x")
    assert outcome.code == 1
    assert "its result is not kept any more; --file takes one kept elsewhere" in outcome.err
