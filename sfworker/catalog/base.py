"""The registry of task types, and what their parameters share. Runs in the daemon and in party processes."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from sfworker.errors import ParameterValidationError, SettingsError, TaskTypeNotFoundError
from sfworker.wire import tolerance
from sfworker.wire.envelope import PartyName, explain

ColumnName = Annotated[str, Meta(min_length=1, max_length=1024, description="Name of a column.")]
Path = Annotated[str, Meta(min_length=1, max_length=4096, description="A path inside the party's data roots.")]
PartyPaths = dict[PartyName, Path]
PartyColumns = dict[PartyName, Annotated[list[ColumnName], Meta(min_length=1)]]
PartyColumnsIfAny = dict[PartyName, list[ColumnName]]
"""Columns by party, where an empty list says the same as leaving the party out."""
ENTRY_POINTS = "sfworker.jobs"
FILES = "sfworker_files"
"""Package that job files are loaded into by their path; it has no directory."""


class ColumnRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column of one party."""

    party: PartyName
    column: ColumnName


class Arithmetic(Struct, frozen=True, kw_only=True):
    """The fixed-point arithmetic of the SPU that computed."""

    protocol: str
    field: str
    fxp_fraction_bits: int
    """Smallest step between two numbers, as a power of one half."""


class TaskParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="task_type"):
    """Base of every task type's parameters; a subclass gives its name as `tag`."""

    def agreed(self) -> Any:
        """Return what the parties of a job have to agree on, which is all but the paths of each."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if name not in self.path_fields()}

    def path_fields(self) -> set[str]:
        """Return the names of the parameters that give each party a path of its own."""
        return {field.name for field in msgspec.structs.fields(type(self)) if _holds_paths(field.type)}

    def computes_as(self) -> str:
        """Return the name of the task type whose `spu_defaults` hold, which may be that of a model's training."""
        return str(self.__struct_config__.tag)

    def check(self, parties: list[str]) -> None:
        """Checks across fields. Raises ParameterValidationError, naming the field.

        Here: every party that a parameter names takes part. Subclasses call this first, then check their own.
        """
        for name in self.__struct_fields__:
            value = getattr(self, name)
            named: Iterable[str] = value.keys() if isinstance(value, dict) else ()
            if isinstance(value, ColumnRef):
                named, name = (value.party,), f"{name}.party"  # noqa: PLW2901 - the field as the envelope spells it
            elif name == "receiver" and value is not None:
                named = (value,)
            for party in named:
                if party not in parties:
                    raise ParameterValidationError(
                        f"task_config.{name}: names a party that is not in sf_init_config.parties "
                        f"({', '.join(parties)})"
                    )


def require_parties(field: str, given: Mapping[str, object], parties: Iterable[str]) -> None:
    """Raises ParameterValidationError where `given` lacks one of `parties`."""
    for party in parties:
        if party not in given:
            raise ParameterValidationError(f"task_config.{field}.{party}: required and missing")


def check_features(
    features: PartyColumnsIfAny | None, keys: PartyColumnsIfAny, others: Iterable[ColumnRef | None] = ()
) -> None:
    """Raises ParameterValidationError where a feature is named twice, is a key, or is one of `others`."""
    for party, columns in (features or {}).items():
        taken = {*keys.get(party, []), *(other.column for other in others if other and other.party == party)}
        for column in columns:
            if column in taken:
                raise ParameterValidationError(
                    f"task_config.features.{party}: column {column!r} is a key or has another part, such as the label; "
                    f"leave it out"
                )
        if len(set(columns)) != len(columns):
            raise ParameterValidationError(f"task_config.features.{party}: names a column twice")


FLOOR = (
    "a file of fewer rows than SFWORKER_MIN_INPUT_ROWS is refused before anything of it is revealed, and who reads the "
    "error learns that it has fewer"
)
"""Disclosure of each task type that reveals anything of a file's rows."""


@dataclass(frozen=True, kw_only=True)
class TaskType:
    """A task type as the daemon knows it."""

    name: str
    summary: str
    params: type[TaskParams]
    result: type[Struct]
    session: bool = True
    """Whether the job needs the parties joined; without, it runs in one process that joins nobody."""
    devices: frozenset[Literal["spu", "heu"]] = frozenset()
    """Devices beside the parties' own (PYU) that the envelope has to configure."""
    spu_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the SPU's runtime_config holds for this task type where the envelope says nothing else."""
    disclosures: tuple[str, ...] = ()
    """What is revealed, and to whom."""


