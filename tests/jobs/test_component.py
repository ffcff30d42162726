"""`component`: SecretFlow's components through a worker (SEMI2K), compared with pandas and scikit-learn."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import secretflow.component  # noqa: F401 - registers them
from google.protobuf import json_format
from pyarrow import orc
from secretflow_spec import Registry
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score

from sfworker.catalog.component import ComponentParams, NodeEvalParam, read
from sfworker.components import params as component_params
from sfworker.components.evaluate import use_careful_libraries  # noqa: F401 - allows what components send
from sfworker.errors import ParameterValidationError
from tests.jobs.components import HEU, Platform, attribute, node, running, table, vertical
from tests.running_worker import RunningWorker, envelope, until

SGD = "ml.train/ss_sgd_train:1.0.0"
PREDICT = "ml.predict/ss_sgd_predict:1.0.0"
ROWS = 569
OWN, OTHERS = ["f0", "f1", "f2"], ["f3", "f4", "f5"]
FEATURES = [*OWN, *OTHERS]
SELECTED = {"input/input_ds/feature_selects": FEATURES}
LABELLED = {**SELECTED, "input/input_ds/label": ["y"]}
PREDICTED = {"receiver": ["alice"], "save_ids": True, "save_label": True}
FIGURE_TOLERANCE = 1e-9
CORRELATION_TOLERANCE = 1e-6
VIF_TOLERANCE = 1e-6
WEIGHT_TOLERANCE = 1e-5
AUC_TOLERANCE = 0.01
WHERE = "task_config.node_eval_param"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("components")) as made:
        write_tables(made)
        yield made


def write_tables(platform: Platform) -> None:
    frame = whole()
    frame[["id1", *OWN, "y", "colour", "gap"]].to_csv(platform.root("alice") / "own.csv", index=False)
    frame[["id2", *OTHERS]].to_csv(platform.root("bob") / "others.csv", index=False)
    frame.sample(frac=0.9, random_state=1)[["id2", *OTHERS]].to_csv(platform.root("bob") / "some.csv", index=False)


def whole() -> pd.DataFrame:
    """Six features of breast_cancer with mean 0 and deviation 1, and columns that need work."""
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(axis=0)) / x.std(axis=0))[:, [1, 4, 7, 21, 24, 28]]
    frame = pd.DataFrame(x, columns=FEATURES).assign(y=y)
    ids = [f"客户{number:04d}" for number in range(ROWS)]
    colours = [["红", "green", "blue"][number % 3] for number in range(ROWS)]
    gap = np.where(np.arange(ROWS) % 10 == 0, np.nan, x[:, 0])
    return frame.assign(id1=ids, id2=ids, colour=colours, gap=gap)


ALICE = table("alice", "own.csv", {**dict.fromkeys([*OWN, "gap"], "float64"), "colour": "str"}, ["id1"], {"y": "int64"})
BOB = table("bob", "others.csv", dict.fromkeys(OTHERS, "float64"), ["id2"])
JOINED = vertical(ALICE, BOB)


def figures(answer: Any) -> pd.DataFrame:
    made = answer["reports"][0]["tables"][0]
    return pd.DataFrame(made["rows"], columns=made["columns"], index=made["index"])


def descriptions(answer: Any) -> dict[str, Any]:
    return dict(answer["reports"][0]["tables"][0]["rows"])


def written(platform: Platform, party: str, uri: str) -> pd.DataFrame:
    return orc.read_table(str(platform.root(party) / uri)).to_pandas()


# --- components, run


def test_psi_then_a_regression_then_its_predictions(platform: Platform) -> None:
    some = {**BOB, "data_refs": [{**BOB["data_refs"][0], "uri": "some.csv"}]}
    keys = {"input/input_ds1/keys": ["id1"], "input/input_ds2/keys": ["id2"], "protocol": "PROTOCOL_RR22"}
    joined = platform.run(node("data_prep/psi:1.0.0", [ALICE, some], ["chain/joined", "chain/report"], keys))
    expected = whole().merge(pd.read_csv(platform.root("bob") / "some.csv")[["id2"]], on="id2")
    alice, bob = written(platform, "alice", "chain/joined"), written(platform, "bob", "chain/joined")
    assert list(alice["id1"]) == list(bob["id2"])
    assert set(alice["id1"]) == set(expected["id1"])
    assert alice["gap"].isna().sum() == expected["gap"].isna().sum()
    assert figures(joined)["intersection_count"].tolist() == [len(expected)] * 2
    training = {**LABELLED, "epochs": 5, "learning_rate": 0.3, "batch_size": 64}
    trained = node(SGD, joined["outputs"][:1], ["chain/model", "chain/weights"], training)
    model = platform.run(trained)["outputs"][0]
    assert [reference["uri"] for reference in model["data_refs"]] == ["chain/model/0"] * 2
    assert "chain/model/0" in platform.files("bob")
    assert platform.run(node(PREDICT, [model, joined["outputs"][0]], ["chain/predicted"], PREDICTED))["reports"] == []
    predicted = written(platform, "alice", "chain/predicted")
    assert "chain/predicted" not in platform.files("bob")
    truth = expected.set_index("id1").loc[predicted["id1"]]
    plain = LogisticRegression().fit(truth[FEATURES], truth["y"]).predict_proba(truth[FEATURES])[:, 1]
    assert abs(roc_auc_score(truth["y"], predicted["pred"]) - roc_auc_score(truth["y"], plain)) < AUC_TOLERANCE


def test_table_statistics_are_those_of_pandas(platform: Platform) -> None:
    columns = {"input/input_ds/features": [*FEATURES, "gap"]}
    frame = whole()[[*FEATURES, "gap"]]
    answer = platform.run(node("stats/table_statistics:1.0.2", [JOINED], ["statistics"], columns))
    report = figures(answer).loc[frame.columns]
    assert report["count_na(NA count)"].astype(int).tolist() == frame.isna().sum().tolist()
    for theirs, ours in (("mean", "mean"), ("std(standard deviation)", "std"), ("skew", "skew"), ("max", "max")):
        assert np.abs(report[theirs].astype(float) - getattr(frame, ours)()).max() < FIGURE_TOLERANCE


@pytest.mark.parametrize("protocol", ["SEMI2K", "CHEETAH"])
def test_correlations_are_those_of_numpy(platform: Platform, protocol: str) -> None:
    parameter = node("stats/ss_pearsonr:1.0.0", [JOINED], ["correlations"], SELECTED)
    report = figures(platform.run(parameter, {"protocol": protocol}))
    # Upstream divides by rows where it standardises, and by one less afterwards.
    plain = np.corrcoef(whole()[FEATURES].T) * ROWS / (ROWS - 1)
    assert np.abs(report[FEATURES].to_numpy(dtype=float) - plain).max() < CORRELATION_TOLERANCE


def test_variance_inflation_is_that_of_numpy(platform: Platform) -> None:
    report = descriptions(platform.run(node("stats/ss_vif:1.0.0", [JOINED], ["vif"], SELECTED)))
    plain = np.diag(np.linalg.inv(np.corrcoef(whole()[FEATURES].T) * ROWS / (ROWS - 1)))
    assert np.abs(np.array(list(report.values())) / plain - 1).max() < VIF_TOLERANCE


def test_a_glm_gets_the_arithmetic_it_needs_and_its_weights_are_those_of_least_squares(platform: Platform) -> None:
    training = {**LABELLED, "epochs": 1, "link_type": "Identity", "label_dist_type": "Tweedie", "optimizer": "IRLS"}
    training |= {"tweedie_power": 0.0, "report_weights": True, "batch_size": 1024, "l2_lambda": 0.0}
    parameter = node("ml.train/ss_glm_train:1.1.0", [JOINED], ["glm/model", "glm/report"], training)
    # Too small for the sums of squares; the component asks for FM128 with 40.
    small = {"field": "FM64", "fxp_fraction_bits": 18}
    answer = platform.run(parameter, small)
    plain = LinearRegression().fit(whole()[FEATURES], whole()["y"])
    weights = descriptions(answer)
    assert max(abs(weights[name] - plain.coef_[at]) for at, name in enumerate(FEATURES)) < WEIGHT_TOLERANCE
    model = answer["outputs"][0]
    platform.run(node("ml.predict/ss_glm_predict:1.1.0", [model, JOINED], ["glm/predicted"], PREDICTED), small)
    predicted = written(platform, "alice", "glm/predicted")
    assert np.abs(predicted["pred"] - plain.predict(whole()[FEATURES])).max() < WEIGHT_TOLERANCE
    values = descriptions(platform.run(node("ml.eval/ss_pvalue:1.0.0", [model, JOINED], ["glm/pvalue"], {}), small))
    assert set(values) == {*(f"feature/{name}" for name in FEATURES), "bias"}


@pytest.mark.parametrize("kind", ["ss_sgd", "ss_glm"])
def test_a_gradient_descent_uses_every_row(platform: Platform, kind: str) -> None:
    """SecretFlow's own leaves out the rows after the last full batch, here 57."""
    training: dict[str, Any] = {
        **LABELLED,
        "epochs": 3,
        "learning_rate": 0.3,
        "batch_size": 512,
        "report_weights": True,
    }
    if kind == "ss_sgd":
        training |= {"reg_type": "linear", "sig_type": "t1"}
    else:
        training |= {"link_type": "Identity", "label_dist_type": "Tweedie", "tweedie_power": 0.0, "optimizer": "SGD"}
        training |= {"l2_lambda": 0.0}
    version = {"ss_sgd": "1.0.0", "ss_glm": "1.1.0"}[kind]
    answer = platform.run(node(f"ml.train/{kind}_train:{version}", [JOINED], ["all/model", "all/report"], training))
    found = descriptions(answer)
    x = np.column_stack([whole()[FEATURES], np.ones(ROWS)])
    weights = np.zeros(len(FEATURES) + 1)
    for batch in np.array_split(np.arange(ROWS), 2) * 3:
        weights -= 0.3 * x[batch].T @ (x[batch] @ weights - whole()["y"].to_numpy()[batch]) / len(batch)
    assert [found[name] for name in FEATURES] == pytest.approx(weights[:-1].tolist(), abs=WEIGHT_TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("ss_xgb", {"num_boost_round": 2, "subsample": 1.0}), ("sgb", {"num_boost_round": 3, "learning_rate": 0.3})],
)
def test_boosted_trees(platform: Platform, kind: str, options: dict[str, Any]) -> None:
    version = {"ss_xgb": "1.0.0", "sgb": "1.1.0"}[kind]
    outputs = {"ss_xgb": [f"{kind}/model"], "sgb": [f"{kind}/model", f"{kind}/report"]}[kind]
    training = {**LABELLED, "max_depth": 3, "colsample_by_tree": 1.0, **options}
    trained = platform.run(node(f"ml.train/{kind}_train:{version}", [JOINED], outputs, training), heu_config=HEU)
    inputs = [trained["outputs"][0], JOINED]
    platform.run(node(f"ml.predict/{kind}_predict:1.0.0", inputs, [f"{kind}/predicted"], PREDICTED))
    predicted = written(platform, "alice", f"{kind}/predicted")
    assert roc_auc_score(predicted["y"], predicted["pred"]) > 0.97


