"""`model_export`: packages for SecretFlow-Serving of models that `component` jobs have trained (SEMI2K)."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from google.protobuf import json_format
from pyarrow import orc
from secretflow_serving_lib import bundle_pb2
from sklearn.datasets import load_breast_cancer

from sfworker.catalog import load_modules, validate
from sfworker.errors import ParameterValidationError
from tests.jobs.components import HEU, SEMI2K, Platform, node, running, table, vertical
from tests.running_worker import envelope

ROWS = 200
OWN, OTHERS = ["f0", "f1"], ["f2", "f3", "f4"]
FEATURES = [*OWN, *OTHERS]
LABELLED = {"input/input_ds/feature_selects": FEATURES, "input/input_ds/label": ["y"]}
ALICE = table("alice", "own.csv", dict.fromkeys(OWN, "float64"), ["id1"], {"y": "int64"})
BOB = table("bob", "others.csv", dict.fromkeys(OTHERS, "float64"), ["id2"])
JOINED = vertical(ALICE, BOB)
PATHS = {"alice": "served/alice.tar.gz", "bob": "served/bob.tar.gz"}
SCORE_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("export")) as made:
        frame = whole()
        frame[["id1", *OWN, "y"]].to_csv(made.root("alice") / "own.csv", index=False)
        frame[["id2", *OTHERS]].to_csv(made.root("bob") / "others.csv", index=False)
        yield made


def whole() -> pd.DataFrame:
    x, y = load_breast_cancer(return_X_y=True)
    frame = pd.DataFrame(x[:ROWS, [0, 1, 4, 7, 9]], columns=FEATURES).assign(y=y[:ROWS])
    return frame.assign(id1=frame.index.astype(str), id2=frame.index.astype(str))


class Chain:
    """Components that are run one after another, to be exported."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.components: list[dict[str, Any]] = []

    def run(self, component: str, inputs: list[Any], outputs: list[str], attributes: dict[str, Any]) -> list[Any]:
        parameter = node(component, inputs, outputs, attributes)
        answered: list[Any] = self.platform.run(parameter, heu_config=HEU)["outputs"]
        self.components.append({"node_eval_param": parameter, "outputs": answered})
        return answered

    def export(self, **parameters: Any) -> Any:
        task = {
            "task_type": "model_export",
            "model_name": "信用",
            "components": self.components,
            "output_paths": PATHS,
            **parameters,
        }
        spu = {"cluster_def": {"runtime_config": SEMI2K}}
        return self.platform.worker.run(envelope(task, spu_config=spu, heu_config=HEU))

    def packages(self, **parameters: Any) -> tuple[Any, dict[str, Any]]:
        """What the job answers, and the model in each party's package."""
        result = self.export(**parameters)
        assert result["status"] == "success", result
        return result["result"], {party: opened(self.platform.root(party) / path) for party, path in PATHS.items()}


def opened(path: Path) -> Any:
    with tarfile.open(path) as package:
        manifest, model = (package.extractfile(name) for name in ("MANIFEST", "model_file"))
        assert manifest is not None
        assert model is not None
        assert json.load(manifest) == {"bundle_path": "model_file", "bundle_format": "FF_JSON"}
        return json_format.Parse(model.read(), bundle_pb2.ModelBundle())


def operations(bundle: Any) -> list[str]:
    return [each.op for each in bundle.graph.node_list]


def attributes(bundle: Any, operation: str) -> Any:
    [found] = [each for each in bundle.graph.node_list if each.op == operation]
    return found.attr_values


@pytest.fixture
def regression(platform: Platform) -> Chain:
    """Standardised features and a regression on them, with its own predictions in `predicted`."""
    chain = Chain(platform)
    scaling = {"input/input_ds/features": FEATURES, "rules": '{"op": "STANDARDIZE"}'}
    scaled = chain.run("preprocessing/feature_calculate:1.0.0", [JOINED], ["scaled", "rule"], scaling)[0]
    training = {**LABELLED, "epochs": 3, "learning_rate": 0.3, "batch_size": 64, "sig_type": "t1"}
    model = chain.run("ml.train/ss_sgd_train:1.0.0", [scaled], ["model", "weights"], training)[0]
    predicting = {"receiver": ["alice"], "save_ids": False}
    platform.run(node("ml.predict/ss_sgd_predict:1.0.0", [model, scaled], ["predicted"], predicting))
    return chain


