"""`scaler`, `encoder`, `fillna` and `preprocessing_apply` against scikit-learn and pandas on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyarrow import orc
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

from sfworker import catalog
from sfworker.errors import ParameterValidationError
from tests.running_worker import PARTIES, RunningWorker, envelope

ROWS = 500


def paths(data: Path, name: str) -> dict[str, str]:
    return {party: str(data / f"{party}-{name}") for party in PARTIES}


def job(data: Path, task_type: str, source: str = "in.csv", output: str = "out.csv", **parameters: Any) -> Any:
    task = {
        "task_type": task_type,
        "input_paths": paths(data, source),
        "output_paths": paths(data, output),
        **parameters,
    }
    return envelope(task)


def succeed(worker: RunningWorker, sent: dict[str, Any]) -> Any:
    result = worker.run(sent)
    assert result["status"] == "success", result
    return result["result"]


def refused(worker: RunningWorker, sent: dict[str, Any], error_type: str, *said: str) -> None:
    result = worker.run(sent)
    assert (result["status"], result["error_type"]) == ("failure", error_type), result
    assert [part for part in said if part not in result["error"]] == []
    assert "4711" not in result["error"]


def frame(seed: int, rows: int = ROWS) -> pd.DataFrame:
    """Ids with leading zeros, numbers with and without missing cells, a constant, a day, categories."""
    chance = np.random.default_rng(seed)
    missing = np.where(chance.random(rows) < 0.1, np.nan, chance.normal(3, 5, rows))
    return pd.DataFrame(
        {
            "编号": [f"{number:05d}" for number in range(rows)],
            "年龄": chance.integers(18, 90, rows),
            "收入": missing,
            "constant": 0.1,
            "day": "2024-02-29",
            "城市": chance.choice(["上海", "北京", "a,b", "Zürich"], rows),
            "grade": chance.choice(["low", "middle", "high"], rows),
            "level": chance.choice([10, 20, 5], rows, p=[0.6, 0.38, 0.02]),
        }
    )


def write(data: Path, name: str, alice: pd.DataFrame, bob: pd.DataFrame) -> None:
    for party, table in (("alice", alice), ("bob", bob)):
        path = data / f"{party}-{name}"
        table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)


def read(data: Path, party: str, name: str = "out.csv") -> pd.DataFrame:
    path = data / f"{party}-{name}"
    return (
        pd.read_parquet(path)
        if path.suffix == ".parquet"
        else pd.read_csv(path, dtype={"编号": str}, float_precision="round_trip")
    )


NUMBERS = ["年龄", "收入", "constant"]


@pytest.mark.parametrize(("method", "plain"), [("standard", StandardScaler()), ("min_max", MinMaxScaler())])
def test_scaling_is_scikit_learns_and_applies_to_other_files(
    worker: RunningWorker, data: Path, method: str, plain: Any
) -> None:
    write(data, "in.csv", frame(1), frame(2))
    write(data, "new.parquet", frame(3, 50), frame(4, 50))
    features = {"alice": NUMBERS, "bob": ["收入"]}
    sent = job(data, "scaler", method=method, features=features, model_path=paths(data, "rule"))
    answer = succeed(worker, sent)
    assert answer["output_paths"] == sent["task_config"]["output_paths"]
    applied = job(data, "preprocessing_apply", "new.parquet", "applied.parquet", model_path=paths(data, "rule"))
    assert succeed(worker, applied)["rule_id"] == answer["rule_id"]
    for party, seed in (("alice", 1), ("bob", 2)):
        before, fresh = frame(seed), frame(seed + 2, 50)
        columns = features[party]
        plain.fit(before[columns].astype(float))
        for found, given in ((read(data, party), before), (read(data, party, "applied.parquet"), fresh)):
            pd.testing.assert_frame_equal(found.drop(columns=columns), given.drop(columns=columns))
            assert list(found.columns) == list(given.columns)
            expected = plain.transform(given[columns].astype(float))
            np.testing.assert_array_equal(found[columns].astype(float), expected)
        manifest = json.loads((data / f"{party}-rule" / "manifest.json").read_text())
        assert manifest["rule_id"] == answer["rule_id"]
        assert [rule["column"] for rule in manifest["rules"]] == columns


def test_without_features_every_column_is_changed_that_is_neither_key_nor_label(
    worker: RunningWorker, data: Path
) -> None:
    write(data, "in.csv", frame(1), frame(2))
    keys = {party: ["编号", "day", "城市", "grade"] for party in PARTIES}
    label = {"party": "alice", "column": "level"}
    types = {"alice": {"编号": "int", "day": "str"}}
    succeed(worker, job(data, "scaler", output="out.orc", keys=keys, label=label, column_types=types))
    for party, seed, columns in (("alice", 1, NUMBERS), ("bob", 2, [*NUMBERS, "level"])):
        before = frame(seed)
        found = orc.read_table(data / f"{party}-out.orc").to_pandas()
        np.testing.assert_array_equal(found[columns], StandardScaler().fit_transform(before[columns].astype(float)))
        unchanged = before.drop(columns=columns).astype({"编号": int} if party == "alice" else {})
        pd.testing.assert_frame_equal(found.drop(columns=columns), unchanged)


def test_one_hot_is_scikit_learns(worker: RunningWorker, data: Path) -> None:
    """Apart from a missing cell, which is no category of its own but 0 in every column, as in pandas.get_dummies."""
    alice, bob = frame(1), frame(2)
    bob["城市"] = bob["城市"].mask(bob["收入"].isna())
    write(data, "in.csv", alice, bob)
    features = {"alice": ["城市", "level"], "bob": ["城市"]}
    succeed(worker, job(data, "encoder", method="one_hot", features=features, min_frequency=0.05))
    encoder = OneHotEncoder(min_frequency=0.05, sparse_output=False).fit(alice[features["alice"]])
    names = [name.removesuffix("_sklearn") for name in encoder.get_feature_names_out()]
    found = read(data, "alice")
    assert names[-1] == "level_infrequent"
    assert list(found.columns) == [*alice.columns[:5], *names[:4], "grade", *names[4:]]
    np.testing.assert_array_equal(found[names], encoder.transform(alice[features["alice"]]))
    dummies = pd.get_dummies(bob["城市"], prefix="城市")
    pd.testing.assert_frame_equal(read(data, "bob")[dummies.columns], dummies, check_dtype=False)


def test_a_category_that_was_not_there_when_fitting(worker: RunningWorker, data: Path) -> None:
    alice, rule = frame(1), paths(data, "rule")
    fresh = frame(3, 50)
    fresh.loc[6, "城市"] = "广州"
    write(data, "in.csv", alice, alice)
    write(data, "new.csv", fresh, fresh)
    encode: dict[str, Any] = {
        "method": "one_hot",
        "features": {"alice": ["城市", "level"]},
        "drop": "first",
        "model_path": rule,
    }
    succeed(worker, job(data, "encoder", **encode, handle_unknown="ignore"))
    succeed(worker, job(data, "preprocessing_apply", "new.csv", "applied.csv", model_path=rule))
    plain = OneHotEncoder(drop="first", sparse_output=False, handle_unknown="ignore").fit(alice[["城市", "level"]])
    with pytest.warns(UserWarning, match="unknown categories"):
        expected = plain.transform(fresh[["城市", "level"]])
    found = read(data, "alice", "applied.csv")
    np.testing.assert_array_equal(found[plain.get_feature_names_out()], expected)
    pd.testing.assert_frame_equal(read(data, "bob", "applied.csv"), fresh)  # without features: the same table
    succeed(worker, job(data, "encoder", **encode))
    applied = job(data, "preprocessing_apply", "new.csv", "applied.csv", model_path=rule)
    refused(worker, applied, "InputDataError", "task_config.input_paths.alice", "'城市'", "row 7", "handle_unknown")


@pytest.mark.parametrize(
    ("task_type", "settings", "ignored"),
    [
        ("encoder", {"method": "one_hot"}, [0, 0]),
        ("encoder", {"method": "label"}, [None]),
        ("encoder", {"method": "ordinal"}, [None]),
        ("binning", {}, [None]),
        ("binning", {"substitution": "woe", "label": {"party": "alice", "column": "y"}}, [0.0]),
    ],
)
def test_every_rule_treats_unknown_categories_alike(
    worker: RunningWorker, data: Path, task_type: str, settings: dict[str, Any], ignored: list[float | None]
) -> None:
    frame = pd.DataFrame({"城市": ["上海", "北京"] * 20, "y": [0, 1, 1, 0] * 10})
    write(data, "in.csv", frame, frame)
    write(data, "new.csv", frame.assign(城市=["上海", "广州"] * 20), frame)
    rule = paths(data, "rule")
    fit: dict[str, Any] = {"features": {"alice": ["城市"]}, "model_path": rule, "keys": {}, **settings}
    fitted_as: tuple[dict[str, Any], ...] = ({}, {"handle_unknown": "error"}, {"handle_unknown": "ignore"})
    for fitted in fitted_as:
        succeed(worker, job(data, task_type, **fit, **fitted))
        for applied in fitted_as:
            sent = job(data, "preprocessing_apply", "new.csv", "applied.csv", model_path=rule, **applied)
            if {**fitted, **applied}.get("handle_unknown", "error") == "ignore":
                succeed(worker, sent)
                found = read(data, "alice", "applied.csv").filter(like="城市").iloc[1]
                assert [None if np.isnan(each) else each for each in found] == ignored
            else:
                refused(worker, sent, "InputDataError", "task_config.input_paths.alice", "'城市'", "row 2")


def test_label_and_ordinal_are_scikit_learns(worker: RunningWorker, data: Path) -> None:
    alice, bob = frame(1), frame(2)
    bob["grade"] = bob["grade"].mask(bob["收入"].isna())
    write(data, "in.parquet", alice, bob)
    features = {"alice": ["城市", "level"], "bob": ["grade"]}
    succeed(worker, job(data, "encoder", "in.parquet", "label.parquet", method="label", features=features))
    order = ["low", "middle", "high"]
    ordinal = {"method": "ordinal", "features": features, "categories": {"bob": {"grade": order}}}
    succeed(worker, job(data, "encoder", "in.parquet", "ordinal.parquet", **ordinal))
    sorted_ = OrdinalEncoder().fit_transform(alice[features["alice"]])
    np.testing.assert_array_equal(read(data, "alice", "label.parquet")[features["alice"]], sorted_)
    np.testing.assert_array_equal(read(data, "alice", "ordinal.parquet")[features["alice"]], sorted_)
    in_order = OrdinalEncoder(categories=[[*order, np.nan]]).fit_transform(bob[["grade"]])
    np.testing.assert_array_equal(read(data, "bob", "ordinal.parquet")[["grade"]], in_order)
    by_name = OrdinalEncoder().fit_transform(bob[["grade"]])
    np.testing.assert_array_equal(read(data, "bob", "label.parquet")[["grade"]], by_name)


@pytest.mark.parametrize(
    ("strategy", "columns"),
    [
        ("mean", ["收入", "level"]),
        ("median", ["收入", "level"]),
        ("most_frequent", ["收入", "level", "grade"]),
        ("constant", ["grade", "城市"]),
    ],
)
def test_filling_is_scikit_learns(worker: RunningWorker, data: Path, strategy: str, columns: list[str]) -> None:
    alice, rule = frame(1), paths(data, "rule")
    alice.loc[3:40, ["level", "grade"]] = np.nan
    fresh = frame(3, 50)
    fresh.loc[::2, columns] = np.nan
    write(data, "in.csv", alice, frame(2))
    write(data, "new.parquet", fresh, fresh)
    value = {"fill_value": "未知"} if strategy == "constant" else {}
    sent = job(data, "fillna", strategy=strategy, features={"alice": columns}, model_path=rule, **value)
    succeed(worker, sent)
    succeed(worker, job(data, "preprocessing_apply", "new.parquet", "applied.parquet", model_path=rule))
    for column in columns:
        plain = SimpleImputer(strategy=strategy, **value).fit(alice[[column]])
        np.testing.assert_array_equal(read(data, "alice")[[column]], plain.transform(alice[[column]]))
        found = read(data, "alice", "applied.parquet")[[column]]
        np.testing.assert_array_equal(found, plain.transform(fresh[[column]]))


def test_columns_that_cannot_be_changed(worker: RunningWorker, data: Path) -> None:
    alice = frame(1).assign(empty=np.nan, infinite=np.inf, text=["1", "x4711"] * 250, x_infrequent=1)
    write(data, "in.csv", alice, frame(2))
    where = "task_config.input_paths.alice"

    def refuses(task_type: str, column: str, *said: str, **parameters: Any) -> None:
        sent = job(data, task_type, features={"alice": [column]}, **parameters)
        refused(worker, sent, "InputDataError", *said)

    refuses("scaler", "text", where, "'text'", "no float", "row 2")
    refuses("scaler", "empty", where, "'empty'", "no value in any row")
    refuses("scaler", "infinite", where, "'infinite'", "row 1")
    refuses("scaler", "nowhere", "task_config.features.alice", "'nowhere'")
    refuses("encoder", "城市", where, "'城市'", "row", method="ordinal", categories={"alice": {"城市": ["上海"]}})
    refuses(
        "encoder",
        "level",
        "task_config.categories",
        "type int",
        method="ordinal",
        categories={"alice": {"level": ["x"]}},
    )
    refuses("fillna", "level", "task_config.fill_value", "type int", strategy="constant", fill_value=0.5)
    refuses(
        "fillna", "收入", where, "no int", "row 1", strategy="most_frequent", column_types={"alice": {"收入": "int"}}
    )


def test_rules_that_do_not_fit(worker: RunningWorker, data: Path) -> None:
    write(data, "in.csv", frame(1), frame(2))
    write(data, "fewer.csv", frame(1).drop(columns="年龄"), frame(2))
    write(data, "other.csv", frame(1).assign(年龄="x4711"), frame(2))
    rule = paths(data, "rule")
    again = paths(data, "again")
    scale: dict[str, Any] = {"features": {"alice": ["年龄"], "bob": ["年龄"]}}
    succeed(worker, job(data, "scaler", **scale, model_path=rule))
    succeed(worker, job(data, "scaler", **scale, model_path=again))

    def refuses(*said: str, source: str = "in.csv", **parameters: Any) -> None:
        sent = job(data, "preprocessing_apply", source, **{"model_path": rule, **parameters})
        refused(worker, sent, "ModelMismatchError", *said)

    refuses("task_config.input_paths.alice", "'年龄'", source="fewer.csv")
    refuses("task_config.input_paths.alice", "'年龄'", "no float", "row 1", source="other.csv")
    refuses("not fitted by the same job", model_path={"alice": rule["alice"], "bob": again["bob"]})
    refuses("the rule's party is", model_path={"alice": rule["bob"], "bob": rule["alice"]})
    manifest = data / "bob-rule" / "manifest.json"
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {"task_type": "ss_lr"}))
    refuses("task_config.model_path.bob", "task type ss_lr")
    manifest.write_text(json.dumps(found | {"rules": [{"kind": "pickle"}]}))
    refuses("task_config.model_path.bob", "no fitted rule")


FIT: dict[str, Any] = {"input_paths": {"alice": "a.csv", "bob": "b.csv"}, "output_paths": {"alice": "x", "bob": "y"}}


@pytest.mark.parametrize(
    ("task_type", "parameters", "said"),
    [
        ("scaler", {"output_paths": {"alice": "x"}}, "task_config.output_paths.bob: required"),
        (
            "scaler",
            {"output_paths": {"alice": "./a.csv", "bob": "y"}},
            "task_config.output_paths.alice: is the party's",
        ),
        ("scaler", {"input_paths": {"alice": "a.csv"}}, "task_config.output_paths.bob: this party has no input"),
        ("scaler", {"input_paths": {}}, "task_config.input_paths"),
        ("scaler", {"model_path": {"alice": "m"}}, "task_config.model_path.bob: required"),
        ("scaler", {"features": {"carol": ["x"]}}, "task_config.features: names a party"),
        ("scaler", {"features": {"alice": ["x", "x"]}}, "task_config.features.alice: names a column twice"),
        ("scaler", {"features": {"alice": ["k"]}, "keys": {"alice": ["k"]}}, "task_config.features.alice: column 'k'"),
        ("scaler", {"column_types": {"alice": {"x": "date"}}}, "task_config.column_types"),
        ("encoder", {}, "task_config.method: required"),
        ("encoder", {"method": "label", "drop": "first"}, "task_config.method: drop"),
        ("encoder", {"method": "label", "categories": {"alice": {"x": [1]}}}, "task_config.categories: goes with"),
        ("encoder", {"method": "ordinal", "categories": {"alice": {"x": [1, 1]}}}, "task_config.categories.alice: "),
        ("fillna", {"strategy": "constant"}, "task_config.fill_value: required"),
        ("fillna", {"strategy": "mean", "fill_value": 1}, "task_config.fill_value: "),
        ("preprocessing_apply", {"model_path": {"alice": "m"}}, "task_config.model_path.bob: required"),
    ],
)
def test_parameters_that_cannot_work(task_type: str, parameters: dict[str, Any], said: str) -> None:
    catalog.load_modules([])
    with pytest.raises(ParameterValidationError) as caught:
        catalog.validate({"task_type": task_type, **FIT, **parameters}, PARTIES)
    assert str(caught.value).startswith(said)
