"""Gives a job function its parameters, devices, files and progress. Runs in party processes.

The same function runs in every party's process, in the same order of calls (SecretFlow's fed API counts them). What
only one party may touch goes through `JobContext.at`; what others get to see goes through `JobContext.reveal`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sfworker.catalog import TaskParams
from sfworker.disks import disk_full, is_full
from sfworker.errors import InputDataError
from sfworker.party import compressed
from sfworker.party.data_roots import DataRoots, Place, remove, saving
from sfworker.session.spans import span
from sfworker.wire.frames import LONGEST_TEXT, Floors, Keeping, Progressed, Staging

if TYPE_CHECKING:
    from sfworker.session.device_manager import DeviceManager

KNOWN_ATTEMPTS = 1000
P = TypeVar("P", bound=TaskParams)
T = TypeVar("T")


class JobContext(Generic[P]):
    """One execution as one process sees it.

    `self_party` is the party of this process, or None where the job joins nobody.
    `elsewhere` says that the other parties are on machines of their own, whose web sides hear of nothing here.
    `attempt` is 1 for the first run of the execution.
    `devices` holds a PYU per party name and, where configured, `spu` and `heu`.
    """

    def __init__(
        self,
        *,
        params: P,
        parties: list[str],
        self_party: str | None,
        devices: dict[str, Any],
        execution_id: str,
        attempt: int,
        scratch: Path,
        roots: dict[str, DataRoots],
        send: Callable[[Progressed | Staging | Keeping], None],
        device_manager: DeviceManager | None = None,
        elsewhere: bool = False,
        floors: Floors = Floors(),  # noqa: B008 - it is frozen
    ) -> None:
        self.params = params
        self.parties = parties
        self.self_party = self_party
        self.elsewhere = elsewhere
        self.devices = devices
        self.attempt = attempt
        self.scratch = scratch
        self.log = logging.getLogger("sfworker.job")
        self.floors = floors
        self._roots = roots
        self._send = send
        self._device_manager = device_manager
        self.execution_id = execution_id

    @property
    def spu(self) -> Any:
        return self.devices["spu"]

    @property
    def heu(self) -> Any:
        return self.devices["heu"]

    def pyu(self, party: str) -> Any:
        return self.devices[party]

    @property
    def device_manager(self) -> DeviceManager:
        """Maker of devices beside those that the envelope configures. Jobs that join nobody have none."""
        assert self._device_manager is not None  # noqa: S101
        return self._device_manager

    def is_local(self, party: str) -> bool:
        """Return whether this process computes for `party`."""
        return self.self_party is None or self.self_party == party

    @property
    def is_speaker(self) -> bool:
        """True where this process tells progress, and the figures that were revealed to every party."""
        return self.elsewhere or self.is_local(self.parties[0])

    def at(self, party: str, function: Callable[..., T], *args: Any) -> Any:
        """Run `function(*args)` at `party` only, hold its value there, and return it as a PYUObject.

        It runs at once on the main thread, so its exceptions are this job's own. At other parties nothing runs.
        """
        value = function(*args) if self.is_local(party) else None
        return self.pyu(party)(_held)(_Box(value))

    def value_at(self, party: str, value: Any) -> Any:
        """Return the plain value of a device object at `party` in that party's process, None in others.

        Unlike `reveal` it sends nothing to anybody.
        """
        if not self.is_local(party):
            return None
        return getattr(value, "data", value).get_object()

    def reveal(self, value: Any) -> Any:
        """Return the plain value at *every* party. Each use is a disclosure that the task's catalogue entry lists."""
        import secretflow

        with span("reveal"):
            return secretflow.reveal(value)

    def require_rows(self, field: str, rows: int) -> None:
        """Raise InputDataError where a file has too few rows for anything of it to be revealed.

        Every task type that reveals something of a file calls it before that.
        """
        if rows < self.floors.input_rows:
            raise InputDataError(
                f"{field}: the file has fewer than {self.floors.input_rows} rows, and the operator lets nothing of so "
                f"few be revealed (SFWORKER_MIN_INPUT_ROWS); add rows"
            )

    def progress(self, fraction: float, message: str | None = None) -> None:
        """Publish how far the job is (0 to 1). The message is published, too, and must hold no data."""
        within = min(max(0.0, float(fraction)), 1.0)  # in this order NaN becomes 0
        self._send(Progressed(within, None if message is None else str(message)[:LONGEST_TEXT]))

    def input_file(self, party: str, field: str, path: str, *, unpack: bool = True) -> Path:
        """Return a checked input file of a local party, or what it holds where its ending is that of a compression.

        Raises ParameterValidationError or InputDataError.
        """
        where = f"task_config.{field}.{party}"
        found = self._roots[party].input_file(where, path)
        return compressed.unpacked(where, found, self.scratch) if unpack else found

    def input_directory(self, party: str, field: str, path: str) -> Path:
        """Return a checked input directory of a local party. Raises ParameterValidationError or InputDataError."""
        return self._roots[party].input_directory(f"task_config.{field}.{party}", path)

    def output(self, party: str, field: str, path: str) -> Path:
        """Create an empty file for an output of a local party and return a name for it with the target's ending.

        It lies beside the target. The daemon renames it into place once every party has succeeded. Raises
        ParameterValidationError or ResultSaveError.
        """
        where = f"task_config.{field}.{party}"
        place = self._roots[party].output_file(where, path)
        staged = self._stage(place)
        with saving(where):
            return self._roots[party].make_file(place, staged)

    def output_directory(self, party: str, field: str, path: str, holds: str) -> Path:
        """Create an empty directory for an output of a local party and return its path, as `output` does for files.

        One that exists is replaced only if it is empty or has a file named `holds`, which shows that it is a former
        output of this kind and nothing else of the party's.
        """
        where = f"task_config.{field}.{party}"
        place = self._roots[party].output_directory(where, path, holds)
        staged = self._stage(place)
        with saving(where):
            return self._roots[party].make_directory(place, staged)

    def kept_directory(self, party: str, field: str, path: str, basis: bytes) -> Path:
        """Return a directory beside the output directory `path` that outlives a failed attempt of this execution.

        A later attempt with the same `basis` gets the same one. The daemon removes it with the execution's answer.
        Raises ParameterValidationError or ResultSaveError.
        """
        where = f"task_config.{field}.{party}"
        place = self._roots[party].new_path(where, path)
        own = b"\0".join([self.execution_id.encode(), os.fsencode(place.target), basis])
        name = f".{hashlib.sha256(own).hexdigest()[:16]}.checkpoint"
        self._send(Keeping(str(place.target.with_name(name))))
        with saving(where):
            return self._roots[party].make_directory(place, name, 0o700, anew=False)

    def lasting_file(self, party: str, field: str, path: str) -> Path:
        """Return the path of a local party's file that is written in place and stays, however the execution ends.

        Raises ParameterValidationError or ResultSaveError.
        """
        return self._roots[party].lasting_file(f"task_config.{field}.{party}", path)

    def _stage(self, place: Place) -> str:
        """Announce an output, and return the name beside its target under which it is to be made."""
        target = place.target
        mark = hashlib.sha256(f"{self.execution_id}\0{target}".encode()).hexdigest()[:16]
        # Each attempt has a name of its own, as one that was cut off from Redis may still be writing, and discards its
        # own file when it hears of it. What earlier attempts left (or one of this number, before Redis lost count) is
        # of no use any more.
        for number in range(max(1, self.attempt - KNOWN_ATTEMPTS), self.attempt + 1):
            remove(place.directory / _staged(target, mark, number))
        if is_full(place.directory, least=1):  # known before the work, not only after it
            raise disk_full("the outputs")
        staged = _staged(target, mark, self.attempt)
        self._send(Staging(str(target.with_name(staged)), str(target)))
        return staged


def _staged(target: Path, mark: str, attempt: int) -> str:
    return f".{mark}-{attempt}.partial{target.suffix}"


class _Box:
    """Keeps a value opaque to SecretFlow, which walks containers among a call's arguments."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _held(box: _Box) -> Any:
    return box.value
