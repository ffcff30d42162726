"""Nothing is revealed of fewer rows than the operator's settings say, by any task type; what is above is as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.settings import Settings
from tests.jobs.components import HEU, Platform, node, table, vertical
from tests.running_worker import FLOORS, RunningWorker, envelope

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}
THREE = ["alice", "bob", "carol"]
LEAST = 3
ROWS = 60
SENTINEL = 73541286.25
"""A value of few rows that must not be told."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A worker that reveals nothing of fewer than three."""
    directory = tmp_path_factory.mktemp("floored")
    for party in THREE:
        (directory / party).mkdir()
    roots = json.dumps({party: [str(directory / party)] for party in THREE})
    floors = {**dict.fromkeys(FLOORS, "3"), "reveal_empty_intersections": "false"}
    with (
        EmbeddedRedis("--appendfsync", "no") as redis,
        RunningWorker(redis.url, directory, data_roots=roots, **floors) as worker,
    ):
        yield Platform(worker, directory)


@pytest.fixture
def platform(running: Platform) -> Platform:
    """The worker of all tests, with nobody's outputs."""
    for output in running.directory.glob("*/out*"):
        shutil.rmtree(output) if output.is_dir() else output.unlink()
    return running


def write(platform: Platform, frames: dict[str, pd.DataFrame], name: str = "in.csv") -> None:
    for party, frame in frames.items():
        frame.to_csv(platform.root(party) / name, index=False)


def both(rows: int) -> dict[str, pd.DataFrame]:
    """Files of both parties whose n-th rows belong together."""
    draw = np.random.default_rng(rows)
    x, z = draw.normal(size=rows), draw.normal(size=rows)
    y = (np.arange(rows) % 2).astype(int)
    return {
        "alice": pd.DataFrame({"id": [f"case-{row}" for row in range(rows)], "x": x, "y": y, "p": (y + x / 9) / 2}),
        "bob": pd.DataFrame(
            {"id2": [f"case-{row}" for row in range(rows)], "z": z, "g": [row % 4 for row in range(rows)]}
        ),
    }


def run(platform: Platform, task: dict[str, Any], parties: list[str] | None = None) -> dict[str, Any]:
    named = {} if parties is None else {"sf_init_config": {"parties": parties, "address": "local"}}
    return platform.worker.run(envelope(task, spu_config=SPU, heu_config=HEU, **named))


def refused(platform: Platform, result: dict[str, Any], setting: str) -> None:
    """The job failed for the floor, for good, and told nothing else, in whatever it wrote."""
    assert (result["status"], result["error_type"]) == ("failure", "InputDataError"), result
    assert setting in result["error"]
    said = json.dumps(result) + platform.worker.log()
    assert str(SENTINEL) not in said
    assert not [name for party in ("alice", "bob") for name in platform.files(party) if name.startswith("out")]


def psi(parties: list[str], **more: Any) -> dict[str, Any]:
    return {
        "task_type": "psi",
        "keys": {party: ["id"] for party in parties},
        "input_paths": dict.fromkeys(parties, "in.csv"),
        "output_paths": dict.fromkeys(parties, "out.csv"),
        "receiver": parties[0],
        **more,
    }


def keyed(mine: int, common: int, repeated: int = 1) -> pd.DataFrame:
    """`mine` keys of a party's own, and `common` ones, each `repeated` times."""
    own = [f"{np.random.default_rng().integers(2**60)}" for _ in range(mine)]
    return pd.DataFrame({"id": own + [f"common-{key}" for key in range(common)] * repeated})


JOINS: list[dict[str, Any]] = [
    *({"protocol": name} for name in ("PROTOCOL_RR22", "PROTOCOL_KKRT", "PROTOCOL_ECDH")),
    {"broadcast_result": False},
    *({"join_type": name} for name in ("left", "full", "difference")),
    {"task_type": "unbalanced_psi", "server": "bob"},
    {"task_type": "unbalanced_psi", "server": "alice", "join_type": "left", "broadcast_result": False},
]


def joins() -> Iterator[Any]:
    """Each join below the floor, and one of each program at it; all others take the same code."""
    for join in JOINS:
        for common in (0, 1, LEAST - 1, LEAST):
            name = f"{common}-{'-'.join(map(str, join.values()))}"
            quick = common == LEAST - 1 or (common == LEAST and join in (JOINS[0], JOINS[-1]))
            yield pytest.param(join, common, id=name, marks=() if quick else pytest.mark.slow)


