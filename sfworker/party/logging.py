"""Writes every log record of a party process to its log pipe, in the form of `sfworker.wire.party_log`.

Messages of sfworker's own loggers are written by us and hold no data; others are redacted before they leave the
process, and exceptions are reduced to their types and places.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import TextIO

from sfworker.errors import SecretFlowTaskError
from sfworker.party.literals import literal_warning
from sfworker.settings import LogLevel
from sfworker.wire.party_log import PartyRecord, encode_record, is_own, redact

# SecretFlow's fed API logs the text of exceptions; the outcome already reports them without.
_SILENT = ("secretflow.distributed.fed",)
WARNINGS = "py.warnings"
_FRAMES = 20
_STDERR = 2


def place(trace: TracebackType | None) -> str:
    """Return the end of a traceback as `module/file.py:line`."""
    frames = traceback.extract_tb(trace)
    return _position(frames[-1]) if frames else "unknown place"


def described(error: BaseException) -> str:
    """Describe an exception and its causes by types and frames, innermost last. Only our own errors keep their text."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        text = f": {current}" if isinstance(current, SecretFlowTaskError) else ""
        frames = traceback.extract_tb(current.__traceback__, -_FRAMES)
        parts.append(
            "\n".join([type(current).__name__ + text, *(f"  {_position(frame)} {frame.name}" for frame in frames)])
        )
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\nwhich led to\n".join(reversed(parts))


class PipeHandler(logging.Handler):
    """Writes records to the pipe, each in one piece."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_SILENT):
            return
        by_us = record.name == WARNINGS and record.funcName == _log_warning.__name__
        line = encode_record(
            PartyRecord(
                level=_level(record.levelno),
                logger=record.name,
                message=_own_message(record) if is_own(record.name) or by_us else _library_message(record),
                place=f"{record.filename}:{record.lineno}",
                exception=described(record.exc_info[1]) if record.exc_info and record.exc_info[1] else "",
            )
        )
        # Not to sys.stderr, which libraries replace and whose buffer would cut lines in two. The daemon may be gone.
        with contextlib.suppress(OSError):
            os.write(_STDERR, line)


def install(level: str) -> None:
    """Send log records to the pipe and nowhere else. SecretFlow's init replaces handlers, so call it again after.

    `level` is for libraries. Everything of sfworker's own is written; the daemon, which knows both levels, chooses.
    """
    set_levels(level)
    logging.getLogger().handlers[:] = [PipeHandler()]
    warnings.showwarning = _log_warning
    # The interpreter would print the exception's text.
    threading.excepthook = _log_thread_exception
    sys.unraisablehook = _log_unraisable


def set_levels(level: str) -> None:
    """Set the levels that `install` describes, where they differ.

    A new level clears something in each of a thousand loggers, which a fork of the template has to copy pages for.
    """
    for logger, wanted in ((logging.getLogger(), level), (logging.getLogger("sfworker"), "DEBUG")):
        if logging.getLevelName(logger.level) != wanted:
            logger.setLevel(wanted)


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    _log_uncaught("an exception ended a thread", args.exc_value)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    _log_uncaught("an exception could not be raised", args.exc_value)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning of Python's instead of printing it, whose text and line of code might quote data."""
    text = literal_warning(message) if isinstance(message, Warning) else None
    said = "its text is withheld because it may quote data" if text is None else text
    where = "/".join(filename.rsplit("/", 3)[-3:])
    logging.getLogger(WARNINGS).warning("%s at %s:%d: %s", category.__name__, where, lineno, said)


def _log_uncaught(sentence: str, error: BaseException | None) -> None:
    logging.getLogger("sfworker.party").warning(sentence, exc_info=error)


def _library_message(record: logging.LogRecord) -> str:
    # Arguments are left out because they may be data; an exception as message may be nothing else.
    return redact(record.msg) if isinstance(record.msg, str) else type(record.msg).__name__


def _own_message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # a wrong format must not end a computation
        return str(record.msg)


def _level(number: int) -> LogLevel:
    for level, name in ((logging.CRITICAL, "CRITICAL"), (logging.ERROR, "ERROR"), (logging.WARNING, "WARNING")):
        if number >= level:
            return name  # type: ignore[return-value]
    return "INFO" if number >= logging.INFO else "DEBUG"


def _position(frame: traceback.FrameSummary) -> str:
    return f"{'/'.join(frame.filename.rsplit('/', 3)[-3:])}:{frame.lineno}"
