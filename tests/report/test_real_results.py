"""Results of real jobs as pages, CSV files and data frames: their figures are those of a plain computation."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from sfworker.cli import main
from sfworker.client import Result, SyncClient
from sfworker.report.chart import Chart
from sfworker.report.charts import charts
from sfworker.settings import variable
from tests.report.reading import Page
from tests.report.real_jobs import ROWS, failing_job, jobs, write_files
from tests.running_worker import PARTIES, RunningWorker

NUMBERS = ["收入", "age", "pay"]
PICTURES = {
    "psi": ["Intersection"],
    "biclassification_eval": [
        *("ROC", "Precision and recall", "KS", "Gain", "Lift", "Confusion matrix", "Scores", "Calibration"),
    ],
    "regression_eval": ["Residues", "Quantiles of residues"],
    "binning": ["Information value", "WOE of alice.收入", "WOE of bob.pay", "WOE of bob.city"],
    "pearson_correlation": ["Correlation"],
    "vif": ["Variance inflation"],
    "ss_lr": ["Training", "Weights", "Features"],
}


def table(drawn: list[Chart], title: str) -> pd.DataFrame:
    [chart] = [each for each in drawn if each.title == title]
    return pd.DataFrame(chart.table.rows, columns=chart.table.columns)


def bins_of_equal_rows(values: pd.Series[float], label: pd.Series[int]) -> float:
    """The information value of four bins."""
    bins = pd.qcut(values, 4, labels=False)
    positives, negatives = (np.bincount(bins[label == value]) / (label == value).sum() for value in (1, 0))
    return float(((positives - negatives) * np.log(positives / negatives)).sum())


def check_figures(frame: pd.DataFrame, results: dict[str, Result]) -> None:
    drawn = {name: charts(name, result["result"]) for name, result in results.items()}
    assert {name: [chart.title for chart in each] for name, each in drawn.items()} == PICTURES
    assert table(drawn["psi"], "Intersection")["count"].tolist() == [ROWS - 40, ROWS, ROWS - 40]

    chosen = (frame["score"] >= 0.5).astype(int)
    confusion = table(drawn["biclassification_eval"], "Confusion matrix")
    plain = metrics.confusion_matrix(frame["y"], chosen, labels=[1, 0])
    assert confusion[["predicted 1", "predicted 0"]].to_numpy().tolist() == plain.tolist()
    roc = table(drawn["biclassification_eval"], "ROC")
    roc = roc[roc["points"] == "buckets"]
    assert metrics.auc(roc["false_positive_rate"], roc["true_positive_rate"]) == pytest.approx(
        results["biclassification_eval"]["result"]["auc"], abs=0.02
    )
    on_the_curve = np.interp(roc["false_positive_rate"], *metrics.roc_curve(frame["y"], frame["score"])[:2])
    assert (roc["true_positive_rate"] <= on_the_curve + 1e-9).all()  # where many are equally wrong, the curve is higher
    buckets = results["biclassification_eval"].frame("buckets")
    assert (buckets["rows"].sum(), buckets["positives"].sum()) == (ROWS, frame["y"].sum())
    calibration = table(drawn["biclassification_eval"], "Calibration")
    assert (calibration["positives"] * buckets["rows"][::-1].to_numpy()).sum() == pytest.approx(frame["y"].sum())

    residues = frame["truth"] - frame["guess"]
    histogram = table(drawn["regression_eval"], "Residues")
    edges = [*histogram["left"], histogram["right"].iloc[-1]]
    assert np.histogram(residues, edges)[0].tolist() == histogram["rows"].tolist()
    quantiles = table(drawn["regression_eval"], "Quantiles of residues")
    assert quantiles["residue"].tolist() == pytest.approx(residues.quantile(quantiles["share"]).tolist())

    values = results["binning"].frame("iv").set_index(["party", "column"])["iv"]
    assert values["alice", "收入"] == pytest.approx(bins_of_equal_rows(frame["收入"], frame["y"]), abs=1e-6)

    bins = results["binning"].frame("bins")
    assert bins.groupby(["party", "column"])["rows"].sum().tolist() == [ROWS] * 3
    cities = bins[bins["column"] == "city"].set_index("category")["positives"].to_dict()
    assert cities == frame.groupby("city")["y"].sum().to_dict()

    plain = frame[NUMBERS].corr().to_numpy()
    found = results["pearson_correlation"].frame("correlation").drop(columns="name").to_numpy()
    assert np.abs(found - plain).max() < 1e-6
    pairs = table(drawn["pearson_correlation"], "Correlation")
    assert pairs["correlation"].tolist() == pytest.approx([plain[2][0], plain[2][1], plain[1][0]], abs=1e-6)
    inflation = table(drawn["vif"], "Variance inflation")
    assert inflation["vif"].tolist() == pytest.approx(sorted(np.diag(np.linalg.inv(plain)), reverse=True), rel=1e-5)
    weights = table(drawn["ss_lr"], "Weights")["weight"].abs()
    assert weights.is_monotonic_decreasing
    assert len(weights) == len(NUMBERS)
    assert table(drawn["ss_lr"], "Features")["features"].tolist() == [2, 1]
    summary = results["ss_lr"].frame("summary")
    assert dict(zip(summary["name"], summary["value"], strict=True))["epochs"] == 2


@pytest.fixture
def report(worker: RunningWorker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """`report(id, words...)`: the page that the command writes; each table as a file in `tmp_path / id`."""
    monkeypatch.setenv(variable("redis_url"), worker.environment[variable("redis_url")])

    def made(execution_id: str, *words: str) -> str:
        file = tmp_path / "report.html"
        assert main(["report", execution_id, "-o", str(file), "--csv", str(tmp_path / execution_id), *words]) == 0
        return file.read_text()

    return made


def test_results_of_real_jobs(
    worker: RunningWorker, data: Path, report: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = write_files(data)
    sent = {name: worker.send(job) for name, job in jobs(data).items()}
    with SyncClient(worker.environment[variable("redis_url")]) as client:
        results = {name: client.wait(execution_id, 60) for name, execution_id in sent.items()}
    assert {name: result.get("error") for name, result in results.items()} == dict.fromkeys(sent)
    check_figures(frame, results)
    for name, execution_id in sent.items():
        source = report(execution_id)
        told = Page(source)
        assert len(told.pictures) == len(PICTURES[name]) + 2  # time and memory
        assert [title for title in PICTURES[name] if title not in told.text] == []
        assert [party for party in PARTIES if party not in told.text] == []
        assert [text for text in results[name]["disclosures"] if text not in told.text] == []
        assert str(data) not in source
        for table_name in results[name].tables():
            written = tmp_path / execution_id / f"{table_name}.csv"
            [header, *rows] = csv.reader(written.read_text(encoding="utf-8").splitlines())
            plain = results[name].frame(table_name)
            assert header == list(plain.columns)
            assert len(rows) == len(plain)
    assert str(data) in report(sent["ss_lr"], "--paths")
    inflation = pd.read_csv(tmp_path / sent["vif"] / "vif.csv", float_precision="round_trip")
    assert inflation["vif"].tolist() == results["vif"].frame("vif")["vif"].tolist()
    assert str(tmp_path / sent["vif"] / "vif.csv") in capsys.readouterr().out


def test_a_failure_tells_its_remedy_and_the_job(
    worker: RunningWorker, data: Path, report: Callable[..., str], tmp_path: Path
) -> None:
    write_files(data)
    job = failing_job(data)
    result = worker.run(job)
    assert result["error_type"] == "InputDataError"
    source = report(job["execution_id"])
    told = Page(source)
    for said in (result["error"], "InputDataError", "does not help", '"salary"', '"field": "FM128"'):
        assert said in told.text
    assert str(data) not in source
    assert str(data / "bob.csv") in Page(report(job["execution_id"], "--paths")).text


def test_a_result_that_was_kept_elsewhere(worker: RunningWorker, data: Path, tmp_path: Path) -> None:
    write_files(data)
    job = jobs(data)["psi"]
    kept, envelope, page = (tmp_path / name for name in ("result.json", "job.json", "report.html"))
    kept.write_bytes(msgspec.json.encode(worker.run(job)))
    envelope.write_bytes(msgspec.json.encode(job))
    told: dict[str, Any] = {}
    for options in ([], ["--envelope", str(envelope)]):
        assert main(["report", "--file", str(kept), "-o", str(page), *options]) == 0
        told[str(bool(options))] = Page(page.read_text()).text
    assert "intersection_count" in told["False"]
    assert '"receiver": "alice"' not in told["False"]
    assert '"receiver": "alice"' in told["True"]