def test_a_chain_of_preprocessing_and_its_rules_on_other_rows(platform: Platform) -> None:
    filling = {"input/input_ds/fill_na_features": ["gap"], "float_fill_strategy": "mean"}
    filled = platform.run(node("preprocessing/fillna:1.0.0", [JOINED], ["prep/filled", "prep/fill"], filling))
    scaling = {"input/input_ds/features": ["gap"], "rules": '{"op": "NORMALIZATION"}'}
    inputs = [filled["outputs"][0]]
    scaled = platform.run(node("preprocessing/feature_calculate:1.0.0", inputs, ["prep/scaled", "prep/scale"], scaling))
    encoding = {"input/input_ds/features": ["colour"], "drop": "no_drop"}
    outputs = ["prep/encoded", "prep/encode", "prep/report"]
    inputs = [scaled["outputs"][0]]
    encoded = platform.run(node("preprocessing/onehot_encode:1.0.0", inputs, outputs, encoding))
    frame = whole()
    gap = frame["gap"].fillna(frame["gap"].mean())
    made = written(platform, "alice", "prep/encoded")
    assert np.abs(made["gap"] - (gap - gap.min()) / (gap.max() - gap.min())).max() < FIGURE_TOLERANCE
    assert [made[f"colour_{number}"].sum() for number in range(3)] == frame["colour"].value_counts().tolist()
    again = platform.run(node("preprocessing/substitution:1.0.0", [JOINED, filled["outputs"][1]], ["prep/again"], {}))
    pd.testing.assert_frame_equal(
        written(platform, "alice", "prep/again"), written(platform, "alice", "prep/filled"), check_exact=True
    )
    assert again["outputs"][0]["type"] == encoded["outputs"][0]["type"] == "sf.table.vertical"


