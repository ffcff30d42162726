"""What files of many rows cost: seconds of a job, and the memory of the party that took most of it."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from tests.bench.gateway import SPU
from tests.bench.measuring import REPETITIONS, Figures, seconds_and_peak, worker
from tests.running_worker import PARTIES, RunningWorker, envelope

ROWS = (10_000, 100_000, 1_000_000)
MANY_ROWS = 10_000_000
COLUMNS = 7
AT_ONCE = 250_000
KEYS = {party: ["id"] for party in PARTIES}
TASKS = (
    *("feature_filter", "scaler", "binning", "train_test_split", "table_statistics", "groupby_statistics"),
    *("ss_lr_predict", "sgb_predict", "psi", "psi, left join", "ss_lr"),
)
DEVICES: dict[str, dict[str, Any]] = {
    "sgb": {"heu_config": {"mode": "PHEU", "schema": "ou", "key_size": 2048}},
    "sgb_predict": {},
}
"""Devices of task types that take no SPU."""
LIMITS = {"time_limit": 3600, "soft_time_limit": 3500}


def files(figures: Figures) -> None:
    """Figures of each task type by the number of rows, medians of five."""
    measure(figures, ROWS, REPETITIONS)


def files_10m(figures: Figures) -> None:
    """The same with ten million rows, once."""
    measure(figures, (MANY_ROWS,), 1)


def measure(figures: Figures, sizes: tuple[int, ...], repetitions: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, worker(data_roots=directory) as running:
        data = Path(directory)
        for rows in (ROWS[0], *sizes):
            write_files(data, rows)
        for trained in ("ss_lr", "sgb"):
            run(running, task(trained, data, ROWS[0]))
        for name in TASKS:
            for rows in sizes:
                found = [run(running, task(name, data, rows)) for _ in range(repetitions)]
                seconds, peaks = zip(*found, strict=True)
                figures.add(f"{name}, {rows:,} rows", f"{spread(seconds, 's', 2)}, {spread(peaks, 'MB', 0)}")


def write_files(data: Path, rows: int) -> None:
    """Write a file of an id and seven columns of numbers for each party."""
    for number, party in enumerate(PARTIES):
        random = np.random.default_rng(number)
        names = ["id", *(f"{party}_{column}" for column in range(COLUMNS))]
        schema = pa.schema([(name, pa.string() if name == "id" else pa.float64()) for name in names])
        options = csv.WriteOptions(quoting_style="none")
        with csv.CSVWriter(str(data / f"{party}-{rows}.csv"), schema, write_options=options) as file:
            for first in range(0, rows, AT_ONCE):
                ids = [f"u{row:09}" for row in range(first, min(first + AT_ONCE, rows))]
                numbers = random.normal(size=(COLUMNS, len(ids))).round(6)
                numbers[0] = numbers[0] > 0
                file.write_table(pa.table([ids, *numbers], schema=schema))


def task(name: str, data: Path, rows: int) -> dict[str, Any]:
    """Return the parameters of a job of this type."""
    paths = {
        parameter: {party: str(data / f"{parameter}-{party}.csv") for party in PARTIES}
        for parameter in ("output_paths", "train_paths", "test_paths")
    }
    model, trees = (
        {"model_path": {party: str(data / f"{of}-{party}") for party in PARTIES}} for of in ("model", "trees")
    )
    output = {"output_paths": paths["output_paths"]}
    label = {"label": {"party": PARTIES[1], "column": f"{PARTIES[1]}_0"}}
    predicted = {
        "keys": KEYS,
        "receiver": PARTIES[0],
        "output_paths": {PARTIES[0]: paths["output_paths"][PARTIES[0]]},
    }
    joined = {**output, "keys": KEYS, "receiver": PARTIES[0]}
    asked: dict[str, dict[str, Any]] = {
        "feature_filter": {**output, "drop": {party: [f"{party}_1"] for party in PARTIES}},
        "scaler": {**output, "keys": KEYS},
        "binning": {**output, "keys": KEYS},
        "train_test_split": {"train_paths": paths["train_paths"], "test_paths": paths["test_paths"]},
        "table_statistics": {"keys": KEYS},
        "groupby_statistics": {
            "by": {PARTIES[0]: [f"{PARTIES[0]}_0"]},
            "values": {PARTIES[1]: [f"{PARTIES[1]}_{column}" for column in range(1, 4)]},
            "aggregations": ["mean", "var"],
        },
        "ss_lr": {**model, **label, "keys": KEYS, "epochs": 1},
        "ss_lr_predict": {**model, **predicted},
        "sgb": {**trees, **label, "keys": KEYS},
        "sgb_predict": {**trees, **predicted},
        "psi": joined,
        "psi, left join": {**joined, "join_type": "left"},
    }
    inputs = {party: str(data / f"{party}-{rows}.csv") for party in PARTIES}
    return {"task_type": name.partition(",")[0], "input_paths": inputs, **asked[name]}


def run(running: RunningWorker, task_config: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds from append to answer, and the megabytes of the party process that had most."""
    device = DEVICES.get(task_config["task_type"], {"spu_config": SPU})
    seconds, peak = seconds_and_peak(running, envelope(task_config, **device, options=LIMITS))
    return seconds, peak / 1e6


def spread(values: Any, unit: str, digits: int) -> str:
    middle = f"{statistics.median(values):,.{digits}f} {unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
