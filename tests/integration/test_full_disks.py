"""Every task type on disks that fill: it says so, or gives the right answer. A success with less in it is none.

The disks are small tmpfs: one for each party's outputs, one for the run directory, which holds every party's scratch,
and /dev/shm.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.jobs.components import SEMI2K, Platform, node, running, table
from tests.jobs.test_required_alone import CASES, COMPONENT, FLAT_HEU, ROWS, SAVED
from tests.running_worker import PARTIES, envelope

PAGE = os.sysconf("SC_PAGE_SIZE")
AMPLE = 64 << 20
MANY = 30_000
SPU = {"cluster_def": {"runtime_config": SEMI2K}}
WRITTEN = ("cache_path", "model_path", "output_paths", "test_paths", "train_paths")
ENOUGH: dict[str, dict[str, Any]] = {
    "fillna": {"fill_value": 0},
    "sample": {"frac": 0.5},
    "scaler": {"model_path": {party: f"scaler/model_path-{party}" for party in PARTIES}},
    "sgb": {"num_boost_round": 1, "max_depth": 2},
    "ss_glm": {"epochs": 1},
    "ss_xgb": {"num_boost_round": 1, "max_depth": 1},
}
"""What some task types need beside what they require, and what makes the slow ones quick."""


def _one_of_each() -> dict[str, dict[str, Any]]:
    """The first case of each task type, by the folder of its outputs."""
    found: dict[str, dict[str, Any]] = {}
    for case, task in CASES.items():
        name = task["task_type"]
        if all(each["task_type"] != name for each in found.values()):
            found[case] = {**task, **ENOUGH.get(name, {})}
    return found


def _inputs(task: dict[str, Any]) -> tuple[str, ...]:
    """Fields of WRITTEN that this task type reads."""
    if task["task_type"] == "population_stability":
        return ("test_paths",)
    return ("model_path",) if task["task_type"] in SAVED else ()


def _outputs(task: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {name: paths for name, paths in task.items() if name in WRITTEN and name not in _inputs(task)}


ONE_OF_EACH = _one_of_each()
WRITING = [case for case, task in ONE_OF_EACH.items() if _outputs(task) or "node_eval_param" in task]
FULL = re.compile(r"the disk of (the outputs|the scratch directory|the run directory|the worker) is full; .*")
# The worker sees a /dev/shm of its own, of one page that is taken.
OWN_SHM = ["sh", "-c", f'mount -t tmpfs -o size={PAGE} shm /dev/shm && echo >/dev/shm/full && exec "$@"', "sh"]


class Disks:
    """A worker whose disks can be made smaller."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.worker = platform.worker
        self.outputs = [platform.root(party) / "disk" for party in PARTIES]
        self.run = platform.worker.run_dir
        self.cases = {case: dict(task) for case, task in ONE_OF_EACH.items()}

    def leave(self, free: int, *disks: Path) -> None:
        """Leave as many bytes free on each disk."""
        for disk in disks:
            (disk / "filler").write_bytes(bytes(PAGE))
            subprocess.run(["mount", "-o", f"remount,size={_used(disk) + free}", disk], check=True)

    def clear(self) -> None:
        """Empty the disks for outputs and make all ample."""
        self.worker.until_clean()
        for disk in self.outputs:
            for path in disk.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for disk in (*self.outputs, self.run):
            (disk / "filler").unlink(missing_ok=True)
        self.leave(AMPLE, *self.outputs, self.run)

    def answer(self, task: dict[str, Any], folder: str) -> dict[str, Any]:
        """The result of the job with its outputs in `folder` of each party's root."""
        moved: dict[str, Any] = {
            name: {party: f"{folder}/{path}" for party, path in paths.items()} for name, paths in _outputs(task).items()
        }
        if node := task.get("node_eval_param"):
            moved["node_eval_param"] = {**node, "output_uris": [f"{folder}/{uri}" for uri in node["output_uris"]]}
        job = envelope(task | moved, spu_config=SPU, heu_config=FLAT_HEU, options={"max_retries": 3})
        return self.worker.run(job, 120)

    def files(self, folder: str) -> dict[str, bytes]:
        """Every file there, hidden ones included."""
        return {
            f"{party}/{path.relative_to(self._platform.root(party) / folder)}": path.read_bytes()
            for party in PARTIES
            for path in (self._platform.root(party) / folder).rglob("*")
            if path.is_file() and path.name != "filler"
        }


