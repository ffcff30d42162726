"""Saves and loads models: a directory per party with a manifest and that party's share. Runs in party processes.

| file | what |
|---|---|
| manifest.json | what the model is and was trained with; the party's own features and their scaling |
| share.msgpack | the party's share of the weights; alone it says nothing about them |

Nothing is pickled: a model directory may be written by others who can write to the party's data root.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import secretflow.distributed as sfd
import spu
from msgspec import Struct
from secretflow.device import SPUObject
from secretflow.device.device.spu import SPUValueMeta

from sfworker.catalog import ColumnRef
from sfworker.errors import ModelMismatchError
from sfworker.runtime.context import JobContext
from sfworker.runtime.data_roots import saving

MANIFEST, SHARE = "manifest.json", "share.msgpack"
FORMAT = 1


class Manifest(Struct, frozen=True, kw_only=True):
    """What one party knows of a model."""

    task_type: str
    model_id: str
    party: str
    parties: list[str]
    protocol: str
    field: str
    fxp_fraction_bits: int
    shape: list[int]
    dtype: str
    features: list[str]
    """This party's own, in order."""
    means: list[float]
    deviations: list[float]
    """Scaling of this party's own features; 0 and 1 where it did none."""
    label: ColumnRef
    options: dict[str, str]
    """What else the task type needs to apply the model."""
    secretflow: str
    format: int = FORMAT


@dataclass(frozen=True)
class Own:
    """What a manifest holds of its own party."""

    features: list[str]
    means: list[float]
    deviations: list[float]


def save(
    context: JobContext[Any],
    weights: SPUObject,
    *,
    task_type: str,
    paths: dict[str, str],
    own: dict[str, Own],
    label: ColumnRef,
    options: dict[str, str],
) -> str:
    """Write each party's part into its staged directory; returns the model's id. Reveals that id and the shape."""
    meta = sfd.get(weights.meta)
    # Drawn by one party: on machines of their own, parties may count attempts differently.
    identity: str = context.reveal(context.at(context.parties[0], secrets.token_hex, 8))
    shares = [
        actor.export_share.remote(name)
        for actor, name in zip(context.spu.actors.values(), weights.shares_name, strict=True)
    ]
    for party, share in zip(context.spu.actors, shares, strict=True):
        if not context.is_local(party):
            continue
        directory = context.output_directory(party, "model_path", paths[party], holds=MANIFEST)
        manifest = Manifest(
            task_type=task_type,
            model_id=identity,
            party=party,
            parties=context.parties,
            **_arithmetic(context),
            shape=list(meta.shape),
            dtype=np.dtype(meta.dtype).name,
            features=own[party].features,
            means=own[party].means,
            deviations=own[party].deviations,
            label=label,
            options=options,
            secretflow=version("secretflow"),
        )
        with saving(f"task_config.model_path.{party}"):
            (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
            (directory / SHARE).write_bytes(msgspec.msgpack.encode(context.value_at(party, share)))
    return identity


def read_manifest(context: JobContext[Any], party: str, path: str, task_type: str) -> tuple[Path, Manifest]:
    """The party's directory and manifest. Raises ModelMismatchError, saying which, where it does not fit this job."""
    field = f"task_config.model_path.{party}"
    directory = context.input_directory(party, "model_path", path)
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        raise ModelMismatchError(f"{field}: holds no model of this version; train it again") from None
    expected = {"task_type": task_type, "party": party, "parties": context.parties, "format": FORMAT}
    for name, here in {**expected, **_arithmetic(context)}.items():
        there = getattr(manifest, name)
        if there != here:
            raise ModelMismatchError(
                f"{field}: the model's {name} is {_shown(there)}, this job's is {_shown(here)}; "
                f"use what it was trained with, or train again"
            )
    return directory, manifest


def load(context: JobContext[Any], found: dict[str, tuple[Path, Manifest]]) -> SPUObject:
    """The weights, shared as they were, from each local party's directory.

    Raises ModelMismatchError where the parties' parts are of different models. Reveals the model's id and shape.
    """
    described = [context.at(party, _described, found.get(party)) for party in context.parties]
    first, *others = context.reveal(described)
    if any(other != first for other in others):
        raise ModelMismatchError("task_config.model_path: the parties' directories hold parts of different models")
    *shape, dtype = first[1:]
    shares = []
    for party, actor in context.spu.actors.items():
        description, chunks = _read_share(party, found[party][0]) if party in found else (b"", [])
        shares.append(actor.import_share.remote(description, chunks))
    runtime = context.spu.conf
    meta = SPUValueMeta(
        shape=tuple(shape),
        dtype=np.dtype(dtype),
        vtype=spu.Visibility.VIS_SECRET,
        protocol=runtime.protocol,
        field=runtime.field,
        fxp_fraction_bits=runtime.fxp_fraction_bits,
    )
    return SPUObject(context.spu, meta, shares)


def _described(found: tuple[Path, Manifest] | None) -> list[Any] | None:
    return None if found is None else [found[1].model_id, *found[1].shape, found[1].dtype]


def _read_share(party: str, directory: Path) -> tuple[bytes, list[bytes]]:
    field = f"task_config.model_path.{party}"
    try:
        return msgspec.msgpack.decode((directory / SHARE).read_bytes(), type=tuple[bytes, list[bytes]])
    except (OSError, msgspec.DecodeError):
        raise ModelMismatchError(f"{field}: the party's share cannot be read; train again") from None


def _arithmetic(context: JobContext[Any]) -> dict[str, Any]:
    """What shares mean depends on: they cannot be read with any other protocol, ring or fixed point."""
    runtime = context.spu.conf
    return {
        "protocol": str(runtime.protocol).rpartition(".")[2],
        "field": str(runtime.field).rpartition(".")[2],
        "fxp_fraction_bits": int(runtime.fxp_fraction_bits),
    }


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
