"""Runs one execution's party processes, from their Start frames to one outcome. Its code runs in the daemon.

    Start --> each party --> stages, progress, outputs, outcome
                              |
      soft limit, cancel: ask |  hard limit, lost lease, dead party: kill all
                              v
                           Outcome

The first cause counts. Failures that the other parties report because of it are echoes.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import anyio
import msgspec
from msgspec import Raw, Struct

from sfworker.disks import where_full
from sfworker.errors import (
    Failure,
    GatewayLostError,
    JobCancelledError,
    PartyProcessLostError,
    PeerAbsentError,
    PeerFailedError,
    RecurringError,
    ResultSaveError,
    SecretFlowTaskError,
    SoftTimeLimitExceededError,
    TaskExecutionError,
    TimeLimitExceededError,
)
from sfworker.pool.channel import Listeners
from sfworker.pool.outcome import Outcome, Stop
from sfworker.pool.remotes import MAX_TEXT, FromGateway, Remotes, cleaned
from sfworker.pool.usage import oom_kills
from sfworker.wire.frames import (
    Failed,
    FrameError,
    Keeping,
    Making,
    PartyFrame,
    Progressed,
    Renew,
    Renewed,
    StageReached,
    Staging,
    Start,
    Succeeded,
    Traced,
    decode_party_frame,
    longest_party_frame,
)
from sfworker.wire.gateway import Agreed, Lost, PeerFailed, PeerFrame, PeerReached, PeerSucceeded, Sent
from sfworker.wire.gateway import Heard as RemoteHeard

ECHO_SECONDS = 1.0
"""Longest wait after an echo for the cause behind it, which another party may be about to report."""
EXIT_SECONDS = 0.2
"""Longest wait for the cause after a process left without an outcome."""
LEAVE_SECONDS = 5.0
"""Longest wait for the end of a process that has closed its socket. Only the template sees how it ended."""
DISMISSAL_SECONDS = 10.0
KILL_SECONDS = 5.0
"""Longest wait for killed processes to end. Beyond it, the template hangs, or the kernel."""
RENEW_SECONDS = 5.0
"""Longest time in which processes forget an execution. The next one may be waiting for them."""
MOST_PATHS = 1000
"""Outputs, directories and checkpoints of one process."""
ASK = signal.SIGUSR1
OWN_SUCCESS = -1
Heard = StageReached | Progressed | Making | Staging | Keeping
Listener = Callable[[Heard], None]
_ECHOES = {PeerFailedError.__name__, PeerAbsentError.__name__}
OF_FULL_DISKS = {-signal.SIGABRT, -signal.SIGBUS}
"""Ends that a C++ library comes to where it cannot write, or where memory that it maps has no room on its disk."""
_PHASES = {"cluster_ready": "cluster", "devices_ready": "devices", "executed": "execution"}
_ERRORS: dict[Stop, type[SecretFlowTaskError]] = {
    Stop.SOFT_TIME_LIMIT: SoftTimeLimitExceededError,
    Stop.TIME_LIMIT: TimeLimitExceededError,
    Stop.CANCELLED: JobCancelledError,
    Stop.LEASE_LOST: TaskExecutionError,  # never published: another worker has the job
    Stop.DRAINED: TaskExecutionError,
}


class Limits(Struct, frozen=True, kw_only=True):
    """Time limits in seconds from the start of the attempt, and the `grace` in seconds between asking and killing."""

    soft: float
    hard: float
    grace: float
    tell_why: bool = True
    """False where peers hear the type of a failure alone, without its sentence."""


class Controlled(Protocol):
    """Describes a party process, whether it is here (`PartyProcess`) or on a node of a cluster (`HostedProcess`)."""

    pid: int | None
    exit_status: int | None
    ended: anyio.Event

    @property
    def is_lost(self) -> bool: ...
    def assign(self, listeners: Listeners, longest_frame: int) -> None: ...
    def require_own(self, frame: Making | Staging | Keeping, roots: Iterable[str]) -> None: ...
    def how_it_ended(self, *, memory_ran_out: bool) -> str: ...
    async def send(self, frame: Struct) -> None: ...
    def dismiss(self) -> None: ...
    def close(self) -> None: ...


class Controller(Protocol):
    """Describes who has started the processes and can end them: a template, or nodes of a cluster."""

    lost: anyio.Event

    def signal(self, process: Any, number: int, *, whole_group: bool) -> None: ...
    def kill(self) -> None: ...


class Mesh:
    """Runs one execution, as in `outcome = await mesh.run(starts, limits, listener)`. `stop` may be called any time."""

    def __init__(
        self,
        template: Controller,
        processes: Sequence[Controlled],
        log_line: Callable[[str, bytes], None],
        remotes: Remotes | None = None,
        otherwise: Callable[[], tuple[Sequence[Controlled], list[Start]]] | None = None,
    ) -> None:
        """`otherwise` gives other processes and frames, where peers do not use the kept links of `processes`."""
        self._template = template
        self.processes = processes
        self._remotes = remotes
        self._otherwise = otherwise
        self._agreed: Agreed | None = None
        self._log_line = log_line
        self._outcome = Outcome()
        self._missing: set[int] = set(range(len(processes) + (len(remotes.names) if remotes else 0)))
        """Ranks of the parties that have not said how they ended; and OWN_SUCCESS until the peers were sent it."""
        if remotes:
            self._missing.add(OWN_SUCCESS)
        self._failed: set[int] = set()
        """Ranks of the parties that have said that they failed."""
        self._reached: dict[str, set[int]] = {}
        self._paths = [0] * len(processes)
        self._weak_cause: Failure | None = None
        self._is_decided = False
        self._decide_at = math.inf
        self._leaving: dict[int, float] = {}
        """By rank, until when the end of a process that has closed its socket is waited for."""
        self._kill_at = math.inf
        self._limits = Limits(soft=math.inf, hard=math.inf, grace=0.0)
        self._listener: Listener = _ignore
        self._starts: list[Start] = []
        self._names: list[str] = []
        self._oom_kills = 0
        self._changed = anyio.Event()
        self._remains: dict[int, list[str]] = {}
        """By rank, what processes could not remove of the execution."""

    async def run(self, starts: list[Start], limits: Limits, listener: Listener) -> Outcome:
        """Start every party and wait for the outcome, after which no party computes any more.

        The parties' processes are still there after a success, waiting to be dismissed, and dead after a failure.
        """
        self._limits, self._listener = limits, listener
        self._starts = starts
        self._names = [start.self_party or "worker" for start in starts]
        began = anyio.current_time()
        if self._remotes is not None:
            self._names += self._remotes.names
            try:
                await self._remotes.open(self._hear_remote)
            except GatewayLostError as error:
                self._outcome.peer_absent = True
                self.fail(Failure.of(error))
        if self._remotes is not None and self._remotes.has_choice:
            await self._until(lambda: self._agreed is not None, began)
        if self._agreed is not None and not self._agreed.keeps:
            self._take_others()
            if self._agreed.all_keep:
                self._starts = [msgspec.structs.replace(start, all_keep=True) for start in self._starts]
        for rank, process in enumerate(self.processes):
            listeners = Listeners(
                partial(self._hear, rank),
                partial(self._hear_end, rank),
                partial(self._hear_nonsense, rank),
                partial(self._log_line, self._names[rank]),
            )
            process.assign(listeners, longest_party_frame(self._starts[rank].max_result_bytes))
        for process, start in zip(self.processes, [] if self._settled() else self._starts, strict=False):
            try:
                await process.send(start)
            except OSError:
                break  # its end is heard, and explained, below
        self._oom_kills = oom_kills()
        await self._until(self._settled, began)
        self._is_decided = True
        if self._outcome.failure is not None:
            self._tell_failure(self._outcome.failure)  # before a broken link gives the peers another reason
            await self._kill()
        return self._outcome

    def stop(self, reason: Stop) -> None:
        """End the execution for `reason`, or for a weightier one that was given before.

        At the soft limit and when cancelled, the job is asked first and may clean up. Otherwise it is killed at once.
        """
        if self._settled():
            return
        before = self._outcome.stopped
        self._outcome.stopped = max(before or reason, reason)
        if reason not in (Stop.CANCELLED, Stop.SOFT_TIME_LIMIT):
            self._fail_as_stopped()
        else:
            if before is None:  # a second request would interrupt the job's cleaning up
                self._ask()
            if reason is Stop.CANCELLED:
                self._kill_at = min(self._kill_at, anyio.current_time() + self._limits.grace)
        self._changed.set()

    def fail(self, failure: Failure) -> None:
        """End the execution with `failure`, or with the reason for which it was to stop. The first call decides."""
        if self._outcome.failure is None:
            stopped = self._outcome.stopped
            self._outcome.failure = Failure.of(_ERRORS[stopped]()) if stopped else failure
            self._changed.set()

    def break_off(self, failure: Failure) -> None:
        """End the execution with `failure` where it has not ended yet. A session that is kept may have ended, too."""
        if not self._settled():
            self.fail(failure)
        self._changed.set()

    def suspect(self, failure: Failure) -> None:
        """End the execution with `failure` soon, where no other cause is heard of until then."""
        if not self._settled() and self._weak_cause is None:
            self._weak_cause = failure
            self._decide_within(ECHO_SECONDS)
        self._changed.set()

    @property
    def groups(self) -> list[int]:
        """Process groups of the parties, which hold all processes that a party starts, too."""
        return [process.pid for process in self.processes if process.pid is not None]

    async def renew(self) -> list[str]:
        """Let the processes forget the execution, and name what remains of it, which is nothing where all are as new.

        Only after a success.
        """
        for process in self.processes:
            with suppress(OSError):  # its end is looked at below
                await process.send(Renew())
        with anyio.move_on_after(RENEW_SECONDS):
            while len(self._remains) < len(self.processes) and not self.has_ended:
                await self._changed.wait()
                self._changed = anyio.Event()
        if self.has_ended or len(self._remains) < len(self.processes):
            return ["a process that does not answer"]
        return sorted(set(chain.from_iterable(self._remains.values())))

    @property
    def has_ended(self) -> bool:
        """True where a process has ended, or what joins it to the others has."""
        return any(process.is_lost for process in self.processes)

    async def until_one_ended(self) -> None:
        """Wait for the end of a process, after the outcome."""
        while not self.has_ended:
            await self._changed.wait()
            self._changed = anyio.Event()

    async def dismiss(self) -> None:
        """Let the processes go, wait for their end, and kill those that do not end."""
        for process in self.processes:
            process.dismiss()
        with anyio.move_on_after(DISMISSAL_SECONDS):
            for process in self.processes:
                await process.ended.wait()
        await self._kill()
        for process in self.processes:
            process.close()
        self.part()

    def forget_remotes(self) -> None:
        """Leave the peers to who keeps the links."""
        self._remotes = None

    def part(self) -> None:
        """Let the peers know that the attempt has ended."""
        if self._remotes is not None:
            self._remotes.close()
            self._remotes = None

    def _take_others(self) -> None:
        if self._otherwise is None:
            return
        try:
            self.processes, self._starts = self._otherwise()
        except OSError as error:
            told = f"the worker could not start a process for this job ({type(error).__name__})"
            self.fail(Failure.of(TaskExecutionError(told)))

    async def _until(self, done: Callable[[], bool], began: float) -> None:
        """Wait until it is done, or settled otherwise."""
        soft_at, hard_at = began + self._limits.soft, began + self._limits.hard
        while not self._settled() and not done():
            decide_at = max(self._decide_at, *self._leaving.values(), 0.0)
            with anyio.move_on_at(min(soft_at, hard_at, self._kill_at, decide_at)):
                await self._changed.wait()
            self._changed = anyio.Event()
            now = anyio.current_time()
            if self._settled() or done():
                return
            if now >= hard_at:
                self.stop(Stop.TIME_LIMIT)
            elif now >= self._kill_at:
                self._fail_as_stopped()
            elif now >= decide_at and self._weak_cause:
                if self._weak_cause.error_type == PeerAbsentError.__name__:  # nobody failed, so no attempt is used up
                    self._outcome.peer_absent = self._outcome.peer_returns = True
                self.fail(self._weak_cause)
            elif now >= soft_at:
                soft_at = math.inf
                self.stop(Stop.SOFT_TIME_LIMIT)

    def _settled(self) -> bool:
        return self._outcome.failure is not None or (not self._missing and self._weak_cause is None)

    def _hear(self, rank: int, body: bytes) -> None:
        frame: PartyFrame = decode_party_frame(body)
        if isinstance(frame, Renewed) and self._is_decided:
            self._remains[rank] = frame.remains
            self._changed.set()
            return
        if rank not in self._missing:
            raise FrameError("a frame after its outcome")
        match frame:
            case StageReached():
                self._tell(PeerReached(frame.stage, frame.seconds))
                self._reach(rank, frame)
            case Progressed():
                self._listener(frame)
            case Traced():
                self._hear_spans(rank, frame)
            case Making() | Staging() | Keeping():
                self._hear_path(rank, frame)
            case Succeeded():
                self._note_end(rank, frame.peak_rss_bytes)
                self._tell(PeerSucceeded())
                if self._outcome.result is None and frame.result is not None:
                    self._outcome.result = Raw(frame.result)
            case Failed():
                self._failed.add(rank)
                self._note_end(rank, frame.peak_rss_bytes)
                self._hear_failure(frame)
            case Renewed():
                raise FrameError("an answer to no question")
        self._changed.set()

    def _hear_remote(self, heard: FromGateway) -> None:
        if isinstance(heard, Sent):
            self._missing.discard(OWN_SUCCESS)
            self._changed.set()
            return
        if isinstance(heard, Agreed):
            self._agreed = heard
            self._changed.set()
            return
        # What a peer says right behind its success counts, as where it gave up a host that was paused meanwhile.
        gave_up = isinstance(heard, RemoteHeard) and isinstance(heard.frame, PeerFailed) and not self._is_decided
        if self._outcome.failure is not None or (self._settled() and not gave_up):
            return
        rank = self._names.index(heard.party)
        if isinstance(heard, Lost):
            if rank in self._failed:
                return  # it has said why it ends
            self._outcome.peer_absent = (not heard.met or heard.returns) and not heard.final
            self._outcome.peer_returns = heard.returns
            kind = PeerAbsentError if self._outcome.peer_absent else PeerFailedError
            self.fail(Failure(f"party {heard.party} {cleaned(heard.why)}", kind.__name__, not heard.final))
            return
        match heard.frame:
            case PeerReached(stage, seconds):
                if rank in self._missing and rank not in self._reached.get(stage, set()):
                    self._reach(rank, StageReached(stage, seconds))
            case PeerSucceeded():
                self._missing.discard(rank)
            case PeerFailed(is_release=True, echo=False):
                self._outcome.peer_absent = self._outcome.peer_returns = True
                told = f"party {heard.party} has left the execution to another worker there, and will be back"
                self.fail(Failure(told, PeerAbsentError.__name__, True))
            case PeerFailed() as frame:
                self._failed.add(rank)
                self._missing.discard(rank)
                self._hear_failure(frame, f"party {heard.party} failed with {frame.error_type}: {cleaned(frame.error)}")
        self._changed.set()

    def _tell(self, frame: PeerFrame) -> None:
        if self._remotes is not None:
            self._remotes.tell(frame)

    def _tell_failure(self, failure: Failure) -> None:
        why = failure.error if self._limits.tell_why else "its sentence is not passed on"
        released = self._outcome.stopped in (Stop.DRAINED, Stop.LEASE_LOST) or self._outcome.template_lost
        echo = failure.error_type in _ECHOES
        self._tell(PeerFailed(why[:MAX_TEXT], failure.error_type, failure.retryable, echo=echo, is_release=released))

    def _hear_spans(self, rank: int, frame: Traced) -> None:
        party = self._names[rank]
        if not self._starts[rank].traced or party in self._outcome.traced:
            raise FrameError("spans that nobody asked for")
        self._outcome.traced[party] = frame

    def _hear_path(self, rank: int, frame: Making | Staging | Keeping) -> None:
        self._paths[rank] += 1
        if self._paths[rank] > MOST_PATHS:
            raise FrameError(f"more than {MOST_PATHS} paths of outputs")
        self.processes[rank].require_own(frame, chain.from_iterable(self._starts[rank].data_roots.values()))
        match frame:
            case Making():
                self._outcome.made.append(frame.path)
            case Staging():
                self._outcome.outputs.append(frame)
            case Keeping():
                self._outcome.kept.append(frame.path)
        self._listener(frame)

    def _hear_nonsense(self, rank: int, error: FrameError) -> None:
        """End the execution of a process that says what no party process says, as a job's own code may."""
        if not self._settled():
            told = f"the process of {self._names[rank]} sent {error}; correct the code of the task type"
            self.fail(Failure.of(RecurringError(told)))

    def _reach(self, rank: int, frame: StageReached) -> None:
        """Note that a party has reached a stage, and tell the listener when the last one has."""
        reached = self._reached.setdefault(frame.stage, set())
        if rank in reached:
            raise FrameError("a stage twice")
        reached.add(rank)
        timings, phase = self._outcome.timings, _PHASES[frame.stage]
        setattr(timings, phase, max(getattr(timings, phase), frame.seconds))
        self._outcome.devices = frame.devices or self._outcome.devices
        if len(reached) == len(self._names):
            timings.ended[phase] = time.time()
            self._listener(frame)

    def _note_end(self, rank: int, peak_rss: int) -> None:
        self._outcome.peak_rss[self._names[rank]] = peak_rss
        self._missing.discard(rank)

    def _hear_failure(self, frame: Failed | PeerFailed, sentence: str | None = None) -> None:
        failure = Failure(frame.error, frame.error_type, frame.retryable)
        if sentence is not None:
            missed = frame.echo and frame.error_type == PeerAbsentError.__name__
            failure = Failure(sentence, (PeerAbsentError if missed else PeerFailedError).__name__, frame.retryable)
        if frame.echo:
            self._weak_cause = failure
            # Where every party has said how it ended, no cause can follow; nor from here, where peers gave this one up.
            others = len(self.processes) if sentence is not None else 0
            self._decide_within(ECHO_SECONDS if any(rank >= others for rank in self._missing) else 0.0)
        else:
            self.fail(failure)

    def _hear_end(self, rank: int) -> None:
        """Note that a party's socket was closed or its process has ended, which is a failure before the others' ends.

        The others may still need one that has succeeded.
        """
        self._changed.set()
        if rank in self._failed or self._settled():
            return
        process = self.processes[rank]
        if not process.ended.is_set():
            if rank not in self._missing:
                return
            told = f"the process of {self._names[rank]} closed its connection to the worker and did not end"
            self._weak_cause = Failure.of(PartyProcessLostError(told))
            self._leaving[rank] = anyio.current_time() + LEAVE_SECONDS
            self._decide_within(LEAVE_SECONDS)
            self._changed.set()
            return
        self._leaving.pop(rank, None)
        how = process.how_it_ended(memory_ran_out=oom_kills() > self._oom_kills)
        lost = Failure.of(PartyProcessLostError(f"the process of {self._names[rank]} {how}"))
        if process.exit_status in OF_FULL_DISKS and (full := self._full_disk(rank)):
            lost = Failure.of(full)
        self._outcome.template_lost = self._template.lost.is_set()
        if process.exit_status is None or process.exit_status < 0:
            self.fail(lost)  # killed by a signal or gone with the template, which is a cause of its own
        else:
            # It left by itself: SecretFlow's answer to an error elsewhere, which that party may be about to report.
            self._weak_cause = lost
            self._decide_within(EXIT_SECONDS)
        self._changed.set()

    def _full_disk(self, rank: int) -> ResultSaveError | None:
        start = self._starts[rank]
        beside = [str(Path(output.staged).parent) for output in self._outcome.outputs]
        return where_full(start.scratch_dir, [*chain.from_iterable(start.data_roots.values()), *beside])

    def _decide_within(self, seconds: float) -> None:
        self._decide_at = min(self._decide_at, anyio.current_time() + seconds)

    def _fail_as_stopped(self) -> None:
        self.fail(Failure.of(TaskExecutionError()))

    def _ask(self) -> None:
        for process in self.processes:
            self._template.signal(process, ASK, whole_group=False)

    async def _kill(self) -> None:
        for process in self.processes:
            self._template.signal(process, signal.SIGKILL, whole_group=True)
        with anyio.move_on_after(KILL_SECONDS):
            for process in self.processes:
                await process.ended.wait()
            return
        self._template.kill()


def _ignore(frame: Heard) -> None:
    pass