@pytest.mark.parametrize("device", ["spu", "heu"])
def test_woe_binning_counts_as_pandas_does(platform: Platform, device: str) -> None:
    options = {"input/input_ds/feature_selects": ["f0", "f4"], "input/input_ds/label": ["y"], "bin_num": 4}
    options |= {"secure_device_type": device, "positive_label": "1", "report_rules": True}
    outputs = [f"woe/{device}", f"woe/{device}-rule", f"woe/{device}-report"]
    answer = platform.run(node("preprocessing/vert_woe_binning:1.0.0", [JOINED], outputs, options), heu_config=HEU)
    reports = {each["name"].split("/")[-1]: each for each in answer["reports"][0]["tables"]}
    frame = whole()
    for name in ("f0", "f4"):
        bins = pd.qcut(frame[name], 4)
        rates = frame["y"].groupby(bins, observed=True).mean().to_numpy()
        rows = pd.DataFrame(reports[name]["rows"], columns=reports[name]["columns"])
        shown = rows["positive_rate"][: len(rates)].astype(float).to_numpy()
        assert np.abs(shown - rates).max() < 0.02  # bins' edges may put a row into its neighbour


def test_rules_can_be_read_and_written(platform: Platform) -> None:
    options = {"input/input_ds/feature_selects": ["f0"], "bin_num": 4}
    outputs = ["bins/binned", "bins/rule", "bins/report"]
    rule = platform.run(node("preprocessing/vert_binning:1.0.0", [JOINED], outputs, options))["outputs"][1]
    shown = platform.run(node("io/read_data:1.0.0", [rule], ["bins/shown"], {}))["outputs"][0]["meta"]
    assert shown["@type"].endswith("Bins")
    assert shown["variable_bins"][0]["feature_name"] == "f0"


