"""Logs of the daemon, read from the pipe and the file that they go to."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import pty
import threading
import time
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sfworker import logs
from sfworker.settings import Settings
from sfworker.wire.party_log import PartyRecord, encode_record

log = logging.getLogger("sfworker.test")


class Console:
    """Reads what is written to the console, waiting for it."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "rb")

    def record(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self._file.readline())
        return read

    def text(self) -> str:
        return self._file.readline().decode()

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """The read end of what stands in for stderr."""
    read, write = os.pipe()
    monkeypatch.setattr(logs, "_STDERR", write)
    reader = Console(read)
    yield reader
    reader.close()
    os.close(write)


def settings(**given: Any) -> Settings:
    return Settings(data_roots=[], run_dir="/", worker_hostname="host", **given)


class TestRecord:
    def test_fields_and_their_order(self, console: Console) -> None:
        with logs.configure(settings(), "host-1"), logs.ids(task_id="t", subtask_id="s", execution_id="e"):
            log.info("took %d", 3, extra={"seconds": 0.5, "stream": "sf:jobs", "level": "ignored", "worker_id": "no"})
            record = console.record()
        assert list(record) == [
            *("time", "level", "pid", "worker_id", "logger", "message"),
            *("task_id", "subtask_id", "execution_id", "seconds", "stream"),
        ]
        assert record["level"] == "INFO"
        assert record["pid"] == os.getpid()
        assert record["worker_id"] == "host-1"
        assert record["logger"] == "sfworker.test"
        assert record["message"] == "took 3"
        assert record["seconds"] == 0.5
        assert len(record["time"]) == len("2026-11-24T13:41:40.113+00:00")
        assert record["time"].endswith("+00:00")

    def test_level(self, console: Console) -> None:
        with logs.configure(settings(log_level="WARNING")):
            log.info("no")
            log.warning("yes")
            assert console.record()["message"] == "yes"

    def test_an_exception_is_complete(self, console: Console) -> None:
        with logs.configure(settings()):
            try:
                raise ValueError("why")
            except ValueError:
                log.exception("failed")
            record = console.record()
        assert record["exception"].startswith("Traceback (most recent call last):\n  File ")
        assert record["exception"].endswith("ValueError: why")

    def test_no_text_steers_the_terminal_of_a_reader(self, console: Console) -> None:
        with logs.configure(settings()), logs.ids(execution_id="e\x9b31m"):
            log.info("said \x1b]0;x\x07 \x85")
            line = console.text()
        assert json.loads(line)["execution_id"] == "e\x9b31m"
        assert line.rstrip("\n").isprintable()

    def test_what_cannot_be_shown_ends_nothing(self, console: Console) -> None:
        class Odd:
            def __str__(self) -> str:
                raise RuntimeError

        with logs.configure(settings()):
            log.info("%d", "x")
            log.info("odd", extra={"odd": Odd()})
            log.info("lone \udc80")
            assert "arguments that do not fit" in console.record()["message"]
            assert console.record()["odd"] == "a Odd that cannot be shown (RuntimeError)"
            assert console.record()["message"] == "lone \udc80"

    def test_warnings_are_records(self, console: Console) -> None:
        with logs.configure(settings()), warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            assert console.record()["logger"] == "py.warnings"

    def test_everything_is_put_back(self, console: Console) -> None:
        root = logging.getLogger()
        before = root.handlers[:], root.level
        with logs.configure(settings(log_level="DEBUG", party_log_level="DEBUG")):
            assert root.level == logging.DEBUG
        assert (root.handlers, root.level) == before
        assert (logs._PartyLevels.own, logs._PartyLevels.libraries) == (logging.INFO, logging.WARNING)


