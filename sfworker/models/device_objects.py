"""Takes objects on devices apart into each party's own part, and puts them together. Runs in party processes.

Models and checkpoints consist of such parts.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import secretflow.distributed as sfd
import spu
from msgspec import Struct, structs
from secretflow.device import SPUObject
from secretflow.device.device.spu import SPUValueMeta

from sfworker.errors import ModelMismatchError, RecurringError
from sfworker.party.context import JobContext
from sfworker.session import codec
from sfworker.session.arithmetic import arithmetic_of

_UNREADABLE = "task_config.model_path: a part of it cannot be read; train again"

Share: TypeAlias = tuple[bytes, list[bytes]]
"""A party's share of a value, as SecretFlow's description of it and its chunks."""
Part: TypeAlias = list[Share | bytes | None]
"""One party's part of each object, which is a share, the encoded value, or nothing."""


class Description(Struct, frozen=True, kw_only=True):
    """The place of an object, and the shape and type of a shared one."""

    party: str | None
    """The party that holds the object alone, None where it is shared."""
    shape: list[int] = []
    dtype: str = ""


def take_apart(context: JobContext[Any], objects: list[Any]) -> tuple[list[Description], dict[str, Part]]:
    """Return a description of each object, and each local party's part. Nothing is sent to anybody."""
    parts: dict[str, Part] = {party: [] for party in context.parties if context.is_local(party)}
    descriptions = []
    for item in objects:
        if isinstance(item, SPUObject):
            meta = sfd.get(item.meta)
            descriptions.append(
                Description(party=None, shape=list(meta.shape), dtype=np.dtype(meta.dtype).name),
            )
            shares: dict[str, Any] = {
                party: actor.export_share.remote(name)
                for (party, actor), name in zip(context.spu.actors.items(), item.shares_name, strict=True)
            }
            for party, part in parts.items():
                # The SPU may have fewer parties than the job.
                part.append(context.value_at(party, shares[party]) if party in shares else None)
        else:
            owner = item.device.party
            descriptions.append(Description(party=owner))
            for party, part in parts.items():
                part.append(codec.dumps(context.value_at(party, item)) if party == owner else None)
    return descriptions, parts


def put_together(context: JobContext[Any], descriptions: list[Description], parts: dict[str, Part]) -> list[Any]:
    """Make the objects again. Raises ModelMismatchError where a part does not fit or holds a type not allowed."""
    return [_put(context, index, description, parts) for index, description in enumerate(descriptions)]


def arithmetic(context: JobContext[Any]) -> dict[str, Any]:
    """Return protocol, field and fixed-point precision of the session's SPU, without which shares cannot be read."""
    if "spu" not in context.devices:
        return {"protocol": None, "field": None, "fxp_fraction_bits": None}
    return structs.asdict(arithmetic_of(context.spu))


def _put(context: JobContext[Any], index: int, description: Description, parts: dict[str, Part]) -> Any:
    if description.party is not None:
        return context.at(description.party, _value, parts.get(description.party), index)
    shares = []
    # Every process makes the calls of all parties, and only that of its own party runs in it.
    for party, actor in context.spu.actors.items():
        meta, chunks = _share(parts[party], index) if party in parts else (b"", [])
        shares.append(actor.import_share.remote(meta, chunks))
    runtime = context.spu.conf
    meta = SPUValueMeta(
        shape=tuple(description.shape),
        dtype=np.dtype(description.dtype),
        vtype=spu.Visibility.VIS_SECRET,
        protocol=runtime.protocol,
        field=runtime.field,
        fxp_fraction_bits=runtime.fxp_fraction_bits,
    )
    return SPUObject(context.spu, meta, shares)


def _share(part: Part, index: int) -> Share:
    found = part[index] if index < len(part) else None
    if not isinstance(found, tuple):
        raise ModelMismatchError(_UNREADABLE)
    return found


def _value(part: Part | None, index: int) -> Any:
    found = part[index] if part is not None and index < len(part) else None
    try:
        return codec.loads(found if isinstance(found, bytes) else b"")
    except RecurringError:
        raise ModelMismatchError(_UNREADABLE) from None
