"""Task types for tests of kept sessions: `mark` leaves things in its processes, `look` looks for them."""

from __future__ import annotations

import contextvars
import json
import locale
import logging
import mmap
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from typing import Annotated, Any

import numpy as np
import pandas as pd
from msgspec import Meta, Struct

from sfworker.catalog import TaskParams, TaskType, register
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher

_held: list[Any] = []
_number = 0
_variable: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="")


class MarkParams(TaskParams, tag="mark", frozen=True, kw_only=True):
    """Leaves something behind."""

    kind: Annotated[str, Meta(description="What; nothing: all that can be removed.")] = ""
    seed: Annotated[int, Meta(description="Seed of generators.")] = 0


class LookParams(TaskParams, tag="look", frozen=True, kw_only=True):
    """Looks for it."""


class MarkResult(Struct, frozen=True, kw_only=True):
    """Nothing."""


class LookResult(Struct, frozen=True, kw_only=True):
    """What there is at each party."""

    found: dict[str, dict[str, Any]]
    drawn: dict[str, list[float]]
    pids: dict[str, int]


register(TaskType(name="mark", summary="Marks", params=MarkParams, result=MarkResult, devices=frozenset({"spu"})))
register(TaskType(name="look", summary="Looks", params=LookParams, result=LookResult, devices=frozenset({"spu"})))


@TaskDispatcher.register_task("mark")
def mark(context: JobContext[MarkParams]) -> MarkResult:
    """Leave what `params.kind` says."""
    secret = context.at(context.parties[0], np.arange, 4).to(context.spu)
    context.reveal(secret)
    kind = context.params.kind
    if not kind:
        actor = context.spu.actors[context.self_party]._cls_fed_obj.get_object()
        actor.import_share(*actor.export_share("1"))
        _mark_what_can_be_removed(context.params.seed)
    elif kind == "device object":
        json.held = secret  # type: ignore[attr-defined]
    else:
        _mark(kind)
    return MarkResult()


def _mark_what_can_be_removed(seed: int) -> None:
    os.environ["MARK"] = "left"
    del os.environ["PATH"]
    os.chdir("/")
    os.umask(0)
    tempfile.tempdir = "/"
    random.seed(seed)
    np.random.seed(seed)
    signal.signal(signal.SIGUSR2, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 3600.0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    locale.setlocale(locale.LC_ALL, "C")
    sys.path.insert(0, "/mark")
    sys.setrecursionlimit(500)
    sys.setswitchinterval(0.5)
    sys.excepthook = print
    socket.setdefaulttimeout(1.0)
    warnings.simplefilter("ignore")
    np.seterr(all="raise")
    np.set_printoptions(precision=1)
    pd.set_option("mode.use_inf_as_na", True)
    logging.getLogger("sfworker.job").addFilter(lambda record: False)
    logging.getLogger("pandas").setLevel(logging.DEBUG)
    logging.disable(logging.CRITICAL)
    _variable.set("left")


def _mark(kind: str) -> None:
    global _number  # noqa: PLW0603
    match kind:
        case "thread":
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        case "process":
            subprocess.Popen(["sleep", "600"])
        case "daemonized process":
            subprocess.run(["sh", "-c", "sleep 600 &"], check=True)
        case "file":
            _held_in_json(open("/etc/hostname"))  # noqa: SIM115
        case "socket":
            _held_in_json(socket.socket(socket.AF_UNIX))
        case "pipe":
            ends = os.pipe()
            os.write(ends[1], b"left")
            _held_in_json(ends)
        case "mapping":
            with open("shared", "w+b") as file:
                file.truncate(4096)
                _held_in_json(mmap.mmap(file.fileno(), 4096))
        case "module":
            sys.modules["marked"] = types.ModuleType("marked")
        case "replaced module":
            sys.modules["json"] = types.ModuleType("json")
        case "global":
            _number += 1
        case "list":
            _held.append("left")
        case "class":
            LookResult.mark = "left"  # type: ignore[attr-defined]
        case "function":
            mark.left = "left"  # type: ignore[attr-defined]
        case "builtin":
            __builtins__["mark"] = "left"
        case "limit":
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        case "niceness":
            os.nice(1)
        case _:
            raise AssertionError


def _held_in_json(thing: Any) -> None:
    json.held = thing  # type: ignore[attr-defined]


@TaskDispatcher.register_task("look")
def look(context: JobContext[LookParams]) -> LookResult:
    """Say what there is, but for what differs between any two processes."""
    runtime = context.spu.actors[context.self_party]._cls_fed_obj.get_object().runtime
    assert os.environ["EXECUTION_ID"] == context.execution_id
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == os.getcwd() == str(context.scratch)
    context.log.info("looks")
    own = {
        "environment": {name: each for name, each in os.environ.items() if name not in ("EXECUTION_ID", "TMPDIR")},
        "scratch": os.listdir("."),
        "umask": [os.umask(0o77), os.umask(0o77)][0],
        "signals": [str(signal.getsignal(number)).split(" at ")[0] for number in sorted(signal.valid_signals())],
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0],
        "limits": [resource.getrlimit(number) for number in range(16)],
        "niceness": os.nice(0),
        "processors": sorted(os.sched_getaffinity(0)),
        "locale": locale.setlocale(locale.LC_ALL),
        "path": sys.path,
        "settings": [sys.getrecursionlimit(), sys.getswitchinterval(), socket.getdefaulttimeout()],
        "hook": str(sys.excepthook),
        "warnings": [str(each[:3]) for each in warnings.filters],
        "numpy": [np.geterr(), str(np.get_printoptions())],
        "pandas": bool(pd.get_option("mode.use_inf_as_na")),
        "logging": [logging.getLogger("sfworker.job").filters, logging.getLogger("pandas").level],
        "context": _variable.get(),
        "globals": [_number, _held, "marked" in sys.modules, hasattr(json, "held")],
        "spu": [name for name in map(str, range(1, 200)) if _is_there(runtime, name)],
    }
    drawn = [random.random(), float(np.random.random())]
    shown = context.reveal({each: context.at(each, json.dumps, [own, drawn, os.getpid()]) for each in context.parties})
    told = {each: json.loads(text) for each, text in shown.items()}
    return LookResult(
        found={each: parts[0] for each, parts in told.items()},
        drawn={each: parts[1] for each, parts in told.items()},
        pids={each: parts[2] for each, parts in told.items()},
    )


def _is_there(runtime: Any, name: str) -> bool:
    try:
        runtime.get_var(name)
    except (RuntimeError, IndexError):
        return False
    return True