def _used(disk: Path) -> int:
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    directory = tmp_path_factory.mktemp("full")
    with ExitStack() as mounts:
        for mounted in (directory / "run", *(directory / party / "disk" for party in PARTIES)):
            mounted.mkdir(parents=True)
            made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={AMPLE}", "test", mounted], check=False)
            if made.returncode:
                pytest.skip("this user may not mount file systems")
            mounts.callback(subprocess.run, ["umount", "--lazy", mounted], check=True)
        unshare = str(shutil.which("unshare"))
        with running(directory, started_by=[unshare, "--mount", *OWN_SHM]) as platform:
            _write_inputs(platform)
            yield Disks(platform)


def _write_inputs(platform: Platform) -> None:
    chance = np.random.default_rng(5)
    x = chance.normal(size=(ROWS, 4)).round(6)
    alice = {"x0": x[:, 0], "x1": x[:, 1], "grade": (x[:, 2] > 0.5) * 1, "y": (x.sum(axis=1) + x[:, 2] > 0) * 1}
    for party, columns in {"alice": alice, "bob": {"z0": x[:, 3]}}.items():
        ids = {"id": chance.permutation(ROWS) + 1000}
        pd.DataFrame(ids | columns).to_csv(platform.root(party) / f"{party}.csv", index=False)
        many = chance.permutation(MANY) + (MANY // 20 if party == "bob" else 0)
        pd.DataFrame({"id": many}).assign(v=party).to_csv(platform.root(party) / f"many-{party}.csv", index=False)


@pytest.fixture(scope="module")
def right(disks: Disks) -> dict[str, dict[str, Any]]:
    """The answer of each case with room for it, its outputs on the parties' ample disks."""
    answers: dict[str, dict[str, Any]] = {}
    for case in sorted(disks.cases, key=lambda case: (case in SAVED, case == "model_export")):
        if case == "model_export":
            outputs = answers["component"]["result"]["outputs"]
            disks.cases[case]["components"] = [{"node_eval_param": COMPONENT, "outputs": outputs}]
        answers[case] = disks.answer(disks.cases[case], ".")
        assert answers[case]["status"] == "success", answers[case]["error"]
    return answers


def assert_right(answer: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert answer["status"] == "success"
    assert _comparable(answer["result"]) == _comparable(wanted["result"])


def _comparable(value: Any) -> Any:
    """A result without what is drawn at random, or says where files are; shares are rounded at random."""
    if isinstance(value, dict):
        shown = {name: each for name, each in value.items() if not name.endswith(("_id", "_name", "_path", "_paths"))}
        return {name: _comparable(each) for name, each in shown.items() if name not in ("devices", "outputs")}
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    return pytest.approx(value, rel=0.01, abs=0.01, nan_ok=True) if isinstance(value, float) else value


def assert_says_full(disks: Disks, answer: dict[str, Any], *names: str) -> None:
    """The answer is that a disk is full, given at the first attempt, and nothing is left on the disks."""
    assert answer["error_type"] == "ResultSaveError", answer["error"]
    said = FULL.fullmatch(answer["error"])
    assert said is not None, answer["error"]
    assert said[1] in names
    assert answer["task_metadata"]["attempt"] == 1
    assert disks.files("disk") == {}


def _pages(disks: Disks, case: str) -> int:
    """Pages that a case's outputs take at the party that has the most."""
    sizes = {
        party: [len(content) for name, content in disks.files(case).items() if name.startswith(party)]
        for party in PARTIES
    }
    return max(sum(-(-size // PAGE) for size in each) for each in sizes.values())


@pytest.mark.parametrize("case", WRITING)
@pytest.mark.parametrize("room", ["none", "a page too few"])
def test_outputs(disks: Disks, right: dict[str, dict[str, Any]], case: str, room: str) -> None:
    disks.clear()
    disks.leave(0 if room == "none" else (_pages(disks, case) - 1) * PAGE, *disks.outputs)
    answer = disks.answer(disks.cases[case], "disk")
    assert_says_full(disks, answer, "the outputs")


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_scratch(disks: Disks, right: dict[str, dict[str, Any]], case: str) -> None:
    disks.clear()
    disks.leave(2 * PAGE, disks.run)
    answer = disks.answer(disks.cases[case], "disk")
    if answer["status"] == "success":
        assert_right(answer, right[case])
        found, wanted = disks.files(f"disk/{case}"), disks.files(case)
        assert {name: content.count(b"\n") for name, content in found.items() if name.endswith(".csv")} == {
            name: content.count(b"\n") for name, content in wanted.items() if name.endswith(".csv")
        }
        assert found.keys() == wanted.keys()
    else:
        assert_says_full(disks, answer, "the scratch directory")


JOINS: dict[str, dict[str, Any]] = {
    "KKRT": {"task_type": "psi", "protocol": "PROTOCOL_KKRT"},
    "RR22": {"task_type": "psi", "protocol": "PROTOCOL_RR22"},
    "left": {"task_type": "psi", "join_type": "left"},
    "unbalanced": {"task_type": "unbalanced_psi", "server": "bob"},
    "cache": {"task_type": "unbalanced_psi_cache", "server": "bob"},
    "component": {"task_type": "component"},
}


def _join(kind: str) -> dict[str, Any]:
    """A job over all of the many rows."""
    paths = {party: f"many-{party}.csv" for party in PARTIES}
    if kind == "component":
        tables = [table(party, paths[party], {"v": "str"}, ["id"]) for party in PARTIES]
        keys = {f"input/input_ds{number}/keys": ["id"] for number in (1, 2)}
        return {"task_type": kind, "node_eval_param": node("data_prep/psi:1.0.0", tables, ["joined", "report"], keys)}
    outputs = {"output_paths": {party: f"{party}.csv" for party in PARTIES}, "receiver": "alice"}
    if kind == "cache":
        paths.pop("alice")
        outputs = {"cache_path": dict.fromkeys(PARTIES, "cache")}
    keys = {party: ["id"] for party in paths}
    return {"keys": keys, "input_paths": paths, **outputs, **JOINS[kind]}


@pytest.mark.parametrize("kind", JOINS)
@pytest.mark.parametrize(
    ("disk", "kilobytes"),
    [
        *(("scratch", kilobytes) for kilobytes in (100, 900, 1500, 2500, 3500, 4500, 5000, 6000, 9000)),
        *(("outputs", kilobytes) for kilobytes in (4, 128, 300, 1000, 1400)),
    ],
)
def test_intersections(disks: Disks, kind: str, disk: str, kilobytes: int) -> None:
    disks.clear()
    disks.leave(kilobytes << 10, *(disks.outputs if disk == "outputs" else [disks.run]))
    answer = disks.answer(_join(kind), "disk")
    print(answer["status"], answer.get("error"), answer["result"] and answer["result"].get("intersection_count"))
    if answer["status"] == "failure":
        assert_says_full(disks, answer, "the outputs" if disk == "outputs" else "the scratch directory")
        return
    assert kilobytes > 900
    if "intersection_count" in answer["result"]:
        assert answer["result"]["intersection_count"] == MANY - MANY // 20
        rows = MANY if kind == "left" else MANY - MANY // 20
        found = {name: content.count(b"\n") for name, content in disks.files("disk").items()}
        assert found == {f"{party}/{party}.csv": rows + 1 for party in PARTIES}
