"""What all subcommands share: light start-up, exit codes, errors for people."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import Command

HEAVY = "redis rich opentelemetry sklearn pandas numpy uvloop secretflow spu jax ray"


def test_starting_up_imports_nothing_heavy() -> None:
    program = f"""
import sys
from sfworker.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted(set("{HEAVY}".split()) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr == "[]\n"
    assert "doctor" in done.stdout


def test_the_client_and_every_subcommand_leave_secretflow_alone() -> None:
    program = """
import pkgutil, sys
import sfworker.cli, sfworker.client, sfworker.broker.overview
for module in pkgutil.iter_modules(sfworker.cli.__path__):
    __import__(f"sfworker.cli.{module.name}")
print(sorted({"secretflow", "spu", "jax", "ray"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "words", [(), ("nonsense",), ("submit",), ("watch",), ("cancel",), ("run", "--concurrency", "many")]
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(sfworker: Command, words: tuple[str, ...]) -> None:
    outcome = sfworker(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("words", [("status",), ("cancel", "x"), ("watch", "x"), ("status", "--json")])
def test_redis_away_is_one_sentence_and_exit_code_1(sfworker: Command, words: tuple[str, ...]) -> None:
    outcome = sfworker(*words, "--redis", "redis://someone:secret@localhost:1/0")
    assert outcome.code == 1
    assert outcome.out == ""
    assert "Redis at redis://localhost:1/0 cannot be reached" in outcome.err
    assert "secret" not in outcome.err


def test_wrong_settings_are_one_sentence_and_exit_code_2(sfworker: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sfworker("status", "--redis", "localhost").code == 2
    monkeypatch.setenv("SFWORKER_CONCURRENCY", "none")
    outcome = sfworker("status")
    assert outcome.code == 2
    assert outcome.err.startswith("sfworker: SFWORKER_CONCURRENCY: ")
    assert outcome.err.count("\n") == 1


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m sfworker schema event | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")
