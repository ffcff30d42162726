"""Keeps the steps of a long training, so that the next attempt goes on from there. Runs in party processes.

Each party writes its own part beside the model's target: `<step>.msgpack` in a hidden directory that belongs to this
execution, its parameters and its arithmetic. The daemon removes it with the execution's answer. A party may be killed
between its part of a step and the others', so the last two steps are kept and the latest one that all have counts.
Parts belong together only where the same attempt wrote them: shares of two attempts add up to noise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sfworker.models import device_objects, models
from sfworker.models.device_objects import Description, Part
from sfworker.models.saved import drawn_id
from sfworker.party.context import JobContext
from sfworker.party.data_roots import saving

KEPT_STEPS = 2
_ENDING = ".msgpack"


class Checkpoint(Struct, frozen=True):
    """One party's part of a step, with the state that SecretFlow's trainer gave and the objects that belong to it."""

    step: int
    writer: str
    """Random id of the attempt that wrote it, the same at all parties."""
    state: dict[str, Any]
    objects: list[Description]
    part: Part


class Checkpoints:
    """Reads and keeps checkpoints. Call `latest` once before the training, `keep` after each of its steps."""

    def __init__(self, context: JobContext[Any], paths: dict[str, str]) -> None:
        """Make the directories beside the model's `paths`. Raises ParameterValidationError or ResultSaveError."""
        self._context = context
        self._writer = drawn_id(context)
        # An attempt with other parameters, another arithmetic or another format does not find these checkpoints.
        basis = msgspec.json.encode([models.FORMAT, context.params, device_objects.arithmetic(context)])
        self._directories = {
            party: context.kept_directory(party, "model_path", paths[party], basis)
            for party in context.parties
            if context.is_local(party)
        }

    def latest(self) -> tuple[int, dict[str, Any], list[Any]] | None:
        """Return the step to go on after, its state and objects, or None. Reveals which steps each party has."""
        context = self._context
        own = {party: _read(directory) for party, directory in self._directories.items()}
        held = [context.at(party, sorted, own.get(party, {})) for party in context.parties]
        common = set.intersection(*map(set, context.reveal(held)))
        if not common:
            return None
        chosen = {party: found[max(common)] for party, found in own.items()}
        described = next(iter(chosen.values()))
        objects = device_objects.put_together(
            context, described.objects, {party: each.part for party, each in chosen.items()}
        )
        context.log.info("goes on after step %d of an earlier attempt", described.step)
        return described.step, described.state, objects

    def keep(self, step: int, state: dict[str, Any], objects: list[Any]) -> None:
        """Write each local party's part of a step. Raises ResultSaveError where a party cannot write it."""
        descriptions, parts = device_objects.take_apart(self._context, objects)
        for party, part in parts.items():
            directory = self._directories[party]
            encoded = msgspec.msgpack.encode(Checkpoint(step, self._writer, state, descriptions, part))
            with saving(f"task_config.model_path.{party}"):
                # Renamed into place, so that a party that is killed here leaves no half of a step.
                written = directory / ".partial"
                written.write_bytes(encoded)
                os.replace(written, directory / f"{step}{_ENDING}")
                (directory / f"{step - KEPT_STEPS}{_ENDING}").unlink(missing_ok=True)


def _read(directory: Path) -> dict[tuple[int, str], Checkpoint]:
    """Read the party's own steps by number and writer, without those that cannot be read."""
    found = {}
    for path in directory.glob(f"*{_ENDING}"):
        try:
            checkpoint = msgspec.msgpack.decode(path.read_bytes(), type=Checkpoint)
        except (OSError, msgspec.DecodeError):
            continue
        found[checkpoint.step, checkpoint.writer] = checkpoint
    return found
