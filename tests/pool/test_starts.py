"""What a party process is told of the SPU: the envelope's word, else the task type's."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from sfworker.catalog import all_task_types, load_modules
from sfworker.catalog.job import Job, accept
from sfworker.pool.starts import starts_elsewhere, terms
from sfworker.session.arithmetic import resolved
from sfworker.settings import load
from tests.catalog.examples import TASKS, job

load_modules([])
ALL = sorted(task_type.name for task_type in all_task_types() if "spu" in task_type.devices or task_type.spu_defaults)


def accepted(name: str, runtime_config: dict[str, Any]) -> Job:
    made = job(TASKS[name], spu_config={"cluster_def": {"runtime_config": {"protocol": "SEMI2K", **runtime_config}}})
    return accept(msgspec.json.encode(made), load(), time.time())


def told(job: Job) -> dict[str, Any]:
    [config, *same] = [
        start.spu_config["cluster_def"]["runtime_config"]
        for start in starts_elsewhere(job, 1, load(), traced=False)
        if start.spu_config
    ]
    assert all(each == config for each in same)
    made: dict[str, Any] = config
    return made


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("field", ["FM64", "FM128"])
def test_a_field_that_an_envelope_names_has_its_own_bits_or_the_given_ones(name: str, field: str) -> None:
    known = {task_type.name: task_type.spu_defaults for task_type in all_task_types()}[name]
    own = known.get("fxp_fraction_bits") if known.get("field") == field else None
    assert told(accepted(name, {"field": field})).get("fxp_fraction_bits") == own
    assert told(accepted(name, {"field": field, "fxp_fraction_bits": 20}))["fxp_fraction_bits"] == 20


@pytest.mark.parametrize("name", ALL)
def test_bits_without_a_field_are_of_one_with_room_for_them(name: str) -> None:
    given = told(accepted(name, {"fxp_fraction_bits": 40}))
    assert (given["field"], given["fxp_fraction_bits"]) == ("FM128", 40)
    assert resolved(given)["fxp_fraction_bits"] == 40


@pytest.mark.parametrize(
    ("name", "field", "bits"),
    [
        ("binning", "FM64", 18),
        ("groupby_statistics", "FM64", 18),
        ("pearson_correlation", "FM128", 40),
        ("vif", "FM128", 40),
        ("ss_glm", "FM128", 40),
        ("ss_lr", "FM128", 26),
        ("ss_xgb", "FM128", 26),
        ("psi", "FM128", 26),
    ],
)
def test_without_a_word_the_task_type_chooses(name: str, field: str, bits: int) -> None:
    computed_in = resolved(told(accepted(name, {})))
    assert (computed_in["field"], computed_in["fxp_fraction_bits"]) == (field, bits)


def test_a_model_is_tried_in_the_arithmetic_of_its_training() -> None:
    for trained_by, bits in (("ss_glm", 40), ("ss_lr", 26)):
        task = TASKS["p_value"] | {"trained_by": trained_by}
        config = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K"}}}
        accepted_one = accept(msgspec.json.encode(job(task, spu_config=config)), load(), time.time())
        assert resolved(told(accepted_one))["fxp_fraction_bits"] == bits


def test_parties_compare_what_is_computed_in_and_not_what_was_written() -> None:
    silent, written, other = (
        accepted("vif", each) for each in ({}, {"field": "FM128", "fxp_fraction_bits": 40}, {"field": "FM64"})
    )
    assert terms(silent).devices == terms(written).devices != terms(other).devices
