"""What trainings and factors cost beside SecretFlow alone, in the same kind of mesh, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tests.bench.bare_jobs import BATCH, EPOCHS, GLM_EPOCHS, RATE, TREES
from tests.bench.gateway import SPU
from tests.bench.measuring import REPETITIONS, Figures, seconds_and_peak, worker
from tests.bench.sessions import spread
from tests.running_worker import PARTIES, RunningWorker, envelope

HEU = {"mode": "PHEU", "schema": "ou", "key_size": 2048}


PROTOCOLS = {"SEMI2K": PARTIES, "CHEETAH": PARTIES, "ABY3": [*PARTIES, "carol"]}
"""The parties of each."""


class Job(NamedTuple):
    """A task, the size of its table, and the shares of SecretFlow's own time and memory that are wanted at most."""

    task_type: str
    rows: int
    columns: int
    most_time: float | None = None
    most_memory: float = 1.0
    repetitions: int = REPETITIONS
    protocol: str = "SEMI2K"

    @property
    def name(self) -> str:
        among = "" if self.protocol == "SEMI2K" else f", {self.protocol}"
        return f"{self.task_type}, {self.rows:,} x {self.columns}{among}"


JOBS = (
    Job("ss_lr", 100_000, 20, 0.60),
    Job("ss_glm", 20_000, 10, 0.40),
    Job("vif", 10_000, 200, 0.60),
    Job("sgb", 20_000, 20, 0.60),
    Job("ss_xgb", 5_000, 20, 0.30),
    Job("ss_xgb", 20_000, 20, 0.20, 0.50, 3),
)
OF_OTHER_PROTOCOLS = (
    Job("ss_lr", 20_000, 18, protocol="ABY3"),
    Job("ss_glm", 5_000, 9, protocol="ABY3"),
    Job("vif", 5_000, 48, protocol="ABY3"),
    Job("ss_xgb", 2_000, 18, protocol="ABY3"),
    Job("ss_lr", 2_000, 10, protocol="CHEETAH", repetitions=3),
    Job("vif", 1_000, 10, protocol="CHEETAH", repetitions=3),
    Job("ss_xgb", 500, 10, protocol="CHEETAH", repetitions=1),
)
PARAMETERS: dict[str, dict[str, Any]] = {
    "ss_lr": {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "penalty": "l2", "l2_norm": 0.1},
    "ss_glm": {"epochs": GLM_EPOCHS, "distribution": "Bernoulli", "optimizer": "IRLS"},
    "vif": {},
    "sgb": TREES,
    "ss_xgb": TREES,
}


def trainings(figures: Figures) -> None:
    """The same job in a worker and in SecretFlow alone: seconds, and the memory of the larger party."""
    beside_secretflow(figures, JOBS)


def protocols(figures: Figures) -> None:
    """The same over the other protocols, of which ABY3 has three parties."""
    beside_secretflow(figures, OF_OTHER_PROTOCOLS)


def beside_secretflow(figures: Figures, jobs: Sequence[Job]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, worker(data_roots=directory) as running:
        for number, job in enumerate(jobs):
            place = Path(directory) / str(number)
            task_config = task(job, place)
            ours, bare = [], []
            for _ in range(job.repetitions):
                ours.append(of_worker(running, job, task_config))
                bare.append(alone(job, place))
            (seconds, memory), (bare_seconds, bare_memory) = (zip(*each, strict=True) for each in (ours, bare))
            figures.add(job.name, spread(seconds))
            figures.add("  SecretFlow alone", spread(bare_seconds))
            compare(figures, "  share of its time", seconds, bare_seconds, job.most_time)
            figures.add("  memory of a party, here and alone", " and ".join(map(megabytes, (memory, bare_memory))))
            compare(figures, "  share of its memory", memory, bare_memory, job.most_memory)


def task(job: Job, place: Path) -> dict[str, Any]:
    """Write the parties' files into `place`, and return the task."""
    place.mkdir()
    parties = PROTOCOLS[job.protocol]
    chance = np.random.default_rng(1)
    x = chance.normal(size=(job.rows, job.columns))
    y = (x @ np.linspace(-1, 1, job.columns) + chance.normal(size=job.rows) > 0) * 1
    paths, features, share = {}, {}, job.columns // len(parties)
    for number, party in enumerate(parties):
        own = range(number * share, (number + 1) * share)
        features[party] = [f"x{each}" for each in own]
        frame = pd.DataFrame(x[:, own], columns=features[party])
        frame = frame.rename_axis("id").reset_index()
        paths[party] = str(place / f"{party}.csv")
        (frame.assign(y=y) if party == "alice" else frame).to_csv(paths[party], index=False)
    about: dict[str, Any] = {"task_type": job.task_type, "features": features, "input_paths": paths}
    if job.task_type != "vif":
        about["label"] = {"party": "alice", "column": "y"}
        about["model_path"] = {party: str(place / f"model-{party}") for party in parties}
    return about | PARAMETERS[job.task_type]


def of_worker(running: RunningWorker, job: Job, task_config: dict[str, Any]) -> tuple[float, int]:
    runtime_config = SPU["cluster_def"]["runtime_config"] | {"protocol": job.protocol}
    spu = {"spu_config": {"cluster_def": {"runtime_config": runtime_config}}}
    made = envelope(task_config, **({"heu_config": HEU} if job.task_type == "sgb" else spu))
    made["sf_init_config"] = {**made["sf_init_config"], "parties": PROTOCOLS[job.protocol]}
    return seconds_and_peak(running, made)


def alone(job: Job, place: Path) -> tuple[float, int]:
    command = [sys.executable, "-m", "tests.bench.bare_jobs", job.task_type, str(place), job.protocol]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "FIGURES " not in done.stdout or done.returncode:
        raise SystemExit(done.stderr)
    seconds, memory = json.loads(done.stdout.rpartition("FIGURES ")[2])
    return seconds, memory


def compare(figures: Figures, what: str, ours: Any, bare: Any, most: float | None) -> None:
    share = statistics.median(ours) / statistics.median(bare)
    if most is None:
        figures.add(what, f"{share:.0%}")
    else:
        figures.add(what, f"{share:.0%}", f"<= {most:.0%}", share <= most)


def megabytes(values: Any) -> str:
    return f"{statistics.median(values) / 1e6:.0f} MB"
