"""`binning` against pandas, a direct computation of WOE and IV, and SecretFlow's own binning of the joined table."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, chi2_contingency

from sfworker import catalog
from sfworker.errors import ParameterValidationError
from tests.running_worker import PARTIES, RunningWorker, envelope

ROWS = 600
SEMI2K = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}
CHEETAH = {"protocol": "CHEETAH", "field": "FM64"}
ABY3 = {"protocol": "ABY3", "field": "FM64"}
WOE_TOLERANCE = 1e-12
"""Positives are counted exactly, in integers."""


def frame() -> pd.DataFrame:
    """A label and features that have to do with it; skewed, with ties, with missing cells, text."""
    chance = np.random.default_rng(11)
    label = (chance.random(ROWS) < 0.3).astype(int)
    income = np.round(np.exp(chance.normal(1 + 0.5 * label, 1)), 2)
    return pd.DataFrame(
        {
            "编号": [f"{number:04d}" for number in range(ROWS)],
            "y": label,
            "收入": np.where(chance.random(ROWS) < 0.1, np.nan, income),
            "visits": chance.poisson(1 + label),
            "城市": chance.choice(["上海", "北京", "广州"], ROWS, p=[0.5, 0.3, 0.2]),
        }
    )


TABLE = frame()
NUMBERS, FEATURES = ["收入", "visits"], ["收入", "visits", "城市"]


@pytest.fixture
def halves(data: Path) -> Path:
    """The label at alice, and the features at both."""
    TABLE.to_csv(data / "alice-in.csv", index=False)
    TABLE.drop(columns="y").to_csv(data / "bob-in.csv", index=False)
    TABLE[["y"]].to_csv(data / "carol-in.csv", index=False)
    return data


def paths(data: Path, name: str, parties: list[str] = PARTIES) -> dict[str, str]:
    return {party: str(data / f"{party}-{name}") for party in parties}


def job(data: Path, runtime_config: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "binning",
        "input_paths": paths(data, "in.csv"),
        "output_paths": paths(data, "out.csv"),
        **parameters,
    }
    config = {} if runtime_config is None else {"spu_config": {"cluster_def": {"runtime_config": runtime_config}}}
    return envelope(task, **config)


def by_label(data: Path, runtime_config: dict[str, Any] | None = SEMI2K, **parameters: Any) -> dict[str, Any]:
    label = {"party": "alice", "column": "y"}
    features = {"alice": FEATURES, "bob": FEATURES}
    return job(data, runtime_config, **{"label": label, "features": features, "substitution": "woe", **parameters})


def succeed(worker: RunningWorker, sent: dict[str, Any]) -> Any:
    result = worker.run(sent)
    assert result["status"] == "success", result.get("error", result)
    return result["result"]


def refused(worker: RunningWorker, sent: dict[str, Any], error_type: str, *said: str) -> None:
    result = worker.run(sent)
    assert (result["status"], result["error_type"]) == ("failure", error_type), result
    assert [part for part in said if part not in result["error"]] == []


def read(path: str | Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"编号": str}, float_precision="round_trip")


def codes(column: str, method: str, bins: int) -> pd.Series:
    """Bins as pandas makes them; -1 where a value is missing."""
    if column == "城市":
        return TABLE[column].astype("category").cat.codes
    cut = pd.cut if method == "equal_range" else pd.qcut
    return cut(TABLE[column], bins, labels=False, duplicates="drop").fillna(-1).astype(int)


def woe_and_iv(bins: pd.Series) -> tuple[pd.Series, float]:
    """Each row's WOE, and the IV of all bins but -1, which stands for missing values."""
    label, iv = TABLE["y"], 0.0
    woe: dict[int, float] = {}
    for code in sorted(set(bins)):
        positive, negative = ((bins == code) & (label == 1)).sum(), ((bins == code) & (label == 0)).sum()
        half = 0.5 * (positive == 0 or negative == 0)
        shares = (positive + half) / label.sum(), (negative + half) / (1 - label).sum()
        woe[code] = math.log(shares[0] / shares[1])
        iv += (shares[0] - shares[1]) * woe[code] if code >= 0 else 0.0
    return bins.map(woe), iv