# --- what a component may touch


def test_sql_of_a_component_reads_no_files(platform: Platform) -> None:
    kept = node("data_filter/expr_condition_filter:1.0.0", [JOINED], ["sql/yes", "sql/no"], {"expr": "f0 > 0.5"})
    platform.run(kept)
    assert len(written(platform, "bob", "sql/yes")) == (whole()["f0"] > 0.5).sum()
    reading = "f0 > (SELECT count(*) FROM read_csv('/etc/passwd'))"
    result = platform.answer(
        node("data_filter/expr_condition_filter:1.0.0", [JOINED], ["sql/a", "sql/b"], {"expr": reading})
    )
    assert (result["status"], result["error_type"]) == ("failure", "InputDataError")
    assert "passwd" not in result["error"]


def test_a_model_that_holds_code_is_refused(platform: Platform, tmp_path: Path) -> None:
    outputs = ["code/model", "code/report"]
    training = {**LABELLED, "epochs": 1, "batch_size": 256}
    model = platform.run(node(SGD, [JOINED], outputs, training))["outputs"][0]
    trace = tmp_path / "ran"
    (platform.root("bob") / "code/model/0").write_bytes(pickle.dumps(_Toucher(trace)))
    result = platform.answer(node(PREDICT, [model, JOINED], ["code/predicted"], PREDICTED))
    assert (result["status"], result["error_type"]) == ("failure", "ModelMismatchError")
    assert not trace.exists()


class _Toucher:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_shares_of_another_arithmetic_are_refused(platform: Platform) -> None:
    outputs = ["field/model", "field/report"]
    training = {**LABELLED, "epochs": 1, "batch_size": 256}
    model = platform.run(node(SGD, [JOINED], outputs, training))["outputs"][0]
    predict = node(PREDICT, [model, JOINED], ["field/predicted"], PREDICTED)
    result = platform.answer(predict, {"field": "FM64", "fxp_fraction_bits": 18})
    assert result["error_type"] == "ModelMismatchError"
    assert "SEMI2K FM128 with 40 fraction bits" in result["error"]


def test_a_failed_component_leaves_nothing(platform: Platform) -> None:
    strangers = pd.DataFrame({"id2": ["nobody"], "f3": [1.0]})
    strangers.to_csv(platform.root("bob") / "strangers.csv", index=False)
    before = {party: platform.files(party) for party in ("alice", "bob")}
    keys = {"input/input_ds1/keys": ["id1"], "input/input_ds2/keys": ["id2"]}
    other = table("bob", "strangers.csv", {"f3": "float64"}, ["id2"])
    result = platform.answer(node("data_prep/psi:1.0.0", [ALICE, other], ["nothing/ds", "nothing/report"], keys))
    assert (result["status"], result["error_type"]) == ("failure", "InputDataError")
    # A failed job is answered before what it made is removed.
    until(lambda: {party: platform.files(party) for party in ("alice", "bob")} == before, 5)


