"""Runs one party of an execution in a process of its own, or of several executions one after the other.

In comes one `Start` frame; out go stages, progress and one outcome; then the process waits for the daemon to close the
socket, because its peers may still need what it sent. Where the session is kept, `Renew` and another `Start` come
instead. SecretFlow runs on the main thread, as its fed API demands.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from msgspec import Struct

from sfworker import catalog, limits
from sfworker.disks import disk_full, says_full, where_full
from sfworker.errors import (
    PeerFailedError,
    RecurringError,
    ResultSaveError,
    SecretFlowTaskError,
    TaskExecutionError,
)
from sfworker.party import logging as party_logging
from sfworker.party.context import JobContext
from sfworker.party.data_roots import DataRoots
from sfworker.party.literals import literal_text
from sfworker.party.remains import Before
from sfworker.party.restoring import use_processors
from sfworker.party.task_dispatcher import TaskDispatcher
from sfworker.session import spans
from sfworker.settings import variable
from sfworker.wire.frames import (
    LONGEST_TEXT,
    MOST_REMAINS,
    Failed,
    Making,
    Renew,
    Renewed,
    StageReached,
    Start,
    Succeeded,
    decode_order,
    encode_frame,
    receive_body,
)
from sfworker.wire.gateway import SPU_LINKS

if TYPE_CHECKING:
    from sfworker.session.device_manager import DeviceManager

MOST_SPUS = SPU_LINKS - 3
"""SPUs of a session that may serve another execution, which may need a few of its own."""
_MERSENNE_WORDS = 624
STOP_SIGNAL = signal.SIGUSR1
"""Signal by which the daemon asks the job to stop. It raises on the main thread, so that the job can clean up."""


class StopAskedError(BaseException):
    """The daemon asked this execution to stop. Not an Exception, so that no job swallows it."""


def serve(connection: socket.socket) -> NoReturn:
    """Run each execution that arrives on `connection`, report, and leave when the daemon closes it."""
    lock = threading.Lock()

    def send(frame: Struct) -> None:
        with lock:
            connection.sendall(encode_frame(frame))

    session = _Session()
    while (body := receive_body(connection)) is not None:
        order = decode_order(body)
        # Before the session ends: that takes up to half a second, and after an error SecretFlow ends it in `os._exit`.
        send(Renewed(session.renew()) if isinstance(order, Renew) else _run(order, send, session))
    os._exit(0)


def _run(start: Start, send: Callable[[Struct], None], session: _Session) -> Succeeded | Failed:
    party_logging.install(start.log_level)
    spans.begin(traced=start.traced)
    outcome: Succeeded | Failed
    try:
        try:
            # In a context of its own, whose variables end with it.
            outcome = contextvars.copy_context().run(_execute, start, send, session)
        except BaseException as error:  # noqa: BLE001 - whatever it was is reported, and the process ends
            _ignore_signals()
            session.held.append(error)  # its traceback holds the job's variables, an SPU's among them
            outcome = _failure(error, start)
    except BaseException as error:  # noqa: BLE001 - a signal that came just before they were ignored
        _ignore_signals()
        session.held.append(error)
        outcome = _failure(error, start)
    _ignore_signals()
    if (traced := spans.taken()) is not None:
        send(traced)
    return outcome


class _Session:
    """This process's session, which serves one execution or, where it is kept, several."""

    def __init__(self) -> None:
        self.held: list[BaseException] = []
        """Kept alive until exit, as the devices are: destroying an SPU blocks on peers that may be waiting for us."""
        self.roots: dict[str, DataRoots] = {}
        self._manager: DeviceManager | None = None
        self._start: Start | None = None
        self._before: Before | None = None

    def begin(self, start: Start) -> None:
        """Use the limits, which are the same for all, and note what this process is where others may follow."""
        if self._start is None:
            limits.use(start.limits)
            if start.all_keep:
                from sfworker.session.opened_once import open_each_time

                open_each_time()
            self._before = Before(start.mesh_dir) if start.keeps else None
        self._start = start

    def join(self, send: Callable[[Struct], None]) -> tuple[dict[str, Any], DeviceManager]:
        """Join the parties and make the devices, or use those of the execution before."""
        from sfworker.session import renewing
        from sfworker.session.cluster_initializer import ClusterInitializer, raise_errors_of_threads
        from sfworker.session.device_manager import DeviceManager

        start = self._start
        assert start is not None  # noqa: S101
        began = time.monotonic()
        with spans.span("join"):
            if self._manager is None:
                ClusterInitializer().initialize_cluster(start)
                party_logging.install(start.log_level)
            else:
                raise_errors_of_threads()
                renewing.number_anew(start)
        send(StageReached("cluster_ready", time.monotonic() - began))
        began = time.monotonic()
        with spans.span("make devices"):
            if self._manager is None:
                self._manager = DeviceManager(start)
            else:
                self._manager.begin(start)
            devices = self._manager.initialize_devices()
        if self._before is not None:
            self._before.look_again()
        send(StageReached("devices_ready", time.monotonic() - began, sorted(devices)))
        return devices, self._manager

    def renew(self) -> list[str]:
        """Forget the execution, and name what remains of it."""
        from sfworker.session import renewing

        start, manager, before = self._start, self._manager, self._before
        if start is None or manager is None or before is None:
            return ["no session"]
        try:
            remains = renewing.settle(start)
            renewing.forget_variables(manager.spus, start.self_party)
            for roots in self.roots.values():
                roots.close()
            remains += [*before.restore(renewing.own_threads()), *renewing.device_objects_left()]
        except Exception as error:  # noqa: BLE001 - a job may have broken anything, and then the process ends
            remains = [f"{type(error).__name__} at {party_logging.place(error.__traceback__)}"[:100]]
        if len(manager.spus) > MOST_SPUS:
            remains.append("devices")
        return remains[:MOST_REMAINS]


