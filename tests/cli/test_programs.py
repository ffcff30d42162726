"""Every command as programs use it: JSON, errors and exit codes are those of the tables in deploy/README.md."""

from __future__ import annotations

import argparse
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli import _parser
from tests.cli.conftest import Command
from tests.cli.test_report import RESULT
from tests.documents.test_commands import DEPLOY
from tests.documents.test_tables import rows

SERVE = {"run", "gateway", "console"}
WITHOUT_REDIS = {"tasks", "schema", "certs", "demo", "logs"}
"""`logs` asks Redis only while it follows one."""

# For each command the words that make it work in `there`, and words for which its own row, or the one of 1, says 1.
WORDS: dict[str, tuple[list[str], list[str] | None]] = {
    "submit": (["{file}"], None),
    "watch": (["succeeded"], ["failed"]),
    "status": ([], ["--group", "other"]),
    "top": ([], ["--group", "other"]),
    "list": ([], ["--group", "other"]),
    "show": (["failed"], ["nobody"]),
    "logs": (["succeeded"], ["nobody"]),
    "cancel": (["runs"], ["succeeded"]),
    "dead list": ([], ["--group", "other"]),
    "dead show": (["failed"], ["succeeded"]),
    "dead replay": (["failed"], ["nobody"]),
    "dead purge": (["failed"], ["runs"]),
    "replay": (["--all"], ["--error-type", "OutOfMemory"]),
    "retry-now": (["waits"], ["runs"]),
    "pause": (["--all"], ["--all", "--group", "other"]),
    "resume": (["--task-type", "psi"], ["--all"]),
    "limit": (["--task-type", "psi", "--running", "1"], ["--task-type", "psi", "--remove"]),
    "drain": (["w-1"], ["w-2"]),
    "groups list": ([], None),
    "groups remove": (["idle"], ["nobody"]),
    "report": (["drawn", "-o", "{directory}/page.html"], ["runs", "-o", "{directory}/page.html"]),
    "tasks": (["psi"], None),
    "schema": (["psi"], None),
    "doctor": (["--quick"], None),
    "certs": (["{directory}", "alice"], None),
}


def leaves(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command with its parser, and the actions of one that has some."""
    actions = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if not actions:
        yield name.strip(), parser
    for action in actions:
        for word, each in action.choices.items():
            yield from leaves(each, f"{name} {word}")


COMMANDS = dict(leaves(_parser()))


@pytest.fixture
def there(redis: Any, jobs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jobs in each state, a worker, a group without jobs, a pause, a log and a file with an envelope."""
    redis.set("sf:worker:w-1", json.dumps({"worker_id": "w-1"}))
    redis.hset("sf:workers:secretflow", "w-1", "1 1")
    redis.hset("sf:orders:secretflow", "pause type psi", "1")
    redis.xgroup_create("sf:jobs", "idle", id="$")
    redis.set("sf:result:drawn", json.dumps(RESULT))
    (tmp_path / "job.json").write_text(json.dumps({"execution_id": "new", "task_config": {"task_type": "psi"}}))
    from sfworker.job_logs import log_file_of

    log = log_file_of(str(tmp_path / "logs"), "succeeded")
    log.parent.mkdir(parents=True)
    log.write_text('{"message": "one"}\n{"message": "two"}\n')
    monkeypatch.setenv("SFWORKER_JOB_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("SFWORKER_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("SFWORKER_DATA_ROOTS", str(tmp_path / "data"))
    return tmp_path


def filled(words: list[str], directory: Path) -> list[str]:
    return [word.format(file=directory / "job.json", directory=directory) for word in words]


def error_of(err: str) -> dict[str, Any]:
    """The last line of what was said on standard error, which is the error."""
    found: dict[str, Any] = json.loads(err.splitlines()[-1])
    assert set(found) == {"error", "error_type", "exit_code"}
    assert found["error"]
    return found


def test_the_tables_list_every_command_and_exit_code() -> None:
    listed = {name.strip("`"): printed for name, printed, _ in rows(DEPLOY, "command | `--json` prints")}
    assert set(listed) == set(COMMANDS)
    for name, parser in COMMANDS.items():
        assert ("--json" in parser._option_string_actions) == (name not in SERVE), name
        assert ("it serves" in listed[name]) == (name in SERVE)
    codes = {code for code, _ in rows(DEPLOY, "exit code")}
    assert codes == set(re.findall(r"(?:: |; |, )(\d+) ", _parser().epilog or "")) == {"0", "1", "2", "130"}
    assert set(WORDS) == set(COMMANDS) - SERVE - {"demo"}  # the demo has tests of its own


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_keeps_to_them(
    sfworker: Command, there: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    as_json = [] if name in SERVE else ["--json"]
    unknown = sfworker(*name.split(), *WORDS.get(name, ([], None))[0], "--zzzz", *as_json)
    assert (unknown.code, unknown.out) == (2, "")
    if as_json:
        assert error_of(unknown.err) == {
            "error": f"there is no option --zzzz; see sfworker {name} --help",
            "error_type": "UsageError",
            "exit_code": 2,
        }
    if name not in WORDS:
        return
    works, fails = WORDS[name]
    if fails is not None:
        failed = sfworker(*name.split(), *filled(fails, there), "--json")
        assert failed.code == 1, failed
        if name != "watch":  # which prints the result of a job that failed
            assert (failed.out, error_of(failed.err)["exit_code"]) == ("", 1)
        said = sfworker(*name.split(), *filled(fails, there))
        assert (said.code, said.err.startswith("sfworker: ") or name == "watch") == (1, True)
    if name not in WITHOUT_REDIS:
        with socket.socket() as nobody, monkeypatch.context() as patch:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            patch.setenv("REDIS_URL", f"redis://127.0.0.1:{nobody.getsockname()[1]}")
            away = sfworker(*name.split(), *filled(works, there), "--json")
        assert away.code == 1
        if name == "doctor":  # whose finding that is
            assert not json.loads(away.out)["healthy"]
        else:
            assert (away.out, error_of(away.err)["error_type"]) == ("", "BrokerError")
    done = sfworker(*name.split(), *filled(works, there), "--json")
    assert done.code == 0, done
    lines = done.out.splitlines() if name in ("watch", "logs") else [done.out]
    assert all(isinstance(json.loads(line), dict | list) for line in lines)
    assert lines


def test_a_setting_that_is_wrong_is_told_as_json(sfworker: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFWORKER_LEASE_SECONDS", "x")
    outcome = sfworker("status", "--json")
    error = error_of(outcome.err)
    assert (outcome.code, error["error_type"]) == (2, "SettingsError")
    assert error["error"].startswith("SFWORKER_LEASE_SECONDS: has to be")