def test_training_goes_on_from_a_checkpoint(platform: Platform) -> None:
    training = {**LABELLED, "epochs": 2, "batch_size": 256}
    parameter = node(SGD, [JOINED], ["cp/model", "cp/report"], training, checkpoint_uri="cp/checkpoint")

    platform.run(parameter)
    root = platform.root("bob")
    assert {"cp/checkpoint_0", "cp/checkpoint_1", "cp/model_checkpoint_1/0"} <= platform.files("bob")
    first_step = (root / "cp/checkpoint_0").stat().st_mtime_ns
    (root / "cp/checkpoint_1").unlink()
    platform.run(parameter)
    assert (root / "cp/checkpoint_1").exists()
    assert (root / "cp/checkpoint_0").stat().st_mtime_ns == first_step


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_a_link_out_of_the_data_root_is_refused(platform: Platform, party: str) -> None:
    (platform.root(party) / "link.csv").unlink(missing_ok=True)
    (platform.root(party) / "link.csv").symlink_to("/etc/passwd")
    given = [{**each, "data_refs": [{**each["data_refs"][0], "uri": "link.csv"}]} for each in (ALICE, BOB)]
    inputs = vertical(given[0], BOB) if party == "alice" else vertical(ALICE, given[1])
    result = platform.answer(node("stats/ss_pearsonr:1.0.0", [inputs], ["link"], SELECTED))
    assert result["error_type"] == "ParameterValidationError"
    assert f"{WHERE}.inputs.{party}: lies outside the data roots" in result["error"]


def test_a_file_that_is_not_there(platform: Platform) -> None:
    missing = {**BOB, "data_refs": [{**BOB["data_refs"][0], "uri": "missing.csv"}]}
    result = platform.answer(node("stats/ss_pearsonr:1.0.0", [vertical(ALICE, missing)], ["link"], SELECTED))
    assert result["error_type"] == "InputDataError"
    assert f"{WHERE}.inputs.bob: no such file" in result["error"]


@pytest.mark.parametrize(
    ("parameter", "device"),
    [
        (node("stats/ss_vif:1.0.0", [JOINED], ["vif"], SELECTED), "spu_config"),
        (node("ml.train/sgb_train:1.1.0", [JOINED], ["sgb/a", "sgb/b"], LABELLED), "heu_config"),
    ],
)
def test_a_device_that_is_not_configured(platform: Platform, parameter: dict[str, Any], device: str) -> None:
    result = platform.answer(parameter, spu_config=None)
    assert (result["error_type"], result["error"].split(":")[0]) == ("ParameterValidationError", device)


def test_cells_that_do_not_fit_the_schema(platform: Platform) -> None:
    wrong = table("alice", "own.csv", {"f0": "float64", "colour": "float64"})
    result = platform.answer(
        node("stats/table_statistics:1.0.2", [wrong], ["wrong"], {"input/input_ds/features": ["colour"]})
    )
    assert result["error_type"] == "InputDataError"
    assert "green" not in result["error"]


def test_parties_that_share_a_data_root_are_told(worker: RunningWorker, data: Path) -> None:
    whole()[["id1", *OWN]].to_csv(data / "own.csv", index=False)
    whole()[["id2", *OTHERS]].to_csv(data / "others.csv", index=False)
    own = table("alice", f"{data.name}/own.csv", dict.fromkeys(OWN, "float64"), ["id1"])
    others = table("bob", f"{data.name}/others.csv", dict.fromkeys(OTHERS, "float64"), ["id2"])
    keys = {"input/input_ds1/keys": ["id1"], "input/input_ds2/keys": ["id2"]}
    uris = [f"{data.name}/joined", f"{data.name}/report"]
    task = {"task_type": "component", "node_eval_param": node("data_prep/psi:1.0.0", [own, others], uris, keys)}
    spu = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}
    result = worker.run(envelope(task, spu_config=spu))
    assert result["error_type"] == "ParameterValidationError"
    assert "same path" in result["error"]


# --- parameters


COMPONENTS = sorted(each.component_id for each in Registry.get_definitions())


