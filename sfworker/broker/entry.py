"""One entry of a job stream, as this worker owns it."""

from __future__ import annotations

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
        """When it was appended, in Unix seconds, by Redis' clock."""
        return int(self.entry_id.partition("-")[0]) / 1000


def entry_from(parcel: list[bytes]) -> Entry:
    """An entry from the reply of a script (see `parcel` in `lua/prelude.lua`)."""
    stream, entry_id, *content = parcel
    if not content:
        return Entry(stream.decode(), entry_id.decode(), None)
    envelope, traceparent = content
    return Entry(stream.decode(), entry_id.decode(), envelope, traceparent.decode(errors="replace") or None)
