"""What other users of the host, and jobs, see of a worker."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pandas as pd
import pytest

from tests.running_worker import PARTIES, RunningWorker, envelope

pytestmark = pytest.mark.attack("host")
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM64"}}}


def environment(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_jobs_see_no_secrets_of_the_worker(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "AWS_SECRET_ACCESS_KEY", "LICENCE_OF_OURS"):
        monkeypatch.setenv(name, "4711")
    with RunningWorker(redis_url, tmp_path, job_environment="LICENCE_OF_OURS") as worker:
        below = {worker.template(), *worker.parties()}
        assert len(below) > 2
        for pid in {worker.process.pid, *below}:  # a core of the worker holds Redis's password
            [core] = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in line]
            assert core.split()[-3:] == ["0", "0", "bytes"]
            assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0
        for pid in below:
            seen = environment(pid)
            assert seen["LICENCE_OF_OURS"] == "4711"
            assert not {"REDIS_URL", "OTEL_EXPORTER_OTLP_HEADERS", "AWS_SECRET_ACCESS_KEY"} & seen.keys()
            assert not [name for name in seen if name.startswith("SFWORKER_")]


@pytest.mark.parametrize(("umask", "mode"), [pytest.param("077", 0o600, marks=pytest.mark.slow), ("027", 0o640)])
def test_files_are_for_whom_the_operator_says(redis_url: str, tmp_path: Path, umask: str, mode: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    chance = pd.DataFrame({"id": range(100), "x": range(100), "y": [0, 1] * 50})
    for party in PARTIES:
        chance.to_csv(data / f"{party}.csv", index=False)
    os.umask(0o022)
    paths = {party: str(data / f"{party}.csv") for party in PARTIES}
    outputs = {party: str(data / f"out/{party}.csv") for party in PARTIES}
    psi = {"task_type": "psi", "keys": {party: ["id"] for party in PARTIES}, "receiver": "alice"}
    models = {party: str(data / f"out/model-{party}") for party in PARTIES}
    label = {"label": {"party": "alice", "column": "y"}, "features": {"alice": ["x"], "bob": ["x"]}}
    with RunningWorker(redis_url, tmp_path, umask=umask) as worker:
        for task in (
            {**psi, "input_paths": paths, "output_paths": outputs},
            {"task_type": "ss_lr", "input_paths": paths, "model_path": models, "epochs": 1, **label},
        ):
            assert worker.run(envelope(task, spu_config=SPU))["status"] == "success"
        worker.until_clean()
        written = [*(data / "out").rglob("*"), data / "out", worker.log_file, *worker.run_dir.rglob("*")]
        shown = {
            path for path in written if stat.S_IMODE(path.lstat().st_mode) & ~(mode | 0o111) and not path.is_symlink()
        }
        assert {path for path in shown if not stat.S_ISSOCK(path.lstat().st_mode)} == set()
        assert {stat.S_IMODE(path.stat().st_mode) for path in written if path.is_file()} == {mode}