def test_every_component_is_known() -> None:
    assert len(COMPONENTS) == 53


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_definition_of_each_component_is_understood(component: str) -> None:
    if component.partition(":")[0] in component_params.REFUSED:
        with pytest.raises(ParameterValidationError, match="is not run here"):
            component_params.definition_of(component, WHERE)
        return
    definition = component_params.definition_of(component, WHERE)
    described = json_format.MessageToDict(definition.component_def)
    assert f"{described['domain']}/{described['name']}:{described['version']}" == component
    # Its own defaults are accepted.
    defaults = {
        "/".join([*each.prefixes, each.name]): each.atomic.default_value
        for each in definition.component_def.attrs
        if each.HasField("atomic") and each.atomic.is_optional and each.atomic.HasField("default_value")
    }
    given = {
        "comp_id": component,
        "attr_paths": list(defaults),
        "attrs": [json_format.MessageToDict(value, preserving_proto_field_name=True) for value in defaults.values()],
        "inputs": [{"type": each.types[0]} for each in definition.component_def.inputs],
        "output_uris": [each.name for each in definition.component_def.outputs],
    }
    checked(given)


def checked(given: dict[str, Any]) -> Any:
    parsed = read(given, NodeEvalParam, WHERE)
    definition = component_params.definition_of(parsed.component, WHERE)
    message = component_params.message(parsed, WHERE)
    component_params.check(["alice", "bob"], definition, message, WHERE)
    return message


OUTPUTS = ["a", "b"]
SPLIT = "data_prep/train_test_split:1.0.0"


@pytest.mark.parametrize(
    ("given", "field", "remedy"),
    [
        (node("ml.train/ss_sdg_train:1.0.0", [], [], {}), "comp_id", "did you mean ml.train/ss_sgd_train:1.0.0"),
        (node("x/y:1.0.0", [], [], {}), "comp_id", "stats/ss_vif:1.0.0"),
        (node("ml.train/ss_sgd_train:1.7.0", [], [], {}), "comp_id", "newer than"),
        (node("ml.train/ss_sgd_train:2.0.0", [], [], {}), "comp_id", "no component of this name"),
        (node(SGD, [], OUTPUTS, {}), "inputs", "0 given, the component takes 1 (input_ds)"),
        (node(SGD, [ALICE], OUTPUTS, {}), "inputs[0].type", "sf.table.vertical"),
        (node(SGD, [JOINED], ["a"], {}), "output_uris", "2 outputs (output_model, report)"),
        (node(SGD, [JOINED], ["", "a"], {}), "output_uris[0]", "output_model is written there"),
        (node(SPLIT, [JOINED], ["a", "./a"], {}), "output_uris[1]", "test_ds needs one of its own"),
        (node(SGD, [JOINED], OUTPUTS, {"label": ["y"], "input/input_ds/label": ["y"]}), "attr_paths[1]", "twice"),
        (node(SGD, [JOINED], OUTPUTS, {"label": ["y", "z"]}), "attrs[0] (label)", "2 values"),
        (node(SGD, [JOINED], OUTPUTS, {"epochs": 2.5}), "attrs[0] (epochs)", "as `i64`"),
        (node(SGD, [JOINED], OUTPUTS, {"keys": ["y"]}), "attr_paths[0]", "no attribute of this name"),
        (node(SGD, [JOINED], OUTPUTS, {"epoch": 3}), "attr_paths[0]", "did you mean epochs"),
        (node(SGD, [JOINED], OUTPUTS, {"epochs": "3"}), "attrs[0] (epochs)", "as `i64`"),
        (node(SGD, [JOINED], OUTPUTS, {"epochs": 0}), "attrs[0] (epochs)", "at least 1"),
        (node(SGD, [JOINED], OUTPUTS, {"learning_rate": 0.0}), "attrs[0] (learning_rate)", "greater than 0"),
        (node(SGD, [JOINED], OUTPUTS, {"sig_type": "t2"}), "attrs[0] (sig_type)", "one of real, t1, t3"),
        (
            node(SGD, [JOINED], OUTPUTS, {"input/input_ds/label": ["y", "z"]}),
            "attrs[0] (input/input_ds/label)",
            "2 values",
        ),
        (
            node(PREDICT, [{"type": "sf.model.ss_sgd"}, JOINED], ["a"], {"receiver": ["eve"]}),
            "attrs[0] (receiver)",
            "alice, bob",
        ),
        (
            node(SGD, [{**JOINED, "meta": {"@type": "type.googleapis.com/x.Y"}}], OUTPUTS, {}),
            "inputs[0].meta.@type",
            "VerticalTable",
        ),
        (
            node(SGD, [{**JOINED, "meta": {**JOINED["meta"], "schemas": 1}}], OUTPUTS, {}),
            "inputs[0]",
            "is not the protobuf JSON of a DistData",
        ),
    ],
)
def test_what_does_not_fit_a_component_is_named(given: dict[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(ParameterValidationError) as caught:
        checked(given)
    assert str(caught.value).startswith(f"{WHERE}.{field}: ")
    assert remedy in str(caught.value)


def at(uri: str) -> dict[str, Any]:
    return {**ALICE, "data_refs": [{**ALICE["data_refs"][0], "uri": uri}]}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"comp_id": "ss_vif"}, "comp_id"),
        ({"domain": "stats", "name": "ss_vif"}, "comp_id"),
        ({"comp_id": "stats/ss_vif:1.0.0", "colour": 1}, "colour"),
        (node("stats/ss_vif:1.0.0", [at("../../etc/passwd")], [], {}), "inputs[0].data_refs[0].uri"),
        (node("stats/ss_vif:1.0.0", [at("/etc/passwd")], [], {}), "inputs[0].data_refs[0].uri"),
        (node("stats/ss_vif:1.0.0", [at(".")], [], {}), "inputs[0].data_refs[0].uri"),
        (node("stats/ss_vif:1.0.0", [], ["/tmp/x"], {}), "output_uris[0]"),
        (node("stats/ss_vif:1.0.0", [], [], {}, checkpoint_uri="../x"), "checkpoint_uri"),
        (node("stats/ss_vif:1.0.0", [table("eve", "x.csv", {})], [], {}), "inputs[0].data_refs[0].party"),
        (node("stats/ss_vif:1.0.0", [{**ALICE, "meta": {}}], [], {}), "inputs[0].meta.@type"),
        ({**node("stats/ss_vif:1.0.0", [], [], {"a": 1}), "attrs": []}, "attrs"),
        ({**node("stats/ss_vif:1.0.0", [], [], {"a": 1}), "attrs": [{"i": 1}]}, "attrs[0].i"),
        (node("stats/ss_vif:1.0.0", [{"name": "x"}], [], {}), "inputs[0].type"),
    ],
)
def test_what_is_no_parameter_at_all_never_reaches_a_party(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ParameterValidationError) as caught:
        ComponentParams(node_eval_param=given).check(["alice", "bob"])
    assert str(caught.value).startswith(f"{WHERE}.{field}: ")


