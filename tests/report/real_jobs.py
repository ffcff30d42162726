"""Small real jobs whose results are drawn: files of two parties with names in Chinese, and a job of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.running_worker import PARTIES, envelope

ROWS = 240
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}}}


def write_files(data: Path) -> pd.DataFrame:
    """Write both parties' halves of a table, which is returned whole."""
    chance = np.random.default_rng(3)
    label = (chance.random(ROWS) < 0.4).astype(int)
    income = np.round(np.exp(chance.normal(1 + 0.6 * label, 0.5)), 3)
    frame = pd.DataFrame(
        {
            "id": [f"{number:04d}" for number in range(ROWS)],
            "y": label,
            "收入": income,
            "age": np.round(chance.normal(40 + 4 * label, 9), 1),
            "score": np.round(np.clip(chance.normal(0.35 + 0.3 * label, 0.2), 0, 1), 3),
            "pay": np.round(income * 2 + chance.normal(0, 0.4, ROWS), 3),
            "visits": chance.poisson(2 + label).astype(float),
            "city": chance.choice(["上海", "北京", "Ulm"], ROWS),
            "truth": np.round(chance.normal(10, 3, ROWS), 3),
        }
    )
    frame["guess"] = np.round(frame["truth"] + chance.normal(0.3, 1, ROWS), 3)
    frame.loc[::9, "visits"] = np.nan
    frame[["id", "y", "收入", "age", "score", "truth", "guess"]].to_csv(data / "alice.csv", index=False)
    frame[["id", "pay", "visits", "city"]].to_csv(data / "bob.csv", index=False)
    frame[["id", "pay"]][40:].to_csv(data / "bob-some.csv", index=False)
    return frame


def jobs(data: Path) -> dict[str, dict[str, Any]]:
    """Return an envelope for each task type whose results are drawn from a run."""

    def at(name: str) -> dict[str, str]:
        return {party: str(data / f"{party}-{name}") for party in PARTIES}

    both = {party: str(data / f"{party}.csv") for party in PARTIES}
    some = {**both, "bob": str(data / "bob-some.csv")}
    ids = {"alice": ["id"], "bob": ["id"]}
    label = {"party": "alice", "column": "y"}
    numbers = {"alice": ["收入", "age"], "bob": ["pay"]}
    tasks: dict[str, dict[str, Any]] = {
        "psi": {
            "keys": ids,
            "input_paths": some,
            "output_paths": at("joined.csv"),
            "receiver": "alice",
            "reveal_rows": True,
        },
        "biclassification_eval": {
            "input_paths": {"alice": both["alice"]},
            "label": label,
            "prediction": {"party": "alice", "column": "score"},
        },
        "regression_eval": {
            "input_paths": {"alice": both["alice"]},
            "label": {"party": "alice", "column": "truth"},
            "prediction": {"party": "alice", "column": "guess"},
        },
        "binning": {
            "input_paths": both,
            "output_paths": at("woe.csv"),
            "label": label,
            "features": {"alice": ["收入"], "bob": ["pay", "city"]},
            "substitution": "woe",
            "bin_num": 4,
            "reveal_bins": "ranges",
        },
        "pearson_correlation": {"input_paths": both, "features": numbers},
        "vif": {"input_paths": both, "features": numbers},
        "ss_lr": {
            "input_paths": both,
            "keys": ids,
            "label": label,
            "features": numbers,
            "model_path": at("model"),
            "epochs": 2,
            "reveal_weights": True,
            "reveal_rmse": True,
        },
    }
    return {name: envelope({"task_type": name, **task}, spu_config=SPU) for name, task in tasks.items()}


def failing_job(data: Path) -> dict[str, Any]:
    """A job that names a column which nobody has."""
    both = {party: str(data / f"{party}.csv") for party in PARTIES}
    features = {"alice": ["age"], "bob": ["salary"]}
    return envelope({"task_type": "vif", "input_paths": both, "features": features}, spu_config=SPU)
