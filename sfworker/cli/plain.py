"""Spells out what would steer the terminal of whoever looks, as ids, names and sentences may be anybody's words."""

from __future__ import annotations

from typing import Any

# Control characters but tab and the end of a line, and those that turn the direction of text. Spelled as JSON does it,
# so that JSON stays JSON.
_RANGES = ((0, 9), (11, 32), (0x7F, 0xA0), (0x200E, 0x2010), (0x2028, 0x202F), (0x2066, 0x206A))
_STEERING = {code: f"\\u{code:04x}" for first, end in _RANGES for code in range(first, end)}


def plain(text: str) -> str:
    """Return a text of which a terminal shows every character and obeys none."""
    return text.translate(_STEERING)


class Plain:
    """A text stream to which only plain text gets. What steers the terminal on purpose is written to `stream`."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(plain(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
