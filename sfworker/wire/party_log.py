"""Encodes and reads the lines of a party process's log pipe (its stdout and stderr). Runs there and in the daemon.

    <record separator> {"level": ..., "logger": ..., "message": ...} \\n    a record of Python's logging
    [2026-11-24 13:41:40.113] [info] [bucket.cc:166] ... \\n                SecretFlow's C++ code
    anything else \\n                                                       a print, a traceback, a dying process

Only sfworker's own loggers may say what they like: their messages are written by us and hold no data. A library may
quote the row it stumbled over, and what it quotes need not be in quotes ("could not convert string to float: alice@x").
So a message of a library keeps its plain words up to where values begin, and text that has not even a level and a place
is withheld: no pattern tells a value from a word in it. The place (`bucket.cc:166`) still says which message it was.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from sfworker.settings import LogLevel

RECORD_MARK = "\x1e"
# As long as PIPE_BUF, so that lines of several threads and of C++ code never mix within the pipe.
LINE_BYTES = 4096

_CPP_LEVELS: dict[str, LogLevel] = {
    "trace": "DEBUG",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "warning": "WARNING",
    "err": "ERROR",
    "error": "ERROR",
    "critical": "CRITICAL",
    # gRPC's and brpc's form: one letter
    "I": "INFO",
    "W": "WARNING",
    "E": "ERROR",
    "F": "CRITICAL",
}
_SPDLOG = re.compile(r"\[[\d\-:. ]+\] \[(?P<level>[a-z]+)\] \[(?P<place>[\w./+-]+:\d+)\] ?(?P<message>.*)", re.S)
_GLOG = re.compile(r"(?P<level>[IWEF])\d{4,8} [\d:.]+ +(?:\d+ +)*(?P<place>[\w./+-]+:\d+)\] ?(?P<message>.*)", re.S)
# Last words of a process that dies by itself, fixed sentences with a C++ type at most. They are the only trace of the
# cause.
_LAST_WORDS = re.compile(
    r"Fatal Python error: [A-Za-z_ ]{1,60}|terminate called after throwing an instance of '[\w:<>]{1,200}'"
    r"|terminate called without an active exception|double free or corruption \(\w+\)|malloc\(\): [a-z ]{1,60}"
)
# From the first quote to the last of its kind, because values may hold quotes themselves.
_QUOTED = re.compile(r"(['\"`]).*\1|['\"`].*", re.S)
_VALUES = re.compile(r"(?<!:)([:=])(?!:)\s*\S.*", re.S)
_TOKEN = re.compile(r"[^\s\[\](){}<>,;…]+")
_WORD = re.compile(r"[A-Za-z_%-]+(?:::[A-Za-z_~-]+)*[.:=!?]*")


class PartyRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a party process, free of data."""

    level: LogLevel
    logger: str
    message: str
    place: str = ""
    """`file:line` in the code that said it."""
    exception: str = ""
    """Type and frames of an exception."""

    @property
    def own(self) -> bool:
        return is_own(self.logger)


_decoder = msgspec.json.Decoder(PartyRecord)


def is_own(logger: str) -> bool:
    """Return whether this logger is sfworker's, whose messages are free of data."""
    return logger.startswith("sfworker.")


def redact(text: str) -> str:
    """Strip a library's message of possible data, keeping plain words up to the first `:` or `=` and no quoted text.

    What remains unseen is a value that looks like a word amid the sentence ("bad key alice"); the levels at which
    libraries are kept (`party_log_level`) are the defence against that.
    """
    text = _QUOTED.sub("…", text.replace("n't ", "nt "))
    text = _VALUES.sub(r"\1 …", text)
    return _TOKEN.sub(lambda token: token[0] if _WORD.fullmatch(token[0]) else "#", text)


def encode_record(record: PartyRecord) -> bytes:
    """Return the record as a line with its end, of at most LINE_BYTES. Longer texts are cut."""
    exception, message = _encodable(record.exception), _encodable(record.message)
    record = PartyRecord(
        level=record.level,
        logger=_encodable(record.logger)[:128],
        message=message,
        place=_encodable(record.place)[:128],
        exception=exception,
    )
    line = _line(record)
    while len(line) > LINE_BYTES:
        # An exception loses its beginning, as the innermost frames, at its end, are the ones that tell.
        message, exception = message[: len(message) * 3 // 4], exception[len(exception) // 4 :]
        record = msgspec.structs.replace(record, message=f"{message}…", exception=exception and f"…{exception}")
        line = _line(record)
    return line


def decode_line(line: bytes) -> PartyRecord:
    """Return the record of a line, whatever the line is."""
    # A print without an end of line may stand before a record.
    _, marked, body = line[: LINE_BYTES + 1].rpartition(RECORD_MARK.encode())
    if marked:
        try:
            return _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _withheld(line)
    text = line[:LINE_BYTES].decode(errors="replace").rstrip()
    if (match := _SPDLOG.fullmatch(text) or _GLOG.fullmatch(text)) and match["level"] in _CPP_LEVELS:
        place = match["place"].rpartition("/")[2]
        message = redact(match["message"])
        return PartyRecord(level=_CPP_LEVELS[match["level"]], logger="secretflow.cpp", message=message, place=place)
    if _LAST_WORDS.fullmatch(text):
        return PartyRecord(level="ERROR", logger="stdout", message=text)
    return _withheld(line)


def _withheld(line: bytes) -> PartyRecord:
    size = len(line.rstrip())
    return PartyRecord(
        level="INFO", logger="stdout", message=f"a line of {size} bytes, withheld because it may quote data"
    )


def _line(record: PartyRecord) -> bytes:
    return RECORD_MARK.encode() + msgspec.json.encode(record) + b"\n"


def _encodable(text: str) -> str:
    """Return `text` with lone surrogates (undecodable file names) replaced, and no longer than could ever fit."""
    return text[:LINE_BYTES].encode(errors="replace").decode()
