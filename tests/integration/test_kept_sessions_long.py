"""Two hundred jobs through one worker that keeps sessions, with errors and cancels between them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.bench.__main__ import rss
from tests.running_worker import PARTIES, RunningWorker, envelope

pytestmark = pytest.mark.slow
JOBS = 200
ROWS = 1000
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}}}
KINDS = {"psi": 30, "ss_lr": 15, "pearson": 25, "act": 20, "raise": 3, "raise_foreign": 2, "kill": 2, "hang": 3}
SETTINGS = {"session_jobs": "40", "cancel_grace_seconds": "0.5", "concurrency": "2"}
IN_STEP = ("ss_lr", "pearson")
"""Those whose links send no acknowledgements, for which there is another session."""


def test_every_answer_is_right_and_none_comes_from_a_session_that_failed(redis_url: str, tmp_path: Path) -> None:
    with RunningWorker(redis_url, tmp_path, **SETTINGS) as worker:
        require_all_right(worker, tmp_path)


def require_all_right(worker: RunningWorker, data: Path) -> None:
    chance = random.Random(7)
    frames = write_files(data)
    # A job that comes before the last one's session is offered begins another.
    open_at: dict[bool, list[int]] = {True: [], False: []}
    peaks, kept, memory = [], 0, 0
    for number in range(JOBS):
        [kind] = chance.choices([*KINDS], [*KINDS.values()])
        result = answer(worker, kind, job(kind, data, number))
        failed = kind in ("raise", "raise_foreign", "kill", "hang")
        expected = "cancelled" if kind == "hang" else "failure" if failed else "success"
        assert result["status"] == expected, result
        place = result["task_metadata"].get("session_job", 1)
        of_kind = kind in IN_STEP
        if place > 1:
            assert place - 1 in open_at[of_kind], (number, kind)
            open_at[of_kind].remove(place - 1)
        if not failed:
            open_at[of_kind].append(place)
        check(kind, result, frames, data, number)
        kept += place > 1
        peaks += [(place, peak) for peak in result["performance_metrics"]["peak_rss_bytes"].values()]
        if number == 20:
            memory = rss(worker.process.pid)
    grown = rss(worker.process.pid) - memory
    reasons = [line for line in worker.log().splitlines() if "is not kept" in line]
    late = max(peak for place, peak in peaks if place > 10)
    early = max(peak for place, peak in peaks if 1 < place <= 10)
    print(
        f"{kept} of {JOBS} in kept sessions; peaks {early / 1e6:.0f} MB, later {late / 1e6:.0f} MB; daemon {grown:+} B"
    )
    assert not reasons
    assert kept > JOBS / 2
    assert late < 1.2 * early
    assert grown < 4e6


def write_files(data: Path) -> pd.DataFrame:
    chance = np.random.default_rng(1)
    ids = [f"{number:06d}" for number in range(ROWS)]
    joined = pd.DataFrame({f"of_{party}": chance.normal(size=ROWS) for party in PARTIES})
    joined["of_bob"] += joined["of_alice"]
    label = (joined["of_alice"] + joined["of_bob"] > 0).astype(int)
    for party in PARTIES:
        frame = pd.DataFrame({"id": ids, f"of_{party}": joined[f"of_{party}"]})
        (frame.assign(y=label) if party == "alice" else frame).to_csv(data / f"{party}.csv", index=False)
        more = [f"{number:06d}" for number in range(0 if party == "alice" else 400, ROWS + 400)]
        pd.DataFrame({"id": more, "value": range(len(more))}).to_csv(data / f"{party}-keys.csv", index=False)
    return joined


def job(kind: str, data: Path, number: int) -> dict[str, Any]:
    common = {"keys": {party: ["id"] for party in PARTIES}}
    inputs = {party: str(data / f"{party}.csv") for party in PARTIES}
    task: dict[str, Any] = {"task_type": "act", "action": "succeed" if kind == "act" else kind}
    match kind:
        case "psi":
            keys = {party: str(data / f"{party}-keys.csv") for party in PARTIES}
            outputs = {party: str(data / f"{party}-{number}.csv") for party in PARTIES}
            task = {"task_type": "psi", **common, "input_paths": keys, "output_paths": outputs, "receiver": "alice"}
        case "ss_lr":
            label = {"party": "alice", "column": "y"}
            models = {party: str(data / f"model-{party}") for party in PARTIES}
            task = {"task_type": "ss_lr", **common, "input_paths": inputs, "label": label, "model_path": models}
            task |= {"epochs": 3, "batch_size": 256}
        case "pearson":
            features = {party: [f"of_{party}"] for party in PARTIES}
            task = {"task_type": "pearson_correlation", **common, "input_paths": inputs, "features": features}
    return envelope(task, spu_config=SPU, options={"session": "reuse"})


def answer(worker: RunningWorker, kind: str, sent: dict[str, Any]) -> dict[str, Any]:
    if kind != "hang":
        return worker.run(sent, 180.0)
    execution_id = worker.send(sent)
    worker.until_said(execution_id, "devices_ready")
    worker.redis.set(f"sf:cancel:{execution_id}", 1, ex=60)
    worker.redis.publish("sf:control", execution_id)
    worker.until_ended(execution_id)
    [result] = worker.said(execution_id, "result")
    return result


def check(kind: str, result: dict[str, Any], frames: pd.DataFrame, data: Path, number: int) -> None:
    match kind:
        case "psi":
            assert result["result"]["intersection_count"] == ROWS
            found = [pd.read_csv(data / f"{party}-{number}.csv", dtype={"id": str}) for party in PARTIES]
            assert [*found[0]["id"]] == [*found[1]["id"]]
            assert {*found[0]["id"]} == {f"{each:06d}" for each in range(400, ROWS + 400)}
            assert (found[0]["value"] == found[1]["value"] + 400).all()
        case "pearson":
            told = np.array(result["result"]["correlation"])
            assert np.abs(told - frames.corr().to_numpy()).max() < 1e-3
        case "ss_lr":
            assert result["result"]["rows"] == ROWS
