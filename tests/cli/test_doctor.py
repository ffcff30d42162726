"""`sfworker doctor` against servers and settings that lack something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from sfworker.cli import host_findings, redis_findings
from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.cli.conftest import Command


def examine(sfworker: Command, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and findings by check; of several findings of a check, the last that is not ok."""
    outcome = sfworker("doctor", "--quick", "--json", *words)
    findings: dict[str, dict[str, Any]] = {}
    for finding in json.loads(outcome.out)["findings"]:
        if finding["level"] != "ok" or finding["check"] not in findings:
            findings[finding["check"]] = finding
    return outcome.code, findings


def test_a_healthy_machine(sfworker: Command) -> None:
    code, findings = examine(sfworker)
    assert code == 0
    assert {check: finding["level"] for check, finding in findings.items()} == {
        "python": "ok",
        "redis": "ok",
        "redis version": "ok",
        "persistence": "ok",
        "eviction": "ok",
        "redis role": "ok",
        "permissions": "ok",
        "keys": "ok",
        "results": "ok",
        "data roots": "ok",
        "run directory": "ok",
        "disk": "ok",
    }


def test_the_servers_version_is_its_own(sfworker: Command, redis: Any) -> None:
    server = redis.info("server")
    _, findings = examine(sfworker)
    assert server.get("valkey_version", server["redis_version"]) in findings["redis version"]["message"]


@pytest.mark.parametrize(
    ("server", "level", "message"),
    [
        ({"redis_version": "6.0.16"}, "error", "6.0.16 is older than 6.2"),
        ({"redis_version": "10.0.0"}, "ok", "10.0.0"),
        (
            {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.0.1"},
            "ok",
            "Valkey 8.0.1, compatible with Redis 7.2.4",
        ),
    ],
)
def test_versions_of_redis_and_of_what_stands_in_for_it(server: dict[str, str], level: str, message: str) -> None:
    finding = redis_findings.version(server)
    assert (finding.level, finding.message) == (level, message)


def test_looking_leaves_nothing_behind(sfworker: Command, redis: Any) -> None:
    examine(sfworker)
    assert redis.keys("*") == []


def test_every_finding_that_is_not_ok_has_a_remedy(sfworker: Command) -> None:
    with EmbeddedRedis("--appendonly", "no", "--maxmemory-policy", "allkeys-lru") as server:
        code, findings = examine(sfworker, "--redis", server.url)
        text = sfworker("doctor", "--quick", "--redis", server.url).out
    assert code == 1
    assert findings["persistence"]["level"] == "warning"
    assert findings["eviction"]["level"] == "error"
    assert "allkeys-lru" in findings["eviction"]["message"]
    for finding in findings.values():
        assert (finding["level"] == "ok") == (finding["remedy"] is None)
        assert finding["remedy"] is None or f"-> {finding['remedy']}" in text


def test_a_redis_that_is_full_is_named_before_and_after(sfworker: Command, redis: Any) -> None:
    used = int(redis.info("memory")["used_memory"])
    try:
        for most, level in ((used * 2, None), (int(used * 1.04), "warning"), (used // 2, "error")):
            redis.config_set("maxmemory", most)
            assert examine(sfworker)[1].get("redis memory", {}).get("level") == level
    finally:
        redis.config_set("maxmemory", 0)


def test_redis_that_is_not_there(sfworker: Command) -> None:
    code, findings = examine(sfworker, "--redis", "redis://localhost:1")
    assert code == 1
    assert findings["redis"]["level"] == "error"
    assert findings["data roots"]["level"] == "ok"  # the rest is looked at all the same
    code, findings = examine(sfworker, "--redis", "nonsense")
    assert "URL" in findings["redis"]["message"]


@pytest.mark.parametrize(
    ("rules", "refused"),
    [
        ("~sf:* &* +@all -xclaim -publish", ["XCLAIM sf:jobs", "PUBLISH task_status"]),
        ("~sf:* &* +@all -script", ["SCRIPT LOAD"]),
        ("~sf:jobs* ~sf:result* ~sf:exec:* ~sf:retries &* +@all", ["SET sf:worker:doctor", "EXISTS sf:cancel:doctor"]),
        ("~sf:* resetchannels &sf:* +@all", ["PUBLISH task_status", "PUBLISH task_status:doctor"]),
        ("~sf:* resetchannels &task_status* +@all", ["SUBSCRIBE sf:control"]),
        ("~sf:* resetchannels &sf:* &task_status* +@all", []),
    ],
)
def test_what_a_user_may_not_do_is_named(
    sfworker: Command,
    redis: Any,
    redis_server: EmbeddedRedis,
    monkeypatch: pytest.MonkeyPatch,
    rules: str,
    refused: list[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://worker:word@{redis_server.socket_path}")
    redis.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">word", *rules.split())
    try:
        _, findings = examine(sfworker)
    finally:
        redis.execute_command("ACL", "DELUSER", "worker")
    finding = findings["permissions"]
    assert finding["level"] == ("error" if refused else "ok")
    for command in refused:
        assert command in finding["message"]


def test_a_wrong_password(sfworker: Command, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://worker:wrong@{redis_server.socket_path}")
    code, findings = examine(sfworker)
    assert code == 1
    assert "password" in findings["redis"]["message"]
    assert "wrong@" not in json.dumps(findings)
    outcome = sfworker("status")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "refuses the user name or password" in outcome.err


def test_data_roots_that_do_not_serve(sfworker: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    roots = {
        "alice": [str(tmp_path)],
        "bob": [str(tmp_path / "file"), "/etc", str(tmp_path / "new"), str(tmp_path / "missing" / "too")],
        "carol": [],
    }
    monkeypatch.setenv("SFWORKER_DATA_ROOTS", json.dumps(roots))
    outcome = sfworker("doctor", "--quick")
    assert outcome.code == 1
    assert "root 1 of alice can be read and written" in outcome.out
    assert "root 1 of bob is no directory" in outcome.out
    assert "root 2 of bob is a directory of the system" in outcome.out
    assert "root 3 of bob is made when a worker starts" in outcome.out
    assert "root 4 of bob is no directory" in outcome.out
    assert "SFWORKER_DATA_ROOTS gives no directory of carol" in outcome.out


def test_a_run_directory_that_does_not_serve(
    sfworker: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SFWORKER_RUN_DIR", str(tmp_path / "missing"))
    code, findings = examine(sfworker)
    assert (code, findings["run directory"]["level"]) == (1, "error")
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("SFWORKER_RUN_DIR", str(long))
    code, findings = examine(sfworker)
    assert (code, findings["run directory"]["level"]) == (1, "error")
    assert "too long" in findings["run directory"]["message"]


def test_secretflow_is_imported_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_findings, "_IMPORT", "print('noise'); print('1.13.0b0')")
    assert host_findings.secretflow().message == "1.13.0b0 imports"
    monkeypatch.setattr(host_findings, "_IMPORT", "import secretflow_that_is_missing")
    finding = host_findings.secretflow()
    assert finding.level == "error"
    assert "No module named" in finding.message


def test_a_reader_that_is_behind_is_named(sfworker: Command, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFWORKER_RESULTS_MAXLEN", "100")
    with Redis.from_url(redis_url) as redis:
        redis.xgroup_create("sf:results", "platform", "0", mkstream=True)
        for _ in range(300):
            redis.xadd("sf:results", {"kind": "status"})
    [finding] = [
        each
        for each in json.loads(sfworker("doctor", "--quick", "--json").out)["findings"]
        if each["check"] == "results"
    ]
    assert finding["level"] == "warning"
    assert "consumer group platform has yet to read the oldest of its 300 entries" in finding["message"]
