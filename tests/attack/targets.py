"""What reads a stranger's bytes, each with inputs to begin with and what must hold whatever comes.

An answer is a typed value or an error of `sfworker.errors` whose sentence names a field. Any other exception, a second
of computation or LIMIT_BYTES of memory for 64 KiB is a finding.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from sfworker import logs
from sfworker.catalog import component as component_catalog
from sfworker.catalog.base import load_modules, validate
from sfworker.catalog.job import accept
from sfworker.errors import InputDataError, SecretFlowTaskError
from sfworker.pool.remotes import cleaned
from sfworker.pool.starts import _plain
from sfworker.settings import Settings
from sfworker.wire.envelope import _is_deeper, decode_ids
from sfworker.wire.frames import (
    Failed,
    FrameError,
    FrameSplitter,
    PartySpan,
    Progressed,
    StageReached,
    Staging,
    Succeeded,
    Traced,
    decode_party_frame,
)
from sfworker.wire.frames import encode_frame as framed
from sfworker.wire.gateway import (
    Answer,
    Goodbye,
    PeerFailed,
    PeerReached,
    PeerSucceeded,
    Ping,
    Pong,
    Preface,
    Terms,
    Told,
    decode_answer,
    decode_control,
    decode_pong,
    decode_preface,
)
from sfworker.wire.party_log import RECORD_MARK, PartyRecord, decode_line, encode_record
from tests.attack.nasty import RAW, mutated, mutated_bytes, paths, with_raw
from tests.catalog.examples import TASKS, job

LONGEST = 1 << 16
LIMIT_SECONDS = 1.0
LIMIT_BYTES = 64 << 20
PARTIES = ["alice", "bob"]
SENTINEL = "4711@x9"
"""A cell of a party's table. No word, number or place in code looks like it."""
LONGEST_SENTENCE = 4_000
_SENTENCE = re.compile(
    r"(?:envelope|(?:sub)?task_id|execution_id|(?:sf_init|spu|heu|task)_config|options)\b[^\n]*?: \S"
)
_SETTINGS = Settings()


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader of bytes."""

    name: str
    modules: tuple[str, ...]
    """The code whose branches are counted."""
    corpus: Callable[[], list[bytes]]
    check: Callable[[bytes], None]
    """Raises where something does not hold."""
    mutate: Callable[[bytes, Random], bytes] = mutated

    def some(self, most: int, random: Random) -> list[bytes]:
        """Return inputs of the corpus, the same ones for the same seed."""
        every = self.corpus()
        return random.sample(every, min(most, len(every)))

    def judge(self, data: bytes) -> float:
        """Check `data` and return the seconds of the processor that this took."""
        began = time.thread_time()
        self.check(data)
        seconds = time.thread_time() - began
        assert seconds < LIMIT_SECONDS, f"{seconds:.2f} s for {len(data)} bytes"
        return seconds


def require_sentence(error: SecretFlowTaskError) -> None:
    said = str(error)
    assert _SENTENCE.match(said), f"names no field: {said[:300]}"
    assert len(said) < LONGEST_SENTENCE, f"a sentence of {len(said)} characters: {said[:300]}"


def _nasty(value: dict[str, Any]) -> list[bytes]:
    """A JSON object with every nasty value at every place."""
    return [with_raw(value, at, raw) for at in paths(value) for raw in RAW]


# --- envelopes


def _check_envelope(data: bytes) -> None:
    ids = decode_ids(data)
    if ids.usable():
        ids.execution_id.encode()
    try:
        accepted = accept(data, _SETTINGS, time.time())
    except SecretFlowTaskError as error:
        require_sentence(error)
        return
    envelope = accepted.envelope
    # As a frame for a party process, and as an answer.
    sent = [envelope.task_config, *map(_plain, (envelope.spu_config, envelope.heu_config))]
    msgspec.msgpack.encode([*sent, accepted.parties, accepted.resources])
    json.dumps([accepted.warnings, envelope.task_id, envelope.subtask_id])
    assert len(accepted.parties) <= 16


def _envelopes() -> list[bytes]:
    load_modules([])
    cluster = {"parties": {party: {"address": "127.0.0.1:1"} for party in PARTIES}, "self_party": "alice"}
    nodes = {"cluster_def": {"nodes": [{"party": "alice", "tls_opts": {"x": 1}}], "runtime_config": {"protocol": 2}}}
    given = [
        *(job(task) for task in TASKS.values()),
        job(TASKS["psi"], sf_init_config={"cluster_config": cluster}),
        job(TASKS["hello"], spu_config=nodes, options={"expires_at": "2100-01-01T00:00:00Z", "memory_limit_bytes": 1}),
    ]
    return [json.dumps(each).encode() for each in given]


def _envelope_corpus() -> list[bytes]:
    good = _envelopes()
    columns = {"alice": ["f"] * 8_000, "bob": ["g"] * 8_000}
    keys = {"alice": [f"{number}" for number in range(4_000)], "bob": ["id"]}
    wide = [TASKS[name] | {"features": columns, "keys": keys} for name in ("ss_lr", "pearson_correlation", "sgb")]
    crowd = {"parties": {f"p{number}": {"address": ""} for number in range(2_500)}, "self_party": "p1"}
    whole = [
        *(json.dumps(job(task)).encode() for task in wide),
        json.dumps(job(TASKS["vif"], sf_init_config={"cluster_config": crowd})).encode(),
        b"\xef\xbb\xbf" + good[0],
        good[0].decode().encode("utf-16"),
        good[0] + good[0],
        good[0].replace(b"{", b'{"execution_id":"other",', 1),
        good[0][:-1] + b',"x":' + b"[" * 60_000,
        b"[" * LONGEST,
        b'{"execution_id":' * 4_000,
        b'"' + b"\\u0000" * 10_000 + b'"',
        b"",
        b"\0",
    ]
    return [*good, *whole, *_nasty(json.loads(good[-1])), *_nasty(job(TASKS["component"]))]


# --- parameters


def _check_params(data: bytes) -> None:
    if not (_is_json(data) and isinstance(given := msgspec.json.decode(data), dict)):
        return
    try:
        validate(given, PARTIES)
    except SecretFlowTaskError as error:
        require_sentence(error)


def _params_corpus() -> list[bytes]:
    load_modules([])
    good = [json.dumps(task).encode() for task in TASKS.values()]
    return [*good, *filter(_is_json, (each for task in TASKS.values() for each in _nasty(task)))]


def _is_json(data: bytes) -> bool:
    """Return whether an envelope that holds `data` gets as far as its parameters."""
    try:
        return len(data) <= LONGEST and not _is_deeper(msgspec.json.decode(data), 90)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _mutated_json(data: bytes, random: Random) -> bytes:
    return next((each for each in (mutated(data, random) for _ in range(20)) if _is_json(each)), data)


# --- components


@cache
def _component_side() -> Any:
    import secretflow.component.core  # noqa: F401 - registers the components

    from sfworker.components import params

    return params


def _check_component(data: bytes) -> None:
    params, where = _component_side(), "task_config.node_eval_param"
    if not (_is_json(data) and isinstance(given := msgspec.json.decode(data), dict)):
        return
    try:
        node = component_catalog.read(given, component_catalog.NodeEvalParam, where)
        component_catalog.check_node(node, where, PARTIES)
        definition = params.definition_of(node.component, where)
        param = params.message(node, where)
        params.check(PARTIES, definition, param, where)
        params.missing(definition, param)
    except SecretFlowTaskError as error:
        require_sentence(error)


def _component_corpus() -> list[bytes]:
    from tests.jobs.components import node, table, vertical

    params = _component_side()
    data = [table("alice", "a.csv", {"x": "float64"}, ["id"], {"y": "int64"}), table("bob", "b.csv", {"z": "int64"})]
    made = []
    for definition in sorted(params.Registry.get_definitions(), key=lambda each: str(each.component_id)):
        columns = {f"input/{each.name}/{a.name}": ["x"] for each in definition.component_def.inputs for a in each.attrs}
        attributes = {"/".join([*each.prefixes, each.name]): 1.5 for each in definition.component_def.attrs}
        outputs = [f"out-{number}" for number, _ in enumerate(definition.component_def.outputs)]
        inputs = [vertical(*data) for _ in definition.component_def.inputs]
        made.append(node(definition.component_id, inputs, outputs, {**columns, **attributes}))
    typed = [{"f": 1.0}, {"i64": 3}, {"s": "alice"}, {"b": True}, {"fs": [0.5]}, {"i64s": ["7"]}, {"ss": ["alice"]}]
    few = made[:: max(1, len(made) // 3)]
    made += [{**each, "attrs": [value] * len(each["attr_paths"])} for each in made for value in typed]
    return [json.dumps(each).encode() for each in made] + [bad for each in few for bad in _nasty(each) if _is_json(bad)]


# --- frames


def _check_frames(data: bytes) -> None:
    try:
        for body in FrameSplitter().feed(data):
            decode_party_frame(body)
    except FrameError:
        return


def _frames_corpus() -> list[bytes]:
    said = [
        StageReached("executed", 0.5, ["alice"]),
        Progressed(0.5, "half"),
        Staging("/data/.x", "/data/x"),
        Traced([PartySpan("compute", 1.0, 2.0, -1), PartySpan("run", 1.0, 1.5, 0)], 3),
        Succeeded(None, 1),
        Failed("task_config.keys: none", "InputDataError", False, False, 1),
    ]
    good = [framed(each) for each in said]
    bodies = [
        msgspec.msgpack.encode({"type": "Succeeded", "peak_rss_bytes": 0, "result": 0})[:-1] + tail
        for tail in (
            *(b"\xdd\x0f\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
            *(b"\x91" * 60_000 + b"\x00", b"\xa2\xff\xff", b"\x81\x91\x01\x01", b"\xd4\x05\x01", b"\xc1"),
            *(b"\xc7\x0c\xff" + b"\x7f" * 12, b"\xcb\x7f\xf8\0\0\0\0\0\0"),
        )
    ]
    lengths = [b"\xff\xff\xff\xff", b"\x10\x00\x00\x00", b"\0\0\0\0" * 10_000, b"\0\0\0\1\xc0" * 10_000]
    return [*good, b"".join(good), *(len(body).to_bytes(4, "big") + body for body in bodies), *lengths]


# --- messages of peers


def _check_peers(data: bytes) -> None:
    """As a gateway reads them. What is read is within bounds, and is written as it was read."""
    for decode in (decode_preface, decode_answer, decode_control, decode_pong):
        try:
            read = decode(data)
        except FrameError:
            continue
        assert decode(msgspec.msgpack.encode(read)) == read
        if isinstance(read, Told) and isinstance(read.frame, PeerFailed):
            assert cleaned(read.frame.error).isprintable() or not read.frame.error
            assert read.frame.error_type.isidentifier()


def _peers_corpus() -> list[bytes]:
    terms = Terms(parties=["alice", "bob"], task_type="psi", parameters="0" * 64, devices="1" * 64)
    said: list[Any] = [
        Preface(version=1, to="alice", execution_id=":e", channel="control", nonce="0" * 32, terms=terms),
        Preface(version=1, to="alice", execution_id="t:e", channel="spu-0", nonce="0" * 32),
        Preface(
            version=1,
            to="alice",
            execution_id=":e",
            channel="control",
            nonce="0" * 32,
            traceparent=f"00-{'1' * 32}-{'2' * 16}-01",
        ),
        *(Answer(verdict=verdict, why="has ended") for verdict in ("taken", "not_here", "ended", "refused", "known")),
        *(Told(PeerReached("executed", 0.5)), Told(PeerSucceeded()), Ping(7), Pong(7), Goodbye()),
        Told(PeerFailed("keys: \x1b[2J none", "InputDataError", retryable=False)),
    ]
    return [msgspec.msgpack.encode(each) for each in said]


# --- log lines


class _Kept(logging.Handler):
    """Keeps what would be written of records."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._render = logs._Renderer("worker", ["password"])

    def emit(self, record: logging.LogRecord) -> None:
        as_json = self._render.json(record)
        json.loads(as_json)
        self.said += [as_json, self._render.line(record)]


