"""The README says what is there: every setting, error and task type, and an example that works as it stands."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sfworker import errors
from sfworker.catalog import all_task_types, load_modules
from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.settings import Settings, variable
from tests.running_worker import RunningWorker, envelope

README = (Path(__file__).parents[1] / "README.md").read_text()
NEVER_PUBLISHED = {"SecretFlowTaskError", "SettingsError", "BrokerError", "JobCancelledError"}


def rows() -> set[str]:
    """First cells of all tables, where they are one word of code."""
    return set(re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE))


def test_every_setting_error_and_task_type_is_there() -> None:
    load_modules([])
    published = {
        name
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.SecretFlowTaskError) and name not in NEVER_PUBLISHED
    }
    settings = {variable(name) for name in Settings.__struct_fields__}
    assert (published | settings) - rows() == set()
    [tasks] = re.findall(r"## Task types\n(.*?)\n\*\*", README, re.DOTALL)
    installed = {each.name for each in all_task_types() if each.params.__module__.startswith("sfworker.")}
    named = {word for line in tasks.splitlines() for word in re.findall(r"`([a-z_]+)`", line)}
    assert named == installed


def test_every_directory_that_is_named_exists() -> None:
    root = Path(__file__).parents[1]
    for name in re.findall(r"^\| `(sfworker/[a-z_./]+)` \|", README, re.MULTILINE):
        assert (root / name).exists(), name


def test_every_test_that_is_named_exists() -> None:
    tests = Path(__file__).parent
    there = {name for file in tests.rglob("test_*.py") for name in re.findall(r"def (test_\w+)\(", file.read_text())}
    named = set(re.findall(r"`(test_\w+)`", README))
    assert len(named) > 20
    assert named - there == set()


def test_the_example_of_a_task_type_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [source] = re.findall(r"```python\n(# greeting\.py\n.*?)```", README, re.DOTALL)
    (tmp_path / "greeting.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with EmbeddedRedis() as redis, RunningWorker(redis.url, tmp_path, jobs="greeting") as worker:
        job = envelope({"task_type": "greet", "times": 2})
        assert worker.run(job)["result"] == {"words": "Hello ALICE, BOB! Hello ALICE, BOB!"}
        assert "greeted" in [event.get("message") for event in worker.said(job["execution_id"])]
        refused = worker.run(envelope({"task_type": "greet", "times": 11}))
        assert refused["error"].startswith("task_config.times: ")
