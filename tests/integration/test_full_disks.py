"""Every task type on disks that fill: it says so, or gives the right answer. A success with less in it is none.

The disks are small ones in memory: one for each party's outputs, one for the run directory, which holds every party's
scratch, and one for the worker's log. The worker's /dev/shm is full all the time.
"""

from __future__ import annotations

import functools
import io
import os
import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyarrow import orc

from tests.jobs.components import SEMI2K, Platform, node, running, table
from tests.jobs.test_required_alone import CASES, COMPONENT, FLAT_HEU, ROWS, SAVED
from tests.mounting import PAGE, mounted, remount
from tests.running_worker import PARTIES, envelope, until

AMPLE = 64 << 20
MANY = 30_000
COMMON = MANY - MANY // 20
LIMIT = 1_200_000
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


def outputs_of(task: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Fields of WRITTEN that this task type writes."""
    return {name: paths for name, paths in task.items() if name in WRITTEN and name not in _inputs(task)}


ONE_OF_EACH = _one_of_each()
WRITING = [case for case, task in ONE_OF_EACH.items() if outputs_of(task) or "node_eval_param" in task]
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
        self.log = platform.directory / "log"
        self.cases = {case: dict(task) for case, task in ONE_OF_EACH.items()}

    def leave(self, free: int, *disks: Path) -> None:
        """Leave as many bytes free on each disk."""
        for disk in disks:
            (disk / "filler").write_bytes(bytes(PAGE))
            remount(disk, f"size={_used(disk) + free}")

    def clear(self) -> None:
        """Empty the disks for outputs and make all ample."""
        self.worker.until_clean()
        for disk in self.outputs:
            for path in disk.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for disk in (*self.outputs, self.run):
            remount(disk, f"nr_inodes={MANY}")
        self.leave(AMPLE, *self.outputs, self.run, self.log)

    def remove_outputs(self) -> None:
        """Remove what jobs have written, while others write."""
        for path in [path for disk in self.outputs for path in disk.iterdir()]:
            if path.name not in ("filler", "others"):
                path.unlink()

    def answer(self, task: dict[str, Any], folder: str) -> dict[str, Any]:
        """The result of the job with its outputs in `folder` of each party's root."""
        moved: dict[str, Any] = {
            name: {party: f"{folder}/{path}" for party, path in paths.items()}
            for name, paths in outputs_of(task).items()
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
            if path.is_file() and path.name not in ("filler", "others")
        }

    def extents(self, folder: str) -> dict[str, int]:
        """How much is in each file there."""
        return {name: _extent(name, content) for name, content in self.files(folder).items()}


def _used(disk: Path) -> int:
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bfree * status.f_frsize


def _names(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_files - status.f_ffree


def _extent(name: str, content: bytes) -> int:
    """The rows of a table, and bytes of anything else but an archive."""
    if name.endswith(".tar.gz"):
        return 0
    if content.startswith(b"ORC"):
        return int(orc.ORCFile(io.BytesIO(content)).nrows)
    return content.count(b"\n") if name.endswith(".csv") else len(content)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    directory = tmp_path_factory.mktemp("full")
    with ExitStack() as mounts:
        run_dir = directory.with_name(f"{directory.name}-run")
        for disk in (run_dir, *(directory / name for name in ("log", *(f"{party}/disk" for party in PARTIES)))):
            mounts.enter_context(mounted(disk, AMPLE))
        (directory / "worker.log").symlink_to(directory / "log" / "worker.log")
        with running(directory, started_by=[str(shutil.which("unshare")), "--mount", *OWN_SHM]) as platform:
            write_inputs(platform.root)
            yield Disks(platform)


def write_inputs(root: Callable[[str], Path]) -> None:
    """Write the files of parties whose directories `root` tells."""
    chance = np.random.default_rng(5)
    x = chance.normal(size=(ROWS, 4)).round(6)
    alice = {"x0": x[:, 0], "x1": x[:, 1], "grade": (x[:, 2] > 0.5) * 1, "y": (x.sum(axis=1) + x[:, 2] > 0) * 1}
    for party, columns in {"alice": alice, "bob": {"z0": x[:, 3]}}.items():
        ids = {"id": chance.permutation(ROWS) + 1000}
        pd.DataFrame(ids | columns).to_csv(root(party) / f"{party}.csv", index=False)
        for name, rows in {"many": MANY, "more": 2 * MANY}.items():
            many = chance.permutation(rows) + 10_000_000 + (rows // 20 if party == "bob" else 0)
            pd.DataFrame({"id": many}).assign(v=party).to_csv(root(party) / f"{name}-{party}.csv", index=False)


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


def assert_says_full(disks: Disks, answer: dict[str, Any], *names: str, most_attempts: int = 1) -> None:
    """The answer is that a disk is full, given at the first attempt, and nothing is left on the disks."""
    assert answer["error_type"] == "ResultSaveError", answer["error"]
    said = FULL.fullmatch(answer["error"])
    assert said is not None, answer["error"]
    assert said[1] in names
    assert answer["task_metadata"]["attempt"] <= most_attempts
    # Checkpoints go after the answer: until it is out, another worker could still go on from them.
    until(lambda: disks.files("disk") == {})


def _pages(disks: Disks, case: str) -> int:
    """Pages that a case's outputs take at the party that has the most."""
    sizes = {
        party: [len(content) for name, content in disks.files(case).items() if name.startswith(party)]
        for party in PARTIES
    }
    return max(sum(-(-size // PAGE) for size in each) for each in sizes.values())


@pytest.mark.parametrize("case", WRITING)
def test_outputs_one_page_too_large(disks: Disks, right: dict[str, dict[str, Any]], case: str) -> None:
    disks.clear()
    disks.leave((_pages(disks, case) - 1) * PAGE, *disks.outputs)
    assert_says_full(disks, disks.answer(disks.cases[case], "disk"), "the outputs")


@pytest.mark.parametrize("case", WRITING)
def test_outputs_on_a_disk_that_one_party_has_filled(disks: Disks, right: dict[str, dict[str, Any]], case: str) -> None:
    disks.clear()
    writers = {name.split("/")[0] for name in disks.files(case)}
    disks.leave(0, disks.outputs[PARTIES.index(max(writers))])
    assert_says_full(disks, disks.answer(disks.cases[case], "disk"), "the outputs")


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_scratch(disks: Disks, right: dict[str, dict[str, Any]], case: str) -> None:
    disks.clear()
    disks.leave(2 * PAGE, disks.run)
    answer = disks.answer(disks.cases[case], "disk")
    if answer["status"] == "success":
        assert_right(answer, right[case])
        assert disks.extents(f"disk/{case}") == disks.extents(case)
    else:
        assert_says_full(disks, answer, "the scratch directory")


@pytest.mark.parametrize("case", ["psi", "ss_lr", "component", "health_check"])
def test_a_run_directory_without_room(disks: Disks, right: dict[str, dict[str, Any]], case: str) -> None:
    for of_names in (False, True):
        disks.clear()
        remount(disks.run, f"nr_inodes={_names(disks.run)}" if of_names else f"size={_used(disks.run)}")
        answer = disks.answer(disks.cases[case], "disk")
        if answer["status"] == "success":
            assert_right(answer, right[case])
        else:
            assert_says_full(disks, answer, "the scratch directory", "the run directory")


JOINS: dict[str, dict[str, Any]] = {
    "ECDH": {"task_type": "psi", "protocol": "PROTOCOL_ECDH"},
    "KKRT": {"task_type": "psi", "protocol": "PROTOCOL_KKRT"},
    "RR22": {"task_type": "psi", "protocol": "PROTOCOL_RR22"},
    "left": {"task_type": "psi", "join_type": "left"},
    "unbalanced": {"task_type": "unbalanced_psi", "server": "bob"},
    "cache": {"task_type": "unbalanced_psi_cache", "server": "bob"},
    "component": {"task_type": "component"},
}


def _join(kind: str, many: str = "many") -> dict[str, Any]:
    """A job over all of the many rows."""
    paths = {party: f"{many}-{party}.csv" for party in PARTIES}
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


@pytest.fixture(scope="module")
def joined(disks: Disks) -> Callable[[str], tuple[dict[str, Any], dict[str, int]]]:
    """The answer of each kind of join with room for it, and the extents of its outputs."""

    @functools.cache
    def join(kind: str) -> tuple[dict[str, Any], dict[str, int]]:
        disks.clear()
        answer = disks.answer(_join(kind), f"join-{kind}")
        assert answer["status"] == "success"
        assert answer["result"].get("intersection_count", COMMON) == COMMON
        return answer, disks.extents(f"join-{kind}")

    return join


def assert_joined_or_full(
    disks: Disks,
    joined: Callable[[str], tuple[dict[str, Any], dict[str, int]]],
    kind: str,
    *names: str,
    most_attempts: int = 1,
) -> bool:
    """Run a join; whether it was said that a disk is full. Otherwise its answer and outputs are right."""
    wanted = joined(kind)
    answer = disks.answer(_join(kind), "disk")
    if answer["status"] == "failure":
        assert_says_full(disks, answer, *names, most_attempts=most_attempts)
        return True
    assert_right(answer, wanted[0])
    assert disks.extents("disk") == wanted[1]
    return False


EVERYWHERE = ("the scratch directory", "the outputs", "the run directory", "the worker")
LESS_TELLING = pytest.mark.slow
MOST_JOINS = [pytest.param(kind, marks=LESS_TELLING) if kind == "ECDH" else kind for kind in JOINS]
SCRATCH = [100, 900, 1500, 2500, 3000, 3500, 4500, 5000, 6000, 9000]
OUTPUTS = [4, 128, 300, 1000, 1400]


@pytest.mark.parametrize("kind", MOST_JOINS)
@pytest.mark.parametrize(
    "kilobytes", [size if size in (2500, 5000, 9000) else pytest.param(size, marks=LESS_TELLING) for size in SCRATCH]
)
def test_intersections_with_little_scratch(disks: Disks, joined: Any, kind: str, kilobytes: int) -> None:
    joined(kind)
    disks.clear()
    disks.leave(kilobytes << 10, disks.run)
    full = assert_joined_or_full(disks, joined, kind, "the scratch directory")
    assert full or kilobytes > 900


@pytest.mark.parametrize("kind", MOST_JOINS)
@pytest.mark.parametrize(
    "kilobytes", [size if size in (128, 1000) else pytest.param(size, marks=LESS_TELLING) for size in OUTPUTS]
)
def test_intersections_with_little_room_for_outputs(disks: Disks, joined: Any, kind: str, kilobytes: int) -> None:
    joined(kind)
    disks.clear()
    disks.leave(kilobytes << 10, *disks.outputs)
    full = assert_joined_or_full(disks, joined, kind, "the outputs")
    assert full or kilobytes > 128


@pytest.mark.parametrize("kind", ["KKRT", "component"])
def test_others_fill_the_disks_and_empty_them_again(disks: Disks, joined: Any, kind: str) -> None:
    joined(kind)
    disks.clear()
    disks.leave(16 << 20, disks.run, *disks.outputs)
    outcomes = set()
    with _others_writing(disks.run, *disks.outputs):
        for _ in range(4):
            is_full = assert_joined_or_full(disks, joined, kind, *EVERYWHERE, most_attempts=2)  # empty when looked at
            outcomes.add(is_full)
            disks.remove_outputs()  # which the next one would leave as they are where it fails
    assert True in outcomes


@contextmanager
def _others_writing(*directories: Path) -> Iterator[None]:
    """Fill disks for moments during the block."""
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.1):
            for directory in directories:
                with (directory / "others").open("wb") as file, suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, _free(directory))
            done.wait(0.03)
            for directory in directories:
                (directory / "others").unlink()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("kind", ["KKRT", "RR22", "unbalanced", "component"])
def test_a_limit_on_file_sizes(disks: Disks, joined: Any, kind: str) -> None:
    # Of all files of an intersection, only the one with the keys of a bucket is larger, which libpsi removes again.
    wanted = joined(kind)
    disks.clear()
    with _file_sizes_limited(disks, LIMIT):
        answer = disks.answer(_join(kind, "more"), "disk")
    if kind == "component" and answer["status"] == "success":  # it has smaller files than this
        assert disks.extents("disk") == {name: 2 * rows for name, rows in wanted[1].items()}
    else:
        assert_says_full(disks, answer, "the scratch directory")
    assert_right(disks.answer(_join(kind), "disk"), wanted[0])


@contextmanager
def _file_sizes_limited(disks: Disks, limit: int) -> Iterator[None]:
    for soft in (limit, resource.RLIM_INFINITY):
        for process in [disks.worker.template(), *disks.worker.parties()]:
            with suppress(ProcessLookupError):
                resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        if soft == limit:
            yield


@pytest.mark.parametrize("kind", ["KKRT", "cache", "component"])
def test_outputs_on_a_disk_that_is_read_only_or_has_no_more_names(disks: Disks, joined: Any, kind: str) -> None:
    joined(kind)
    disks.clear()
    remount(disks.outputs[1], "ro")
    try:
        answer = disks.answer(_join(kind), "disk")
    finally:
        remount(disks.outputs[1], "rw")
    assert answer["error_type"] == "ResultSaveError"
    assert re.fullmatch(r"task_config\.[a-z_.]+\.bob: .*(may not write|Read-only file system).*", answer["error"])
    assert disks.files("disk") == {}
    remount(disks.outputs[1], f"nr_inodes={_names(disks.outputs[1])}")
    assert_says_full(disks, disks.answer(_join(kind), "disk"), "the outputs")


@pytest.mark.parametrize("kind", ["KKRT", "unbalanced", "component"])
def test_a_scratch_disk_that_runs_out_of_names(disks: Disks, joined: Any, kind: str) -> None:
    joined(kind)
    for more in (8, 16, 24):
        disks.clear()
        remount(disks.run, f"nr_inodes={_names(disks.run) + more}")
        # Some errors tell of a full disk and not of which.
        assert_joined_or_full(disks, joined, kind, "the scratch directory", "the run directory", "the worker")


@pytest.mark.parametrize("disk", ["scratch", "outputs"])
def test_a_library_that_aborts_on_a_full_disk(disks: Disks, disk: str) -> None:
    disks.clear()
    task = {"task_type": "act", "action": "abort", "at": "bob", "output_paths": {"bob": "disk/output"}}
    assert disks.worker.run(envelope(task))["error_type"] == "PartyProcessLostError"
    disks.clear()
    disks.leave(4 * PAGE, *([disks.run] if disk == "scratch" else disks.outputs))
    answer = disks.worker.run(envelope(task))
    assert_says_full(disks, answer, "the scratch directory" if disk == "scratch" else "the outputs")


def test_a_log_on_a_full_disk_costs_records_only(disks: Disks, right: dict[str, dict[str, Any]]) -> None:
    disks.clear()
    (disks.log / "filler").write_bytes(bytes(PAGE))
    remount(disks.log, f"size={_used(disks.log)}")
    while disks.worker.log_file.stat().st_size % PAGE:  # the rest of its last page
        assert disks.worker.run(envelope({"task_type": "hello"}))["status"] == "success"
    assert_right(disks.answer(disks.cases["psi"], "disk"), right["psi"])
    disks.clear()
    assert_right(disks.answer(disks.cases["psi"], "disk"), right["psi"])
    until(lambda: "records are missing in it" in disks.worker.log())
