"""Hears the signals that workers and gateways are sent."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Literal

import anyio

from sfworker.logs import reopen

Meaning = Literal["stop", "reopen", "nothing"]


async def hear_signals() -> AsyncIterator[tuple[signal.Signals, Meaning]]:
    """Yield each signal with what it means here, after having the log file opened anew where it means that.

    A closed terminal ends what was started in one. Elsewhere SIGHUP, and SIGUSR1 and SIGUSR2 anywhere, come from
    scripts that rotate logs or reload settings; by default they would kill the process in the middle of jobs.
    """
    hang_up_stops = os.isatty(0) or os.isatty(2)
    heard = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        heard.append(signal.SIGHUP)
    with anyio.open_signal_receiver(*heard) as signals:
        async for number in signals:
            if number in {signal.SIGUSR1, signal.SIGUSR2}:
                yield number, "nothing"
            elif number == signal.SIGHUP and not hang_up_stops:
                reopen()
                yield number, "reopen"
            else:
                yield number, "stop"
