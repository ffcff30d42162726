"""Log lines on what others do, who may do it as often as they like."""

from __future__ import annotations

import logging
import time
from collections import Counter

_log = logging.getLogger("sfworker.gateway")
SECONDS = 60.0
"""Time between two log lines on the same cause."""
MAX_CAUSES = 1000


class Sayings:
    """Gives each cause one line a minute, which says how many there were."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def say(self, text: str, cause: str) -> None:
        """Log `text`, in which %s is the cause."""
        now = time.monotonic()
        if now - self._last.get(cause, -SECONDS) < SECONDS:
            self._unsaid[cause] += 1
            return
        if len(self._last) >= MAX_CAUSES:
            self._last.clear()
            self._unsaid.clear()
        more = f" ({self._unsaid.pop(cause)} more since the last of these)" if self._unsaid[cause] else ""
        self._last[cause] = now
        _log.warning(f"{text}%s", cause, more)
