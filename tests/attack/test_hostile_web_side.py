"""A web side that sends anything: each entry is answered or buried with a sentence, and the next job is served."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.wire.envelope import decode_ids
from tests.attack.nasty import RAW, mutated, paths, with_raw
from tests.catalog.examples import TASKS, job
from tests.jobs.components import node, table, vertical
from tests.running_worker import RunningWorker, envelope, until

pytestmark = pytest.mark.attack("stream entry")
ENVELOPES = 500
SECONDS = 150.0
JOBS = "attacked:jobs"


@pytest.fixture(scope="module")
def attacked(own_redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    directory = tmp_path_factory.mktemp("attacked")
    # Of what chance makes, some would wait for a second attempt.
    settings = {"concurrency": "4", "max_retries": "0", "prefix": "attacked", "data_roots": str(directory / "data")}
    (directory / "data").mkdir()
    with RunningWorker(own_redis.url, directory, **settings) as worker:
        yield Attacked(worker, directory)


class Attacked:
    """A worker, and what was sent to it."""

    def __init__(self, worker: RunningWorker, directory: Path) -> None:
        self.worker, self.directory = worker, directory
        self._sent: set[str] = set()

    def send(self, *fields: bytes) -> None:
        """Append an entry of these names and values, where names may come twice."""
        entry_id: bytes = self.worker.redis.execute_command("XADD", JOBS, "*", *fields)
        pairs = list(zip(fields[::2], fields[1::2], strict=True))
        ids = decode_ids(next((value for name, value in reversed(pairs) if name == b"envelope"), b""))
        self._sent.add(ids.execution_id if ids.usable() else entry_id.decode())

    def answers(self) -> dict[str, list[dict[str, Any]]]:
        """The results by execution, or by entry where it has none."""
        found: dict[str, list[dict[str, Any]]] = {}
        for _, fields in self.worker.redis.xrange("attacked:results"):
            if fields[b"kind"] == b"result":
                about = fields.get(b"execution_id") or fields[b"message_id"]
                found.setdefault(about.decode(), []).append(json.loads(fields[b"payload"]))
        return found

    def settled(self) -> list[dict[str, Any]]:
        """Wait until everything is answered, each once and with a sentence where it failed, and nothing is left."""
        self.send(
            b"envelope", json.dumps(envelope({"task_type": "hello"}, execution_id=f"{len(self._sent)} later")).encode()
        )
        until(lambda: self._sent <= self.answers().keys(), SECONDS)
        until(self._only_dead_are_left)
        answers = self.answers()
        found = [answers[each] for each in self._sent]
        assert {len(results) for results in found} == {1}
        for [result] in found:
            assert result["status"] == "success" or re.fullmatch(r"[^\n]{9,4000}", result["error"]), result
        # Neither is an exception that nobody foresaw, nor one of ours that says nothing.
        for unforeseen in ("could not be judged", "ended unexpectedly", "Traceback"):
            assert unforeseen not in self.worker.log()
        assert answers[f"{len(self._sent) - 1} later"][0]["status"] == "success"
        self.worker.until_clean()
        assert list((self.directory / "data").rglob("*")) == []
        assert {key.partition(b":")[0] for key in self.worker.redis.scan_iter()} <= {b"attacked", b"sf"}
        return [result for [result] in found]

    def _only_dead_are_left(self) -> bool:
        redis = self.worker.redis
        pending = redis.xpending_range(JOBS, "secretflow", "-", "+", 5_000)
        return {each["consumer"] for each in pending} <= {b"@dead"} and len(pending) == redis.xlen(JOBS)


def _component() -> dict[str, Any]:
    floats = dict.fromkeys(["x"], "float64")
    data = vertical(table("alice", "a.csv", floats, labels={"y": "int64"}), table("bob", "b.csv", {"z": "float64"}))
    return node("stats/ss_vif:1.0.0", [data], ["report"], {"input/input_ds/feature_selects": ["x", "z"]})


def _envelopes(random: Random) -> list[bytes]:
    """Nasty values at every place of two envelopes, and what chance makes of all task types'."""
    good = [job(TASKS["hello"]), job({"task_type": "component", "node_eval_param": _component()})]
    placed = [(each, at, raw) for each in good for at in paths(each) for raw in RAW]
    made = [with_raw(*each) for each in random.sample(placed, ENVELOPES // 2)]
    every = [json.dumps(job(task)).encode() for task in TASKS.values()]
    return made + [mutated(random.choice(every), random) for _ in range(ENVELOPES - len(made))]


def test_envelopes(attacked: Attacked) -> None:
    for number, data in enumerate(_envelopes(Random(2026))):
        # An execution of its own, where there is still one that can be read.
        attacked.send(b"envelope", re.sub(rb'"execution-\d+"', b'"nasty-%d"' % number, data))
    kinds = Counter(result.get("error_type", "") for result in attacked.settled())
    assert kinds["ParameterValidationError"] > ENVELOPES // 4
    assert kinds["EnvelopeError"] > ENVELOPES // 20


def test_fields_of_an_entry(attacked: Attacked) -> None:
    random = Random(7)
    good = [
        json.dumps(envelope({"task_type": "hello"}, execution_id=f"field-{number}")).encode() for number in range(9)
    ]
    for value in (
        b"",
        b"\0",
        random.randbytes(1_000),
        b"\xff" * 3_000_000,
        good[0][:-1],
        good[0].decode().encode("utf-16"),
    ):
        attacked.send(b"envelope", value)
    for name in (b"", b"Envelope", b"envelope ", b"\xff\xfe", b"payload", random.randbytes(70_000)):
        attacked.send(name, good[0])
    attacked.send(b"envelope", good[1], b"envelope", good[2])
    attacked.send(b"envelope", b"{", b"envelope", good[3])
    for number, traceparent in enumerate((b"", b"\xff" * 100, b"00-" + b"0" * 100_000, b"00-\r\n-x-01"), start=4):
        attacked.send(b"envelope", good[number], b"traceparent", traceparent, b"traceparent", b"\0", b"\xff", b"\xff")
    attacked.send(*(part for number in range(2_000) for part in (b"%d" % number, b"x")), b"envelope", good[8])
    attacked.settled()