class TestIds:
    async def test_tasks_inherit_them(self, console: Console) -> None:
        async def say() -> None:
            await asyncio.sleep(0)
            log.info("inside")

        with logs.configure(settings()):
            with logs.ids(execution_id="a"):
                first = asyncio.create_task(say())
            with logs.ids(execution_id="b", task_id=None):
                second = asyncio.create_task(say())
            await first
            await second
            log.info("outside")
            assert [console.record().get("execution_id") for _ in range(3)] == ["a", "b", None]

    def test_inner_ones_come_on_top(self, console: Console) -> None:
        with logs.configure(settings()), logs.ids(task_id="t", execution_id="a"):
            with logs.ids(execution_id="b"):
                log.info("inner")
            log.info("outer")
            inner, outer = console.record(), console.record()
        assert (inner["task_id"], inner["execution_id"]) == ("t", "b")
        assert (outer["task_id"], outer["execution_id"]) == ("t", "a")

    def test_they_are_of_the_moment_of_the_record(self, console: Console) -> None:
        with logs.configure(settings()):
            with logs.ids(execution_id="a"):
                log.info("x")
            with logs.ids(execution_id="b"):
                assert console.record()["execution_id"] == "a"


class TestPassword:
    @pytest.mark.attack("logs")
    @pytest.mark.parametrize(
        ("url", "spellings"),
        [
            ("redis://:s3cr%40t@h:1/0", ["s3cr%40t", "s3cr@t"]),
            ("rediss://user:s3cret@h:1/0", ["s3cret"]),
            ("unix:///run/redis.sock?password=s3cr%27t&db=1", ["s3cr't", "s3cr%27t"]),
            ("redis+sentinel://:s3cret@h:1,h:2/main/0?sentinel_password=another", ["s3cret", "another"]),
            ("redis://h/0?password=back\\slash", ["back\\slash", repr("back\\slash")[1:-1]]),
        ],
    )
    def test_is_in_no_record(self, console: Console, tmp_path: Path, url: str, spellings: list[str]) -> None:
        file = tmp_path / "w.log"
        with logs.configure(settings(redis_url=url, log_file=str(file))):
            for spelling in spellings:
                try:
                    raise ConnectionError(f"cannot connect to {url} with {spelling}")
                except ConnectionError as error:
                    log.exception("no %s", spelling, extra={"url": url, "why": error})
                assert "***" in console.text()
        written = file.read_text()
        assert written.count("***") >= 4 * len(spellings)
        for spelling in spellings:
            assert spelling not in written
            assert json.dumps(spelling)[1:-1] not in written

    def test_a_short_one_leaves_json_whole(self, console: Console) -> None:
        with logs.configure(settings(redis_url="redis://:e@h/0")):
            log.info("hello")
            assert console.record()["message"] == "h***llo"

    def test_none(self, console: Console) -> None:
        with logs.configure(settings(redis_url="redis://h/0")):
            log.info("hello")
            assert console.record()["message"] == "hello"


class TestPartyLine:
    CPP = b"[2026-11-24 13:41:40.113] [%s] [bucket.cc:166] psi protocol=3\n"

    def test_a_record_with_ids_and_party(self, console: Console) -> None:
        said = PartyRecord(
            level="WARNING", logger="sfworker.job", message="late", place="a.py:1", exception="ValueError\n  b.py:2 f"
        )
        with logs.configure(settings(), "host-1"), logs.ids(execution_id="e"):
            logs.party_line(encode_record(said), party="alice", pid=7)
            record = console.record()
        del record["time"]
        assert record == {
            "level": "WARNING",
            "pid": 7,
            "worker_id": "host-1",
            "logger": "sfworker.job",
            "message": "late",
            "execution_id": "e",
            "party": "alice",
            "place": "a.py:1",
            "exception": "ValueError\n  b.py:2 f",
        }

    def test_levels(self, console: Console) -> None:
        def own(message: str, level: Any) -> bytes:
            return encode_record(PartyRecord(level=level, logger="sfworker.job", message=message))

        with logs.configure(settings(log_level="INFO", party_log_level="ERROR")):
            logs.party_line(own("no", "DEBUG"), party="alice")
            logs.party_line(own("own", "INFO"), party="alice")
            logs.party_line(self.CPP % b"warning", party="alice")
            logs.party_line(self.CPP % b"error", party="alice")
            logs.party_line(b"a print", party="alice")
            log.info("last")
            assert [console.record()["message"] for _ in range(3)] == ["own", "psi protocol= …", "last"]

    def test_libraries_may_be_more_talkative_than_the_worker(self, console: Console) -> None:
        with logs.configure(settings(log_level="ERROR", party_log_level="DEBUG")):
            logs.party_line(self.CPP % b"debug", party="alice")
            logs.party_line(b"alice,42", party="alice")
            assert console.record()["message"] == "psi protocol= …"
            assert console.record()["message"] == "a line of 8 bytes, withheld because it may quote data"

    def test_the_template_sees_no_data(self, console: Console) -> None:
        with logs.configure(settings()):
            logs.party_line(b"ModuleNotFoundError: No module named 'mine'\n", party="template", verbatim=True)
            assert console.record()["message"] == "ModuleNotFoundError: No module named 'mine'"


