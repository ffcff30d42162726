"""What a job and a worker leave on disk, whatever their end: the outputs of a success, and nothing else anywhere.

The worker has a /tmp, /var/tmp, /dev/shm, home and working directory of its own, which the test looks into.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.pool.run_dir import remove_abandoned
from tests.files import below
from tests.gateway.sites import Sites
from tests.integration.test_full_disks import ONE_OF_EACH, SPU, outputs_of, write_inputs
from tests.jobs.test_required_alone import COMPONENT, FLAT_HEU, SAVED
from tests.running_worker import PARTIES, RunningWorker, envelope, kill, until

SHARED = Path("/tmp")
PRIVATE = {"tmp": str(SHARED), "var-tmp": "/var/tmp", "shm": "/dev/shm"}
REPOSITORY = Path(__file__).parents[2]
LOGS = ("worker.log", "worker.console")
# Directories in the first argument take the places of those that all programs share. What others name stays visible.
OWN_PLACES = """
places=$1; shift
while [ "$1" != -- ]; do mkdir -p "$places/tmp${1#/tmp}" && mount --bind "$1" "$places/tmp${1#/tmp}"; shift; done; shift
mount --bind "$places/var-tmp" /var/tmp && mount --bind "$places/shm" /dev/shm && mount --rbind "$places/tmp" /tmp &&
cd "$places/cwd" && HOME="$places/home" PYTHONPATH="$REPOSITORY" exec "$@"
"""


class Place:
    """A directory that holds all that workers can write to."""

    def __init__(self, directory: Path, redis: EmbeddedRedis) -> None:
        self.directory = directory
        self._redis = redis
        self._shown = (directory, redis.socket_path.parent, REPOSITORY)
        for name in ("tmp", "var-tmp", "shm", "home", "cwd"):
            (directory / "places" / name).mkdir(parents=True)
        for party in PARTIES:
            (directory / party).mkdir()

    def root(self, party: str) -> Path:
        return self.directory / party

    def within(self) -> list[str]:
        """The program that starts another one here."""
        shown = [path for path in self._shown if path.is_relative_to(SHARED)]
        names = ["unshare", "--mount", "sh", "-c", OWN_PLACES, "sh", self.directory / "places", *shown, "--"]
        return [str(shutil.which("env")), f"REPOSITORY={REPOSITORY}", *map(str, names)]

    def worker(self, name: str, **settings: str) -> RunningWorker:
        """A worker with a run directory and log of its own."""
        return RunningWorker(
            self._redis.url,
            self.directory / name,
            started_by=self.within(),
            data_roots=json.dumps({party: [str(self.root(party))] for party in PARTIES}),
            lease_seconds="2",
            cancel_grace_seconds="0.5",
            drain_timeout="0.5",
            **settings,
        )

    def paths(self) -> set[str]:
        """All there is but logs, and what belongs to a worker as long as it lives."""
        found = {str(path.relative_to(self.directory)) for path in below(self.directory)}
        shown = {path for path in found if path.startswith("places/tmp/") and self._is_mounted(path)}
        return {path for path in found - shown if not path.endswith(LOGS) and "/programs" not in path}

    def _is_mounted(self, path: str) -> bool:
        inside = SHARED / Path(path).relative_to("places/tmp")
        return any(shown.is_relative_to(inside) for shown in self._shown)


@contextmanager
def _place(directory: Path) -> Iterator[Place]:
    if subprocess.run(["unshare", "--mount", "mount", "--bind", "/tmp", "/tmp"], check=False).returncode:
        pytest.skip("this user may not mount file systems")
    with EmbeddedRedis("--appendfsync", "no") as redis:
        place = Place(directory, redis)
        write_inputs(place.root)
        for party, columns in {"alice": "id,x0,x1,grade,y\n1,1,1,1,1", "bob": "id,z0\n1,1"}.items():
            (place.root(party) / "broken.csv").write_text(f"{columns}\n2,two\n2,2,2,2,2,2,2\n")
        yield place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with _place(tmp_path_factory.mktemp("left")) as place:
        yield place


@pytest.fixture
def other_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One whose workers are the test's own."""
    with _place(tmp_path_factory.mktemp("own")) as place:
        yield place


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[RunningWorker]:
    with place.worker("first") as worker:
        yield worker


@pytest.fixture
def nothing_left(place: Place, running: RunningWorker) -> Iterator[None]:
    """The test leaves nothing at all."""
    running.until_clean()
    before = place.paths()
    yield
    running.until_clean()
    until(lambda: place.paths() == before, 5)  # a cancelled job that waited is answered before its files are removed


def job(task: dict[str, Any], **more: Any) -> dict[str, Any]:
    return envelope(task, spu_config=SPU, heu_config=FLAT_HEU, **more)