@pytest.mark.parametrize("method", ["equal_frequency", "equal_range"])
def test_bins_are_pandas_and_need_no_label(worker: RunningWorker, halves: Path, method: str) -> None:
    rule = paths(halves, "rule")
    sent = job(halves, method=method, bin_num=7, features={"alice": NUMBERS, "bob": ["城市"]}, model_path=rule)
    answer = succeed(worker, sent)
    assert answer["iv"] is None
    found = read(halves / "alice-out.csv")
    for column in NUMBERS:
        np.testing.assert_array_equal(found[column].fillna(-1), codes(column, method, 7))
    np.testing.assert_array_equal(read(halves / "bob-out.csv")["城市"], codes("城市", method, 7))
    pd.testing.assert_frame_equal(found.drop(columns=NUMBERS), TABLE.drop(columns=NUMBERS))
    again = {"task_type": "preprocessing_apply", "model_path": rule, "output_paths": paths(halves, "applied.csv")}
    succeed(worker, envelope({"input_paths": paths(halves, "in.csv"), **again}))
    for party in PARTIES:
        pd.testing.assert_frame_equal(read(halves / f"{party}-applied.csv"), read(halves / f"{party}-out.csv"))


@pytest.mark.parametrize("runtime_config", [SEMI2K, CHEETAH], ids=["SEMI2K", "CHEETAH"])
@pytest.mark.parametrize("method", ["equal_frequency", "equal_range"])
def test_woe_and_iv_are_those_of_the_joined_table(
    worker: RunningWorker, halves: Path, method: str, runtime_config: dict[str, Any]
) -> None:
    rule = paths(halves, "rule")
    answer = succeed(
        worker, by_label(halves, runtime_config, method=method, bin_num=6, min_bin_rows=1, model_path=rule)
    )
    for party in PARTIES:
        found = read(halves / f"{party}-out.csv")
        for column in FEATURES:
            woe, iv = woe_and_iv(codes(column, method, 6))
            np.testing.assert_allclose(found[column], woe, rtol=0, atol=WOE_TOLERANCE)
            assert answer["iv"][party][column] == pytest.approx(iv, abs=WOE_TOLERANCE)
    manifest = (halves / "bob-rule" / "manifest.json").read_text()
    assert json.loads(manifest)["rule_id"] == answer["rule_id"]
    assert "iv" not in manifest


def chimerge(bins: pd.Series, most: int, pvalue: float) -> pd.Series:
    """Merges the two neighbours whose labels are most alike, until few bins are left or all differ."""
    bins, threshold = bins.copy(), chi2.ppf(1 - pvalue, df=1)
    while len(left := sorted(set(bins) - {-1})) > most:
        table = pd.crosstab(bins, TABLE["y"]).reindex(columns=[0, 1], fill_value=0)
        alike = []
        for lower, upper in itertools.pairwise(left):
            pair = table.loc[[lower, upper]].to_numpy()
            alike.append(chi2_contingency(pair, correction=False)[0] if pair.sum(axis=0).all() else 0.0)
        if min(alike) > threshold:
            break
        bins[bins == left[np.argmin(alike)]] = left[np.argmin(alike) + 1]
    return bins


def require_bins_of_the_table(bins: pd.DataFrame, woe: pd.DataFrame) -> None:
    """Both parties' bins are those of the joined table, whose cells `woe` has replaced."""
    for (party, column), part in bins.groupby(["party", "column"]):
        assert party in PARTIES
        values = TABLE[column]
        assert part["rows"].sum() == ROWS
        for each in part.to_dict("records"):
            if pd.isna(each["bin"]):
                rows = values.isna()
            elif column == "城市":
                rows = values == each["category"]
            else:
                rows = values.notna() & ~(values <= each["left"]) & ~(values > each["right"])  # no end is nan
            assert (rows.sum(), TABLE["y"][rows].sum()) == (each["rows"], each["positives"])
            assert woe[column][rows].to_numpy() == pytest.approx(each["woe"], abs=WOE_TOLERANCE)
    assert set(map(tuple, bins[["party", "column"]].to_numpy())) == {(p, c) for p in PARTIES for c in FEATURES}


