"""Every task type with nothing but its required parameters: it succeeds, or a sentence names a field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sfworker import catalog
from sfworker.catalog.schema import parameters_schema
from tests.jobs.components import SEMI2K, Platform, node, running, table, vertical
from tests.running_worker import PARTIES, envelope

ROWS = 120
FLAT_HEU = {"mode": "PHEU", "schema": "ou", "key_size": 2048}
FLOATS = dict.fromkeys(["x0", "x1"], "float64")
COMPONENT = node(
    "ml.train/ss_sgd_train:1.0.0",
    [vertical(table("alice", "alice.csv", FLOATS, labels={"y": "int64"}), table("bob", "bob.csv", {"z0": "float64"}))],
    ["component/model", "component/report"],
    {"input/input_ds/feature_selects": ["x0", "x1", "z0"], "input/input_ds/label": ["y"], "epochs": 1},
)
VALUES: dict[str, Any] = {
    "by": {"alice": ["grade"]},
    "condition": {"party": "alice", "column": "x0", "comparator": ">", "value": 0},
    "input_paths": {party: f"{party}.csv" for party in PARTIES},
    "keys": {party: ["id"] for party in PARTIES},
    "label": {"party": "alice", "column": "y"},
    "model_name": "scores",
    "node_eval_param": COMPONENT,
    "prediction": {"party": "alice", "column": "grade"},
    "receiver": "alice",
    "server": "bob",
    "values": {"bob": ["z0"]},
}
"""A value for each required parameter that is no path of the task type's own and no choice."""
SAVED = {
    "p_value": "ss_lr",
    "preprocessing_apply": "scaler",
    "sgb_predict": "sgb",
    "ss_glm_predict": "ss_glm-Bernoulli",
    "ss_lr_predict": "ss_lr",
    "ss_xgb_predict": "ss_xgb",
}
"""Task types that apply what another has saved, and the case that saves it."""
REFUSED = {
    "fillna-constant": "task_config.fill_value: ",
    "sample": "task_config.frac: ",
    "ss_glm-Gamma": "task_config.label: ",
}
"""Cases whose required parameters are not enough, and how the sentence about it begins."""
ANSWERED = {
    "psi": {"intersection_count": ROWS},
    "ss_lr_predict": {"rows": ROWS, "output_paths": {"alice": "ss_lr_predict/output_paths-alice.csv"}},
}
"""Some of what some cases answer."""


def cases() -> dict[str, dict[str, Any]]:
    """Parameters by the case's name, one for each value of each required choice."""
    catalog.load_modules([])
    made: dict[str, dict[str, Any]] = {}
    for task_type in catalog.all_task_types():
        if not task_type.params.__module__.startswith("sfworker."):
            continue
        schema = parameters_schema(task_type)
        required = [name for name in schema["required"] if name != "task_type"]
        choices = {
            name: schema["properties"][name]["enum"] for name in required if "enum" in schema["properties"][name]
        }
        assert len(choices) <= 1
        for name, values in choices.items() or [("", [""])]:
            for value in values:
                case = "-".join(filter(None, [task_type.name, value]))
                given = {field: value if field == name else _value(case, field) for field in required}
                made[case] = {"task_type": task_type.name, **given}
    return made


def _value(case: str, field: str) -> Any:
    if case == "population_stability":
        field = "input_paths"  # its test_paths are read, too
    if field in VALUES:
        return VALUES[field]
    if field == "components":
        return []  # a component's answer, once it is there
    folder = SAVED.get(case, case) if field == "model_path" else case
    ending = {"model_export": ".tar.gz"}.get(case, "" if field in ("model_path", "cache_path") else ".csv")
    return {party: f"{folder}/{field}-{party}{ending}" for party in PARTIES}


CASES = cases()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("alone")) as made:
        random = np.random.default_rng(5)
        # Numbers only, as a task type that is told nothing else takes every column for a feature.
        x = random.normal(size=(ROWS, 4)).round(6)
        alice = {"x0": x[:, 0], "x1": x[:, 1], "grade": (x[:, 2] > 0.5) * 1, "y": (x.sum(axis=1) + x[:, 2] > 0) * 1}
        for party, columns in {"alice": alice, "bob": {"z0": x[:, 3]}}.items():
            ids = {"id": random.permutation(ROWS) + 1000}  # a feature, too, which must not follow from the other's
            pd.DataFrame(ids | columns).to_csv(made.root(party) / f"{party}.csv", index=False)
        yield made


@pytest.fixture(scope="module")
def answers(platform: Platform) -> dict[str, Any]:
    """The result of every case; those that need what others save come last."""
    parameters = {name: dict(task) for name, task in CASES.items()}
    parameters["scaler"] |= {"model_path": {party: f"scaler/model_path-{party}" for party in PARTIES}}
    found: dict[str, Any] = {}
    for wave in (set(CASES) - set(SAVED) - {"model_export"}, {*SAVED, "model_export"}):
        if "component" in found:
            trained = {"node_eval_param": COMPONENT, "outputs": found["component"]["result"]["outputs"]}
            parameters["model_export"]["components"] = [trained]
        spu = {"cluster_def": {"runtime_config": SEMI2K}}
        sent = {
            name: platform.worker.send(envelope(parameters[name], spu_config=spu, heu_config=FLAT_HEU))
            for name in sorted(wave)
        }
        for name, execution_id in sent.items():
            platform.worker.until_ended(execution_id, 120)
            [found[name]] = platform.worker.said(execution_id, "result")
    return found


@pytest.mark.parametrize("case", CASES)
def test_succeeds_or_names_a_field(answers: dict[str, Any], case: str) -> None:
    answer = answers[case]
    if case in REFUSED:
        assert answer["error"].startswith(REFUSED[case])
        return
    assert answer["status"] == "success", answer["error"]
    assert ANSWERED.get(case, {}).items() <= answer["result"].items()


@pytest.mark.parametrize("case", ["ss_lr", "scaler", "binning", "table_statistics", "vif"])
def test_an_empty_list_of_features_says_that_a_party_has_none(platform: Platform, case: str) -> None:
    columns = {"alice": ["x0", "x1"]}
    results = []
    for named in ({"features": columns | {"bob": []}, "keys": {"alice": []}}, {"features": columns}):
        spu = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K"}}}  # its field has a default, too
        quick = {"epochs": 2} if case == "ss_lr" else {}
        result = platform.worker.run(envelope(CASES[case] | named | quick, spu_config=spu))
        assert result["status"] == "success", result["error"]
        results.append({**result["result"], "model_id": None})
    # Shares are rounded at random, in the last bits of fixed point.
    shown = [re.sub(r"(\d\.\d{4})\d*", r"\1", json.dumps(result, sort_keys=True)) for result in results]
    assert shown[0] == shown[1]


def test_a_constant_text_of_secretflow_is_passed_on(platform: Platform) -> None:
    pd.DataFrame({"id": [-1], "z0": [0.5]}).to_csv(platform.root("bob") / "nobody.csv", index=False)
    tables = [table(party, uri, {}, ["id"]) for party, uri in (("alice", "alice.csv"), ("bob", "nobody.csv"))]
    keys = {f"input/input_ds{number}/keys": ["id"] for number in (1, 2)}
    answer = platform.answer(node("data_prep/psi:1.0.0", tables, ["psi/joined", "psi/report"], keys))
    assert answer["error_type"] == "InputDataError"
    assert answer["error"].endswith("check your input data or set allow_empty_result to true.")
