"""Directories that are swapped for links while jobs run, hard links, FIFOs and devices: no foreign file is touched."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.running_worker import PARTIES, RunningWorker, envelope

pytestmark = pytest.mark.attack("data roots")
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM64"}}}
ROUNDS = 12


class Place:
    """A worker with a root for each party. Alice may do what she likes in hers."""

    def __init__(self, worker: RunningWorker, top: Path) -> None:
        self.worker, self.top = worker, top
        self.alice, self.bob = top / "alice", top / "bob"

    def filter(self, inputs: str, outputs: str, **more: Any) -> dict[str, Any]:
        """Run a job of both parties that copies rows of each party's file."""
        task: dict[str, Any] = {"task_type": "psi", "receiver": "alice", "keys": {party: ["id"] for party in PARTIES}}
        task["input_paths"] = {"alice": inputs, "bob": "in.csv"}
        task["output_paths"] = {"alice": outputs, "bob": "own/out.csv"}
        return self.worker.run(envelope(task | more, spu_config=SPU))


@pytest.fixture(scope="module")
def running(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    directory = tmp_path_factory.mktemp("swapped")
    roots = json.dumps({party: [str(directory / "roots" / party)] for party in PARTIES})
    (directory / "roots").mkdir()
    with RunningWorker(redis_server.url, directory, data_roots=roots, log_file=str(directory / "worker.log")) as worker:
        yield worker


@pytest.fixture
def place(running: RunningWorker) -> Place:
    found = Place(running, running.log_file.parent / "roots")
    for party, ids in (("alice", range(40)), ("bob", range(20, 60))):
        (found.top / party / "own").mkdir(exist_ok=True, parents=True)
        for name in ("in.csv", "own/in.csv"):
            (found.top / party / name).write_text("id\n" + "".join(f"{each}\n" for each in ids))
        (found.top / party / "own" / "out.csv").unlink(missing_ok=True)
    return found


@contextmanager
def swapping(directory: Path, target: Path) -> Iterator[None]:
    """Swap a directory and a link to `target` all the time."""
    link, aside = directory.with_name("link"), directory.with_name("aside")
    done, chance = threading.Event(), random.Random(0)

    def swap() -> None:
        while not done.is_set():
            link.symlink_to(target)
            directory.rename(aside)
            link.rename(directory)
            done.wait(0.002 * chance.random())
            directory.unlink()
            aside.rename(directory)
            done.wait(0.01 * chance.random())

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_directory_that_is_swapped_for_a_link_leads_nowhere(place: Place) -> None:
    """Alice's job reads and writes in her directory or fails. Bob's files are hers at no time."""
    (place.bob / "secret").mkdir(exist_ok=True)
    (place.bob / "secret" / "in.csv").write_text("id\n" + "".join(f"{each}\n" for each in range(1000, 1040)))
    (place.bob / "secret" / "out.csv").write_text("precious\n")
    (place.bob / "in.csv").write_text("id\n" + "".join(f"{each}\n" for each in [*range(20, 60), *range(1000, 1040)]))
    before = {path: path.read_text() for path in (place.bob / "secret").iterdir()}
    ends = []
    with swapping(place.alice / "own", place.bob / "secret"):
        for _ in range(ROUNDS):
            result = place.filter("own/in.csv", "own/out.csv")
            ends.append(result["status"])
            assert {path: path.read_text() for path in (place.bob / "secret").iterdir()} == before
            if result["status"] == "success":
                assert result["result"]["intersection_count"] == 20  # 40 with Bob's file
            else:
                assert result["error_type"] in {"InputDataError", "ParameterValidationError", "ResultSaveError"}
    assert place.filter("own/in.csv", "own/out.csv")["result"]["intersection_count"] == 20
    assert len((place.alice / "own" / "out.csv").read_text().split()) == 21


def test_what_is_no_regular_file_is_refused_at_once(place: Place) -> None:
    os.mkfifo(place.alice / "fifo.csv")
    bound = socket.socket(socket.AF_UNIX)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.alice)  # whose path is too long for an address
        bound.bind("socket.csv")
    (place.alice / "null.csv").symlink_to("/dev/null")
    for name in ("fifo.csv", "socket.csv", "null.csv"):
        given = place.filter(name, "own/out.csv")
        assert given["error_type"] in {"InputDataError", "ParameterValidationError"}
        made = place.filter("in.csv", name)
        assert made["error_type"] in {"ResultSaveError", "ParameterValidationError"}
        assert given["performance_metrics"]["total_seconds"] < 10
    bound.close()
    for name in ("fifo.csv", "socket.csv", "null.csv"):
        (place.alice / name).unlink()


def test_an_output_takes_the_place_of_no_input_and_no_log(place: Place) -> None:
    (place.alice / "hard.csv").hardlink_to(place.alice / "in.csv")
    (place.alice / "soft.csv").symlink_to("in.csv")
    (place.alice / "log.csv").hardlink_to(place.worker.log_file)
    before = (place.alice / "in.csv").read_text()
    for name in ("in.csv", "own/../in.csv", "hard.csv", "soft.csv"):
        result = place.filter("in.csv", name)
        assert result["error_type"] == "ParameterValidationError", name
        assert " input" in result["error"]
    assert place.filter("in.csv", "log.csv")["error_type"] == "ResultSaveError"
    assert (place.alice / "log.csv").samefile(place.worker.log_file)
    assert (place.alice / "in.csv").read_text() == before
    for name in ("hard.csv", "soft.csv", "log.csv"):
        (place.alice / name).unlink()
    assert place.filter("in.csv", "own/out.csv")["status"] == "success"


def test_a_former_output_with_another_name_keeps_its_content_there(place: Place) -> None:
    (place.alice / "own" / "out.csv").write_text("old\n")
    (place.alice / "backup.csv").hardlink_to(place.alice / "own" / "out.csv")
    assert place.filter("in.csv", "own/out.csv")["status"] == "success"
    assert (place.alice / "backup.csv").read_text() == "old\n"
    (place.alice / "backup.csv").unlink()