def test_a_regression_and_its_preprocessing(platform: Platform, regression: Chain) -> None:
    answer, bundles = regression.packages(model_desc="test")
    assert answer["model_name"].startswith("信用_")
    assert answer["output_paths"] == PATHS
    assert answer["columns"] == {"alice": OWN, "bob": OTHERS}
    frame = whole()[FEATURES]
    scaled = (frame - frame.mean()) / frame.std(ddof=0)
    score = np.zeros(ROWS)
    for party, features in (("alice", OWN), ("bob", OTHERS)):
        bundle = bundles[party]
        assert (bundle.name, bundle.desc) == (answer["model_name"], "test")
        assert operations(bundle) == ["ARROW_PROCESSING", "DOT_PRODUCT", "MERGE_Y"]
        dot = attributes(bundle, "DOT_PRODUCT")
        assert list(dot["feature_names"].ss.data) == features  # nobody gets another's weights
        score += scaled[features].to_numpy() @ np.array(dot["feature_weights"].ds.data) + dot["intercept"].d
    # The approximation of the sigmoid that was trained with.
    expected = np.clip(0.5 + 0.25 * score, 0, 1)
    predicted = orc.read_table(str(platform.root("alice") / "predicted")).to_pandas()["pred"]
    assert np.abs(np.clip(predicted, 0, 1) - expected).max() < SCORE_TOLERANCE


def test_an_encrypted_regression_shows_weights_to_nobody(regression: Chain) -> None:
    _, bundles = regression.packages(he_mode=True)
    for bundle in bundles.values():
        assert "PHE_2P_DOT_PRODUCT" in operations(bundle)
        assert not any("feature_weights" in each.attr_values for each in bundle.graph.node_list)
        assert len(attributes(bundle, "PHE_2P_DOT_PRODUCT")["feature_weights_ciphertext"].by) > 100


def test_boosted_trees(platform: Platform) -> None:
    chain = Chain(platform)
    training = {**LABELLED, "num_boost_round": 2, "max_depth": 3, "colsample_by_tree": 1.0}
    chain.run("ml.train/sgb_train:1.1.0", [JOINED], ["sgb", "sgb-report"], training)
    answer, bundles = chain.packages()
    assert set(answer["columns"]["alice"]) <= {*OWN, "y"}
    for party, bundle in bundles.items():
        assert operations(bundle).count("TREE_SELECT") == operations(bundle).count("TREE_MERGE") == 2
        weights = [each.attr_values["leaf_weights"] for each in bundle.graph.node_list if each.op == "TREE_MERGE"]
        assert all(len(each.ds.data) > 0 for each in weights) == (party == "alice")  # who holds the label


def test_what_cannot_be_exported(regression: Chain) -> None:
    statistics = node("stats/ss_vif:1.0.0", [JOINED], ["vif"], {"input/input_ds/feature_selects": FEATURES})
    report = {"type": "sf.report"}
    result = regression.export(components=[{"node_eval_param": statistics, "outputs": [report]}])
    assert result["error_type"] == "ParameterValidationError"
    assert "task_config.components[0].node_eval_param.comp_id: stats/ss_vif:1.0.0 cannot be" in result["error"]
    fewer = [{**regression.components[0], "outputs": regression.components[0]["outputs"][:1]}]
    assert "components[0].outputs: 1 given" in regression.export(components=fewer)["error"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"output_paths": {"alice": "a.tar.gz"}}, "task_config.output_paths.bob: required"),
        ({"output_paths": {"alice": "a.tar.gz", "bob": "b.tar"}}, "task_config.output_paths.bob: has to end"),
        ({"components": []}, "task_config.components: "),
        (
            {"components": [{"node_eval_param": node("a/b:1.0.0", [ALICE], [], {}), "outputs": [{"type": "x"}]}]},
            "task_config.components[0].inputs: has to have exactly one table",
        ),
        (
            {"components": [{"node_eval_param": {"comp_id": "a"}, "outputs": [{"type": "x"}]}]},
            "task_config.components[0].node_eval_param.comp_id: ",
        ),
        (
            {"components": [{"node_eval_param": node("a/b:1.0.0", [JOINED], [], {}), "outputs": [{}]}]},
            "task_config.components[0].outputs[0].type: required",
        ),
    ],
)
def test_parameters_that_cannot_work(parameters: dict[str, Any], said: str) -> None:
    component = {"node_eval_param": node("a/b:1.0.0", [JOINED], [], {}), "outputs": [{"type": "sf.report"}]}
    task = {"task_type": "model_export", "model_name": "m", "components": [component], "output_paths": PATHS}
    load_modules([])
    with pytest.raises(ParameterValidationError) as caught:
        validate({**task, **parameters}, ["alice", "bob"])
    assert str(caught.value).startswith(said)