@pytest.mark.parametrize(("most", "pvalue"), [(3, 1e-9), (5, 0.1)])
def test_chimerge_is_the_same_wherever_the_label_is(
    worker: RunningWorker, halves: Path, most: int, pvalue: float
) -> None:
    how: dict[str, Any] = {
        "method": "chimerge",
        "chimerge_init_bins": 30,
        "chimerge_target_bins": most,
        "min_bin_rows": 1,
    }
    answer = succeed(worker, by_label(halves, **how, chimerge_target_pvalue=pvalue, reveal_bins="ranges"))
    alice, bob = (read(halves / f"{party}-out.csv") for party in PARTIES)
    pd.testing.assert_frame_equal(alice.drop(columns="y"), bob)
    assert answer["iv"]["alice"] == answer["iv"]["bob"]
    bins = pd.DataFrame(answer["bins"])
    require_bins_of_the_table(bins, bob)
    answer = succeed(
        worker, by_label(halves, **how, chimerge_target_pvalue=pvalue, substitution="bin", reveal_bins="counts")
    )
    told = ["bin", "rows", "positives", "woe"]
    pd.testing.assert_frame_equal(pd.DataFrame(answer["bins"])[told], bins[told])
    assert {each[name] for each in answer["bins"] for name in ("left", "right", "category")} == {None}
    found = read(halves / "bob-out.csv")
    for column in NUMBERS:
        merged = chimerge(codes(column, "equal_frequency", 30), most, pvalue)
        woe, iv = woe_and_iv(merged)
        np.testing.assert_allclose(bob[column], woe, rtol=0, atol=WOE_TOLERANCE)
        assert answer["iv"]["bob"][column] == pytest.approx(iv, abs=WOE_TOLERANCE)
        known = merged >= 0
        np.testing.assert_array_equal(found[column][known], merged[known].rank(method="dense") - 1)
        assert found[column][~known].isna().all()


def test_more_rows_than_are_shared_at_a_time(worker: RunningWorker, data: Path) -> None:
    chance = np.random.default_rng(3)
    table = pd.DataFrame({"y": chance.integers(0, 2, 30_000), "x": chance.permutation(30_000)})
    table.to_csv(data / "alice-in.csv", index=False)
    table[["x"]].to_csv(data / "bob-in.csv", index=False)
    sent = by_label(data, features={"alice": ["x"], "bob": ["x"]}, bin_num=35)
    iv = succeed(worker, sent)["iv"]
    assert iv["alice"] == iv["bob"]
    pd.testing.assert_series_equal(read(data / "alice-out.csv")["x"], read(data / "bob-out.csv")["x"])
    # The last progress may be left out where the answer follows within a fifth of a second.
    told = [event["progress"] for event in worker.said(sent["execution_id"]) if event["stage"] == "progress"]
    assert 0 < len(told) == len(set(told))
    assert told == sorted(told)


def test_three_parties(worker: RunningWorker, halves: Path) -> None:
    three = [*PARTIES, "carol"]
    both = {"input_paths": paths(halves, "in.csv", three), "output_paths": paths(halves, "out.csv", three)}
    label = {"party": "carol", "column": "y"}
    features = {"alice": ["visits"], "bob": ["收入"]}
    sent = by_label(halves, ABY3, **both, label=label, features=features)
    sent["sf_init_config"]["parties"] = three
    succeed(worker, sent)
    for party, [column] in features.items():
        woe, _ = woe_and_iv(codes(column, "equal_frequency", 10))
        found = read(halves / f"{party}-out.csv")
        np.testing.assert_allclose(found[column], woe, rtol=0, atol=WOE_TOLERANCE)
    pd.testing.assert_frame_equal(read(halves / "carol-out.csv"), TABLE[["y"]])


