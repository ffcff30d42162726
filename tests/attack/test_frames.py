"""A job that speaks to the daemon itself: what it says costs that job and nobody else."""

from __future__ import annotations

import json
import re
import struct
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sfworker.wire.frames import LONGEST_TEXT
from tests.running_worker import PARTIES, RunningWorker, envelope, until

pytestmark = pytest.mark.attack("party process")
STAGED, KEPT = ".0123456789abcdef-1.partial.csv", ".0123456789abcdef.checkpoint"
MOST_MEMORY = 96 << 20
"""Bytes by which the daemon may grow: a few times the longest result (8 MiB), on its way in and out."""


class Daemon:
    """A worker with a root for each party, files that nothing may harm, and its memory at the start."""

    def __init__(self, worker: RunningWorker, directory: Path) -> None:
        self.worker, self.directory = worker, directory
        self.root = directory / "alice"
        self.before = self.memory()
        self.files = self.contents()

    def memory(self) -> int:
        [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.worker.process.pid}/status").read_text())
        return int(peak) * 1024

    def contents(self) -> dict[str, str]:
        found = [path for name in ("alice", "outside", "bob") for path in (self.directory / name).rglob("*")]
        return {str(path): path.read_text() if path.is_file() else "" for path in found}

    def run(self, said: bytes, **more: Any) -> dict[str, Any]:
        """Let a job say that, see that it fails and nothing else does, and return its result."""
        sf_init_config = {"parties": ["alice"], "address": "local"}
        task = {"task_type": "say", "said": b64encode(said).decode(), **more}
        result = self.worker.run(envelope(task, sf_init_config=sf_init_config))
        assert self.contents() == self.files
        assert self.worker.run(envelope({"task_type": "hello"}))["status"] == "success"
        assert self.memory() - self.before < MOST_MEMORY
        return result