class TestTerminal:
    @pytest.fixture
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
        theirs, ours = pty.openpty()
        monkeypatch.setattr(logs, "_STDERR", ours)
        monkeypatch.delenv("NO_COLOR", raising=False)
        reader = Console(theirs)
        yield reader
        reader.close()
        os.close(ours)

    def test_one_line_with_colours(self, terminal: Console) -> None:
        with logs.configure(settings()), logs.ids(execution_id="e"):
            log.warning("two\nlines \x1b[2J", extra={"slots": 3})
            line = terminal.text()
        assert "\x1b[33mWARNING " in line
        assert "sfworker.test: two\\x0alines \\x1b[2J" in line
        assert "execution_id=e slots=3" in line

    def test_a_traceback_below(self, terminal: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        with logs.configure(settings()):
            try:
                raise ValueError("why")
            except ValueError:
                log.exception("failed")
            lines = [terminal.text() for _ in range(5)]
        assert lines[0].endswith("ERROR    sfworker.test: failed\r\n")
        assert lines[1] == "    Traceback (most recent call last):\r\n"
        assert lines[4] == "    ValueError: why\r\n"


class TestBound:
    def test_fields_of_an_attempt_end_with_its_ids(self, console: Console) -> None:
        with logs.configure(settings(), "host-1"):
            with logs.ids(execution_id="e"):
                logs.bind(task_type="psi", attempt=2, trace_id=None)
                log.info("one")
                record = console.record()
            log.info("two")
            after = console.record()
        assert (record["execution_id"], record["task_type"], record["attempt"]) == ("e", "psi", 2)
        assert "trace_id" not in record
        assert not {"execution_id", "task_type", "attempt"} & after.keys()


class TestFile:
    def test_gets_what_the_console_gets(self, console: Console, tmp_path: Path) -> None:
        file = tmp_path / "w.log"
        with logs.configure(settings(log_file=str(file))):
            log.info("世界")
            record = console.record()
        assert json.loads(file.read_text(encoding="utf-8")) == record

    def test_may_be_rotated_away(self, console: Console, tmp_path: Path) -> None:
        file = tmp_path / "w.log"
        with logs.configure(settings(log_file=str(file))):
            log.info("one")
            log.info("two")
            console.record()
            console.record()  # now the first is in the file
            file.rename(tmp_path / "w.log.1")
            log.info("three")
            log.info("four")
        moved, now = (tmp_path / "w.log.1").read_text(), file.read_text()
        assert "one" in moved
        assert "four" in now
        assert len((moved + now).splitlines()) == 4

    def test_is_rotated_at_its_size(self, console: Console, tmp_path: Path) -> None:
        file = tmp_path / "w.log"
        with logs.configure(settings(log_file=str(file), log_file_bytes=300, log_files_kept=2)):
            for number in range(8):
                log.info("number %d", number)
                console.record()
        texts = [path.read_text() for path in (file, tmp_path / "w.log.1", tmp_path / "w.log.2")]
        assert all(0 < len(text) <= 300 for text in texts)
        assert [json.loads(line)["message"] for text in reversed(texts) for line in text.splitlines()] == [
            f"number {number}" for number in range(8 - sum(text.count("\n") for text in texts), 8)
        ]
        assert len(list(tmp_path.iterdir())) == 3

    def test_is_opened_anew_when_asked(self, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """For a file whose place tells nothing, as where a file system gives a new one the old one's number."""
        file, opened = tmp_path / "w.log", count()
        real = logs._File._open
        monkeypatch.setattr(logs._File, "_open", lambda self: real(self) if next(opened) < 9 else None)
        with logs.configure(settings(log_file=str(file))):
            for text in ("one", "two", "three"):
                log.info(text)
                console.record()
                if text == "two":
                    logs.reopen()
        assert [json.loads(line)["message"] for line in file.read_text().splitlines()] == ["one", "two", "three"]
        assert next(opened) == 2

    def test_that_cannot_be_written_and_then_can(self, console: Console, tmp_path: Path) -> None:
        file = tmp_path / "missing" / "w.log"
        with logs.configure(settings(log_file=str(file))):
            log.info("one")
            assert console.record()["message"] == "one"
            notice = console.record()
            assert notice["level"] == "ERROR"
            assert notice["message"].startswith("the log file cannot be written ([Errno 2]")
            log.info("two")
            console.record()
            log.info("three")
            console.record()  # now the second was tried, too
            file.parent.mkdir()
            messages = [console.record()["message"] for _ in self._until_written(file)]
            while not any("records are missing in it" in message for message in messages):
                messages.append(console.record()["message"])
        assert json.loads(file.read_text().split("\n")[-2])

    @staticmethod
    def _until_written(file: Path) -> Iterator[None]:
        while not file.exists():
            log.info("again")
            yield

    def test_on_a_full_disk(self, console: Console) -> None:
        with logs.configure(settings(log_file="/dev/full")):
            for number in range(20):
                log.info("%d", number)
            messages = [console.record()["message"] for _ in range(21)]
        assert [message for message in messages if message.isdigit()] == [str(number) for number in range(20)]
        assert [message for message in messages if "[Errno 28]" in message] != []


class TestHungConsole:
    @pytest.fixture
    def hung(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
        """The read end of a console that takes one page and then nothing until somebody reads."""
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        monkeypatch.setattr(logs, "_STDERR", write)
        monkeypatch.setattr(logs, "QUEUE_RECORDS", 10)
        before = set(threading.enumerate())
        yield read
        os.close(read)  # which ends the write that hangs
        for thread in set(threading.enumerate()) - before:
            thread.join()
        os.close(write)

    def test_costs_records_not_time_and_they_are_counted(self, hung: int) -> None:
        total = 200
        with logs.configure(settings()):
            began = time.monotonic()
            for number in range(total):
                log.info("%d", number, extra={"padding": "x" * 500})
            assert time.monotonic() - began < 2
            written, dropped, received = 0, 0, b""
            while written + dropped < total:
                received += os.read(hung, 65_536)
                *lines, received = received.split(b"\n")
                for message in (json.loads(line)["message"] for line in lines):
                    if message.isdigit():
                        written += 1
                    else:
                        dropped += int(message.split()[0])
                        assert "log records were dropped" in message
                if written and written + dropped < total:  # the next record says how many were dropped before it
                    log.info("%d", total)
                    total += 1
        assert dropped > 100
        assert written + dropped == total

    def test_does_not_delay_the_end(self, hung: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "CLOSE_SECONDS", 0.2)
        with logs.configure(settings()):
            for _ in range(100):
                log.info("x" * 500)
            began = time.monotonic()
        assert time.monotonic() - began < 2