def test_constant_columns_are_named_at_once_or_get_one_bin(worker: RunningWorker, halves: Path) -> None:
    numbers = np.where(np.arange(ROWS) % 7, 3.0, np.nan)
    table = TABLE.assign(c0=1.5, c1=7, holes=numbers, empty=np.nan)
    table = pd.concat([table] * 2, ignore_index=True).assign(many=[f"m{number}" for number in range(2 * ROWS)])
    table.to_csv(halves / "alice-in.csv", index=False)
    table.drop(columns="y").to_csv(halves / "bob-in.csv", index=False)
    result = worker.run(job(halves, features={"bob": ["c0", "empty", "visits", "many", "c1", "holes"]}))
    assert result["error"] == (
        "task_config.input_paths.bob: each of the columns 'c0', 'c1', 'holes' holds one number only; leave it out, or "
        "set constant_columns to `one_bin`. column 'empty' has no value in any row; leave it out. column 'many' has "
        "more than 1000 categories; leave it out"
    )
    features = {"alice": ["c0"], "bob": ["c1", "visits", "holes"]}
    rule, warned = paths(halves, "rule"), " has a single bin, as all or most of its numbers are the same"
    sent = job(halves, features=features, constant_columns="one_bin", model_path=rule)
    assert succeed(worker, sent)["warnings"] == [
        "column 'c0' of alice" + warned,
        "column 'c1' of bob" + warned,
        "column 'holes' of bob" + warned,
    ]
    found = read(halves / "bob-out.csv")
    assert (found["c1"] == 0).all()
    assert found["holes"].isna().equals(table["holes"].isna())
    answer = succeed(worker, by_label(halves, features=features, constant_columns="one_bin"))
    assert len(answer["warnings"]) == 3
    assert (answer["iv"]["alice"]["c0"], answer["iv"]["bob"]["c1"]) == (0, 0)
    found = read(halves / "bob-out.csv")
    assert (found["c1"] == 0).all()
    positive, missing = table["y"] == 1, table["holes"].isna()
    shares = (missing & positive).sum() / positive.sum(), (missing & ~positive).sum() / (~positive).sum()
    assert found["holes"][missing].to_numpy() == pytest.approx(math.log(shares[0] / shares[1]))
    changed = table.assign(c0=-5.0, c1=9)
    changed.drop(columns="y").to_csv(halves / "bob-in.csv", index=False)
    applied = {"task_type": "preprocessing_apply", "model_path": rule, "output_paths": paths(halves, "applied.csv")}
    succeed(worker, envelope({"input_paths": paths(halves, "in.csv"), **applied}))
    assert (read(halves / "bob-applied.csv")["c1"] == 0).all()


def test_what_cannot_be_binned(worker: RunningWorker, halves: Path) -> None:
    table = TABLE.assign(constant=1.5, rare=["a"] * 3 + ["b"] * (ROWS - 3))
    table.drop(columns="y").to_csv(halves / "bob-in.csv", index=False)
    refused(worker, job(halves, features={"bob": ["constant"]}), "InputDataError", "input_paths.bob", "'constant'")
    refused(
        worker, by_label(halves, features={"bob": ["rare"]}), "InputDataError", "features.bob", "'rare'", "min_bin_rows"
    )
    refused(
        worker,
        by_label(halves, method="equal_range", bin_num=60, features={"alice": ["收入"]}, reveal_bins="counts"),
        *("InputDataError", "features.alice", "'收入'", "min_bin_rows"),
    )
    refused(worker, by_label(halves, None), "ParameterValidationError", "spu_config")
    succeed(worker, by_label(halves, None, features={"alice": ["visits"]}))  # beside the label: nothing secret
    label = {"party": "alice", "column": "visits"}
    refused(
        worker,
        by_label(halves, label=label, features={"bob": NUMBERS}),
        "InputDataError",
        "task_config.label",
        "0 and 1",
    )
    table.iloc[1:].to_csv(halves / "bob-in.csv", index=False)
    refused(worker, by_label(halves), "InputDataError", "different numbers of rows")


FILES: dict[str, Any] = {"input_paths": {"alice": "a.csv", "bob": "b.csv"}, "output_paths": {"alice": "x", "bob": "y"}}
LABEL = {"party": "alice", "column": "y"}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"method": "quantile"}, "task_config.method"),
        ({"bin_num": 1}, "task_config.bin_num"),
        ({"substitution": "woe"}, "task_config.label: required"),
        ({"method": "chimerge"}, "task_config.label: required"),
        ({"reveal_bins": "counts"}, "task_config.reveal_bins: "),
        ({"substitution": "woe", "label": LABEL}, "task_config.features: required"),
        ({"method": "chimerge", "chimerge_target_bins": 100}, "task_config.chimerge_target_bins: "),
        ({"features": {"alice": ["y"]}, "label": LABEL}, "task_config.features.alice: column 'y'"),
    ],
)
def test_parameters_that_cannot_work(parameters: dict[str, Any], said: str) -> None:
    catalog.load_modules([])
    with pytest.raises(ParameterValidationError) as caught:
        catalog.validate({"task_type": "binning", **FILES, **parameters}, PARTIES)
    assert str(caught.value).startswith(said)
