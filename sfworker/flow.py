"""Makes envelopes of parameter structs, one at a time or as the steps of a flow. Runs in the client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from sys import maxsize
from typing import Any
from uuid import uuid4

import msgspec
from msgspec import NODEFAULT, Struct

from sfworker.catalog.base import TaskParams, all_task_types, decode
from sfworker.errors import ParameterValidationError, SecretFlowTaskError
from sfworker.wire.envelope import Options, decode_envelope

__all__ = ["Job", "Options", "PlannedStep", "Step", "plan"]


def _any_id() -> str:
    return uuid4().hex


@dataclass(frozen=True, kw_only=True)
class Job:
    """Holds what the envelopes of several tasks have in common, and makes them."""

    parties: Sequence[str] | None = None
    """Default: those of the worker's settings."""
    spu: str | dict[str, Any] | None = None
    """The protocol, as `SEMI2K`, or an envelope's whole `spu_config`."""
    heu: dict[str, Any] | None = None
    """An envelope's `heu_config`."""
    options: Options = field(default_factory=Options)
    sf_init_config: dict[str, Any] = field(default_factory=dict)
    """More fields of it than `parties`: `address`, `cluster_config`."""
    task_id: str | None = None
    """The flow, by which its executions are known again. Default: a new one each time."""

    def envelope(
        self, task: TaskParams, *, execution_id: str | None = None, subtask_id: str | None = None
    ) -> dict[str, Any]:
        """Make the envelope of a task; without an `execution_id` it is a new execution.

        What is said as by default is left out, so the defaults are those of the worker. Raises ParameterValidationError
        or EnvelopeError as a worker would, naming the field; what only a worker's settings allow or forbid is its part.
        """
        config = {"task_type": type(task).__struct_config__.tag, **_said(task)}
        spu = {"cluster_def": {"runtime_config": {"protocol": self.spu}}} if isinstance(self.spu, str) else self.spu
        envelope: dict[str, Any] = {
            "task_id": self.task_id or _any_id(),
            "subtask_id": subtask_id or config["task_type"],
            "execution_id": execution_id or _any_id(),
            "sf_init_config": self.sf_init_config | ({} if self.parties is None else {"parties": list(self.parties)}),
            "task_config": config,
        }
        alone = any(each.params is type(task) and not each.session for each in all_task_types())
        devices = {} if alone else {"spu_config": spu, "heu_config": self.heu}
        envelope |= {name: value for name, value in {**devices, "options": _said(self.options)}.items() if value}
        _check(envelope, type(task))
        return envelope


@dataclass(frozen=True)
class Step:
    """A task of a flow, where more has to be said of it than its parameters."""

    task: TaskParams
    name: str | None = None
    """Default: the task type; of several of a type, the second one is `psi-2`."""
    depends_on: Sequence[str] | None = None
    """Names of steps before it that have to succeed first. Default: the one before it."""
    execution_id: str | None = None
    """Default: the flow's `task_id`, a hyphen and the name."""


@dataclass(frozen=True)
class PlannedStep:
    """A step with its envelope."""

    name: str
    depends_on: tuple[str, ...]
    envelope: dict[str, Any]

    @property
    def execution_id(self) -> str:
        return str(self.envelope["execution_id"])


def plan(job: Job, steps: Iterable[TaskParams | Step]) -> list[PlannedStep]:
    """Make the envelopes of all steps, so that a wrong one is found before the first is sent.

    Raises ParameterValidationError, naming the step and the field.
    """
    job = replace(job, task_id=job.task_id or _any_id())
    planned: dict[str, PlannedStep] = {}
    counts: Counter[str] = Counter()
    for given in steps:
        step = given if isinstance(given, Step) else Step(given)
        task_type = str(type(step.task).__struct_config__.tag)
        counts[task_type] += 1
        name = step.name or (task_type if counts[task_type] == 1 else f"{task_type}-{counts[task_type]}")
        needed = step.depends_on if step.depends_on is not None else list(planned)[-1:]
        if name in planned:
            raise ParameterValidationError(f"step {name}: another step has this name; give one of them another")
        if missing := [each for each in needed if each not in planned]:
            raise ParameterValidationError(f"step {name}: depends_on: no step before it is named {missing[0]!r}")
        execution_id = step.execution_id or f"{job.task_id}-{name}"
        if any(execution_id == other.execution_id for other in planned.values()):
            raise ParameterValidationError(f"step {name}: execution_id: another step has it; give one of them another")
        try:
            envelope = job.envelope(step.task, execution_id=execution_id, subtask_id=name)
        except SecretFlowTaskError as error:
            raise ParameterValidationError(f"step {name}: {error}") from None
        planned[name] = PlannedStep(name, tuple(needed), envelope)
    return list(planned.values())


def _said(struct: Struct) -> dict[str, Any]:
    """Return the fields that have another value than by default."""
    said = {}
    for each in msgspec.structs.fields(struct):
        default = each.default if each.default_factory is NODEFAULT else each.default_factory()
        value = getattr(struct, each.name)
        if value is not msgspec.UNSET and (default is NODEFAULT or value != default):
            said[each.encode_name] = msgspec.to_builtins(value)
    return said


def _check(envelope: dict[str, Any], kind: type[TaskParams]) -> None:
    checked = decode_envelope(msgspec.json.encode(envelope), maxsize)
    params = decode(checked.task_config, kind)
    init = checked.sf_init_config
    parties = init.parties if init.cluster_config is None else list(init.cluster_config.parties)
    if parties is not None:
        params.check(parties)
