"""Which Ray clusters an envelope may name, and what it may set in the environment of processes there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sfworker.catalog import load_modules
from sfworker.catalog.job import Job, accept
from sfworker.errors import ParameterValidationError
from sfworker.settings import Settings
from tests.running_worker import envelope

SETTINGS = Settings(data_roots="/data", ray_addresses=["head:6379", "local"], ray_environment=["COLOUR"])


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    load_modules([])


def accepted(config: dict[str, Any], settings: Settings = SETTINGS, task_type: str = "health_check") -> Job:
    job = envelope({"task_type": task_type}) | {"sf_init_config": {"parties": ["alice", "bob"], **config}}
    return accept(json.dumps(job).encode(), settings, now=0.0)


@pytest.mark.parametrize(
    ("config", "cluster"),
    [
        ({"address": "local"}, ""),
        ({}, ""),
        ({"address": "head:6379"}, "head:6379"),
        ({"address": "local", "engine": "ray"}, "local"),
    ],
)
def test_where_the_parties_are(config: dict[str, Any], cluster: str) -> None:
    assert accepted(config).cluster == cluster


def test_a_job_that_joins_nobody_runs_here() -> None:
    assert accepted({"address": "head:6379"}, task_type="hello").cluster == ""


@pytest.mark.attack("stream entry")
@pytest.mark.parametrize("address", ["head:6380", "head:6379 ", "ray://head:10001", "auto", "", "127.0.0.1:6379"])
def test_an_address_of_the_web_sides_own_is_refused(address: str) -> None:
    with pytest.raises(ParameterValidationError, match="SFWORKER_RAY_ADDRESSES") as refused:
        accepted({"address": address}, Settings(data_roots="/data", ray_addresses=["head:6379"], address="10.0.0.9:1"))
    assert "10.0.0.9" not in str(refused.value)


def test_variables_that_the_operator_allows_are_set_on_clusters_alone() -> None:
    variables = {"runtime_env": {"env_vars": {"COLOUR": "red", "EXECUTION_ID": "another"}}}
    assert accepted({"address": "head:6379", **variables}).environment == {"COLOUR": "red"}
    here = accepted({"address": "local", **variables})
    assert here.environment == {}
    assert here.warnings == ["sf_init_config.runtime_env: has no effect in this worker"]


@pytest.mark.attack("stream entry")
@pytest.mark.parametrize(
    ("runtime_env", "says"),
    [
        ({"env_vars": {"LD_PRELOAD": "/data/evil.so"}}, "env_vars.LD_PRELOAD: this worker's operator lets no envelope"),
        ({"env_vars": {"PYTHONPATH": "/data"}}, "env_vars.PYTHONPATH: "),
        ({"env_vars": {"a b": "c"}}, "env_vars: this worker's operator"),
        ({"env_vars": {"COLOUR": "a\0b"}}, "NUL"),
        ({"env_vars": {"COLOUR": 4}}, "object of texts"),
        ({"env_vars": ["COLOUR"]}, "object of texts"),
        ({"working_dir": "/data"}, "only env_vars are taken"),
        ({"pip": ["evil"]}, "only env_vars are taken"),
    ],
)
def test_others_are_refused_by_name_and_without_their_values(runtime_env: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterValidationError) as refused:
        accepted({"address": "head:6379", "runtime_env": runtime_env})
    assert says in str(refused.value)
    assert "evil" not in str(refused.value)
