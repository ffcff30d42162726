"""What a party process writes to its log pipe (its stdout and stderr), one line per record.

Records of Python's logging are JSON behind a record separator; lines without it come from C++ or a print and are parsed
by the daemon. Messages of sfworker's own loggers are written by us and hold no data; others may quote it, so what they
quote or count is taken out and exceptions are reduced to their type and place.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from types import TracebackType

RECORD_MARK = "\x1e"
_OWN = ("sfworker.",)
# SecretFlow's fed API logs the text of exceptions; the outcome already reports them without.
_SILENT = ("secretflow.distributed.fed",)
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`")
_PATH = re.compile(r"(?<![\w/])/[^\s,;:)\]]+")
_NUMBER = re.compile(r"\d[\d.,]*")


def redact(text: str) -> str:
    """`text` without what it quotes, paths and numbers."""
    return _NUMBER.sub("#", _PATH.sub("<path>", _QUOTED.sub("'…'", text)))


def place(trace: TracebackType | None) -> str:
    """Where a traceback ends, as `module/file.py:line`."""
    frames = traceback.extract_tb(trace)
    if not frames:
        return "unknown place"
    last = frames[-1]
    return f"{'/'.join(last.filename.rsplit('/', 3)[-3:])}:{last.lineno}"


class PipeHandler(logging.Handler):
    """Writes records to stderr in the form above."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_SILENT):
            return
        own = record.name.startswith(_OWN)
        message = record.getMessage()
        fields = {
            "level": record.levelname,
            "logger": record.name,
            "place": f"{record.filename}:{record.lineno}",
            "message": message if own else redact(message),
        }
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = f"{record.exc_info[0].__name__} at {place(record.exc_info[2])}"
        sys.stderr.write(f"{RECORD_MARK}{json.dumps(fields, ensure_ascii=False)}\n")
        sys.stderr.flush()


def install(level: str) -> None:
    """Make the pipe the only way of log records. SecretFlow's init replaces handlers, so call it again after."""
    root = logging.getLogger()
    root.handlers[:] = [PipeHandler()]
    root.setLevel(level)
    logging.getLogger("sfworker").setLevel(min(logging.INFO, logging.getLevelName(level)))
