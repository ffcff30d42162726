"""Runs SecretFlow's components inside this worker's session. Runs in party processes.

Upstream's entry (`comp_eval`) starts a session of its own, writes where it is told and unpickles what it finds. Here a
component gets this session's devices and a storage that keeps to the party's data roots: outputs are staged as any
other job's are, models are read as what peers send is, and no library reads files behind the storage's back.
"""

from __future__ import annotations

import functools
import os
import posixpath
import shutil
import signal
import tarfile
from collections.abc import Callable
from io import BufferedIOBase, BufferedWriter
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from google.protobuf import json_format
from secretflow.component.core import Context, uuid4
from secretflow.component.core.checkpoint import Checkpoint
from secretflow.component.core.types import TimeTracer
from secretflow.component.preprocessing.data_prep import psi_tp as psi_tp_module
from secretflow.component.preprocessing.data_prep import ub_psi_cache as ub_psi_cache_module
from secretflow.device import PYU, reveal
from secretflow.device.device import spu as spu_module
from secretflow.utils import secure_pickle
from secretflow.utils.errors import SFException
from secretflow_spec import Definition, Storage, StorageType, VTable
from secretflow_spec.v1.data_pb2 import DistData, StorageConfig
from secretflow_spec.v1.evaluation_pb2 import NodeEvalParam

from sfworker.components import (
    floors,
    ranges,
    values,  # noqa: F401 - registers what components send each other
)
from sfworker.components import params as component_params
from sfworker.errors import InputDataError, ModelMismatchError, ParameterValidationError, RecurringError
from sfworker.party import logging as party_logging
from sfworker.party.context import JobContext
from sfworker.party.data_roots import opened
from sfworker.party.literals import literal_text
from sfworker.party.process import first_cause
from sfworker.session import codec

# Exceptions by which components refuse parameters and tables, as another attempt would find them, too.
_REFUSALS = (SFException, AssertionError, ValueError, LookupError, TypeError, AttributeError, duckdb.Error)


class Evaluated(NamedTuple):
    """Holds what a component has made."""

    outputs: list[DistData]
    far: list[str]
    """Columns of this process's party that may be too large for the SPU's field, see `ranges`."""


def evaluate(
    context: JobContext[Any],
    definition: Definition,
    param: NodeEvalParam,
    *,
    where: str = "task_config.node_eval_param",
    inputs: str = "node_eval_param.inputs",
    outputs: str = "node_eval_param.output_uris",
) -> Evaluated:
    """Run a component whose parameters `params.check` has accepted.

    The component decides what it reveals. `where`, `inputs` and `outputs` are fields of the job that errors name.
    Raises ParameterValidationError or InputDataError.
    """
    use_careful_libraries()
    try:
        arguments = definition.parse_param(param)
        checkpoint = None
        if param.checkpoint_uri:
            basis = definition.make_checkpoint_params(arguments)
            checkpoint = Checkpoint(param.checkpoint_uri, basis, Checkpoint.parse_parties(arguments))
        component = definition.make_component(arguments)
    except (ValueError, AssertionError, KeyError, TypeError, json_format.Error):
        needed = ", ".join(component_params.missing(definition, param))
        remedy = f"give {needed}" if needed else "see SecretFlow's documentation of it"
        raise ParameterValidationError(
            f"{where}: does not fit the definition of {definition.component_id}; {remedy}"
        ) from None
    offered = _Context(context, checkpoint, inputs, outputs)

    def find(uri: str) -> Path:
        return Path(offered.storage.get_full_path(uri))

    floors.hold(component, context.floors)
    try:
        floors.require_size(context, param, find)
        with floors.held_filter(component, offered, context.floors):
            component.evaluate(offered)
        offered.storage.close()
    except Exception as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # SecretFlow's own answer to the same error may be on its way
        cause, echo = first_cause(error)
        if echo or not isinstance(cause, _REFUSALS):
            raise
        if text := literal_text(cause):
            raise InputDataError(f"{where}: {definition.component_id} says: {text}") from error
        raise InputDataError(
            f"{where}: {definition.component_id} cannot work with these parameters and inputs "
            f"({type(cause).__name__} at {party_logging.place(cause.__traceback__)}); its text is withheld because it "
            f"may quote data; check the attributes, and that the cells fit the types in the inputs' meta"
        ) from error
    minor = Definition.parse_minor(param.comp_id.partition(":")[2])
    made = [getattr(component, output.name).data for output in definition.get_output_defs(minor)]
    return Evaluated(made, ranges.far_columns(str(context.self_party), param, find, offered.spu))


def as_json(data: DistData) -> dict[str, Any]:
    """Return the protobuf JSON form, with field names as the definition spells them."""
    form: dict[str, Any] = json_format.MessageToDict(data, preserving_proto_field_name=True)
    return form


def column_names(table: DistData) -> dict[str, list[str]]:
    """Return the columns of each party's part of a table."""
    return {party: part.columns for party, part in VTable.from_distdata(table).parties.items()}


@functools.cache
def use_careful_libraries() -> None:
    """Confine the libraries by which components read files in this process to what is harmless."""
    secure_pickle.load = _load  # the codec's, with a sentence about files
    # This id stands for missing cells in files between steps, where pandas cuts it off after 32 characters.
    ub_psi_cache_module.uuid4 = lambda party: str(uuid4(party)).replace("-", "")
    _wait_for_every_upload()
    # With this filter, an archive's members stay below the directory that it is unpacked in.
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    stock_connect = duckdb.connect

    def connect(*arguments: Any, **named: Any) -> Any:
        # Expressions of components are SQL, which could read any file of the worker.
        connection = stock_connect(*arguments, **named)
        connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
        connection.execute("SET lock_configuration = true")
        return connection

    duckdb.connect = connect