@pytest.mark.attack("results")
@pytest.mark.parametrize(("join", "common"), list(joins()))
def test_an_intersection_of_too_few_keys_is_not_told(platform: Platform, join: dict[str, Any], common: int) -> None:
    """Keys that are repeated count once."""
    write(platform, {party: keyed(9, common, repeated=4) for party in ("alice", "bob")})
    result = run(platform, psi(["alice", "bob"], **join))
    if common < LEAST:
        refused(platform, result, "SFWORKER_MIN_INTERSECTION_ROWS")
    else:
        assert result["status"] == "success", result
        assert result["result"]["intersection_count"] == LEAST * 16


@pytest.mark.attack("results")
def test_refusals_of_none_and_of_few_are_the_same(platform: Platform) -> None:
    said = set()
    for common in (0, 1, LEAST - 1):
        write(platform, {party: keyed(9, common) for party in ("alice", "bob")})
        said.add(run(platform, psi(["alice", "bob"]))["error"])
    assert len(said) == 1


@pytest.mark.attack("results")
@pytest.mark.parametrize("common", [LEAST - 1, LEAST])
def test_an_intersection_of_three(platform: Platform, common: int) -> None:
    write(platform, {party: keyed(9, common, repeated=4) for party in THREE})
    result = run(platform, psi(THREE, protocol="PROTOCOL_ECDH_3PC"), THREE)
    if common < LEAST:
        refused(platform, result, "SFWORKER_MIN_INTERSECTION_ROWS")
    else:
        assert result["result"]["intersection_count"] == common * 64


@pytest.mark.attack("results")
@pytest.mark.parametrize("join", ["inner_join", "full_join", "difference"])
@pytest.mark.parametrize("common", [LEAST - 1, LEAST])
def test_an_intersection_of_the_component(platform: Platform, join: str, common: int) -> None:
    write(platform, {party: keyed(9, common, repeated=2).assign(**{f"of_{party}": 1.0}) for party in ("alice", "bob")})
    tables = [table(party, "in.csv", {f"of_{party}": "float64"}, ["id"]) for party in ("alice", "bob")]
    attributes = {"join_type": join, "input/input_ds1/keys": ["id"], "input/input_ds2/keys": ["id"]}
    result = platform.answer(node("data_prep/psi:1.0.0", tables, ["out.orc", "out-report"], attributes))
    if common < LEAST:
        refused(platform, result, "SFWORKER_MIN_INTERSECTION_ROWS")
    else:
        assert result["status"] == "success", result


INPUTS = dict.fromkeys(("alice", "bob"), "in.csv")
LABEL, PREDICTION = {"party": "alice", "column": "y"}, {"party": "alice", "column": "p"}
SHARED: dict[str, Any] = {"input_paths": INPUTS, "keys": {"alice": ["id", "p"], "bob": ["id2", "g"]}}
MODEL = dict.fromkeys(("alice", "bob"), "out-model")
AT_ALICE = {"input_paths": {"alice": "in.csv"}, "label": LABEL, "prediction": PREDICTION}
OUT, OUT2 = dict.fromkeys(INPUTS, "out.csv"), dict.fromkeys(INPUTS, "out2.csv")
CHOICES: list[dict[str, Any]] = [
    {"task_type": "sample", "input_paths": INPUTS, "output_paths": OUT, "n": 9, "replace": True},
    {"task_type": "train_test_split", "input_paths": INPUTS, "train_paths": OUT, "test_paths": OUT2},
]
TASKS: list[dict[str, Any]] = [
    {"task_type": "table_statistics", **SHARED},
    {"task_type": "population_stability", **SHARED, "test_paths": INPUTS},
    {"task_type": "pearson_correlation", **SHARED},
    {"task_type": "vif", **SHARED},
    {"task_type": "groupby_statistics", "input_paths": INPUTS, "by": {"bob": ["g"]}, "values": {"alice": ["x"]}},
    {"task_type": "biclassification_eval", **AT_ALICE},
    {"task_type": "regression_eval", **AT_ALICE},
    {"task_type": "prediction_bias_eval", **AT_ALICE},
    *(
        {"task_type": name, **SHARED, "label": LABEL, "model_path": MODEL, **more}
        for name, more in {"ss_lr": {}, "ss_glm": {"distribution": "Bernoulli"}, "ss_xgb": {}, "sgb": {}}.items()
    ),
    {
        "task_type": "binning",
        "input_paths": INPUTS,
        "features": {"bob": ["z"]},
        "label": LABEL,
        "substitution": "woe",
        "output_paths": dict.fromkeys(("alice", "bob"), "out.csv"),
    },
    *CHOICES,
    {
        "task_type": "scorecard",
        "input_paths": {"alice": "in.csv"},
        "output_paths": {"alice": "out.csv"},
        "prediction": PREDICTION,
    },
    {
        "task_type": "condition_filter",
        "input_paths": INPUTS,
        "output_paths": dict.fromkeys(("alice", "bob"), "out.csv"),
        "condition": {"party": "alice", "column": "y", "comparator": ">=", "value": 0},
    },
]