def test_a_success_of_each_task_type_leaves_its_outputs(place: Place, running: RunningWorker) -> None:
    components: list[dict[str, Any]] = []
    for case in sorted(ONE_OF_EACH, key=lambda case: (case in SAVED, case == "model_export")):
        running.until_clean()
        before = place.paths()
        task = ONE_OF_EACH[case] | ({"components": components} if case == "model_export" else {})
        answer = running.run(job(task), 120)
        assert answer["status"] == "success", answer["error"]
        running.until_clean()
        after = place.paths()
        outputs = {f"{party}/{path}" for paths in outputs_of(task).values() for party, path in paths.items()}
        if case == "component":
            components = [{"node_eval_param": COMPONENT, "outputs": answer["result"]["outputs"]}]
            outputs = {f"{party}/{uri}" for party in PARTIES for uri in COMPONENT["output_uris"]}
        folders = {str(Path(output).parent) for output in outputs}
        others = {
            path
            for path in after - before - folders
            if not any(f"{path}/".startswith(f"{output}/") for output in outputs)
        }
        assert (others, before - after) == (set(), set()), case


READ_BY_ALICE_ALONE = ("biclassification_eval", "prediction_bias_eval", "regression_eval", "scorecard")
TRAINING = {**ONE_OF_EACH["sgb"], "num_boost_round": 500, "max_depth": 3}
TRAINING["model_path"] = {party: f"new/deep/model-{party}" for party in PARTIES}
LONG: dict[str, dict[str, Any]] = {
    "training": TRAINING,
    "hanging": {
        "task_type": "act",
        "action": "hang",
        "output_paths": {party: f"new/{party}.csv" for party in PARTIES},
    },
}


def _begun(worker: RunningWorker, kind: str, **options: Any) -> str:
    """Send a long job and wait until it has written something."""
    sent = worker.send(job(LONG[kind], options={"max_retries": 0, **options}))
    if kind == "training":
        worker.until_said(sent, "progress")
    else:
        worker.until_said(sent, "devices_ready")
        until(worker.parties_with_children)
    return sent


def _cancel(worker: RunningWorker, sent: str) -> dict[str, Any]:
    worker.redis.set(f"sf:cancel:{sent}", "1")
    worker.redis.publish("sf:control", sent)
    return worker.until_ended(sent)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("kind", LONG)
class TestALongJob:
    """It has outputs in a directory that was not there before."""

    def test_is_cancelled(self, running: RunningWorker, kind: str) -> None:
        assert _cancel(running, _begun(running, kind))["status"] == "CANCELLED"

    def test_reaches_a_time_limit(self, running: RunningWorker, kind: str) -> None:
        for limits in ({"soft_time_limit": 2}, {"soft_time_limit": 2, "time_limit": 2}):
            sent = running.send(job(LONG[kind], options={"max_retries": 0, **limits}))
            assert "TimeLimitExceededError" in running.until_ended(sent)["error_type"]

    def test_has_a_party_killed(self, running: RunningWorker, kind: str) -> None:
        sent = _begun(running, kind)
        kill(running.party(1))
        assert running.until_ended(sent)["error_type"] == "PartyProcessLostError"

    def test_is_cancelled_while_it_waits_to_be_tried_again(self, running: RunningWorker, kind: str) -> None:
        sent = _begun(running, kind, max_retries=3)
        kill(running.party(1))
        running.until_said(sent, "task_retrying")
        assert _cancel(running, sent)["status"] == "CANCELLED"

    def test_has_its_template_killed(self, running: RunningWorker, kind: str) -> None:
        sent = _begun(running, kind)
        ready = running.log().count("is ready after")
        kill(running.template())
        until(lambda: running.log().count("is ready after") > ready, 60)
        assert _cancel(running, sent)["status"] == "CANCELLED"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("case", [case for case, task in ONE_OF_EACH.items() if "bob" in task.get("input_paths", {})])
def test_an_input_that_is_not_as_it_should_be(running: RunningWorker, case: str) -> None:
    task = dict(ONE_OF_EACH[case])
    for name, paths in outputs_of(task).items():
        task[name] = {party: f"new/deep/{path}" for party, path in paths.items()}
    reader = "alice" if case in READ_BY_ALICE_ALONE else "bob"
    task["input_paths"] = {**task["input_paths"], reader: "broken.csv"}
    answer = running.run(job(task, options={"max_retries": 0}), 60)
    assert answer["error_type"] in ("InputDataError", "ModelMismatchError"), answer


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_and_whose_job_another_takes_over(other_place: Place, whole: bool) -> None:
    before = other_place.paths()
    with other_place.worker("second") as second:
        sent = _begun(second, "training", max_retries=3)
        for process in sorted(second.processes()) if whole else []:
            with suppress(ProcessLookupError):
                kill(process)
        second.kill()
        with other_place.worker("third") as third:
            until(lambda: _attempts_seen(third, sent) == {1, 2}, 30)
            _cancel(third, sent)
    # By its template, or where that was killed, too, by the next worker on this host.
    assert remove_abandoned(str(second.run_dir)) == whole
    assert other_place.paths() - before == {"second", "second-run", "third", "third-run"}


def _attempts_seen(worker: RunningWorker, sent: str) -> set[int]:
    return {event["attempt"] for event in worker.said(sent) if event["stage"] == "progress"}