def _wait_for_every_upload() -> None:
    """Have `psi_tp` wait until each party's output is written.

    It waits for the last party's alone, and then removes the files from which the others may still copy theirs. What
    Arrow has not finished of an ORC file ends the process.
    """
    uploads: list[Any] = []

    def device(party: str) -> Callable[[Any], Any]:
        def of(function: Any) -> Any:
            called = PYU(party)(function)
            if function is not psi_tp_module.upload_orc:
                return called

            def upload(*arguments: Any) -> Any:
                uploads.append(called(*arguments))
                return uploads[-1]

            return upload

        return of

    def rows_of_last(_: Any) -> Any:
        made = [*uploads]
        uploads.clear()
        return reveal(made)[-1]

    psi_tp_module.PYU, psi_tp_module.reveal = device, rows_of_last


def _load(file: BufferedIOBase, **_: Any) -> Any:
    try:
        return codec.loads(file.read())
    except RecurringError:
        raise ModelMismatchError(
            "inputs: a model's file is none that a component of this version has written; "
            "run the component that makes it again"
        ) from None


class _Storage(Storage):  # type: ignore[misc]
    """Offers the data roots of this process's party. Outputs are staged, and can be read before they are in place.

    With `lasting` they are written in place. Checkpoints are, as they are meant to outlive a failed execution.
    """

    def __init__(self, context: JobContext[Any], inputs: str, outputs: str, *, lasting: bool = False) -> None:
        super().__init__(StorageConfig(type=str(StorageType.LOCAL_FS)))
        self._context = context
        self._party = str(context.self_party)
        self._inputs, self._outputs = inputs, outputs
        self._lasting = lasting
        self._written: dict[str, Path] = {}
        self._writers: list[BufferedWriter[Any]] = []

    def close(self) -> None:
        """Close what a component has left open. Raises ResultSaveError where something is not on disk."""
        for writer in self._writers:
            writer.close()
            writer.raw.close()  # tells an error again that nobody heard

    def get_type(self) -> StorageType:
        return StorageType.LOCAL_FS

    def get_full_path(self, path: str) -> str:
        return str(self._readable(path))

    def get_size(self, path: str) -> int:
        return self._readable(path).stat().st_size

    def exists(self, path: str) -> bool:
        try:
            return self._readable(path).exists()
        except InputDataError:
            return False

    def get_reader(self, path: str) -> BufferedIOBase:
        return self._readable(path).open("rb")

    def get_writer(self, path: str) -> BufferedIOBase:
        where = f"task_config.{self._outputs}.{self._party}"
        self._writers.append(opened(where, self._writable(path)))
        return self._writers[-1]

    def remove(self, path: str) -> None:
        self._readable(path).unlink()

    def download_file(self, remote_path: str, local_path: str) -> None:
        source = self._readable(remote_path)
        os.makedirs(os.path.dirname(local_path), exist_ok=True)
        os.symlink(source, local_path)

    def upload_file(self, local_path: str, remote_path: str) -> None:
        with open(local_path, "rb") as source, self.get_writer(remote_path) as target:
            shutil.copyfileobj(source, target)

    def _readable(self, path: str) -> Path:
        written = self._written.get(posixpath.normpath(path))
        return written or self._context.input_file(self._party, self._inputs, path, unpack=False)

    def _writable(self, path: str) -> Path:
        if self._lasting:
            return self._context.lasting_file(self._party, self._outputs, path)
        name = posixpath.normpath(path)
        if name not in self._written:
            self._written[name] = self._context.output(self._party, self._outputs, path)
        return self._written[name]


class _Context(Context):  # type: ignore[misc]
    """Shows a component its execution, in place of upstream's context, which is made from a cluster's configuration."""

    def __init__(self, context: JobContext[Any], checkpoint: Checkpoint | None, inputs: str, outputs: str) -> None:
        self._job = context
        self._checkpoint = checkpoint
        self._storage = _Storage(context, inputs, outputs)
        self._lasting = _Storage(context, inputs, "node_eval_param.checkpoint_uri", lasting=True)
        self.data_dir = str(context.scratch)
        self.cluster_config = None
        self.tracer = TimeTracer()
        self.initiator_party = context.parties[0]
        self.spu: Any = None
        """The SPU that the component has asked for."""

    @property
    def parties(self) -> list[str]:
        return self._job.parties

    @property
    def self_party(self) -> str:
        return str(self._job.self_party)

    def make_spu(self, config: Any = None) -> Any:
        self.spu = self._job.device_manager.spu({} if config is None else config.update_config({}))
        return self.spu

    def make_spus(self, config: Any = None) -> list[Any]:
        return [self.make_spu(config)]

    def make_heu(
        self,
        new_sk_keeper: str,
        new_evaluators: list[str],
        field_type: Any = spu_module.spu.FieldType.FM64,
        fxp_fraction_bits: int = 0,
    ) -> Any:
        return self._job.device_manager.heu(new_sk_keeper, new_evaluators, field_type, fxp_fraction_bits)

    def make_heus(self, parties: list[str], *arguments: Any, **named: Any) -> dict[str, Any]:
        return {
            party: self.make_heu(party, [other for other in parties if other != party], *arguments, **named)
            for party in parties
        }

    def dump_checkpoint(self, step: int, model: Any, model_uri: str) -> None:
        if self._checkpoint is not None:
            self._checkpoint.dump(self._lasting, step, model.dump(self._lasting, model_uri))

    def update_progress(self, percent: float, infos: dict[str, Any] | None = None) -> None:
        self._job.progress(percent)

    def on_finish(self) -> None:
        pass
