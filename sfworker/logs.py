"""Writes structured logs of the daemon and, through it, of its party processes. Runs in the daemon.

    any task --record--> bounded queue --> listener thread --> console (stderr)
                                                          |--> log file, if any
                                                          `--> a file for each execution, if wanted

The event loop only ever puts a record into the queue. A full disk, a file that cannot be written or a console that
nobody reads costs records, which are counted, and never time. A record holds `time`, `level`, `pid`, `worker_id`,
`logger`, `message`, then what is bound (`ids`, `bind`), the fields of `extra` and, at last, `exception`.

Tracebacks are complete here, as the daemon never sees data. Lines of party processes were made free of data by
`sfworker.wire.party_log` before. The password of Redis is taken out of everything, since exceptions quote URLs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler, WatchedFileHandler
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

import msgspec

from sfworker.job_logs import JobLogs
from sfworker.settings import Settings
from sfworker.wire.party_log import decode_line

QUEUE_RECORDS = 10_000
CLOSE_SECONDS = 2.0
_STDERR = 2
_ids: ContextVar[Mapping[str, str | int]] = ContextVar("ids", default=MappingProxyType({}))
# Attribute of a record that holds ids and party, beside the fields of `extra`.
_BOUND = "sfworker_bound"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", _BOUND}
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_CONTROL = {code: f"\\x{code:02x}" for code in [*range(32), *range(0x7F, 0xA0)]}
_SAME_IN_ALL = frozenset({"pid", "worker_id", "execution_id", "task_id", "subtask_id"})
"""Fields that are left out of the lines of one execution."""
_CONTROL_IN_JSON = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
"""Those that JSON lets stand, and that a terminal obeys where somebody looks into the log."""
_log = logging.getLogger("sfworker.logs")


class _PartyLevels:
    """Minimum log levels of party processes' records, set by `configure`."""

    own = logging.INFO
    libraries = logging.WARNING


@contextlib.contextmanager
def ids(
    *, task_id: str | None = None, subtask_id: str | None = None, execution_id: str | None = None
) -> Iterator[None]:
    """Bind ids to every record made inside, also in tasks and callbacks set up inside."""
    bound = {"task_id": task_id, "subtask_id": subtask_id, "execution_id": execution_id}
    token = _ids.set({**_ids.get(), **{name: value for name, value in bound.items() if value is not None}})
    try:
        yield
    finally:
        _ids.reset(token)


def bind(**fields: str | int | None) -> None:
    """Bind more fields, other than None, to every record made from now on, until the end of the block of `ids`."""
    _ids.set({**_ids.get(), **{name: value for name, value in fields.items() if value is not None}})


def reopen() -> None:
    """Have the log file opened anew with the next record."""
    _File.reopens = True


def party_line(line: bytes, *, party: str, pid: int | None = None, verbatim: bool = False) -> None:
    """Log a line from a process's log pipe, with the ids that are bound here.

    `verbatim` is for processes that never see data (the template): text without a form is kept as it is.
    """
    said = decode_line(line)
    message = line.decode(errors="replace").rstrip() if verbatim and said.logger == "stdout" else said.message
    level = logging.getLevelName(said.level)
    if level < (_PartyLevels.own if said.own or verbatim else _PartyLevels.libraries):
        return
    record = logging.LogRecord(said.logger, level, said.place, 0, message, None, None)
    record.process = pid
    fields = {"party": party, "place": said.place, "exception": said.exception}
    vars(record)[_BOUND] = {**_ids.get(), **{name: value for name, value in fields.items() if value}}
    logging.getLogger().handle(record)


