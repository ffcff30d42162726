"""What is checked at the end of a chaos run, from outside: only Redis, the process table and the disk."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sfworker.broker.keys import Keys
from tests.chaos.jobs import Kind

FINAL = {"SUCCESS", "FAILURE", "CANCELLED"}
_NEXT = {  # which stages may follow one of these within an execution
    None: {"task_started", "task_failed_final", "task_cancelled"},
    "task_started": {
        *("task_started", "cluster_ready", "devices_ready", "progress"),
        *("task_succeeded", "task_retrying", "task_failed_final", "task_cancelled"),
    },
    "task_retrying": {"task_started", "task_failed_final", "task_cancelled"},
}
_NEXT |= dict.fromkeys(("cluster_ready", "devices_ready", "progress"), _NEXT["task_started"])


class Heard:
    """The results stream, by execution."""

    def __init__(self, redis: Any) -> None:
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.results: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for _, fields in redis.xrange("sf:results"):
            about = (fields.get(b"execution_id") or fields[b"message_id"]).decode()
            kept = self.events if fields[b"kind"] == b"status" else self.results
            kept[about].append(json.loads(fields[b"payload"]))


def violations(redis: Any, sent: dict[str, Kind], cancelled: set[str]) -> Iterator[str]:
    """Sentences about what must not be."""
    heard = Heard(redis)
    for execution_id, kind in sent.items():
        results = heard.results[execution_id]
        if len(results) != 1:
            yield f"{execution_id} ({kind.name}) has {len(results)} results"
            continue
        allowed = kind.answers | ({"cancelled"} if execution_id in cancelled else set())
        if results[0]["status"] not in allowed and results[0].get("error_type") != "CrashLoopError":
            told = (results[0]["status"], results[0].get("error_type"), results[0].get("error"))
            yield f"{execution_id} ({kind.name}) ended as {told}"
        yield from _order(execution_id, heard.events[execution_id])
    for unknown in heard.results.keys() - sent.keys():
        yield f"{unknown} was answered and never sent"
    for stream in ("sf:jobs", "sf:jobs:high", "sf:jobs:low"):
        owners = {one["name"].decode(): one["pending"] for one in redis.xinfo_consumers(stream, "secretflow")}
        dead = owners.pop("@dead", 0)
        if any(owners.values()):
            yield f"{stream}: pending for {[name for name, count in owners.items() if count]}"
        if (length := redis.xlen(stream)) != dead:
            yield f"{stream}: {length} entries, of which {dead} are dead"
        if waiting := redis.zcard(Keys().retries(stream, "secretflow")):
            yield f"{stream}: {waiting} due times are left"


def left_behind(data: Path, run_dirs: list[Path], marks: str) -> Iterator[str]:
    """Processes, sockets, scratch and temporary files that should be gone; `marks` is in every path of the run."""
    for path in [*data.glob(".*"), *data.glob("*/.*")]:
        yield f"a file is left: {path.name}"
    for directory in run_dirs:
        for path in directory.iterdir():
            yield f"a run directory is left: {path.name}"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and marks in _about(entry):
            yield f"process {entry.name} is left: {_about(entry)[:120]}"


def _order(execution_id: str, events: list[dict[str, Any]]) -> Iterator[str]:
    before, attempt = None, 0
    for event in events:
        stage = event["stage"]
        if before in {"task_succeeded", "task_failed_final", "task_cancelled"} or stage not in _NEXT[before]:
            yield f"{execution_id}: {stage} after {before}"
        if event["attempt"] < attempt:
            yield f"{execution_id}: attempt {event['attempt']} after {attempt}"
        before, attempt = stage, event["attempt"]
    if not events or events[-1]["status"] not in FINAL:
        yield f"{execution_id}: no final event"


def _about(process: Path) -> str:
    try:
        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return command + " " + (process / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