def _ignore_signals() -> None:
    """Ignore the signals by which SecretFlow's threads and the daemon interrupt the job, once the job is over."""
    signal.signal(STOP_SIGNAL, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _execute(start: Start, send: Callable[[Struct], None], session: _Session) -> Succeeded:
    session.begin(start)
    signal.signal(STOP_SIGNAL, _raise_stop_asked)
    scratch = Path(start.scratch_dir)
    # Libraries leave files there (libpsi its trace files), which the daemon removes with the directory.
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    os.environ |= start.environment
    os.environ["EXECUTION_ID"] = start.execution_id
    os.chdir(scratch)
    _confine(start.processors)
    _draw_new_numbers()
    task_type, params = catalog.validate(start.task_config, start.parties)

    devices: dict[str, Any] = {}
    manager: DeviceManager | None = None
    if start.mode != "none":
        devices, manager = session.join(send)
    session.roots = {
        party: DataRoots(roots, scratch, lambda path: send(Making(str(path))))
        for party, roots in start.data_roots.items()
    }
    began = time.monotonic()
    context: JobContext[Any] = JobContext(
        params=params,
        parties=start.parties,
        self_party=start.self_party,
        devices=devices,
        execution_id=start.execution_id,
        attempt=start.attempt,
        scratch=scratch,
        roots=session.roots,
        send=send,
        device_manager=manager,
        elsewhere=start.elsewhere,
        floors=start.floors,
    )
    with spans.span("compute"):
        result = TaskDispatcher.dispatch(task_type.name, context)
    made = None if result is None else msgspec.to_builtins(result)
    if made and start.elsewhere:
        for name in params.path_fields() & made.keys():  # the others' are nobody's business here
            if made[name] is not None:  # as that of rules which the job was not to keep
                made[name] = {party: path for party, path in made[name].items() if party == start.self_party}
    encoded = None if made is None else msgspec.json.encode(made)
    if encoded is not None and len(encoded) > start.max_result_bytes:
        bound = f"{start.max_result_bytes} ({variable('max_result_bytes')})"
        raise ResultSaveError(
            f"the result takes {len(encoded)} bytes, at most {bound} are published; write it to a file"
        )
    send(StageReached("executed", time.monotonic() - began, sorted(devices)))
    return Succeeded(encoded, _peak_rss())


def _draw_new_numbers() -> None:
    """Seed the global states of Python and NumPy anew, which come from the template or from the job before.

    Other sources see to it themselves.
    """
    import numpy

    random.seed()

    # The whole state, as to make one of a seed takes longer than many a job.
    state = numpy.frombuffer(os.urandom(_MERSENNE_WORDS * 4), dtype=numpy.uint32)
    numpy.random.set_state(("MT19937", state, _MERSENNE_WORDS, 0, 0.0))


def _confine(processors: list[int]) -> None:
    """Compute on these processors alone, and tell libraries that counted the processors in the template."""
    if not processors:
        return
    use_processors(processors)
    count = len(processors)
    os.environ["OMP_NUM_THREADS"] = str(count)  # for programs that the job starts

    import pyarrow
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    threadpool_limits(count)
    pyarrow.set_cpu_count(count)


def _failure(error: BaseException, start: Start) -> Failed:
    """Make the outcome frame of an exception. Only our own errors keep their text, as others may quote data."""
    cause, echo = first_cause(error)
    if not echo:
        cause = _full_disk(cause, start) or cause
    log = logging.getLogger("sfworker.party")
    if isinstance(cause, SecretFlowTaskError):
        log.info("ended with %s", cause.error_type)
        return Failed(str(cause)[:LONGEST_TEXT], cause.error_type, cause.retryable, echo, _peak_rss())
    if echo:
        peer = PeerFailedError()
        return Failed(str(peer), peer.error_type, peer.retryable, echo, _peak_rss())
    where = party_logging.place(cause.__traceback__)
    log.warning("ended with %s at %s", type(cause).__name__, where)
    text = literal_text(cause)
    said = "; its text is withheld because it may quote data" if text is None else f": {text}"
    kind = RecurringError if _recurs(cause) else TaskExecutionError
    return Failed(
        f"{type(cause).__name__} at {where}{said}"[:LONGEST_TEXT], kind.__name__, kind.retryable, echo, _peak_rss()
    )


def _full_disk(cause: BaseException, start: Start) -> SecretFlowTaskError | None:
    """Return the error to report instead of `cause` where a full disk is the reason.

    A library that finds a file cut off says anything, so what stems from one is laid to a disk that is full now.
    """
    ours = isinstance(cause, SecretFlowTaskError) and not isinstance(cause, TaskExecutionError)
    if isinstance(cause, ResultSaveError) or (ours and cause.__cause__ is None and not says_full(cause)):
        return None
    full = where_full(start.scratch_dir, chain.from_iterable(start.data_roots.values()))
    return full or (disk_full("the worker") if says_full(cause) else None)


def _recurs(error: BaseException) -> bool:
    """Return whether what went wrong is decided by code, parameters and files, so that no other attempt helps."""
    import pyarrow

    # Arrow's are about tables; its own kinds for memory and files are none of these.
    return isinstance(error, TypeError | AttributeError | NameError | NotImplementedError | pyarrow.ArrowInvalid)


def first_cause(error: BaseException) -> tuple[BaseException, bool]:
    """Return the first cause behind `error`, and whether it is only an echo of what happened elsewhere."""
    fed = sys.modules.get("secretflow.distributed.fed.global_context")
    context = fed.get_global_context(assert_none=False) if fed else None
    # An error in one of SecretFlow's threads reaches the main thread only as the SIGINT that it sends itself.
    local = context.get_local_exception() if context else None
    if isinstance(error, SecretFlowTaskError):
        return error, False
    if isinstance(error, StopAskedError):
        return error, True
    found: BaseException = local or error
    while hasattr(found, "cause") and isinstance(found.cause(), BaseException):
        if type(found).__name__ == "FedRemoteError":
            return found.cause(), True
        found = found.cause()
    return found, type(found).__name__ in {"FedRemoteError", "SessionBrokenError"}


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _raise_stop_asked(signum: int, frame: FrameType | None) -> NoReturn:
    raise StopAskedError


def main() -> NoReturn:
    """Run a process of start method `spawn`; its frame socket is descriptor 3, its argument the job modules as JSON."""
    from sfworker.party.preload import import_secretflow

    import_secretflow()  # before the first frame, as in the template
    from sfworker.party.task_dispatcher import load_jobs
    from sfworker.session import cluster_initializer, device_manager, renewing  # noqa: F401

    load_jobs(json.loads(sys.argv[1]))
    serve(socket.socket(fileno=3))
