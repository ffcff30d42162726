"""Every command and example that a document shows works as it stands, in the document's order."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from sfworker.cli import _parser
from sfworker.cli.schema import schema
from tests.documents.shell import ROOT, Block, Reader, blocks, commands
from tests.network import free_ports
from tests.node.packages import Node
from tests.running_worker import until

README = ROOT / "README.md"
DEPLOY = ROOT / "deploy" / "README.md"
WIRE = ROOT / "sfworker" / "wire" / "README.md"
JOBS = ROOT / "sfworker" / "jobs" / "README.md"
HOUSE = ROOT / "sfworker" / "README.md"
TESTS = ROOT / "tests" / "README.md"
DOCUMENTS = [README, DEPLOY, WIRE, JOBS, HOUSE, TESTS]
CHINESE = [each.with_name("README.zh.md") for each in (README, DEPLOY, WIRE)]
WORKER = "sfworker run --embedded redis-data"
GO_PATH = Path("/usr/share/gocode")
"""Where Debian puts packages of Go."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with ExitStack() as stack:
        yield Reader(tmp_path, stack)


@pytest.fixture(scope="module")
def integrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Who reads the integrators' page beside a running worker."""
    with ExitStack() as stack:
        reader = Reader(tmp_path_factory.mktemp("wire"), stack)
        reader.start_worker(WORKER)
        yield reader


def follow(reader: Reader, block: Block) -> list[str]:
    """Do what the block says; returns what each command printed."""
    return [told for command in commands(block.text) if (told := _obey(reader, command)) is not None]


def _obey(reader: Reader, command: str) -> str | None:
    if command.startswith("sfworker run"):
        reader.start_worker(command.split(" #", maxsplit=1)[0])
        return None
    return reader.run(command)


def shown(document: Path, *languages: str) -> list[Block]:
    return [block for block in blocks(document) if block.language in languages and not block.note]


def test_every_document_is_known_and_every_block_has_a_language() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    without_commands = {"CHANGELOG.md", "sfworker/catalog/README.md"}
    known = {str(each.relative_to(ROOT)) for each in (*DOCUMENTS, *CHINESE)}
    assert known | without_commands == set(listed.stdout.split())
    for document in DOCUMENTS:
        for block in blocks(document):
            assert block.language in {"", "sh", "console", "python", "js", "ts", "go", "json"}, block
            assert block.language or not re.search(r"^(\$ |make |sfworker )", block.text, re.MULTILINE)
            if block.note:
                [test] = re.findall(r"^run by (\S+)$", block.note)
                assert f'"{document.parent.name}" / "README.md"' in (ROOT / test).read_text()
    for name in without_commands:
        assert "```" not in (ROOT / name).read_text()


def test_readme(reader: Reader) -> None:
    """The first job: a worker, an envelope, and what is said about it."""
    for party, ids in (("alice", range(30)), ("bob", range(20, 60))):
        (reader.directory / "data").mkdir(exist_ok=True)
        (reader.directory / "data" / f"{party}.csv").write_text("id\n" + "".join(f"{each:04d}\n" for each in ids))
    [envelope] = shown(README, "json")
    (reader.directory / "job.json").write_text(envelope.text)
    started, rest = shown(README, "sh")
    follow(reader, started)
    told = "\n".join(follow(reader, rest))
    assert "intersection_count" in told
    assert len((reader.directory / "data" / "bob-common.csv").read_text().split()) == 11
    assert "ss_xgb" in told
    assert "table_keys_duplicated" in told