def _check_lines(data: bytes) -> None:
    kept, root = _Kept(), logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [kept]
    try:
        for line in filter(None, data.split(b"\n")):
            # A record is free of data before it is sent; whatever else is said may quote some, anywhere.
            said = [line] if RECORD_MARK.encode() in line else [line, *_quoting(line)]
            for each in said:
                found = decode_line(each)
                assert each is line or SENTINEL not in repr(found), each
                encode_record(found)
            logs.party_line(line, party="alice")
    finally:
        root.handlers[:] = before
    for text in kept.said:
        assert "\n" not in text.partition("\n    ")[0], text[:300]


def _quoting(line: bytes) -> list[bytes]:
    places = {0, len(line), len(line) // 2, *(match.end() for match in re.finditer(rb"[]:='\" ]", line[:200]))}
    return [line[:at] + SENTINEL.encode() + line[at:] for at in places]


def _lines_corpus() -> list[bytes]:
    record = encode_record(PartyRecord(level="INFO", logger="sfworker.job", message="m", place="a.py:1"))
    said = [
        record,
        b"[2026-11-24 13:41:40.113] [info] [bucket.cc:166] bucket 3 of 'x': ",
        b"W1124 13:41:40.113456  123 4294967297 src/brpc/socket.cpp:2570] Fail to connect Socket{id=1}",
        b"Fatal Python error: Segmentation fault",
        b"terminate called after throwing an instance of 'std::bad_alloc'",
    ]
    bad = [
        b"\x1e" + b"[" * 4_000 + b"\n\x1e" + b'{"x":' + b"[" * 4_080 + b"]" * 10,
        *(said[1] + each * 4_000 for each in (b"'", b"':", b": ", b"= ", b"\xff", b"\0", "…".encode(), b"::a", b"[")),
        b"I0000 1 " + b"1 " * 2_000 + b"x",
        b"I0000 1 " + b"1  " * 1_300 + b"a" * 100,
        b"[" + b"-" * 4_000 + b"] [info]",
        b"Fatal Python error: " + b"a" * 70,
        record[:-2] + b',"exception":"\\u0000\\u001b[2J\\n\\u2028"}',
        b'\x1e{"level":"INFO","logger":"x","message":"' + "\u2028".encode() + b'"}',
        b"\x1e" * LONGEST,
        b"\n" * LONGEST,
    ]
    return [*said, *bad]


# --- files


@cache
def _directory() -> Path:
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="sfworker-fuzz-", dir=shared if shared.is_dir() else None))


