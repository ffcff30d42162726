"""The jobs of a chaos run: what is sent, and what its one answer may be."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.running_worker import PARTIES

ROWS = 2000
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM64"}}}


@dataclass(frozen=True)
class Kind:
    """A kind of job. `answers` are the statuses that its result may have, a cancelled one apart."""

    name: str
    weight: float
    answers: frozenset[str]
    task: dict[str, Any]
    options: dict[str, Any]
    spu: bool = False


def kinds(data: Path, lease_seconds: float) -> list[Kind]:
    """Kinds of jobs on the files in `data`, which are written here; one of them runs longer than a lease."""
    frames = _write_files(data)
    inputs = {party: str(frames[party]) for party in PARTIES}
    keys = {party: ["id"] for party in PARTIES}

    def acting(name: str, weight: float, answers: set[str], options: dict[str, Any] | None = None, **task: Any) -> Kind:
        return Kind(name, weight, frozenset(answers), {"task_type": "act_alone", **task}, options or {})

    return [
        Kind("hello", 60, frozenset({"success"}), {"task_type": "hello"}, {}),
        Kind("no such type", 3, frozenset({"failure"}), {"task_type": "nothing"}, {}),
        acting("raises once", 5, {"success"}, action="raise", attempts=1),
        acting("raises always", 3, {"failure"}, {"max_retries": 1}, action="raise"),
        acting("raises foreign", 3, {"failure"}, {"max_retries": 0}, action="raise_foreign"),
        acting("exits once", 4, {"success"}, action="exit", attempts=1),
        acting("kills itself once", 4, {"success"}, action="kill", attempts=1),
        acting("hangs", 2, {"failure"}, {"soft_time_limit": 2, "time_limit": 4}, action="hang"),
        acting("longer than the lease", 2, {"success"}, action="report", seconds=2 * lease_seconds),
        acting("holds too much memory", 1, {"failure"}, {"memory_limit_bytes": 200_000_000}, action="allocate"),
        Kind(
            "psi",
            8,
            frozenset({"success"}),
            {"task_type": "psi", "keys": keys, "input_paths": inputs, "receiver": "alice"},
            {},
            spu=True,
        ),
        Kind(
            "ss_lr",
            4,
            frozenset({"success"}),
            {
                "task_type": "ss_lr",
                "keys": keys,
                "input_paths": inputs,
                "label": {"party": "alice", "column": "y"},
                "epochs": 3,
                "batch_size": 512,
            },
            {},
            spu=True,
        ),
    ]


def envelope(kind: Kind, number: int, data: Path) -> dict[str, Any]:
    """The job's envelope; outputs go to names of its own."""
    task = dict(kind.task)
    outputs = {party: str(data / f"{number}-{party}") for party in PARTIES}
    if task["task_type"] == "psi":
        task["output_paths"] = {party: f"{path}.csv" for party, path in outputs.items()}
    if task["task_type"] == "ss_lr":
        task["model_path"] = outputs
    return {
        "task_id": "chaos",
        "subtask_id": kind.name,
        "execution_id": f"chaos-{number}",
        "sf_init_config": {"parties": PARTIES, "address": "local"},
        "task_config": task,
        "options": {"max_retries": 6, "retry_delay": 0.2, **kind.options},
        **({"spu_config": SPU} if kind.spu else {}),
    }


def choose(chance: random.Random, of: list[Kind]) -> Kind:
    return chance.choices(of, [kind.weight for kind in of])[0]


def _write_files(data: Path) -> dict[str, Path]:
    chance = np.random.default_rng(1)
    ids = [f"{number:06d}" for number in range(ROWS)]
    paths = {}
    for party in PARTIES:
        frame = pd.DataFrame({"id": ids, f"of_{party}": chance.normal(size=ROWS)})
        if party == PARTIES[0]:
            frame["y"] = (frame[f"of_{party}"] > 0).astype(int)
        paths[party] = data / f"{party}.csv"
        frame.to_csv(paths[party], index=False)
    return paths