def test_a_worker_that_stops_gives_its_job_back(other_place: Place) -> None:
    before = other_place.paths()
    with other_place.worker("fourth") as worker:
        sent = _begun(worker, "training")
        worker.stop()
        assert worker.said(sent, "result") == []
        worker.start()
        worker.until_said(sent, "progress")
        _cancel(worker, sent)
    assert other_place.paths() - before == {"fourth", "fourth-run"}


@pytest.mark.slow
def test_a_worker_whose_parties_are_new_interpreters(other_place: Place) -> None:
    before = other_place.paths()
    with other_place.worker("fifth", start_method="spawn") as worker:
        assert _cancel(worker, _begun(worker, "hanging"))["status"] == "CANCELLED"
        assert worker.run(job({"task_type": "health_check"}))["status"] == "success"
    assert other_place.paths() - before == {"fifth", "fifth-run"}


def _run_in_kept_sessions(worker: RunningWorker) -> None:
    """Run jobs of each ending in sessions that are kept, the last of which still waits for another job."""
    reuse = {"session": "reuse", "max_retries": 0}
    psi = {**ONE_OF_EACH["psi"], "output_paths": {party: f"new/{party}.csv" for party in PARTIES}}
    broken = {**psi, "input_paths": {**psi["input_paths"], "bob": "broken.csv"}}
    assert worker.run(job(broken, options=reuse))["error_type"] == "InputDataError"
    assert _cancel(worker, _begun(worker, "hanging", session="reuse"))["status"] == "CANCELLED"
    results = [worker.run(job(psi, options=reuse)) for _ in range(3)]
    assert {result["status"] for result in results} == {"success"}
    assert 2 in [result["task_metadata"].get("session_job") for result in results]


def test_sessions_that_were_kept_leave_nothing_when_the_worker_stops(other_place: Place) -> None:
    before = other_place.paths()
    with other_place.worker("sixth", session_jobs="8") as worker:
        _run_in_kept_sessions(worker)
    outputs = {path for party in PARTIES for path in (f"{party}/new", f"{party}/new/{party}.csv")}
    assert other_place.paths() - before == {"sixth", "sixth-run", *outputs}


@pytest.mark.slow
def test_sessions_that_are_kept_by_a_worker_that_is_killed(other_place: Place) -> None:
    before = other_place.paths()
    with other_place.worker("seventh", session_jobs="8") as worker:
        _run_in_kept_sessions(worker)
        for process in sorted(worker.processes()):
            with suppress(ProcessLookupError):
                kill(process)
        worker.kill()
    assert remove_abandoned(str(worker.run_dir))
    outputs = {path for party in PARTIES for path in (f"{party}/new", f"{party}/new/{party}.csv")}
    assert other_place.paths() - before == {"seventh", "seventh-run", *outputs}


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_gateways_and_what_they_carry(other_place: Place, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of two sites end well, in an error, by a cancel and by a killed party."""
    directory = other_place.directory / "sites"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))  # of the sites' servers
    settings: dict[str, Any] = {
        "jobs": "tests.acting_job",
        "session_jobs": "8",
        "lease_seconds": "2",
        "cancel_grace_seconds": "0.5",
    }
    with Sites(directory, PARTIES, gateways=own, within=other_place.within(), **settings) as sites:
        for party in PARTIES:
            (sites[party].data / "in.csv").write_text("id\n1\n2\n")
        psi = {**ONE_OF_EACH["psi"], "input_paths": dict.fromkeys(PARTIES, "in.csv")}
        psi |= {"keys": {party: ["id"] for party in PARTIES}, "output_paths": dict.fromkeys(PARTIES, "new/out.csv")}
        before = other_place.paths()
        for session in ("fresh", "reuse", "reuse"):
            answers = sites.run(sites.jobs(psi, options={"session": session, "max_retries": 0}))
            assert {answer["status"] for answer in answers.values()} == {"success"}, answers
        missing = {**psi, "keys": {party: ["none"] for party in PARTIES}}
        answers = sites.run(sites.jobs(missing, options={"session": "reuse", "max_retries": 0}))
        assert {answer["status"] for answer in answers.values()} == {"failure"}, answers
        for ending in ("cancel", "kill"):
            hanging = {"task_type": "act", "action": "hang", "output_paths": dict.fromkeys(PARTIES, "new/deep/a.csv")}
            jobs = sites.jobs(hanging, options={"session": "reuse", "max_retries": 0})
            for party, each in jobs.items():
                sites[party].worker.send(each)
            sent = jobs["alice"]["execution_id"]
            for party in PARTIES:
                sites[party].worker.until_said(sent, "devices_ready")
            alice = sites["alice"].worker
            if ending == "cancel":
                _cancel(alice, sent)
            else:
                until(alice.parties_with_children)
                kill(alice.parties_with_children()[0])
            for party in PARTIES:
                sites[party].worker.until_ended(sent)
    outputs = {path for party in PARTIES for path in (f"sites/{party}/new", f"sites/{party}/new/out.csv")}
    found = {path for path in other_place.paths() - before if not path.endswith("gateway.log")}
    assert found == outputs
