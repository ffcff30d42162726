"""`sfworker show`: one job in any state, as a broker has left it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests.cli.conftest import Command
from tests.cli.states import JOBS

STATES = ["success", "failure", "cancelled", "waiting", "running", "queued", "queued", "queued"]


def shown(sfworker: Command, *words: str) -> dict[str, Any]:
    outcome = sfworker("show", *words, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    about: dict[str, Any] = json.loads(outcome.out)
    return about


@pytest.mark.parametrize(("execution_id", "state"), list(zip(JOBS, STATES, strict=True)))
def test_every_state_is_shown_with_its_envelope(
    sfworker: Command, jobs: list[str], execution_id: str, state: str
) -> None:
    about = shown(sfworker, execution_id)
    assert (about["execution_id"], about["state"]) == (execution_id, state)
    assert about["envelope"]["execution_id"] == execution_id
    assert bool(about["events"]) == (state != "queued")
    outcomes = {"waiting": ["retrying"], "failure": ["failed"]}
    assert [past["outcome"] for past in about["attempts"]] == outcomes.get(state, [])
    assert sfworker("show", execution_id).out.startswith(f"{execution_id}: {state}")


def test_stages_are_a_table_for_people(sfworker: Command, jobs: list[str]) -> None:
    out = sfworker("show", "succeeded").out
    assert "1.75 s" in out  # from its start to the last progress
    assert "50% computing" in out
    assert "25%" not in out
    assert "n: 7" in out
    failed = sfworker("show", "failed").out
    assert "attempt 1: failed, on w-1," in failed
    assert "InputDataError: keys.alice: no such column" in failed


def test_what_is_kept_no_longer_is_said(sfworker: Command, redis: Any, jobs: list[str]) -> None:
    redis.delete("sf:result:succeeded", "sf:envelope:succeeded")
    out = sfworker("show", "succeeded").out
    assert "The result is kept no longer." in out
    assert "The envelope is kept no longer." in out
    redis.delete("sf:exec:succeeded")
    unknown = sfworker("show", "succeeded")
    assert (unknown.code, unknown.out, unknown.err) == (1, "", "sfworker: no job succeeded is known here\n")


def test_paths_of_data_are_hidden_unless_asked_for(sfworker: Command, redis: Any) -> None:
    task = {
        "task_type": "psi",
        "keys": {"alice": ["id"]},
        "input_paths": {"alice": "customers.csv", "bob": ["/data/b.csv"]},
        "model_path": {"alice": "m"},
        "anything": ["x", "/srv/secret"],
    }
    redis.xadd("sf:jobs", {"envelope": json.dumps({"execution_id": "e-1", "task_config": task})})
    redis.xgroup_create("sf:jobs", "secretflow", id="0")
    hidden = "(not shown)"
    assert shown(sfworker, "e-1")["envelope"]["task_config"] == {
        "task_type": "psi",
        "keys": {"alice": ["id"]},
        "input_paths": {"alice": hidden, "bob": [hidden]},
        "model_path": {"alice": hidden},
        "anything": ["x", hidden],
    }
    assert shown(sfworker, "e-1", "--paths")["envelope"]["task_config"] == task


def test_a_bundle_is_one_private_file(sfworker: Command, jobs: list[str], tmp_path: Path) -> None:
    file = tmp_path / "failed.zip"
    assert sfworker("show", "failed", "--bundle", str(file)).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with ZipFile(file) as archive:
        parts = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    assert sorted(parts) == ["envelope.json", "events.json", "execution.json", "result.json"]
    assert parts["execution.json"]["attempts"][0]["error"] == "keys.alice: no such column"
    again = sfworker("show", "failed", "--bundle", str(file))
    assert (again.code, again.err) == (1, f"sfworker: {file}: cannot be written (File exists)\n")


@pytest.mark.attack("page of a result")
def test_a_bundle_holds_no_path_and_no_variable_unless_asked_for(
    sfworker: Command, redis: Any, jobs: list[str], tmp_path: Path
) -> None:
    secret = "/srv/customers"
    envelope = {
        "execution_id": "succeeded",
        "sf_init_config": {"runtime_env": {"env_vars": {"TOKEN": "customers"}}},
        "task_config": {"tables": {f"{secret}/x": 1}, "output_paths": {"alice": "customers.csv"}},
    }
    answer = {"output_paths": {"alice": "customers.csv"}, "outputs": [{"uri": "a/customers", "name": "a/customers"}]}
    redis.set("sf:envelope:succeeded", json.dumps(envelope))
    redis.set("sf:result:succeeded", json.dumps({"status": "success", "result": answer}))
    redis.set("sf:envelope:cancelled", f'{{"execution_id": "cancelled", "input_paths": {{"alice": "{secret}"')
    for execution_id in ("succeeded", "cancelled"):
        assert sfworker("show", execution_id, "--bundle", str(tmp_path / execution_id)).code == 0
        with ZipFile(tmp_path / execution_id) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        assert not [name for name, content in parts.items() if b"customers" in content], parts
    assert secret in sfworker("show", "cancelled", "--paths", "--json").out