@contextlib.contextmanager
def configure(settings: Settings, worker_id: str = "") -> Iterator[None]:
    """Send the records of this process to the console and to `settings.log_file`, until the end of the block.

    What is queued then is written within CLOSE_SECONDS or given up.
    """
    render = _Renderer(worker_id or settings.hostname(), _secrets(settings.redis_url))
    sinks: list[logging.Handler] = [_Console(render)]
    if settings.log_file:
        sinks.append(_File(settings, render))
    if settings.job_logs:
        sinks.append(_OfJobs(JobLogs(settings), render))
    waiting: queue.Queue[Any] = queue.Queue(QUEUE_RECORDS)
    listener = _Listener(waiting, *sinks)
    root = logging.getLogger()
    before = root.handlers[:], root.level, (_PartyLevels.own, _PartyLevels.libraries)
    root.handlers[:] = [_Queueing(waiting)]
    root.setLevel(settings.log_level)
    _PartyLevels.own = logging.getLevelName(settings.log_level)
    _PartyLevels.libraries = logging.getLevelName(settings.party_log_level)
    logging.captureWarnings(True)
    listener.start()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:], level, (_PartyLevels.own, _PartyLevels.libraries) = before
        root.setLevel(level)
        listener.stop()


class _Queueing(QueueHandler):
    """Hands records to the listener. Where the queue is full it drops them and says later how many."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # Done now, because ids, arguments and exception may be others by the time that the listener looks.
        try:
            record.msg = record.getMessage()
        except (TypeError, ValueError):
            record.msg = f"{record.msg} (logged with arguments that do not fit)"
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = _plain_formatter.formatException(record.exc_info)
        record.exc_info = None
        vars(record).setdefault(_BOUND, _ids.get())
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            return
        if self.dropped:
            with contextlib.suppress(queue.Full):
                self.queue.put_nowait(self._notice())
                self.dropped = 0

    def _notice(self) -> logging.LogRecord:
        text = f"{self.dropped} log records were dropped because they could not be written fast enough"
        return logging.LogRecord(_log.name, logging.WARNING, "", 0, text, None, None)


class _Listener(QueueListener):
    """A listener that can be stopped although a sink hangs."""

    def stop(self) -> None:
        # The base class waits for the thread for ever, and raises where the queue is full.
        try:
            self.queue.put(None, timeout=CLOSE_SECONDS / 2)  # type: ignore[attr-defined]
        except queue.Full:
            with contextlib.suppress(queue.Empty):
                self.queue.get_nowait()  # type: ignore[attr-defined]
            self.queue.put_nowait(None)
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS / 2)
            if self._thread.is_alive():
                return
        for handler in self.handlers:
            handler.close()


class _Sink(logging.Handler):
    """A handler of the listener thread. It has no lock, as Python would wait at exit for one held by a hung write."""

    def createLock(self) -> None:  # noqa: N802 - logging's name
        self.lock = None


class _Console(_Sink):
    """Writes JSON lines to stderr, or lines for people where it is a terminal."""

    def __init__(self, render: _Renderer) -> None:
        super().__init__()
        people = os.isatty(_STDERR)
        self._render: Callable[[logging.LogRecord], str] = render.line if people else render.json

    def emit(self, record: logging.LogRecord) -> None:
        # Straight to the descriptor, as the lock of sys.stderr would be held by a write that hangs.
        with contextlib.suppress(OSError):
            left = f"{self._render(record)}\n".encode(errors="backslashreplace")
            while left:
                left = left[os.write(_STDERR, left) :]


class _File(_Sink, RotatingFileHandler, WatchedFileHandler):
    """Writes JSON lines to a file that it may rotate itself, and that log rotation may move away at any time."""

    reopens = False
    """True where it is to be opened anew."""

    def __init__(self, settings: Settings, render: _Renderer) -> None:
        RotatingFileHandler.__init__(
            self,
            settings.log_file,
            maxBytes=settings.log_file_bytes,
            backupCount=settings.log_files_kept,
            encoding="utf-8",
            errors="backslashreplace",
            delay=True,
        )
        self.dev = self.ino = -1  # of no file yet, as WatchedFileHandler has it
        self._json = render.json
        self._missing = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(f"{self._json(record)}\n")
        except (OSError, ValueError) as error:
            self._give_up(error)
        else:
            if self._missing:
                missing, self._missing = self._missing, 0
                _log.warning("the log file can be written again; %d records are missing in it", missing)

    def _write(self, line: str) -> None:
        if _File.reopens:
            _File.reopens = False
            self._close_stream()
        self.reopenIfNeeded()
        stream = self.stream or self._begin()
        if self.maxBytes and (size := stream.tell()) > 0 and size + len(line.encode()) > self.maxBytes:
            self.doRollover()
            stream = self._begin()
        # A line that a full disk cut short must not take the next one with it.
        stream.write(f"\n{line}" if self._missing else line)
        stream.flush()

    def _begin(self) -> TextIOWrapper:
        self.stream = self._open()
        self._statstream()
        return self.stream

    def _give_up(self, error: Exception) -> None:
        if self._missing == 0:
            _log.error("the log file cannot be written (%s); until it can, records are on the console only", error)
        self._missing += 1
        self._close_stream()

    def _close_stream(self) -> None:
        stream, self.stream = self.stream, None
        # Closed together with the buffered text, whose writing would fail again and again.
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.close()


class _OfJobs(_Sink):
    """Writes what is about an execution to a log of its own, too."""

    def __init__(self, job_logs: JobLogs, render: _Renderer) -> None:
        super().__init__()
        self._job_logs = job_logs
        self._json = render.json
        self._fails = False

    def emit(self, record: logging.LogRecord) -> None:
        execution_id = vars(record).get(_BOUND, {}).get("execution_id")
        if execution_id is None:
            return
        try:
            self._job_logs.write(execution_id, self._json(record))
        except OSError as error:
            if not self._fails:
                _log.error("logs of executions cannot be written (%s)", error.strerror)
            self._fails = True
        else:
            self._fails = False


class _Renderer:
    """Renders records as text without secrets."""

    def __init__(self, worker_id: str, secrets: list[str]) -> None:
        self._worker_id = worker_id
        self._secrets = secrets

    def json(self, record: logging.LogRecord) -> str:
        return json.dumps(self._fields(record), ensure_ascii=False).translate(_CONTROL_IN_JSON)

    def line(self, record: logging.LogRecord) -> str:
        return line_for_people(self._fields(record), {"pid", "worker_id"}, in_colour="NO_COLOR" not in os.environ)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "pid": record.process,
            "worker_id": self._worker_id,
            "logger": record.name,
            "message": record.getMessage(),
        }
        own = _STANDARD | fields.keys()  # and names that begin with _ are other libraries', as those of Ray
        extra = {name: value for name, value in vars(record).items() if name not in own and name[0] != "_"}
        fields |= {**vars(record).get(_BOUND, {}), **extra}
        if record.exc_text:
            fields["exception"] = record.exc_text
        return {name: self._shown(value) for name, value in fields.items()}

    def _shown(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        try:
            text = str(value)
        except Exception as error:  # noqa: BLE001 - this may be any class's code, and the listener has to live on
            text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def line_for_people(fields: Mapping[str, Any], left_out: Collection[str] = (), *, in_colour: bool = False) -> str:
    """Return a record in one line, without some of its fields. A traceback follows on lines of its own."""
    time, level, logger, message = (str(fields.get(name, "")) for name in ("time", "level", "logger", "message"))
    apart = {"time", "level", "logger", "message", "exception", *left_out}
    said = f" {logger}: {message}".translate(_CONTROL)
    rest = "".join(f" {name}={value}" for name, value in fields.items() if name not in apart).translate(_CONTROL)
    exception = str(fields.get("exception", ""))
    rest += "".join(f"\n    {line.translate(_CONTROL)}" for line in exception.splitlines())
    if not in_colour:
        return f"{time} {level:8}{said}{rest}"
    return f"\x1b[2m{time}\x1b[0m \x1b[{_COLOURS.get(level, '0')}m{level:8}\x1b[0m{said}\x1b[2m{rest}\x1b[0m"


def shown_line(line: str) -> str:
    """Return a line of an execution's log for people, without what is the same in all of them."""
    try:
        return line_for_people(msgspec.json.decode(line, type=dict[str, Any]), _SAME_IN_ALL)
    except msgspec.DecodeError:
        return line


def _secrets(redis_url: str) -> list[str]:
    """Return the password of a Redis URL in every spelling that a message may have, the longest first."""
    parts = urlsplit(redis_url)
    given = [parts.password or "", *re.findall(r"(?:^|&)\w*password=([^&]*)", parts.query)]
    plain = {spelling for text in given for spelling in (text, unquote(text), unquote_plus(text))}
    return sorted((plain | {repr(text)[1:-1] for text in plain}) - {""}, key=len, reverse=True)


_plain_formatter = logging.Formatter()