def test_wire(integrator: Reader, node: Node) -> None:
    """The same in three languages, and how to cancel."""
    for block in shown(WIRE, "sh"):
        follow(integrator, block)
    assert json.loads(integrator.run("redis-cli --raw GET sf:result:e-1"))["status"] == "success"
    assert {each.name for each in integrator.directory.glob("tables/*")} == {"summary.csv"}
    assert integrator.run("redis-cli EXISTS sf:cancel:e-4") == "1\n"
    for number, script in enumerate(shown(WIRE, "js")):
        file = node.packages / f"{number}.mjs"
        file.write_text(script.text)
        told = integrator.run(f"node {file}")
        assert ("Hello, Node!" in told) == (number == 0)
    assert integrator.run("redis-cli EXISTS sf:cancel:e-5") == "1\n"
    program, _ = shown(WIRE, "python")
    (integrator.directory / "submit.py").write_text(program.text)
    told = integrator.run("python submit.py")
    assert "task_succeeded" in told
    assert "Hello, Python!" in told


def test_wire_in_typescript(integrator: Reader, node: Node) -> None:
    """Types are made, the compiler takes the example, and Node runs it."""
    (integrator.directory / "node_modules").symlink_to(node.packages / "node_modules")
    [example] = shown(WIRE, "ts")
    (integrator.directory / "example.mts").write_text(example.text)
    tools = node.packages / "node_modules" / ".bin"
    schemas = {name: schema(name) for name in ("envelope", "event", "result")}
    node.run(ROOT / "tests" / "catalog" / "types.cjs", schemas, str(integrator.directory))  # as json2ts makes them
    integrator.run(f"{tools}/tsc --strict --target es2022 --module esnext --moduleResolution bundler example.mts")
    told = integrator.run("node example.mjs")
    assert "task_started" in told
    assert "Hello, TypeScript!" in told


