"""`table_statistics` and `population_stability` against pandas, scipy and the formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sfworker.jobs.statistics import statistics
from tests.running_worker import RunningWorker, envelope

RELATIVE = 1e-12


def succeed(worker: RunningWorker, job: dict[str, Any]) -> Any:
    result = worker.run(job)
    assert result["status"] == "success", result["error"]
    return result["result"]


def described(data: Path, **parameters: Any) -> dict[str, Any]:
    inputs = {"alice": str(data / "alice.csv"), "bob": str(data / "bob.csv")}
    return envelope({"task_type": "table_statistics", "input_paths": inputs, **parameters})


@pytest.fixture
def numbers(data: Path) -> pd.DataFrame:
    """Skewed, whole, tiny, constant and partly missing columns at alice; text with leading zeros at bob."""
    chance = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "skewed": chance.exponential(3.0, 500),
            "whole": chance.integers(-50, 1000, 500),
            "tiny": chance.normal(1e-9, 1e-11, 500),
            "constant": 7.5,
            "some": np.where(chance.random(500) < 0.3, np.nan, chance.normal(5, 2, 500)),
            "nothing": np.nan,
        }
    )
    frame.to_csv(data / "alice.csv", index=False)
    codes = [f"00{number % 40}" for number in range(300)]
    pd.DataFrame({"编号": codes, "flag": [number % 3 == 0 for number in range(300)]}).to_csv(
        data / "bob.csv", index=False
    )
    return frame


def test_a_constant_column_whose_mean_is_rounded_has_no_shape() -> None:
    found = statistics(np.full(1000, 7.7))
    assert {found[name] for name in ("var", "std", "cv", "skew", "kurtosis", "central_moment_4")} == {0}


def test_figures_are_those_of_pandas(worker: RunningWorker, data: Path, numbers: pd.DataFrame) -> None:
    found = succeed(worker, described(data))["statistics"]
    for name in ("skewed", "whole", "tiny", "constant", "some"):
        column = numbers[name].astype(float)
        centred = column - column.mean()
        quartiles = column.quantile([0.25, 0.5, 0.75])
        expected = {
            "total_count": 500,
            "count": column.count(),
            "count_na": column.isna().sum(),
            "na_ratio": column.isna().mean(),
            "nunique": column.nunique(),
            "min": column.min(),
            "max": column.max(),
            "mean": column.mean(),
            "var": column.var(),
            "std": column.std(),
            "sem": column.sem(),
            "cv": column.std() / column.mean(),
            "q1": quartiles[0.25],
            "q2": quartiles[0.5],
            "q3": quartiles[0.75],
            "sum": column.sum(),
        }
        for power in (2, 3, 4):
            expected[f"sum_{power}"] = column.pow(power).sum()
            expected[f"moment_{power}"] = column.pow(power).mean()
            expected[f"central_moment_{power}"] = centred.pow(power).mean()
        # pandas takes a column as small as this for a constant one.
        larger = column * 1e9 if name == "tiny" else column
        expected |= {"skew": larger.skew(), "kurtosis": larger.kurt()}
        told = found["alice"][name]
        assert told.pop("datatype") == ("int" if name == "whole" else "float")
        assert told == pytest.approx(expected, rel=1e-6 if name == "tiny" else RELATIVE, abs=0), name
    assert {key for key, value in found["alice"]["nothing"].items() if value is not None} == {
        "datatype",
        "total_count",
        "count",
        "count_na",
        "na_ratio",
        "nunique",
    }


def test_text_is_counted(worker: RunningWorker, data: Path, numbers: pd.DataFrame) -> None:
    found = succeed(worker, described(data, features={"bob": ["编号", "flag"]}))["statistics"]
    assert list(found["bob"]) == ["编号", "flag"]
    assert not found["alice"]
    told = {key: value for key, value in found["bob"]["编号"].items() if value is not None}
    assert told == {
        "datatype": "str",
        "total_count": 300,
        "count": 300,
        "count_na": 0,
        "na_ratio": 0.0,
        "nunique": 40,
    }
    assert found["bob"]["flag"]["datatype"] == "bool"


def test_only_what_is_asked_for_leaves_the_party(worker: RunningWorker, data: Path, numbers: pd.DataFrame) -> None:
    job = described(
        data,
        input_paths={"bob": str(data / "bob.csv")},
        keys={"bob": ["flag"]},
        column_types={"bob": {"编号": "int"}},
        statistics=["mean", "std"],
    )
    [told] = succeed(worker, job)["statistics"]["bob"].values()
    assert {key for key, value in told.items() if value is not None} == {
        "datatype",
        "total_count",
        "count",
        "mean",
        "std",
    }
    assert told["mean"] == pytest.approx(np.mean([number % 40 for number in range(300)]))


def test_a_single_row_and_extreme_numbers(worker: RunningWorker, data: Path) -> None:
    (data / "alice.csv").write_text("x,y\n3,1e300\n")
    (data / "bob.csv").write_text("x,y\n1e300,1e-300\n-1e300,2e-300\n1e300,5e-300\n2e300,5e-300\n")
    found = succeed(worker, described(data))["statistics"]
    assert (found["alice"]["x"]["mean"], found["alice"]["x"]["var"]) == (3.0, None)
    assert found["alice"]["y"]["moment_2"] is None
    shape = pd.Series([1.0, -1.0, 1.0, 2.0])
    assert found["bob"]["x"]["skew"] == pytest.approx(shape.skew())
    assert found["bob"]["y"]["kurtosis"] == pytest.approx(pd.Series([1.0, 2.0, 5.0, 5.0]).kurt())


@pytest.mark.parametrize(
    ("content", "parameters", "said"),
    [
        ("x\n1\ninf\n", {}, "task_config.input_paths.alice: column 'x' holds an infinite number in row 2"),
        ("x\n1\nword\n", {"column_types": {"alice": {"x": "float"}}}, "column 'x' holds no float in row 2"),
        ("x\n1\n", {"features": {"alice": ["z"]}}, "task_config.features.alice: the party's input file has no column"),
        ("x\n1\n", {"column_types": {"alice": {"z": "int"}}}, "task_config.column_types.alice: "),
        ("x\n1\n", {"keys": {"alice": ["z"]}}, "task_config.keys.alice: "),
        ("x\n", {}, "task_config.input_paths.alice: the file has a header and no rows"),
    ],
)
def test_files_that_cannot_be_described(
    worker: RunningWorker, data: Path, content: str, parameters: dict[str, Any], said: str
) -> None:
    (data / "alice.csv").write_text(content)
    result = worker.run(described(data, input_paths={"alice": str(data / "alice.csv")}, **parameters))
    assert result["error_type"] == "InputDataError"
    assert said in result["error"]


# --- population stability


def compared(data: Path, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "population_stability",
        "input_paths": {"bob": str(data / "base.csv")},
        "test_paths": {"bob": str(data / "test.csv")},
        **parameters,
    }
    return envelope(task)


def index(base: pd.Series[float], test: pd.Series[float], edges: Any) -> float:
    shares = []
    for column in (base, test):
        counts = pd.cut(column, [-np.inf, *edges, np.inf]).value_counts(sort=False).tolist()
        shares.append(np.array([*counts, column.isna().sum()]) / len(column))
    return float(
        sum((there - here) * np.log(max(there, 1e-3) / max(here, 1e-3)) for here, there in zip(*shares, strict=True))
    )


@pytest.fixture
def two_files(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    chance = np.random.default_rng(6)
    base = pd.DataFrame({"年龄": chance.normal(40, 10, 800), "few": chance.integers(0, 3, 800)})
    test = pd.DataFrame({"年龄": chance.normal(45, 12, 300), "few": chance.integers(0, 4, 300)})
    test.loc[:20, "年龄"] = np.nan
    base.to_csv(data / "base.csv", index=False)
    test.to_csv(data / "test.csv", index=False)
    return base, test


def test_stability_is_that_of_the_formula(
    worker: RunningWorker, data: Path, two_files: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    base, test = two_files
    found = succeed(worker, compared(data, bin_num=8))["stability"]["bob"]
    edges = base["年龄"].quantile(np.arange(1, 8) / 8)
    assert found["年龄"]["psi"] == pytest.approx(index(base["年龄"], test["年龄"], edges), rel=RELATIVE)
    assert [each["base_ratio"] for each in found["年龄"]["bins"]] == pytest.approx([0.125] * 8 + [0.0])
    assert found["年龄"]["bins"][-1]["missing"]
    assert found["few"]["psi"] == pytest.approx(index(base["few"], test["few"], [0, 1]), rel=RELATIVE)
    assert sum(each["psi"] for each in found["few"]["bins"]) == pytest.approx(found["few"]["psi"])
    assert sum(each["test_ratio"] for each in found["few"]["bins"]) == pytest.approx(1.0)


def test_stability_with_edges_of_ones_own(
    worker: RunningWorker, data: Path, two_files: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    base, test = two_files
    job = compared(data, features={"bob": ["年龄"]}, split_points={"bob": {"年龄": [30, 40, 50]}})
    [found] = succeed(worker, job)["stability"]["bob"].values()
    assert [(each["left"], each["right"]) for each in found["bins"][:-1]] == [
        (None, 30),
        (30, 40),
        (40, 50),
        (50, None),
    ]
    assert found["psi"] == pytest.approx(index(base["年龄"], test["年龄"], [30, 40, 50]), rel=RELATIVE)


@pytest.mark.parametrize(
    ("base", "test", "said"),
    [
        ("x\n1\n2\n", "y\n1\n", "task_config.test_paths.bob: the file has no column 'x'"),
        ("x\n1\nword\n", "x\n1\n", "task_config.input_paths.bob: column 'x' holds no float in row 2"),
        ("x\n1\n2\n", "x\n1\n-inf\n", "task_config.test_paths.bob: column 'x' holds an infinite number in row 2"),
        ("x,y\n,1\n,2\n", "x,y\n1,1\n", "task_config.input_paths.bob: column 'x' has no value in any row"),
    ],
)
def test_files_that_cannot_be_compared(worker: RunningWorker, data: Path, base: str, test: str, said: str) -> None:
    (data / "base.csv").write_text(base)
    (data / "test.csv").write_text(test)
    result = worker.run(compared(data))
    assert (result["error_type"], said in result["error"]) == ("InputDataError", True), result
