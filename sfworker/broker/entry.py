"""Represents one entry of a job stream, as a worker owns it."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A job as it was appended. `envelope` is None where the payload was deleted under the pending entry."""

    stream: str
    entry_id: str
    envelope: bytes | None
    traceparent: str | None = None

    @property
    def appended_at(self) -> float:
        """Time of the append in Unix seconds, by Redis' clock."""
        return int(self.entry_id.partition("-")[0]) / 1000


def entry_from_parcel(parcel: list[bytes]) -> Entry:
    """Make an entry from a script's reply, see `parcel` in `lua/prelude.lua`."""
    stream, entry_id, *content = parcel
    fields = dict(zip((b"envelope", b"traceparent"), content, strict=True)) if content else None
    return entry_from_fields(stream.decode(), entry_id.decode(), fields)


def entry_from_fields(stream: str, entry_id: str, fields: Mapping[bytes, bytes] | None) -> Entry:
    """Make an entry from the fields of a stream entry, which are None where they were deleted."""
    if fields is None:
        return Entry(stream, entry_id, None)
    traceparent = fields.get(b"traceparent", b"").decode(errors="replace")
    envelope = fields.get(b"envelope", b"").removeprefix(codecs.BOM_UTF8)  # which C# puts in front of a text
    return Entry(stream, entry_id, envelope, traceparent or None)