def test_wire_in_go(integrator: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Go and redigo are, as Debian installs both (golang-go, golang-github-gomodule-redigo-dev)."""
    if shutil.which("go") is None or not (GO_PATH / "src" / "github.com" / "gomodule" / "redigo").exists():
        pytest.skip(
            "Go or redigo is not installed; on Debian: apt-get install golang-go golang-github-gomodule-redigo-dev"
        )
    [port] = free_ports(1)
    assert integrator.run(f"redis-cli CONFIG SET port {port}") == "OK\n"
    of_go = {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(tmp_path)}
    of_go["REDIS_URL"] = f"redis://127.0.0.1:{port}"  # which redigo takes, and no Unix socket
    monkeypatch.setattr(integrator, "environment", integrator.environment | of_go)
    [example] = shown(WIRE, "go")
    (integrator.directory / "main.go").write_text(example.text)
    assert integrator.run("gofmt -l main.go") == ""
    told = integrator.run("go vet main.go && go run main.go")
    assert "status task_started RUNNING" in told
    assert "Hello, Go!" in told


def test_wire_has_a_flow(integrator: Reader) -> None:
    """The script finds what plain Python finds, and computes nothing when it is started again."""
    _, flow = shown(WIRE, "python")
    said = [line for line in flow.text.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(said) < 15
    chance = np.random.default_rng(3)
    age, income = chance.normal(45, 12, 900), chance.lognormal(1, 0.6, 900)
    label = chance.random(900) < 1 / (1 + np.exp(3 - age / 20 - income / 3))
    table = pd.DataFrame({"id": [f"{row:04d}" for row in range(900)], "y": label * 1, "age": age, "income": income})
    files = integrator.directory / "data"
    table[["id", "y", "age"]].iloc[:800].to_csv(files / "alice-in.csv", index=False)
    table[["id", "income"]].iloc[100:].sample(frac=1, random_state=1).to_csv(files / "bob-in.csv", index=False)
    (integrator.directory / "flow.py").write_text(flow.text)
    count, auc = integrator.run("python flow.py").split()
    assert int(count) == 700
    read = partial(pd.read_csv, dtype={"id": str})
    train, test = (read(files / f"alice-{part}.csv") for part in ("train", "test"))
    assert sorted([*train["id"], *test["id"]]) == sorted(table["id"][100:800])
    woe = [read(files / "alice-woe.csv")["age"], read(files / "bob-woe.csv")["income"]]
    held_out = [read(files / "alice-test-woe.csv")["age"], read(files / "bob-test-woe.csv")["income"]]
    plain = LogisticRegression(C=1e6).fit(np.stack(woe, 1), train["y"]).predict_proba(np.stack(held_out, 1))[:, 1]
    assert abs(float(auc) - roc_auc_score(test["y"], plain)) < 0.02
    scores = read(files / "scores.csv")
    assert abs(float(auc) - roc_auc_score(scores["y"], -scores["predict_score"])) < 1e-6
    (files / "alice-in.csv").unlink()
    assert integrator.run("python flow.py").split() == [count, auc]


def test_jobs(reader: Reader) -> None:
    """A task type of one's own, from the working directory."""
    [source] = shown(JOBS, "python")
    (reader.directory / "greeting.py").write_text(source.text)
    (reader.directory / "json.py").write_text("raise SystemExit('imported from the working directory')")
    about, worker, job = shown(JOBS, "sh")
    tasks, schema = follow(reader, about)
    assert "Number of repetitions." in tasks
    assert json.loads(schema)
    follow(reader, worker)
    [result] = follow(reader, job)
    assert "Hello ALICE, BOB! Hello ALICE, BOB!" in result
    refused = subprocess.run(
        ["bash", "-c", next(commands(job.text)).replace('"times": 2', '"times": 11').replace("greet-1", "greet-2")],
        cwd=reader.directory,
        env=reader.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "task_config.times: " in refused.stdout


def test_deploy(reader: Reader) -> None:
    """Doctor and a worker; what there is to know, and to do, about a job that failed for good."""
    reader.environment |= {"SFWORKER_JOBS": "tests.acting_job", "PYTHONPATH": str(ROOT)}
    reader.start_worker(WORKER)
    job = {"task_id": "t", "subtask_id": "s", "execution_id": "bad-1", "sf_init_config": {}}
    job |= {"task_config": {"task_type": "act", "action": "raise"}, "options": {"max_retries": 0}}
    start, known, orders, dead = shown(DEPLOY, "sh")
    (reader.directory / "bad.json").write_text(json.dumps(job))
    told = follow(reader, start)
    assert "ERROR" not in told[0]
    reader.run("sfworker submit bad.json")
    until(lambda: "bad-1" in reader.run("sfworker dead list --json"), 30)
    assert all("bad-1" in reader.run(command) for command in commands(known.text))
    told = follow(reader, orders)
    assert "paused: no ss_xgb job begins" in told[1]
    assert "secretflow" in told[-1]
    for command in commands(dead.text):
        until(lambda: "bad-1" in reader.run("sfworker dead list --json"), 30)
        reader.run(command)
    assert "bad-1" not in reader.run("sfworker dead list --json")


@pytest.mark.parametrize("document", [HOUSE, TESTS], ids=["house", "tests"])
def test_checks(document: Path) -> None:
    """Make targets are there (the suite itself runs below one of them), and tests that are named are found."""
    said = [command.split(" #")[0].strip() for block in shown(document, "sh") for command in commands(block.text)]
    assert said
    for command in said:
        if command.startswith("make "):
            subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, check=True)
        elif command.startswith(".venv/bin/python -m "):
            assert importlib.util.find_spec(shlex.split(command)[2]), command
        else:
            words = command.partition(".venv/bin/pytest ")
            assert words[1], command
            if words[2].startswith("-m "):  # all tests would be collected, only to count some
                assert f'"{words[2][3:]}: ' in (ROOT / "pyproject.toml").read_text()
                continue
            if "-" not in words[2]:
                assert all((ROOT / path).exists() for path in words[2].split()), command
                continue
            collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", *shlex.split(words[2])]
            subprocess.run(collect, cwd=ROOT, capture_output=True, check=True)


def test_every_command_in_a_sentence_is_one() -> None:
    """`sfworker ...` between backticks is taken by the parser, and `make ...` is a target."""
    said = {each for document in DOCUMENTS for each in re.findall(r"`((?:sfworker|make) [^`]+)`", document.read_text())}
    assert len(said) > 10
    for command in said:
        words = shlex.split(command)
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=True)
        elif "..." not in words:
            _parser().parse_args(words[1:])
