"""Holds what files and outputs may become, as the operator's settings say. Runs in the daemon and in parties."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from sfworker.errors import InputDataError
from sfworker.settings import Settings, variable

PROPORTION = 100
"""Times its file's size to which anything may grow, however large that is."""


class Limits(Struct, frozen=True, kw_only=True):
    """The settings of the same names, without their `max_`."""

    rows: int
    columns: int
    output_rows: int
    expanded_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(**{name: getattr(settings, f"max_{name}") for name in cls.__struct_fields__})

    def expanded(self, size: int) -> int:
        """Return how many bytes a file of `size` bytes may become."""
        return max(self.expanded_bytes, PROPORTION * size)


DEFAULT = Limits.of(Settings())
_used = [DEFAULT]


def use(limits: Limits) -> None:
    """Set the limits of this process, which runs one execution."""
    _used[0] = limits


def used() -> Limits:
    return _used[0]


def beyond(rows: int, size: int, source: Path) -> str | None:
    """Return the name of the limit above which an output made from the CSV file `source` is, None where none is.

    It has `rows` and `size` bytes. As many rows as its input has may always be written.
    """
    if rows > used().output_rows and rows > lines(source, rows):
        return "output_rows"
    if size > used().expanded_bytes and size > used().expanded(source.stat().st_size):
        return "expanded_bytes"
    return None


def lines(path: Path, most: int) -> int:
    """Count the lines of a file, up to a few more than `most`."""
    found = 0
    with path.open("rb") as file:
        while found <= most and (block := file.read(1 << 20)):
            found += block.count(b"\n")
    return found


def refusal(field: str, what: str, name: str, helps: str = "remove rows with the same key") -> InputDataError:
    """Return the error that says which limit `what` is above, by the name of the limit."""
    amount, unit = getattr(used(), name), name.removeprefix("output_").removeprefix("expanded_")
    proportion = f" and {PROPORTION} times its file" if name == "expanded_bytes" else ""
    return InputDataError(
        f"{field}: {what} has more than {amount} {unit}{proportion}; {helps}, or raise {variable(f'max_{name}')}"
    )
