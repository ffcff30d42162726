"""Each of SecretFlow's components, with each alternative that its definition has, through a worker (SEMI2K).

Both parties are processes that accept only listed types from each other, so a type that a component sends and that
nobody has listed shows here and nowhere else. One alternative is tried at a time; numbers have tests of their own.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import secretflow.component  # noqa: F401 - registers them
from secretflow.spec.extend.calculate_rules_pb2 import CalculateOpRules
from secretflow.spec.extend.groupby_aggregation_config_pb2 import ColumnQuery
from secretflow_spec import Registry
from secretflow_spec.v1.component_pb2 import AttributeDef, AttrType

from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.components.params import REFUSED
from tests.jobs.components import HEU, SEMI2K, node, table, vertical
from tests.running_worker import RunningWorker, envelope

ROWS = 60
PARTIES = ["alice", "bob", "carol"]
OWN = {
    "f0": "float64",
    "f1": "float64",
    "gap": "float64",
    "amount": "int64",
    "colour": "str",
    "pred": "float64",
    "level": "float64",
}
OTHERS = {"f2": "float64", "f3": "float64", "grade": "int64"}
FEATURES = ["f0", "f1", "f2"]
ALICE = table("alice", "own.csv", OWN, ["id"], {"y": "int64"})
BOB = table("bob", "others.csv", OTHERS, ["id"])
CLASSES = table("alice", "own.csv", OWN, ["id"], {"kind": "int64"})


def few(data: dict[str, Any]) -> dict[str, Any]:
    """The table with few rows, as Gaussian processes compile a step for each."""
    [reference] = data["data_refs"]
    return {**data, "data_refs": [{**reference, "uri": f"few-{reference['uri']}"}]}


INPUTS = {
    "alice": ALICE,
    "bob": BOB,
    "carol": table("carol", "third.csv", {"f4": "float64"}, ["id"]),
    "joined": vertical(ALICE, BOB),
    "classes": vertical(CLASSES, BOB),
    "few": vertical(few(ALICE), few(BOB)),
    "few classes": vertical(few(CLASSES), few(BOB)),
    "nothing": {"type": "sf.null"},
}
COVERED = {"model/model_export"}
"""Run with all alternatives in `test_model_export`, by the task type that makes its parameters."""
COMPARED = {
    "data_filter/expr_condition_filter",
    "data_prep/psi",
    "data_prep/train_test_split",
    "ml.eval/ss_pvalue",
    "ml.predict/ss_glm_predict",
    "ml.predict/ss_sgd_predict",
    "preprocessing/feature_calculate",
    "preprocessing/fillna",
    "preprocessing/onehot_encode",
    "preprocessing/substitution",
    "preprocessing/vert_woe_binning",
    "stats/groupby_statistics",
    "stats/ss_pearsonr",
    "stats/ss_vif",
    "stats/table_statistics",
}
"""Run by `test_component`, which compares what they answer."""
LABELLED = {"feature_selects": FEATURES, "label": ["y"]}
RECEIVED = {"receiver": ["alice"], "save_ids": False}
GLM = {
    **LABELLED,
    "epochs": 1,
    "batch_size": 32,
    "link_type": "Logit",
    "label_dist_type": "Bernoulli",
    "optimizer": "IRLS",
}
UNBALANCED = {"keys": ["id"], "receiver_parties": ["alice", "bob"]}
SCORES = {"predict_name": ["pred"], "predict_score_name": "score", "positive": 1, "scaled_value": 600}
SCORES |= {"odd_base": 20.0, "pdo": 20.0, "min_score": 0, "max_score": 1000}
SMALL = {"num_boost_round": 1, "max_depth": 2}


@dataclass(frozen=True)
class Base:
    """What a component needs to run: inputs, by name or as `component` or `component#output`, and attributes."""

    inputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


BASES = {
    "data_filter/condition_filter": Base(["joined"], {"feature": ["amount"], "comparator": ">", "bound_value": "4"}),
    "data_filter/expr_condition_filter": Base(["joined"], {"expr": "f0 > 0"}),
    "data_filter/feature_filter": Base(["joined"], {"drop_features": ["gap"]}),
    "data_filter/sample": Base(["joined"], {}),
    "data_prep/psi": Base(["alice", "bob"], {"input_ds1_keys": ["id"], "input_ds2_keys": ["id"]}),
    "data_prep/psi_tp": Base(["alice", "bob", "carol"], {"keys1": ["id"], "keys2": ["id"], "keys3": ["id"]}),
    "data_prep/train_test_split": Base(["joined"]),
    "data_prep/unbalance_psi": Base(["bob", "data_prep/unbalance_psi_cache"], UNBALANCED),
    "data_prep/unbalance_psi_cache": Base(["alice"], {"keys": ["id"], "client": ["bob"]}),
    "data_prep/union": Base(["joined", "joined"]),
    "io/identity": Base(["ml.train/ss_sgd_train"]),
    "io/read_data": Base(["ml.train/ss_glm_train"]),
    "io/write_data": Base(["preprocessing/vert_binning#1"]),
    "ml.eval/biclassification_eval": Base(["alice"], {"label": ["y"], "prediction": ["pred"]}),
    "ml.eval/prediction_bias_eval": Base(["alice"], {"label": ["y"], "prediction": ["pred"], "bucket_num": 4}),
    "ml.eval/regression_eval": Base(["alice"], {"label": ["y"], "prediction": ["pred"]}),
    "ml.eval/ss_pvalue": Base(["ml.train/ss_glm_train", "joined"]),
    "ml.predict/gnb_predict": Base(["ml.train/gnb_train", "joined"], RECEIVED),
    "ml.predict/gpc_predict": Base(["ml.train/gpc_train", "few"], RECEIVED),
    "ml.predict/kmeans_predict": Base(["ml.train/kmeans_train", "joined"], RECEIVED),
    "ml.predict/sgb_predict": Base(["ml.train/sgb_train", "joined"], RECEIVED),
    "ml.predict/ss_glm_predict": Base(["ml.train/ss_glm_train", "joined"], RECEIVED),
    "ml.predict/ss_sgd_predict": Base(["ml.train/ss_sgd_train", "joined"], RECEIVED),
    "ml.predict/ss_xgb_predict": Base(["ml.train/ss_xgb_train", "joined"], RECEIVED),
    "ml.train/gnb_train": Base(["joined"], {**LABELLED, "n_classes": 2}),
    "ml.train/gpc_train": Base(["few"], {**LABELLED, "n_classes": 2, "max_iter_predict": 1}),
    "ml.train/kmeans_train": Base(["joined"], {"feature_selects": FEATURES, "n_clusters": 2, "max_iter": 1}),
    "ml.train/sgb_train": Base(["joined"], {**LABELLED, **SMALL}),
    "ml.train/ss_glm_train": Base(["joined"], GLM),
    "ml.train/ss_sgd_train": Base(["joined"], {**LABELLED, "epochs": 1}),
    "ml.train/ss_xgb_train": Base(["joined"], {**LABELLED, **SMALL}),
    "postprocessing/score_card_transformer": Base(["alice"], SCORES),
    "preprocessing/binary_op": Base(["joined"], {"f1": ["f0"], "f2": ["f1"], "new_feature_name": "made"}),
    "preprocessing/case_when": Base(["joined"]),
    "preprocessing/cast": Base(["joined"], {"columns": ["amount"], "astype": "float"}),
    "preprocessing/feature_calculate": Base(["joined"], {"features": ["f0"]}),
    "preprocessing/fillna": Base(["joined"], {"fill_na_features": ["gap", "colour", "amount"]}),
    "preprocessing/onehot_encode": Base(["joined"], {"features": ["colour", "grade"]}),
    "preprocessing/sql_processor": Base(["joined"], {"sql": "SELECT f0, f1, f0 + f1 AS f5, f2"}),
    "preprocessing/substitution": Base(["joined", "preprocessing/fillna#1"]),
    "preprocessing/vert_binning": Base(["joined"], {"feature_selects": FEATURES, "bin_num": 3}),
    "preprocessing/vert_woe_binning": Base(["joined"], {**LABELLED, "bin_num": 3, "positive_label": "1"}),
    "stats/groupby_statistics": Base(["joined"], {"by": ["grade"]}),
    "stats/ss_pearsonr": Base(["joined"], {"feature_selects": FEATURES}),
    "stats/ss_vif": Base(["joined"], {"feature_selects": FEATURES}),
    "stats/stats_psi": Base(["joined", "joined", "preprocessing/vert_binning#1"], {"feature_selects": FEATURES}),
    "stats/table_statistics": Base(["joined"], {"features": [*OWN, *OTHERS]}),
}
_WHEN = {
    "conds": [{"cond_column": "f0", "op": "GT", "cond_value": {"type": "CONST_FLOAT", "f": 0}}],
    "then": {"type": "CONST_INT", "i": 1},
}
_OPERANDS = {
    "RANGE_LIMIT": ["0", "1"],
    "UNARY": ["+", "*", "2"],
    "LOG_ROUND": ["10"],
    "LOG": ["e", "10"],
    "SUBSTR": ["0", "2"],
}
"""Operands of operations that need some."""


def _aggregations(functions: list[str]) -> str:
    return json.dumps({"column_queries": [{"column_name": "f0", "function": function} for function in functions]})


def _rules(**more: Any) -> str:
    return json.dumps(
        {
            "whens": [_WHEN],
            "else_value": {"type": "CONST_INT", "i": 0},
            "output_column": "made",
            "float_epsilon": 1e-6,
            **more,
        }
    )


REQUIRED = {
    "preprocessing/case_when": {"rules": _rules()},
    "preprocessing/feature_calculate": {"rules": '{"op": "STANDARDIZE"}'},
    "stats/groupby_statistics": {"aggregation_config": _aggregations(["COUNT"])},
}
"""Attributes that are texts of their own kind."""
WITH: dict[str, dict[str, Any]] = {
    "comparator=IN": {"bound_value": "1,2", "feature": ["level"]},  # SecretFlow's own fails at any type but this
    "comparator=NOTNULL": {"feature": ["gap"]},
    "enable_early_stop": {"enable_monitor": True, "validation_fraction": 0.2},
    "eval_metric": {"enable_monitor": True},
    "eval_metric=mse": {"objective": "linear"},
    "eval_metric=rmse": {"objective": "linear"},
    "eval_metric=tweedie_deviance": {"objective": "tweedie"},
    "eval_metric=tweedie_nll": {"objective": "tweedie"},
    "join_type=left_join": {"join_type/left_join/left_side": ["alice"]},
    "link_type=Identity": {"label_dist_type": "Tweedie", "tweedie_power": 0.0},
    "link_type=Log": {"label_dist_type": "Poisson"},
    "link_type=Reciprocal": {"label_dist_type": "Gamma", "label": ["amount"]},
    "penalty=l2": {"l2_norm": 0.1},
    "protocol/PROTOCOL_ECDH": {"protocol": "PROTOCOL_ECDH"},
    "sample_algorithm=stratify": {
        "sample_algorithm/stratify/observe_feature": "f0",
        "sample_algorithm/stratify/replacements": [False, False],
        "sample_algorithm/stratify/quantiles": [0.0],
        "sample_algorithm/stratify/weights": [0.5, 0.5],
    },
}
"""Attributes that go with an alternative, or with any of an attribute."""


WRITES = {
    "sf.rule.binning": "io/read_data:rule",
    "sf.model.ss_glm": "io/read_data",
    "sf.model.sgb": "io/read_data:trees",
}
"""Where the text comes from that `io/write_data` writes, by its type."""
FOLLOWING = {
    "data_filter/sample": {"sample_algorithm/random/replacement"},
    "data_prep/psi": {"protocol"},
    "io/write_data": {"write_data_type"},
    "ml.train/sgb_train": {"objective"},
    "ml.train/ss_glm_train": {"label_dist_type"},
}
"""Attributes whose values come with another's, or with one of `more`."""
DEPRECATED = {"use_high_precision_exp"}
"""Attributes that a definition still lists, and SecretFlow refuses."""


