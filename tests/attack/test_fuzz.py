"""What reads a stranger's bytes gives a typed answer or a sentence, within a second and some memory, whatever comes.

`python -m tests.attack.fuzz` goes on from here for as long as one likes, guided by coverage.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sfworker.catalog.base import load_modules
from sfworker.catalog.component import DistData
from sfworker.catalog.job import accept
from sfworker.errors import InputDataError, ParameterValidationError, SecretFlowTaskError
from sfworker.settings import Settings
from sfworker.tables import files
from tests.attack import targets
from tests.attack.targets import TARGETS
from tests.catalog.examples import TASKS, job
from tests.running_worker import ROOT

INPUTS = {
    "envelopes": 700,
    "parameters": 1_200,
    "components": 600,
    "frames": 2_000,
    "peers": 2_000,
    "lines": 300,
    "tables": 50,
}
MANY = 40_000

pytestmark = pytest.mark.attack("stream entry")


def _boundary(name: str) -> Any:
    boundaries = {"frames": "party process", "peers": "gateway", "lines": "logs", "tables": "input file"}
    return pytest.param(name, marks=pytest.mark.attack(boundaries.get(name, "stream entry")), id=name)


@pytest.mark.parametrize("name", [_boundary(name) for name in TARGETS])
# Arrow says so of rows in another encoding, which are then refused.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_comes_is_read_or_refused_with_a_sentence(name: str) -> None:
    target, random = TARGETS[name], Random(2026)
    begin_with = target.some(INPUTS[name], random)
    for data in begin_with:
        target.judge(data)
    for _ in range(INPUTS[name]):
        target.judge(target.mutate(random.choice(begin_with), random)[: targets.LONGEST])


@pytest.mark.parametrize("name", [_boundary(name) for name in ("envelopes", "frames", "lines")])
def test_what_comes_takes_little_memory(name: str) -> None:
    target, random = TARGETS[name], Random(7)
    inputs = target.some(100, random)
    for data in inputs[:10]:
        target.check(data)
    tracemalloc.start()
    try:
        for data in inputs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            target.check(data)
            assert tracemalloc.get_traced_memory()[1] - before < targets.LIMIT_BYTES
    finally:
        tracemalloc.stop()


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("pearson_correlation", "binning", "encoder")]


@pytest.mark.parametrize("name", ["ss_lr", "groupby_statistics", *_SLOW])
def test_the_longest_envelope_is_judged_in_a_moment(name: str) -> None:
    """The daemon does it between renewals of leases."""
    load_modules([])
    many = [f"c{number}" for number in range(MANY)]
    task = TASKS[name]
    for field in task:
        for value in ({"alice": many}, {column: ["x"] for column in many}, {"alice": dict.fromkeys(many, "float")}):
            wide = {**task, field: value} if field != "task_type" else {**task, "features": value, "keys": value}
            target = json.dumps(job(wide)).encode()
            _judged(target)
    _judged(
        json.dumps(job({**task, "keys": {"alice": many}, "by": {"alice": many}, "values": {"alice": many}})).encode()
    )


def _judged(data: bytes) -> None:
    began = time.thread_time()
    try:
        accept(data, Settings(), 0.0)
    except SecretFlowTaskError as error:
        targets.require_sentence(error)
    assert time.thread_time() - began < targets.LIMIT_SECONDS


_CROWD = {"parties": {f"p{number}": {"address": ""} for number in range(17)}, "self_party": "p1"}
_WIDE = {"task_type": "component", "node_eval_param": {"attrs": [{"i64": 2**64}]}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task_config": _WIDE}, "task_config.node_eval_param.attrs[0].i64: integer value out of range"),
        ({"options": {"memory_limit_bytes": 2**64}}, "options.memory_limit_bytes: integer value out of range"),
        ({"sf_init_config": {"cluster_config": _CROWD}}, "sf_init_config.cluster_config.parties: expected `object` of"),
        ({"heu_config": {"\r\n\x1b[2J": 1}}, "heu_config.���[2J: unknown parameter"),
    ],
)
def test_what_fuzzing_found(changes: dict[str, Any], sentence: str) -> None:
    load_modules([])
    with pytest.raises(SecretFlowTaskError) as caught:
        accept(json.dumps({**job(TASKS["hello"]), **changes}).encode(), Settings(), 0.0)
    assert str(caught.value).startswith(sentence)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_row_of_another_length_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\n" + b"3,4\n" * 5_000 + b"\xcf\n")
    with pytest.raises(InputDataError, match=r"^task_config.input_paths.alice: not a CSV file in UTF-8"):
        files.whole("task_config.input_paths.alice", path)


def test_a_type_of_protobuf_itself() -> None:
    from sfworker.components.params import dist_data

    data = DistData(type="sf.report", meta={"@type": "type.googleapis.com/google.protobuf.Any"})
    with pytest.raises(ParameterValidationError, match=r"^inputs\[0\]: is not the protobuf JSON of a DistData"):
        dist_data(data, "inputs[0]")


@pytest.mark.parametrize("name", ["frames", "lines"])
def test_fuzzing_guided_by_coverage_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.attack.fuzz", "--runs", "300", "--into", str(tmp_path), name]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "Done 300 runs" in run.stderr