@pytest.fixture(scope="module")
def daemon(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("frames")
    for name in ("alice", "bob", "outside"):
        (directory / name / KEPT).mkdir(parents=True)
        (directory / name / "empty").mkdir()
        for file in (STAGED, "a.csv", f"{KEPT}/1.msgpack"):
            (directory / name / file).write_text(name)
    (directory / "alice" / "link").symlink_to(directory / "outside")
    (directory / "alice" / "file").symlink_to(directory / "outside" / "a.csv")
    roots = json.dumps({party: [str(directory / party)] for party in PARTIES})
    settings = {"data_roots": roots, "jobs": "tests.attack.framing_job", "cancel_grace_seconds": "0.2"}
    with RunningWorker(redis_server.url, directory, **settings) as worker:
        worker.run(envelope({"task_type": "hello"}))
        yield Daemon(worker, directory)


def frame(kind: str, **fields: Any) -> bytes:
    return framed(msgspec.msgpack.encode({"type": kind, **fields}))


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def staging(staged: str, target: str) -> bytes:
    return frame("Staging", staged=staged, target=target)


OUTSIDE = {
    "another party's": "{top}/bob",
    "outside": "{top}/outside",
    "the root's parent": "{top}",
    "dots": "{top}/alice/../bob",
    "dots at the end": "{top}/alice/empty/../../outside",
    "relative": "alice",
    "nothing": "",
    "double slash": "/{top}/alice",
    "a prefix alone": "{top}/alice-too",
    "NUL": "{top}/alice\0/empty",
}


@pytest.mark.parametrize("where", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_paths_outside_the_roots_end_the_job(daemon: Daemon, where: str) -> None:
    place = where.replace("{top}", str(daemon.directory))
    own = str(daemon.root)
    for said in (
        staging(f"{place}/{STAGED}", f"{place}/a.csv"),
        staging(f"{own}/{STAGED}", f"{place}/a.csv"),
        staging(f"{place}/{STAGED}", f"{own}/a.csv"),
        frame("Keeping", path=f"{place}/{KEPT}"),
        frame("Making", path=f"{place}/empty"),
    )[:: 1 if where == OUTSIDE["another party's"] else 2]:
        result = daemon.run(said)
        assert result["error_type"] == "RecurringError"
        assert "sent a path" in result["error"]
        assert str(daemon.directory) not in json.dumps(result)


NAMES = {
    "a file as staged": ("Staging", {"staged": "a.csv", "target": "b.csv"}),
    "a staged target": ("Staging", {"staged": STAGED, "target": STAGED}),
    "a newline before": ("Staging", {"staged": "\n" + STAGED, "target": "b.csv"}),
    "in different directories": ("Staging", {"staged": STAGED, "target": "empty/b.csv"}),
    "a file as a checkpoint": ("Keeping", {"path": "a.csv"}),
    "a directory as a checkpoint": ("Keeping", {"path": "empty"}),
    "a checkpoint with more": ("Keeping", {"path": KEPT + "\n"}),
    "a checkpoint as made": ("Making", {"path": KEPT}),
    "a long name": ("Making", {"path": "x" * 4096}),
    "the root": ("Making", {"path": "."}),
}


@pytest.mark.parametrize(("kind", "names"), NAMES.values(), ids=NAMES.keys())
def test_names_that_no_context_makes_end_the_job(daemon: Daemon, kind: str, names: dict[str, str]) -> None:
    result = daemon.run(frame(kind, **{field: f"{daemon.root}/{name}" for field, name in names.items()}))
    assert result["error_type"] == "RecurringError"


@pytest.mark.parametrize("outcome", ["fails", "succeeds"])
def test_links_are_not_followed(daemon: Daemon, outcome: str) -> None:
    """Their names are inside, so that only who does something with them sees what they are."""
    link = daemon.root / "link"
    said = staging(f"{link}/{STAGED}", f"{link}/a.csv")
    said += staging(f"{link}/.fedcba9876543210-1.partial", f"{link}/b.csv")
    said += frame("Keeping", path=f"{link}/{KEPT}") + frame("Making", path=f"{link}/empty")
    said += frame("Making", path=str(link))
    said += {
        "fails": frame("Failed", error="x", error_type="InputDataError", retryable=False, echo=False, peak_rss_bytes=0),
        "succeeds": frame("Succeeded", result=b"{}", peak_rss_bytes=0),
    }[outcome]
    assert daemon.run(said)["error_type"] == {"fails": "InputDataError", "succeeds": "ResultSaveError"}[outcome]


NONSENSE = {
    "no frame": framed(b"\xc1"),
    "nothing": framed(b""),
    "not UTF-8": framed(b"\x82\xa4type\xa6Making\xa4path\xa2\xff\xff"),
    "a frame of the daemon": frame("Signal", pid=1, signal=9, whole_group=True),
    "too long": struct.pack(">I", 0xFFFFFFFF),
    "longer than a result": struct.pack(">I", 10 << 20),
    "deep": framed(b"\x82\xa4type\xa6Making\xa1x" + b"\x91" * 500_000 + b"\x90"),
    "no number": frame("Progressed", fraction=float("nan")),
    "more than all": frame("Progressed", fraction=1.5),
    "a text for a number": frame("Progressed", fraction="half"),
    "an endless message": frame("Progressed", fraction=0.5, message="x" * (LONGEST_TEXT + 1)),
    "an unknown stage": frame("StageReached", stage="done", seconds=0.0),
    "a stage twice": frame("StageReached", stage="devices_ready", seconds=0.0) * 2,
    "endless seconds": frame("StageReached", stage="devices_ready", seconds=float("inf")),
    "many devices": frame("StageReached", stage="devices_ready", seconds=0.0, devices=["spu"] * 100_000),
    "a list as path": frame("Making", path=["x"]),
    "a result that is no JSON": frame("Succeeded", result=b'{"a":', peak_rss_bytes=0),
    "a result that is two": frame("Succeeded", result=b'{},"status":"x"', peak_rss_bytes=0),
    "a result not in UTF-8": frame("Succeeded", result=b'{"a":"\xff"}', peak_rss_bytes=0),
    "a deep result": frame("Succeeded", result=b"[" * 50_000 + b"]" * 50_000, peak_rss_bytes=0),
    "a result of another kind": frame("Succeeded", result={"a": 1}, peak_rss_bytes=0),
    "less than no memory": frame("Succeeded", result=None, peak_rss_bytes=-1),
    "spans that nobody asked for": frame("Traced", spans=[], left_out=0),
    "a span of another name": frame("Traced", spans=[["alice@x", 1.0, 2.0, -1]], left_out=0),
    "an odd error": frame("Failed", error="x", error_type="a b", retryable=True, echo=False, peak_rss_bytes=0),
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE.keys())
def test_what_is_no_frame_ends_the_job(daemon: Daemon, said: bytes) -> None:
    result = daemon.run(said)
    assert result["error_type"] == "RecurringError"
    assert result["error"].startswith("the process of worker sent ")


def test_the_daemon_holds_no_more_than_a_bound(daemon: Daemon) -> None:
    made = frame("Making", path=f"{daemon.root}/{'d' * 200}")
    assert "more than 1000 paths" in daemon.run(made, times=1_000_000)["error"]
    progress = frame("Progressed", fraction=0.5, message="x" * 1000)
    daemon.run(progress, times=200_000, pause=0.0)
    daemon.run(b"x" * 1000, times=100_000, pause=0.0, log=True)  # without an end of line
    daemon.run(b"\x1e" + b"[" * 4000 + b"\n", times=1000, pause=0.0, log=True)
    assert daemon.run(b"", lists=2_500_000, pause=0.0)["status"] == "success"


@pytest.mark.parametrize(("length", "status"), [(8_000_000, "success"), (8_400_000, "failure")])
def test_a_result_that_is_too_long_is_refused(daemon: Daemon, length: int, status: str) -> None:
    result = daemon.run(b"", pause=0.0, answer=length)
    assert result["status"] == status
    if status == "failure":
        sentence = "the result takes 8400011 bytes, at most 8388608 (SFWORKER_MAX_RESULT_BYTES) are published"
        assert result["error"].startswith(sentence)
        assert result["error_type"] == "ResultSaveError"


def test_the_next_job_is_served_while_one_floods(daemon: Daemon) -> None:
    """In the same daemon, whose event loop hears both."""
    sf_init_config = {"parties": ["alice"], "address": "local"}
    said = b64encode(frame("Progressed", fraction=0.5)).decode()
    flood = envelope({"task_type": "say", "said": said, "times": 1 << 40}, sf_init_config=sf_init_config)
    daemon.worker.send(flood)
    daemon.worker.until_said(flood["execution_id"], "progress")
    daemon.worker.redis.set(f"sf:cancel:{flood['execution_id']}", 1)
    daemon.worker.redis.publish("sf:control", flood["execution_id"])
    assert until(lambda: daemon.worker.until_ended(flood["execution_id"]))["status"] == "CANCELLED"
    assert daemon.worker.run(envelope({"task_type": "hello"}))["status"] == "success"
    assert daemon.memory() - daemon.before < MOST_MEMORY