@pytest.mark.attack("results")
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["task_type"])
@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), LEAST - 1])
def test_a_file_of_too_few_rows_is_refused(platform: Platform, task: dict[str, Any], rows: int) -> None:
    frames = both(rows)
    frames["alice"]["x"] = SENTINEL
    write(platform, frames)
    refused(platform, run(platform, task), "SFWORKER_MIN_INPUT_ROWS")


@pytest.mark.attack("results")
def test_a_model_is_not_applied_to_a_file_of_too_few_rows(platform: Platform) -> None:
    write(platform, both(ROWS))
    trained = {"task_type": "ss_lr", **SHARED, "label": LABEL, "model_path": MODEL, "epochs": 1}
    assert run(platform, trained)["status"] == "success"
    applied = {"input_paths": INPUTS, "model_path": MODEL}
    predicted = {"task_type": "ss_lr_predict", **applied, "receiver": "alice", "output_paths": {"alice": "told.csv"}}
    for task in (predicted, {"task_type": "p_value", **applied}):
        assert run(platform, task)["status"] == "success"
    write(platform, both(LEAST - 1))
    for task in (predicted | {"output_paths": {"alice": "none.csv"}}, {"task_type": "p_value", **applied}):
        result = run(platform, task)
        assert "SFWORKER_MIN_INPUT_ROWS" in result["error"], result
    assert not (platform.root("alice") / "none.csv").exists()


def test_a_party_without_columns_is_no_file_of_too_few_rows(platform: Platform) -> None:
    write(platform, both(ROWS))
    for task in TASKS[:2]:
        assert run(platform, task | {"features": {"alice": ["x"]}})["status"] == "success"


@pytest.mark.attack("results")
def test_a_column_with_too_few_values_is_refused(platform: Platform) -> None:
    frames = both(ROWS)
    frames["alice"].loc[LEAST - 1 :, "x"] = None
    write(platform, frames)
    result = run(platform, TASKS[0])
    refused(platform, result, "SFWORKER_MIN_INPUT_ROWS")
    assert "'x'" in result["error"]


@pytest.mark.attack("results")
def test_groups_by_an_id_are_refused_and_small_ones_left_out(platform: Platform) -> None:
    frames = both(ROWS)
    frames["bob"]["g"] = [0] * (ROWS - 2) + [1] * 2
    write(platform, frames)
    task = {**TASKS[4], "min_group_size": 1}
    refused(platform, run(platform, {**task, "by": {"bob": ["id2"]}}), "SFWORKER_MIN_GROUP_ROWS")
    told = run(platform, task)["result"]
    assert [group["count"] for group in told["groups"]] == [ROWS - 2]
    assert told["suppressed_groups"] == 1


@pytest.mark.attack("results")
def test_labels_of_too_few_rows_are_not_evaluated(platform: Platform) -> None:
    frames = both(ROWS)
    frames["alice"]["y"] = [1] * 2 + [0] * (ROWS - 2)
    write(platform, frames)
    task = next(task for task in TASKS if task["task_type"] == "biclassification_eval")
    refused(platform, run(platform, task), "SFWORKER_MIN_GROUP_ROWS")


@pytest.mark.attack("results")
def test_evaluations_have_no_small_buckets(platform: Platform) -> None:
    write(platform, both(ROWS))
    by_name = {task["task_type"]: task for task in TASKS}
    classes = run(platform, by_name["biclassification_eval"] | {"min_item_cnt_per_bucket": 1, "bucket_count": 50})
    assert min(bucket["rows"] for bucket in classes["result"]["buckets"]) >= LEAST
    residues = run(platform, by_name["regression_eval"] | {"bucket_count": 60})["result"]["residual_histogram"]
    biases = run(platform, by_name["prediction_bias_eval"] | {"bucket_count": 60})["result"]["buckets"]
    for buckets in (residues, biases):
        assert sum(bucket["rows"] for bucket in buckets) == ROWS
        assert not [bucket for bucket in buckets if 0 < bucket["rows"] < LEAST]