@pytest.mark.parametrize("uris", [["a", ""], ["a", "a"], ["a", "./a"]])
def test_an_output_without_files_needs_no_path_of_its_own(uris: list[str]) -> None:
    assert list(checked(node(SGD, [JOINED], uris, {})).output_uris) == uris


def test_columns_are_named_with_and_without_their_input_and_integers_are_doubles() -> None:
    given = {"feature_selects": FEATURES, "label": ["y"], "epochs": 3}
    doubled = node(SGD, [JOINED], OUTPUTS, given)
    doubled["attrs"][2] = {"i64": 3.0, "f": None, "ss": None}
    message = checked(doubled)
    assert message == checked(node(SGD, [JOINED], OUTPUTS, given))
    whole = checked(node(SGD, [JOINED], OUTPUTS, {**LABELLED, "epochs": 3}))
    definition = component_params.definition_of(SGD, WHERE)
    assert definition.parse_param(message) == definition.parse_param(whole)
    both = {"input_ds1_keys": ["id1"], "input_ds2_keys": ["id2"]}
    assert checked(node("data_prep/psi:1.0.0", [ALICE, BOB], OUTPUTS, both))


def test_a_component_runs_as_secretpad_writes_it(platform: Platform) -> None:
    training = {"feature_selects": FEATURES, "label": ["y"], "epochs": 1, "batch_size": 256}
    parameter = node(SGD, [JOINED], ["pad/model", ""], training)
    for each in parameter["attrs"][2:]:
        each["i64"] = float(each["i64"])
    answer = platform.run(parameter)
    assert "pad/model/0" in platform.files("bob")
    assert answer["outputs"][1]["type"] == "sf.report"
    shown = platform.run(node("stats/ss_vif:1.0.0", [JOINED], [""], {"feature_selects": FEATURES}))
    assert len(descriptions(shown)) == len(FEATURES)


