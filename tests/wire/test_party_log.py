"""Lines of party processes: both sides agree on the form, and no value of a library's text gets through."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfworker.errors import InputDataError
from sfworker.party import logging as party_logging
from sfworker.settings import LogLevel
from sfworker.wire.party_log import LINE_BYTES, PartyRecord, decode_line, encode_record, redact

WITHHELD = "a line of {} bytes, withheld because it may quote data"
Lines = Callable[[], list[PartyRecord]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """What was written to the pipe, decoded as the daemon does; logging is as in a party process."""
    read, write = os.pipe()
    monkeypatch.setattr(party_logging, "_STDERR", write)
    root, own = logging.getLogger(), logging.getLogger("sfworker")
    before = root.handlers[:], root.level, own.level, threading.excepthook, sys.unraisablehook

    def written() -> list[PartyRecord]:
        os.set_blocking(read, False)
        try:
            return [decode_line(line) for line in os.read(read, 1 << 20).splitlines()]
        except BlockingIOError:
            return []

    yield written
    root.handlers[:], level, own_level, threading.excepthook, sys.unraisablehook = before
    root.setLevel(level)
    own.setLevel(own_level)
    os.close(read)
    os.close(write)


class TestRedact:
    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("could not convert string to float: alice@x", "could not convert string to float: …"),
            ("Column 'salary' not found in table", "Column … not found in table"),
            ("Column 'O'Brien' not found", "Column … not found"),
            ("doesn't match 'alice'", "doesnt match …"),
            ("Invalid 'alice smith", "Invalid …"),
            ('bad "a" and "b" here', "bad … here"),
            ("bad 张三 in row 17", "bad # in row #"),
            ("user=alice age=7", "user= …"),
            ("Reach the end of csv file /data/alice.csv.", "Reach the end of csv file #"),
            ("read data/alice.csv", "read #"),
            ("read alice.csv now", "read # now"),
            ("mail alice@example.com", "mail #"),
            ("[AbstractPsiParty::Init] start", "[AbstractPsiParty::Init] start"),
            ("join of %s failed", "join of %s failed"),
            ("first line: x\nalice", "first line: …"),
            ("", ""),
        ],
    )
    def test_keeps_plain_words_up_to_the_first_value(self, text: str, left: str) -> None:
        assert redact(text) == left

    @given(st.text(max_size=100), st.text(max_size=100))
    def test_no_digit_quote_or_other_letter_remains(self, before: str, after: str) -> None:
        left = redact(f"{before} 13800000000 {after}")
        assert not any(character.isdigit() or character in "'\"`@/" for character in left)
        assert all(character.isascii() or character == "…" or character.isspace() for character in left)


class TestDecode:
    @pytest.mark.parametrize(
        ("line", "level", "place", "message"),
        [
            (
                b"[2026-11-24 13:41:40.113] [info] [bigint_spi.cc:79] The default library used is openssl",
                "INFO",
                "bigint_spi.cc:79",
                "The default library used is openssl",
            ),
            (
                b"[2026-11-24 13:41:40.113] [warning] [external/yacl/yacl/link/channel.cc:12] send failed, peer=bob",
                "WARNING",
                "channel.cc:12",
                "send failed, peer= …",
            ),
            (b"[2026-11-24 13:41:40.113] [critical] [a.cc:1] \xe5\xbc\xa0 \xff", "CRITICAL", "a.cc:1", "# #"),
            (b"[2026-11-24 13:41:40.113] [error] [a.cc:1]", "ERROR", "a.cc:1", ""),
            (
                b"E0000 00:00:1732455700.113456   12345 chttp2_server.cc:1045] No address added out of total",
                "ERROR",
                "chttp2_server.cc:1045",
                "No address added out of total",
            ),
            (
                b"W1124 13:41:40.113456  123 4294967297 src/brpc/socket.cpp:2570] Fail to connect Socket{id=1}",
                "WARNING",
                "socket.cpp:2570",
                "Fail to connect Socket{id= …",
            ),
        ],
    )
    def test_cpp(self, line: bytes, level: str, place: str, message: str) -> None:
        assert decode_line(line + b"\n") == PartyRecord(
            level=level,  # type: ignore[arg-type]
            logger="secretflow.cpp",
            message=message,
            place=place,
        )

    @pytest.mark.attack("logs")
    @pytest.mark.parametrize(
        "line",
        [
            b"alice,42,100000",
            b"ValueError: could not convert string to float: alice@x",
            b'  File "job.py", line 3, in run',
            b"[2026-11-24 13:41:40.113] [alice] [a.cc:1] x",
            b"[info] alice",
            b"Fatal Python error: alice: 42",
            b"terminate called after throwing an instance of 'alice smith'",
            b'{"level": "INFO", "logger": "sfworker.job", "message": "alice"}',
            b"\x1ealice",
            b'\x1e{"level":"LOUD","logger":"sfworker.job","message":"alice"}',
            b"\x1e[]",
            b"\x1e\xff",
            b"\xff\xfe",
        ],
    )
    def test_other_text_is_withheld(self, line: bytes) -> None:
        assert decode_line(line + b"\r\n") == PartyRecord(
            level="INFO", logger="stdout", message=WITHHELD.format(len(line))
        )

    @pytest.mark.parametrize(
        "line",
        [
            "Fatal Python error: Segmentation fault",
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "double free or corruption (out)",
        ],
    )
    def test_last_words_are_kept(self, line: str) -> None:
        assert decode_line(line.encode()) == PartyRecord(level="ERROR", logger="stdout", message=line)

    def test_a_print_without_end_before_a_record(self) -> None:
        record = PartyRecord(level="INFO", logger="sfworker.job", message="m")
        assert decode_line(b"alice,42" + encode_record(record)) == record

    @given(st.binary(max_size=300))
    @example(b"[" * 100_000)
    @example(b"\x1e" + b"[" * 4_000)
    @example(b"[2026] [info] [a.cc:1] " + b"'" * 100_000)
    def test_never_fails(self, line: bytes) -> None:
        assert len(decode_line(line).message) <= LINE_BYTES


class TestEncode:
    @given(
        st.sampled_from(LogLevel.__args__),  # type: ignore[attr-defined]
        st.text(max_size=100).filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text)),
    )
    def test_round_trip(self, level: LogLevel, text: str) -> None:
        record = PartyRecord(level=level, logger="sfworker.job", message=text, place="a.py:1", exception=text)
        line = encode_record(record)
        assert line.index(b"\n") == len(line) - 1
        assert decode_line(line) == record

    @pytest.mark.parametrize("character", ["a", "é", "界", "\0", "\x1e", "\udc80", "\n"])
    def test_is_cut_to_what_the_pipe_takes_in_one_piece(self, character: str) -> None:
        long = character * 100_000
        line = encode_record(PartyRecord(level="INFO", logger=long, message=long, place=long, exception=long))
        assert len(line) <= LINE_BYTES
        decoded = decode_line(line)
        assert decoded.message.endswith("…")
        assert decoded.exception.startswith("…")

    def test_the_bytes(self) -> None:
        line = encode_record(PartyRecord(level="INFO", logger="sfworker.job", message="m", place="a.py:1"))
        assert line == b'\x1e{"level":"INFO","logger":"sfworker.job","message":"m","place":"a.py:1"}\n'
        assert msgspec.json.decode(line[1:])["level"] == "INFO"


class TestPartySide:
    def test_own_messages_are_whole(self, lines: Lines) -> None:
        party_logging.install("WARNING")
        logging.getLogger("sfworker.job").debug("bucket %d of %s", 3, "'x'")
        (record,) = lines()
        assert (record.level, record.logger, record.message) == ("DEBUG", "sfworker.job", "bucket 3 of 'x'")
        assert record.place.startswith("test_party_log.py:")

    @pytest.mark.attack("logs")
    def test_arguments_of_a_library_stay_in_the_process(self, lines: Lines) -> None:
        party_logging.install("INFO")
        logging.getLogger("pandas").info("cannot parse %s as a date", "alice")
        logging.getLogger("pandas").info(ValueError("alice"))
        logging.getLogger("sfworkers.alike").info("row alice@x")
        logging.getLogger("pandas").debug("below the level")
        assert [record.message for record in lines()] == ["cannot parse %s as a date", "ValueError", "row #"]

    def test_the_silent_logger(self, lines: Lines) -> None:
        party_logging.install("INFO")
        logging.getLogger("secretflow.distributed.fed.cleanup").error("alice")
        assert lines() == []

    def test_an_exception_is_its_types_and_frames(self, lines: Lines) -> None:
        party_logging.install("INFO")
        try:
            try:
                float("alice@x")
            except ValueError as error:
                raise InputDataError("task_config.features: a column is no number") from error
        except InputDataError:
            logging.getLogger("pandas").exception("failed")
        (record,) = lines()
        first, led_to, second = record.exception.partition("\nwhich led to\n")
        assert led_to
        assert first.startswith("ValueError\n  ")
        assert "tests/wire/test_party_log.py:" in first
        assert first.endswith(" test_an_exception_is_its_types_and_frames")
        assert second.startswith("InputDataError: task_config.features: a column is no number\n  ")
        assert "alice" not in record.exception

    def test_an_uncaught_exception_of_a_thread(self, lines: Lines) -> None:
        party_logging.install("WARNING")
        thread = threading.Thread(target=float, args=("alice@x",))
        thread.start()
        thread.join()
        (record,) = lines()
        assert (record.logger, record.message) == ("sfworker.party", "an exception ended a thread")
        assert record.exception.startswith("ValueError")
        assert "alice" not in record.exception

    def test_a_wrong_format_ends_nothing(self, lines: Lines) -> None:
        party_logging.install("INFO")
        logging.getLogger("sfworker.job").info("%d rows", "x")
        assert [record.message for record in lines()] == ["%d rows"]

    def test_the_daemon_may_be_gone(self, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
        party_logging.install("INFO")
        read, write = os.pipe()
        os.close(read)
        monkeypatch.setattr(party_logging, "_STDERR", write)
        logging.getLogger("sfworker.job").info("into the void")
        os.close(write)