@pytest.mark.attack("results")
@pytest.mark.parametrize(
    ("method", "substitution"), [("equal_frequency", "woe"), ("chimerge", "woe"), ("chimerge", "bin")]
)
def test_bins_of_too_few_rows_are_not_told(platform: Platform, method: str, substitution: str) -> None:
    """ChiMerge starts from larger bins."""
    write(platform, both(ROWS))
    task = next(task for task in TASKS if task["task_type"] == "binning")
    bins = {"method": method, "substitution": substitution, "min_bin_rows": 1, "bin_num": 50, "chimerge_init_bins": 50}
    result = run(platform, task | bins)
    if method == "equal_frequency":
        refused(platform, result, "SFWORKER_MIN_BIN_ROWS")
    else:
        assert result["status"] == "success", result


@pytest.mark.attack("results")
def test_bins_in_the_result_have_no_few_rows(platform: Platform) -> None:
    """Those of the label's party neither, which nobody learns otherwise."""
    write(platform, both(ROWS))
    task = next(task for task in TASKS if task["task_type"] == "binning")
    task = {**task, "features": {"alice": ["x"]}, "min_bin_rows": 1, "bin_num": 50, "chimerge_init_bins": 50}
    refused(platform, run(platform, {**task, "reveal_bins": "counts"}), "SFWORKER_MIN_BIN_ROWS")
    merged = run(platform, {**task, "reveal_bins": "ranges", "method": "chimerge"})
    assert min(each["rows"] for each in merged["result"]["bins"]) >= LEAST
    assert run(platform, task)["status"] == "success"


@pytest.mark.attack("results")
def test_stability_of_small_bins_is_not_told(platform: Platform) -> None:
    write(platform, both(ROWS))
    task = {"task_type": "population_stability", **SHARED, "test_paths": INPUTS}
    assert run(platform, task)["status"] == "success"
    refused(platform, run(platform, task | {"bin_num": 40}), "SFWORKER_MIN_BIN_ROWS")


@pytest.mark.attack("results")
def test_a_condition_of_few_rows_is_not_told(platform: Platform) -> None:
    write(platform, both(ROWS))
    one = {"party": "alice", "column": "id", "comparator": "==", "value": "case-7"}
    few = run(platform, TASKS[-1] | {"condition": one})
    refused(platform, few, "SFWORKER_MIN_GROUP_ROWS")
    none = run(platform, TASKS[-1] | {"condition": {**one, "value": "nobody"}})
    assert none["error"] == few["error"]
    refused(platform, run(platform, TASKS[-1] | {"condition": {**one, "comparator": "!="}}), "SFWORKER_MIN_GROUP_ROWS")


@pytest.mark.attack("results")
def test_values_of_few_rows_choose_none(platform: Platform) -> None:
    frames = both(ROWS)
    frames["alice"]["y"] = [1] * (LEAST - 1) + [0] * (ROWS - LEAST + 1)
    write(platform, frames)
    for task in CHOICES:
        assert run(platform, task)["status"] == "success", task
        for path in platform.directory.glob("*/out*"):
            path.unlink()
        refused(platform, run(platform, task | {"stratify": LABEL}), "SFWORKER_MIN_GROUP_ROWS")


def joined() -> dict[str, Any]:
    types = {"x": "float64", "p": "float64"}
    return vertical(
        table("alice", "in.csv", types, ["id"], {"y": "int64"}),
        table("bob", "in.csv", {"z": "float64", "g": "int64"}, ["id2"]),
    )


SELECTS = {
    "stats/table_statistics:1.0.2": "input/input_ds/features",
    "stats/ss_pearsonr:1.0.0": "input/input_ds/feature_selects",
    "stats/ss_vif:1.0.0": "input/input_ds/feature_selects",
}


@pytest.mark.attack("results")
@pytest.mark.parametrize("component", SELECTS)
def test_components_refuse_files_of_few_rows(platform: Platform, component: str) -> None:
    write(platform, both(LEAST - 1))
    parameter = node(component, [joined()], ["out-report"], {SELECTS[component]: ["x", "z"]})
    refused(platform, platform.answer(parameter), "SFWORKER_MIN_INPUT_ROWS")