def _check_table(data: bytes) -> None:
    from sfworker.tables import cells, files

    path = _directory() / "table.csv"
    path.write_bytes(data)
    field = "task_config.input_paths.alice"
    try:
        names = files.header(field, path)
        table = files.typed(field, path, names)
        for column in table.columns:
            cells.hints(column)
        keys = files.whole(field, path)
        assert keys.num_rows == table.num_rows
        files.plain_keys(field, keys, names[:1])
        files.numbers(field, path, names)
    except InputDataError as error:
        require_sentence(error)


def _tables_corpus() -> list[bytes]:
    good = b"id,x,y\n1,0.5,true\n2,,false\n"
    rows = [b"007", b"1e400", b"NaN", b"9" * 400, b"9" * 10_000, b"2024-02-29", b"-0.0", b" 1", b"+1.000", b"0x1F"]
    rows += [
        "é".encode(),
        "\u202e".encode(),
        b"\xff",
        b'"a""b"',
        b'"a\r\nb"',
        b"\x1b\x1f",
        b"99999999999-01-01",
        b"1_0",
    ]
    cells_of = [b"a,b\n" + row + b",1\n2," + row + b"\n" for row in rows]
    headers = [
        b"a,a",
        b",",
        b'""',
        b'"',
        b"\xef\xbb\xbfa",
        b"\xef\xbb\xbf\xef\xbb\xbfa",
        b"a;b",
        b"a\0b",
        b"a\rb",
        b"a" * 60_000,
    ]
    headers += [b"," * 5_000, b"PAR1", b"\x1f\x8b", b"\n\n \n", b"", "界".encode("gb18030"), "a,b".encode("utf-16")]
    heads = [head + b"\n1,2\n" for head in headers] + headers
    odd = [b"a\n \n1\n\t\n", b'a\n" "\n \n', b"a,b\n1\n", b"a,b\n1,2,3\n", b'a,b\n"1,2\n3,4\n', b"a\n" + b'"\n' * 5_000]
    odd += [
        b"a\n" + b" \n" * 20_000 + b"1",
        b"a\n" + b'""\n' * 10_000,
        b"a\r1\r2",
        b"a\r\n1\n2\r",
        b"a\n" + b"1" * 60_000,
    ]
    return [good, *cells_of, *heads, *odd, good.replace(b"\n", b"\r\n")]


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="envelopes",
            modules=("sfworker.wire.envelope", "sfworker.wire.tolerance", "sfworker.wire.devices", "sfworker.catalog"),
            corpus=_envelope_corpus,
            check=_check_envelope,
        ),
        Target(
            name="parameters",
            modules=("sfworker.catalog", "sfworker.wire.tolerance"),
            corpus=_params_corpus,
            check=_check_params,
            mutate=_mutated_json,
        ),
        Target(
            name="components",
            modules=("sfworker.catalog.component", "sfworker.components.params"),
            corpus=_component_corpus,
            check=_check_component,
            mutate=_mutated_json,
        ),
        Target(
            name="frames",
            modules=("sfworker.wire.frames", "sfworker.pool.channel"),
            corpus=_frames_corpus,
            check=_check_frames,
            mutate=mutated_bytes,
        ),
        Target(
            name="peers",
            modules=("sfworker.wire.gateway", "sfworker.pool.remotes"),
            corpus=_peers_corpus,
            check=_check_peers,
            mutate=mutated_bytes,
        ),
        Target(
            name="lines",
            modules=("sfworker.wire.party_log", "sfworker.logs"),
            corpus=_lines_corpus,
            check=_check_lines,
            mutate=mutated_bytes,
        ),
        Target(
            name="tables",
            modules=("sfworker.tables.csv_text", "sfworker.tables.cells", "sfworker.tables.files"),
            corpus=_tables_corpus,
            check=_check_table,
            mutate=mutated_bytes,
        ),
    )
}