EXACT_COUNTS = {"field": "FM64"}
"""`spu_defaults` of what only counts, or takes numbers apart: exact in any field, in this one in the least time."""
FINE_FIGURES = {"field": "FM128", "fxp_fraction_bits": 40}
"""`spu_defaults` of figures that are right to ten digits so, in the time that FM128 takes with any fraction bits."""
_task_types: dict[str, TaskType] = {}
_P = TypeVar("_P", bound=TaskParams)


def register(task_type: TaskType) -> TaskType:
    """Add a task type. Raises ValueError where the name is taken by another, TypeError where a struct is none."""
    msgspec.json.Decoder(task_type.params)  # says what is wrong with a field's type now, not when a job arrives
    msgspec.json.Decoder(task_type.result)
    if _task_types.setdefault(task_type.name, task_type) is not task_type:
        raise ValueError(f"task type {task_type.name!r} is registered twice")
    return task_type


def load_modules(modules: list[str]) -> None:
    """Import every module of this package, installed entry points and `modules`: names, or paths of Python files.

    Raises SettingsError naming what fails.
    """
    package = importlib.import_module("sfworker.catalog")
    for found in pkgutil.iter_modules(package.__path__, "sfworker.catalog."):
        importlib.import_module(found.name)
    named = [(entry.value, entry.load) for entry in entry_points(group=ENTRY_POINTS)]
    named += [(module, partial(_load, module)) for module in modules]
    for name, load in named:
        try:
            load()
        except ModuleNotFoundError as error:
            remedy = f"; to load the file, say ./{name}.py" if os.path.exists(f"{name}.py") else ""
            raise SettingsError(f"SFWORKER_JOBS: {name} cannot be imported: {error}{remedy}") from error
        except Exception as error:
            raise SettingsError(f"SFWORKER_JOBS: {name} cannot be imported: {error!r}") from error


def _load(module: str) -> None:
    """Import an installed module by its name, or a Python file by its path.

    The import path stays as it is: the file's directory may be a data root, where jobs write what they like.
    """
    if not module.endswith(".py"):
        importlib.import_module(module)
        return
    # The same name in every process, and nobody else's: objects of the file's classes travel by name.
    name = f"{FILES}.{os.path.basename(module).removesuffix('.py')}"
    loaded = sys.modules.get(name)
    if loaded is not None:
        if not os.path.samefile(str(loaded.__file__), module):
            raise ImportError("another file of this name is loaded")
        return
    spec = importlib.util.spec_from_file_location(name, os.path.abspath(module))
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise


def all_task_types() -> list[TaskType]:
    return sorted(_task_types.values(), key=lambda task_type: task_type.name)


def find(name: str) -> TaskType:
    """The task type of this name. Raises TaskTypeNotFoundError, with the nearest names."""
    if name in _task_types:
        return _task_types[name]
    near = difflib.get_close_matches(name, _task_types, n=3)
    remedy = f"did you mean {' or '.join(near)}?" if near else "`sfworker tasks` lists the installed ones"
    raise TaskTypeNotFoundError(f"task_config.task_type: no task type of this name is installed; {remedy}")


def _holds_paths(kind: Any) -> bool:
    if kind == PartyPaths:
        return True
    return any(_holds_paths(each) for each in get_args(kind)) if get_origin(kind) is not dict else False


def validate(task_config: dict[str, Any], parties: list[str]) -> tuple[TaskType, TaskParams]:
    """The task type and its decoded, checked parameters.

    Raises TaskTypeNotFoundError or ParameterValidationError, the latter naming the field and the remedy.
    """
    name = task_config.get("task_type")
    if not isinstance(name, str) or not name:
        raise ParameterValidationError("task_config.task_type: required, the name of a task type as a string")
    task_type = find(name)
    params = decode(task_config, task_type.params)
    params.check(parties)
    return task_type, params


def decode(task_config: dict[str, Any], kind: type[_P]) -> _P:
    """Make parameters of JSON values. Raises ParameterValidationError, naming the field; `check` is not called."""
    try:
        return tolerance.convert(task_config, kind)
    except msgspec.ValidationError as error:
        sentence, name = explain(error, "task_config"), kind.__struct_config__.tag
        raise ParameterValidationError(f"{sentence}; `sfworker tasks {name}` lists the parameters") from None