@pytest.mark.attack("results")
def test_filters_of_components_tell_no_few_rows(platform: Platform) -> None:
    frames = both(ROWS)
    frames["bob"]["w"] = range(ROWS)
    write(platform, frames)
    tables = vertical(
        table("alice", "in.csv", {"x": "float64", "p": "float64"}, ["id"], {"y": "int64"}),
        table("bob", "in.csv", {"z": "float64", "w": "int64"}, ["id2"]),
    )

    def answer(component: str, attributes: dict[str, Any]) -> Any:
        outputs = ["out.orc", "out-else.orc"]
        return platform.answer(node(f"data_filter/{component}:1.0.0", [tables], outputs, attributes))

    for value in (1, ROWS - LEAST):
        few = {"comparator": ">", "bound_value": str(value), "input/input_ds/feature": ["w"]}
        refused(platform, answer("condition_filter", few), "SFWORKER_MIN_GROUP_ROWS")
    for few_rows in ("w = 7", "w <> 7"):
        refused(platform, answer("expr_condition_filter", {"expr": few_rows}), "SFWORKER_MIN_GROUP_ROWS")
    assert answer("expr_condition_filter", {"expr": f"w < {LEAST}"})["status"] == "success"


@pytest.mark.attack("results")
@pytest.mark.parametrize("device", ["spu", "heu"])
def test_components_tell_no_small_bins(platform: Platform, device: str) -> None:
    write(platform, both(ROWS))
    options = {
        "secure_device_type": device,
        "binning_method": "quantile",
        "bin_num": 40,
        "report_rules": True,
        "input/input_ds/feature_selects": ["z"],
        "input/input_ds/label": ["y"],
    }
    outputs = ["out.orc", "out-rule", "out-report"]
    parameter = node("preprocessing/vert_woe_binning:1.0.0", [joined()], outputs, options)
    refused(platform, platform.answer(parameter, heu_config=HEU), "SFWORKER_MIN_BIN_ROWS")


@pytest.mark.attack("results")
def test_components_leave_out_small_groups(platform: Platform) -> None:
    frames = both(ROWS)
    frames["bob"]["g"] = [0] * (ROWS - 2) + [1] * 2
    frames["bob"]["h"] = range(ROWS)
    write(platform, frames)
    tables = vertical(
        table("alice", "in.csv", {"x": "float64", "p": "float64"}, ["id"], {"y": "int64"}),
        table("bob", "in.csv", {"z": "float64", "g": "int64", "h": "int64"}, ["id2"]),
    )
    queries = json.dumps({"column_queries": [{"column_name": "x", "function": "MEAN"}]})
    for by, remains in (("g", 1), ("h", 0)):
        parameter = node(
            "stats/groupby_statistics:1.0.0",
            [tables],
            ["out-report"],
            {"aggregation_config": queries, "input/input_ds/by": [by]},
        )
        result = platform.answer(parameter)
        if not remains:
            refused(platform, result, "SFWORKER_MIN_GROUP_ROWS")
            continue
        [report] = result["result"]["reports"]
        [told] = report["tables"]
        assert len(told["rows"]) == remains
        assert np.isclose(float(told["rows"][0][-1]), frames["alice"]["x"][:-2].mean(), atol=1e-4)


@pytest.mark.attack("results")
def test_the_defaults_refuse_single_rows_and_answer_that_there_is_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("defaults")
    defaults = {name: str(getattr(Settings(), name)) for name in FLOORS}
    roots = json.dumps({party: [str(directory / party)] for party in ("alice", "bob")})
    for party in ("alice", "bob"):
        (directory / party).mkdir()
    with (
        EmbeddedRedis("--appendfsync", "no") as redis,
        RunningWorker(redis.url, directory, data_roots=roots, **defaults) as worker,
    ):
        platform = Platform(worker, directory)
        for common, status in ((0, "success"), (1, "failure"), (2, "success")):
            write(platform, {party: keyed(5, common) for party in ("alice", "bob")})
            result = run(platform, psi(["alice", "bob"]))
            assert result["status"] == status, result
            if status == "success":
                assert result["result"]["intersection_count"] == common
                assert bool(result["result"]["warnings"]) == (common == 0)
        write(platform, {"alice": keyed(0, 1), "bob": keyed(5, 3)})
        assert "SFWORKER_MIN_INPUT_ROWS" in run(platform, psi(["alice", "bob"]))["error"]
        statistics = {"task_type": "table_statistics", "input_paths": {"alice": "in.csv"}, "keys": {"alice": []}}
        assert "SFWORKER_MIN_INPUT_ROWS" in run(platform, statistics)["error"]