def test_both_spellings_of_protobuf_json_are_read() -> None:
    camel = {
        "compId": SGD,
        "attrPaths": ["epochs"],
        "attrs": [attribute(3)],
        "inputs": [{**JOINED, "dataRefs": JOINED["data_refs"]}],
        "outputUris": OUTPUTS,
    }
    del camel["inputs"][0]["data_refs"]  # type: ignore[attr-defined]
    assert checked(camel) == checked(node(SGD, [JOINED], OUTPUTS, {"epochs": 3}))
    apart = {**node(SGD, [JOINED], OUTPUTS, {"epochs": 3}), "domain": "ml.train", "name": "ss_sgd_train"}
    del apart["comp_id"]
    assert checked({**apart, "version": "1.0.0"}) == checked(node(SGD, [JOINED], OUTPUTS, {"epochs": 3}))


JOINS = {"inner_join": "inner", "left_join": "left", "full_join": "outer", "difference": "outer"}


@pytest.mark.filterwarnings("ignore:np.find_common_type is deprecated")  # of this pandas, by its outer merge
@pytest.mark.parametrize("receivers", [["alice", "bob"], ["bob"]])
@pytest.mark.parametrize("left", ["alice", "bob"])
@pytest.mark.parametrize("join", JOINS)
def test_joins_are_those_of_pandas(platform: Platform, join: str, left: str, receivers: list[str]) -> None:
    """The random row that hides the digest of the keys is in no output, and rows are aligned.

    Keys are repeated, none at both parties.
    """
    keys = {"alice": [*range(20), 3, 3, 4], "bob": [*range(15, 40), *range(3, 6), 17, 20, 20]}
    frames = {
        party: pd.DataFrame({"id": [f"k{key}" for key in of], f"of_{party}": np.arange(float(len(of)))})
        for party, of in keys.items()
    }
    for party, frame in frames.items():
        frame.to_csv(platform.root(party) / "joined.csv", index=False)
    tables = [table(party, "joined.csv", {f"of_{party}": "float64"}, ["id"]) for party in frames]
    attributes = {
        "join_type": join,
        "receiver_parties": receivers,
        "input/input_ds1/keys": ["id"],
        "input/input_ds2/keys": ["id"],
    }
    if join == "left_join":
        attributes["join_type/left_join/left_side"] = [left]
    uri = f"joined-{join}-{left}-{len(receivers)}"
    answer = platform.run(node("data_prep/psi:1.0.0", tables, [uri, f"{uri}-report"], attributes))
    first, other = (left, "bob" if left == "alice" else "alice") if join == "left_join" else ("alice", "bob")
    merged = frames[first].merge(frames[other], on="id", how=JOINS[join], indicator=True)
    if join == "difference":
        merged = merged[merged["_merge"] != "both"]
    columns = [f"of_{party}" for party in receivers]
    outputs = [written(platform, party, uri).reset_index(drop=True) for party in receivers]
    found = pd.concat([output[[column]] for output, column in zip(outputs, columns, strict=True)], axis=1)
    expected = merged[columns]
    if len(receivers) == 1:  # rows that are the other party's alone are not there
        expected = expected.dropna()
    as_rows = [sorted(map(str, rows.itertuples(index=False))) for rows in (found, expected)]
    assert as_rows[0] == as_rows[1]
    counts = {row[0]: row[1] for row in answer["reports"][0]["tables"][0]["rows"]}
    assert counts == {party: len(frame) for party, frame in frames.items()}


@pytest.mark.parametrize(("field", "bits", "far"), [("FM64", 18, True), ("FM128", 40, False)])
def test_columns_that_are_too_large_for_the_field_are_named(
    platform: Platform, field: str, bits: int, far: bool
) -> None:
    chance = np.random.default_rng(3)
    small, spent = chance.normal(5, 1, 200), chance.normal(5, 1, 200)
    spent[0] = 1_000_000
    pd.DataFrame({"k": np.resize(["a", "b"], 200)}).to_csv(platform.root("alice") / "groups.csv", index=False)
    values = pd.DataFrame({"spent": spent, "small": small, "unused": small * 1e30})
    values.to_csv(platform.root("bob") / "values.csv", index=False)
    tables = [
        table("alice", "groups.csv", {"k": "str"}),
        table("bob", "values.csv", dict.fromkeys(values, "float64")),
    ]
    queries = [{"column_name": name, "function": "MEAN"} for name in ("spent", "small")]
    attributes = {"input/input_ds/by": ["k"], "aggregation_config": json.dumps({"column_queries": queries})}
    made = node("stats/groupby_statistics:1.0.0", [vertical(*tables)], ["groups"], attributes)
    warnings = platform.run(made, {"field": field, "fxp_fraction_bits": bits})["warnings"]
    assert [each.split(" holds ")[0] for each in warnings] == (["column 'spent' of bob"] if far else [])
