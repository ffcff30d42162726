"""What is random differs between the parties of an execution, and between executions, although all are forks."""

from __future__ import annotations

from pathlib import Path

from tests.running_worker import PARTIES, RunningWorker, envelope

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM64"}}}


def test_nobody_draws_what_another_drew(redis_url: str, tmp_path: Path) -> None:
    with RunningWorker(redis_url, tmp_path, jobs="tests.drawing_job") as worker:
        results = [worker.run(envelope({"task_type": "draw"}, spu_config=SPU)) for _ in range(3)]
    drawn = [result["result"]["drawn"][party] for result in results for party in PARTIES]
    assert len(drawn[0]) == 14
    alike = {source for source in drawn[0] if len({each[source] for each in drawn}) < len(drawn)}
    assert alike == set()