def definitions() -> dict[str, Any]:
    every = {each.component_id.partition(":")[0]: each for each in Registry.get_definitions()}
    return {name: each for name, each in sorted(every.items()) if name not in {*REFUSED, *COVERED}}


def alternatives(attributes: list[AttributeDef], given: dict[str, Any]) -> dict[str, list[Any]]:
    """Each attribute with a choice, and the values of it that neither the definition nor `given` chooses."""
    paths = ["/".join([*each.prefixes, each.name]) for each in attributes]
    choices: dict[str, list[Any]] = {}
    for path, each in zip(paths, attributes, strict=True):
        allowed, default = each.atomic.allowed_values, each.atomic.default_value
        if each.type == AttrType.AT_UNION_GROUP:
            below = {other.removeprefix(f"{path}/").split("/")[0] for other in paths if other.startswith(f"{path}/")}
            values, chosen = sorted(below), given.get(path, each.union.default_selection)
        elif each.type == AttrType.AT_BOOL:
            values, chosen = [True, False], given.get(path, default.b)
        else:
            values, chosen = [*allowed.ss, *allowed.i64s], given.get(path, default.s or default.i64)
        if values and path not in DEPRECATED:
            choices[path] = [value for value in values if value != chosen]
    return choices


def more(component: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Alternatives that no definition lists."""
    if component == "preprocessing/feature_calculate":
        for operation in CalculateOpRules.OpType.keys()[1:]:
            text = operation in ("LENGTH", "SUBSTR")
            rules = json.dumps({"op": operation, "operands": _OPERANDS.get(operation, [])})
            yield operation, {"rules": rules, "features": ["colour" if text else "amount"]}, []
    if component == "stats/groupby_statistics":
        yield "all", {"aggregation_config": _aggregations(ColumnQuery.AggregationFunction.keys()[1:])}, []
    if component == "preprocessing/cast":
        for column, kind in itertools.product(("colour", "f0"), ("string", "float")):
            if (column, kind) != ("colour", "float"):
                yield f"{column}-{kind}", {"columns": [column], "astype": kind}, []
    if component == "preprocessing/case_when":
        column = {"type": "COLUMN", "column_name": "f1"}
        text = {"type": "CONST_STR", "s": "no"}
        yield "text", {"rules": _rules(whens=[{**_WHEN, "then": {**text, "s": "yes"}}], else_value=text)}, []
        yield "column", {"rules": _rules(whens=[{**_WHEN, "then": column}], else_value=column, as_label=True)}, []
    for kind, rows in (("gpc", "few classes"), ("gnb", "classes")):
        if component == f"ml.train/{kind}_train":
            yield "three classes", {"label": ["kind"], "n_classes": 3}, [rows]
        if component == f"ml.predict/{kind}_predict":
            yield "three classes", {}, [f"ml.train/{kind}_train:three classes", rows]
    if component == "data_filter/sample":
        yield "replacement", {"sample_algorithm/random/replacement": True}, []
    if component == "data_prep/psi":
        yield "KKRT", {"protocol": "PROTOCOL_KKRT"}, []
    if component == "io/write_data":
        yield "model", {"write_data_type": "sf.model.ss_glm"}, ["ml.train/ss_glm_train"]
        yield "trees", {"write_data_type": "sf.model.sgb"}, ["ml.train/sgb_train"]
    if component == "io/read_data":
        yield "rule", {}, ["preprocessing/vert_binning#1"]
        yield "trees", {}, ["ml.train/sgb_train"]
    if component == "io/identity":
        for model in ("ml.train/ss_glm_train", "ml.train/sgb_train", "ml.train/ss_xgb_train"):
            yield model, {}, [model]
        yield "rule", {}, ["preprocessing/vert_binning#1"]
    if component == "preprocessing/substitution":
        for rule in ("onehot_encode", "vert_binning", "vert_woe_binning", "case_when", "sql_processor", "cast"):
            yield rule, {}, ["joined", f"preprocessing/{rule}#1"]
    if component == "ml.train/ss_glm_train":
        yield "offset and weight", {"offset": ["f3"], "weight": ["amount"]}, []


@dataclass(frozen=True)
class Case:
    """One run of a component."""

    component: str
    inputs: list[str]
    attributes: dict[str, Any]

    @property
    def needs(self) -> set[str]:
        """The cases whose outputs this one takes."""
        sources = [each.partition("#")[0] for each in self.inputs if each not in INPUTS]
        return {*sources, *([WRITES[self.written]] if self.component == "io/write_data" else [])}

    @property
    def written(self) -> str:
        return str(self.attributes.get("write_data_type", "sf.rule.binning"))


def cases() -> dict[str, Case]:
    made = {}
    for component, definition in definitions().items():
        base = BASES[component]
        given = {**base.attributes, **REQUIRED.get(component, {})}
        made[component] = Case(component, base.inputs, given)
        choices = alternatives(list(definition.component_def.attrs), given)
        for number in range(max(map(len, choices.values()), default=0)):
            changed: dict[str, Any] = {}
            for path, values in choices.items():
                if number < len(values) and path not in FOLLOWING.get(component, ()):
                    value = values[number]
                    changed |= {**WITH.get(path, {}), **WITH.get(f"{path}={value}", {}), path: value}
            if changed:
                made[f"{component}:{number}"] = Case(component, base.inputs, {**given, **changed})
        for name, changed, inputs in more(component):
            made[f"{component}:{name}"] = Case(component, inputs or base.inputs, {**given, **changed})
    return made


CASES = cases()


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of every case that is asked for, each sent once what it needs is there."""
    directory = tmp_path_factory.mktemp("alternatives")
    roots = {party: [str(directory / party)] for party in PARTIES}
    for party in PARTIES:
        (directory / party).mkdir()
    write_tables(directory)
    found: dict[str, Any] = {}
    with (
        EmbeddedRedis("--appendfsync", "no") as redis,
        RunningWorker(redis.url, directory, data_roots=json.dumps(roots), concurrency="2") as worker,
    ):
        left = with_needs({name for item in request.session.items if (name := parameters(item).get("name"))})
        while ready := {name: case for name, case in left.items() if case.needs <= found.keys()}:
            sent = {name: worker.send(job(name, case, found)) for name, case in ready.items()}
            for name, execution_id in sent.items():
                worker.until_ended(execution_id, 300)
                [found[name]] = worker.said(execution_id, "result")
            left = {name: case for name, case in left.items() if name not in ready}
    return found


def parameters(item: Any) -> dict[str, Any]:
    """The parameters of a test of this module."""
    return item.callspec.params if item.path == Path(__file__) and hasattr(item, "callspec") else {}


def with_needs(names: set[str]) -> dict[str, Case]:
    while missing := {need for name in names for need in CASES[name].needs} - names:
        names = names | missing
    return {name: CASES[name] for name in CASES if name in names}


def write_tables(directory: Path) -> None:
    random = np.random.default_rng(7)
    x = random.normal(size=(ROWS, 5)).round(4)
    y = (x[:, 0] + x[:, 2] + random.normal(size=ROWS) > 0).astype(int)
    frame = pd.DataFrame(x, columns=["f0", "f1", "f2", "f3", "f4"])
    frame = frame.assign(id=[f"n{number:03d}" for number in range(ROWS)], y=y, kind=np.digitize(x[:, 0], [-0.5, 0.5]))
    frame["gap"] = frame["f1"].where(np.arange(ROWS) % 7 != 0)
    frame["amount"] = random.integers(1, 9, ROWS)
    frame["level"] = random.integers(1, 5, ROWS) * 1.0
    frame["colour"] = random.choice(["red", "green", "blue"], ROWS)
    frame["pred"] = random.uniform(0.05, 0.95, ROWS).round(4)
    frame["grade"] = random.integers(0, 3, ROWS)
    for prefix, rows in (("", frame), ("few-", frame.head(8))):
        rows[["id", *OWN, "y", "kind"]].to_csv(directory / "alice" / f"{prefix}own.csv", index=False)
        rows[["id", *OTHERS]].to_csv(directory / "bob" / f"{prefix}others.csv", index=False)
    frame[["id", "f4"]].to_csv(directory / "carol" / "third.csv", index=False)


def job(name: str, case: Case, found: dict[str, Any]) -> dict[str, Any]:
    definition = definitions()[case.component]
    attributes = dict(case.attributes)
    if case.component == "io/write_data":
        shown = found[WRITES[case.written]]["result"]["outputs"][0]["meta"]
        attributes["write_data"] = json.dumps({key: value for key, value in shown.items() if key != "@type"})
    inputs = [INPUTS[each] if each in INPUTS else output(found, each) for each in case.inputs]
    uris = [f"{re.sub(r'[^a-z0-9]', '-', name)}/{each.name}" for each in definition.component_def.outputs]
    parameter = node(definition.component_id, inputs, uris, attributes)
    parties = PARTIES if "carol" in case.inputs else PARTIES[:2]
    return envelope(
        {"task_type": "component", "node_eval_param": parameter},
        sf_init_config={"parties": parties, "address": "local"},
        spu_config={"cluster_def": {"runtime_config": SEMI2K}},
        heu_config=HEU,
    )


def output(found: dict[str, Any], source: str) -> Any:
    name, _, number = source.partition("#")
    assert found[name]["status"] == "success", (name, found[name])
    return found[name]["result"]["outputs"][int(number or 0)]


def test_every_component_has_a_case() -> None:
    assert len(definitions()) == 53 - len(REFUSED) - len(COVERED)
    assert set(BASES) == set(definitions())


def test_every_alternative_is_in_a_case() -> None:
    for component, definition in definitions().items():
        tried = [case.attributes for case in CASES.values() if case.component == component]
        for path, values in alternatives(list(definition.component_def.attrs), tried[0]).items():
            assert {each.get(path) for each in tried} >= set(values), (component, path)


def selected() -> Iterator[Any]:
    """Each component as it is by default, or with what has failed before; the others take minutes."""
    for name, case in CASES.items():
        default = name == case.component and name not in COMPARED and f"{name}:three classes" not in CASES
        quick = default or "three classes" in name
        yield pytest.param(name, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("name", list(selected()))
def test_an_alternative_runs(answers: dict[str, Any], name: str) -> None:
    answer = answers[name]
    assert answer["status"] == "success", answer["error"]
    assert answer["result"]["outputs"]
