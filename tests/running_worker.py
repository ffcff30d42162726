"""A real worker (`sfworker run`) on a real Redis, for tests that look at it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import ResponseError

from sfworker.cli.child import bound_to_this_process, stop
from sfworker.settings import Settings, variable
from tests.processes import told, working_directory

START_SECONDS = 60.0
PARTIES = ["alice", "bob"]
ROOT = Path(__file__).parent.parent
FLOORS = ("min_input_rows", "min_intersection_rows", "min_group_rows", "min_bin_rows")
FINAL = {"SUCCESS", "FAILURE", "CANCELLED"}
_numbers = count(1)
_T = TypeVar("_T")


def until(condition: Callable[[], _T], seconds: float = 15.0) -> _T:
    """The first true value of `condition`. Fails the test after `seconds`."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, f"not so after {seconds} s"
        time.sleep(0.01)
    return value


def envelope(task_config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An envelope with an execution_id of its own; `options` and others by name."""
    options = {"max_retries": 0, "time_limit": 120, "soft_time_limit": 100, **more.pop("options", {})}
    return {
        "task_id": "task",
        "subtask_id": "subtask",
        "execution_id": f"execution-{next(_numbers)}",
        "sf_init_config": {"parties": PARTIES, "address": "local"},
        "task_config": task_config,
        "options": options,
        **more,
    }


class RunningWorker:
    """Use as `with RunningWorker(redis_url, directory) as worker`. Settings are given by field name.

    `seen_at` is where the test itself looks, where that is another URL than the worker's. `started_by` is a program
    that starts the worker in its own place, and its arguments.
    """

    def __init__(
        self,
        redis_url: str,
        directory: Path,
        *,
        seen_at: str | None = None,
        started_by: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.redis_url = seen_at or redis_url
        self.redis: Any = Redis.from_url(self.redis_url)
        self.name = str(settings.get("worker_hostname", ""))
        self.log_file = directory / "worker.log"
        self.run_dir = directory.with_name(f"{directory.name}-run")  # which no data root may hold
        for each in (directory, self.run_dir):
            each.mkdir(exist_ok=True, parents=True)
        values = {
            "redis_url": redis_url,
            "log_file": str(self.log_file),
            "run_dir": str(self.run_dir),
            "data_roots": str(directory),
            "jobs": "tests.acting_job",
            "drain_timeout": "5",
            # Files of tests have few rows.
            **dict.fromkeys(FLOORS, "0"),
            "min_retry_delay": "0",
            **settings,
        }
        ours = {variable(name) for name in Settings.__struct_fields__}
        self.environment = {name: value for name, value in os.environ.items() if name not in ours}
        self.environment["PYTHONPATH"] = str(ROOT)  # for task types of tests, as no command imports from its directory
        self.environment |= {
            variable(name): value if isinstance(value, str) else json.dumps(value) for name, value in values.items()
        }
        self._console = directory / "worker.console"
        self._sent_after: dict[str, bytes] = {}
        """The last entry of the results stream when an execution was sent."""
        self._command = [*started_by, sys.executable, "-m", "sfworker", "run"]

    def __enter__(self) -> RunningWorker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.redis.close()

    def start(self) -> None:
        """Start the process and wait until it takes jobs."""
        self.begin()
        self.until_ready()

    def begin(self) -> None:
        """Start the process."""
        self._starts = self.log().count("ready, ")
        with self._console.open("ab") as console:
            self.process = subprocess.Popen(
                bound_to_this_process(self._command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def until_ready(self) -> None:
        """Wait until it takes jobs."""
        until(lambda: self.process.poll() is not None or self.log().count("ready, ") > self._starts, START_SECONDS)
        assert self.process.poll() is None, self._console.read_text()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        return stop(self.process, 20.0)

    def kill(self) -> None:
        """SIGKILL, to the daemon alone."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def console(self) -> str:
        """What it and the gateway that it has started print."""
        return self._console.read_text()

    # --- as the web side

    def send(self, job: dict[str, Any] | bytes, stream: str = "sf:jobs") -> str:
        """Append a job; returns the id under which it is answered."""
        data = job if isinstance(job, bytes) else json.dumps(job)
        last = []
        with suppress(ResponseError):  # where it is no stream
            last = self.redis.xrevrange("sf:results", count=1)
        entry_id: bytes = self.redis.xadd(stream, {"envelope": data})
        known_as = str(job["execution_id"]) if isinstance(job, dict) and job.get("execution_id") else entry_id.decode()
        self._sent_after.setdefault(known_as, last[0][0] if last else b"-")
        return known_as

    def said(self, execution_id: str, kind: str = "status") -> list[dict[str, Any]]:
        """Everything on the results stream about an execution, in order."""
        found = []
        # Tests ask a hundred times a second, and the stream of a worker that serves them all is long.
        for _, fields in self.redis.xrange("sf:results", min=self._sent_after.get(execution_id, "-")):
            about = fields.get(b"execution_id") or fields.get(b"message_id")
            if about == execution_id.encode() and fields[b"kind"] == kind.encode():
                found.append(json.loads(fields[b"payload"]))
        return found

    def until_said(self, execution_id: str, stage: str, seconds: float = 30.0) -> dict[str, Any]:
        """The first event of this stage."""
        return until(lambda: next((e for e in self.said(execution_id) if e["stage"] == stage), None), seconds)

    def until_ended(self, execution_id: str, seconds: float = 60.0) -> dict[str, Any]:
        """The final event."""
        return until(lambda: next((e for e in self.said(execution_id) if e["status"] in FINAL), None), seconds)

    def run(self, job: dict[str, Any] | bytes, seconds: float = 60.0) -> dict[str, Any]:
        """Send a job and return its result, which is the same everywhere it is published, and published once."""
        execution_id = self.send(job)
        self.until_ended(execution_id, seconds)
        [result] = self.said(execution_id, "result")
        assert json.loads(self.redis.get(f"sf:result:{execution_id}")) == result
        return result

    # --- what is left over

    def processes(self) -> set[int]:
        """Every process that descends from the daemon."""
        return {pid for pid in _all_processes() if self.process.pid in _ancestors(pid)}

    def children(self) -> set[int]:
        """The daemon's own children: its nursery, if it has one now, and gateways and bridges."""
        return {pid for pid in self.processes() if _parent(pid) == self.process.pid}

    def nursery(self) -> int:
        """Process id of the nursery, which forks templates."""
        return until(lambda: next((pid for pid in self.children() if b"party.template" in told(pid, "cmdline")), 0))

    def template(self) -> int:
        """Process id of the template."""
        nursery = self.nursery()
        return until(lambda: next((pid for pid in self.processes() if _parent(pid) == nursery), 0))

    def parties(self) -> set[int]:
        """The template's own children."""
        template = self.template()
        return {pid for pid in self.processes() if _parent(pid) == template}

    def party(self, rank: int = 0) -> int:
        """The process of the party at `rank` of the one job that runs, waited for."""
        scratch = f"/scratch-{rank}"
        return until(lambda: next((pid for pid in self.parties() if working_directory(pid).endswith(scratch)), 0))

    def parties_with_children(self) -> list[int]:
        """Party processes that have started a process themselves."""
        return [parent for pid in self.processes() if (parent := _parent(pid)) in self.parties()]

    def executions_on_disk(self) -> list[Path]:
        """Directories of executions under the run directory."""
        return [path for path in self.run_dir.glob("sfworker-run-*/[0-9]*") if path.is_dir()]

    def until_clean(self, spares: int = 2) -> None:
        """Wait until nothing of an execution is left: no process but nursery, template and spares, no directory."""
        until(lambda: not self.executions_on_disk())
        until(lambda: len(self.processes()) == 2 + spares)


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid: int) -> int:
    stat = told(pid, "stat")
    return int(stat.rsplit(b")", 1)[1].split()[1]) if stat else 0


def _ancestors(pid: int) -> Iterator[int]:
    while (pid := _parent(pid)) > 1:
        yield pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
