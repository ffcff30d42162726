"""Task types for tests, whose jobs do as they are told. Loaded into a worker by `--jobs tests.acting_job`.

`act` joins its parties first; `act_alone` runs in one process that joins nobody. Parameters and functions are in one
file, as in anybody's own task type.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from sfworker.catalog import TaskParams, TaskType, register
from sfworker.errors import InputDataError, TaskExecutionError
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher

SECRET = "customer 4711"
Action = Literal[
    "succeed",
    "report",
    "raise",
    "raise_final",
    "raise_foreign",
    "raise_literal",
    "raise_type",
    "hang",
    "compute",
    "flood",
    "stubborn",
    "exit",
    "kill",
    "abort",
    "multiply",
    "allocate",
    "fill_scratch",
    "warn",
]


class ActParams(TaskParams, tag="act", frozen=True, kw_only=True):
    """What to do, and at which party; without a party, at each."""

    action: Annotated[Action, Meta(description="What to do.")] = "succeed"
    at: Annotated[str | None, Meta(description="Only there; the other parties wait.")] = None
    seconds: Annotated[float, Meta(ge=0, description="How long, where that matters.")] = 600.0
    attempts: Annotated[int, Meta(ge=0, description="How many attempts act; later ones succeed.")] = 1_000_000
    until: Annotated[str | None, Meta(description="A file; once it exists, every attempt succeeds.")] = None
    output_paths: Annotated[dict[str, str], Meta(description="Written before anything else.")] = field(
        default_factory=dict
    )


class ActAloneParams(ActParams, tag="act_alone", frozen=True, kw_only=True):
    """The same in one process."""


class ActResult(Struct, frozen=True, kw_only=True):
    """What an obedient job answers."""

    pid: int
    first_line_at: float
    processors: int


register(TaskType(name="act", summary="Acts, the parties joined", params=ActParams, result=ActResult))
register(TaskType(name="act_alone", summary="Acts alone", params=ActAloneParams, result=ActResult, session=False))


@TaskDispatcher.register_task("act")
@TaskDispatcher.register_task("act_alone")
def act(context: JobContext[ActParams]) -> ActResult:
    """Do as `params.action` says."""
    result = ActResult(pid=os.getpid(), first_line_at=time.time(), processors=len(os.sched_getaffinity(0)))
    params = context.params
    for party, path in params.output_paths.items():
        if context.is_local(party):
            context.output(party, "output_paths", path).write_text("written\n")
    if context.attempt > params.attempts or (params.until is not None and Path(params.until).exists()):
        return result
    if params.at is not None and not context.is_local(params.at):
        time.sleep(params.seconds)
    else:
        _act(context, params)
    return result


def _act(context: JobContext[ActParams], params: ActParams) -> None:
    print(f"about to {params.action} for {SECRET}", flush=True)
    context.log.info("acting: %s", params.action)
    (context.scratch / "left-over").write_text("scratch")
    match params.action:
        case "report":
            for step in range(5):
                context.progress(step / 5, f"step {step} of 5")
                time.sleep(params.seconds / 5)
        case "raise":
            raise TaskExecutionError("told to raise; a retry may help")
        case "raise_final":
            raise InputDataError("task_config.action: told to raise; no retry helps")
        case "raise_foreign":
            raise RuntimeError(f"the balance of {SECRET} is wrong")
        case "raise_literal":
            raise RuntimeError("the balance does not add up")
        case "raise_type":
            raise TypeError(f"{SECRET} is no number")
        case "hang":
            subprocess.Popen(["sleep", "600"])  # a child of the party process, which has to go with it
            time.sleep(params.seconds)
        case "compute":
            until = time.monotonic() + params.seconds
            while time.monotonic() < until:
                pass
        case "flood":
            until = time.monotonic() + params.seconds
            while time.monotonic() < until:
                context.progress(0.5, "still at it")
        case "stubborn":
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            time.sleep(params.seconds)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "abort":
            os.abort()
        case "multiply":
            import jax.numpy

            matrix = jax.numpy.ones((1000, 1000))  # large enough for JAX to use several threads
            (matrix @ matrix).block_until_ready()
        case "allocate":
            command = "import time; held = bytearray(300_000_000); time.sleep(600)"
            subprocess.Popen([sys.executable, "-I", "-S", "-c", command])  # a child's memory counts, too
            time.sleep(params.seconds)
        case "fill_scratch":
            while True:
                with tempfile.NamedTemporaryFile(delete=False) as file:
                    file.write(bytes(10_000_000))
                time.sleep(0.01)
        case "warn":
            warnings.warn("the balance does not add up", stacklevel=1)
            warnings.warn(f"the balance of {SECRET} is wrong", RuntimeWarning, stacklevel=1)
            os.write(2, b"[2026-11-24 13:41:40.113] [warning] [bucket.cc:166] the bucket is full\n")
        case "succeed":
            pass
