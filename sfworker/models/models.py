"""Saves and loads models: a directory per party with a manifest and that party's part. Runs in party processes.

| file | what |
|---|---|
| manifest.json | what the model is and was trained with; the party's own features and their scaling |
| part.msgpack | the party's shares, and what the party alone holds; its shares alone say nothing |

A model directory may be written by others who can write to the party's data root, so what is in it is read as what
peers send is: nothing but a few harmless types can be made from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from sfworker.catalog import ColumnRef
from sfworker.errors import ModelMismatchError
from sfworker.models import device_objects, saved
from sfworker.models.device_objects import Description, Part
from sfworker.party.context import JobContext
from sfworker.party.data_roots import saving

MANIFEST, PART = "manifest.json", "part.msgpack"
FORMAT = 4


class Manifest(Struct, frozen=True, kw_only=True):
    """The manifest of one party, which holds what that party may know of a model."""

    task_type: str
    model_id: str
    party: str
    parties: list[str]
    protocol: str | None
    field: str | None
    fxp_fraction_bits: int | None
    """Fixed-point precision. Shares can be read only with these three, which are None in sessions without SPU."""
    features: list[str]
    """This party's own features, in order."""
    means: list[float]
    deviations: list[float]
    """Scaling of this party's own features. Means are 0 and deviations 1 where there was none."""
    label: ColumnRef
    label_exponent: int = 0
    """The model predicts the label in units of 2 to this power, which its own party alone knows; 0 at the others."""
    options: dict[str, Any]
    """Further values that the task type needs to apply the model, the same at every party."""
    objects: list[Description]
    secretflow: str
    format: int = FORMAT


@dataclass(frozen=True)
class Own:
    """The part of a manifest that is about its own party."""

    features: list[str]
    means: list[float]
    deviations: list[float]
    label_exponent: int = 0


@dataclass(frozen=True)
class Found:
    """One local party's part of a saved model."""

    directory: Path
    manifest: Manifest


def save(
    context: JobContext[Any],
    objects: list[Any],
    *,
    task_type: str,
    paths: dict[str, str],
    own: dict[str, Own],
    label: ColumnRef,
    options: dict[str, Any],
) -> str:
    """Write each party's part of `objects` (on the SPU or at a party) into its staged directory.

    Returns the model's id. Every party learns that id, which is random.
    """
    identity = saved.drawn_id(context)
    descriptions, parts = device_objects.take_apart(context, objects)
    for party, part in parts.items():
        directory = context.output_directory(party, "model_path", paths[party], holds=MANIFEST)
        manifest = Manifest(
            task_type=task_type,
            model_id=identity,
            party=party,
            parties=context.parties,
            **device_objects.arithmetic(context),
            features=own[party].features,
            means=own[party].means,
            deviations=own[party].deviations,
            label=label,
            label_exponent=own[party].label_exponent,
            options=options,
            objects=descriptions,
            secretflow=version("secretflow"),
        )
        with saving(f"task_config.model_path.{party}"):
            (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
            (directory / PART).write_bytes(msgspec.msgpack.encode(part))
    return identity


def find(context: JobContext[Any], paths: dict[str, str], task_type: str) -> dict[str, Found]:
    """Find the local parties' parts. Raises ModelMismatchError where one does not fit this job, and says which."""
    return {
        party: _find(context, party, paths[party], task_type) for party in context.parties if context.is_local(party)
    }


def load(context: JobContext[Any], found: dict[str, Found]) -> tuple[list[Any], dict[str, Any]]:
    """Return the objects, on the devices where they were, and the options of what `find` has found.

    Raises ModelMismatchError where the parties' parts are of different models. Every party learns the model's id.
    """
    described = [context.at(party, _described, found.get(party)) for party in context.parties]
    first, *others = context.reveal(described)
    if any(other != first for other in others):
        raise ModelMismatchError("task_config.model_path: the parties' directories hold parts of different models")
    parts = {party: _read_part(party, each.directory) for party, each in found.items()}
    manifest = next(iter(found.values())).manifest
    return device_objects.put_together(context, manifest.objects, parts), manifest.options


def _find(context: JobContext[Any], party: str, path: str, task_type: str) -> Found:
    field = f"task_config.model_path.{party}"
    directory = context.input_directory(party, "model_path", path)
    manifest = _read_manifest(directory / MANIFEST)
    if manifest is None or manifest.format != FORMAT:
        raise ModelMismatchError(f"{field}: holds no model of this version; train it again")
    expected = {"task_type": task_type, "party": party, "parties": context.parties}
    here = {**expected, **device_objects.arithmetic(context)}
    saved.require_same(field, "model", manifest, here, "use what it was trained with, or train again")
    return Found(directory, manifest)


def _read_manifest(path: Path) -> Manifest | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _described(found: Found | None) -> list[str] | None:
    """Return what all parts of one model have in common, its id and a digest of options and objects."""
    if found is None:
        return None
    common = msgspec.json.encode([found.manifest.options, found.manifest.objects], order="sorted")
    return [found.manifest.model_id, hashlib.sha256(common).hexdigest()]


def _read_part(party: str, directory: Path) -> Part:
    try:
        return msgspec.msgpack.decode((directory / PART).read_bytes(), type=Part)
    except (OSError, msgspec.DecodeError):
        raise ModelMismatchError(
            f"task_config.model_path.{party}: the party's part cannot be read; train again"
        ) from None
