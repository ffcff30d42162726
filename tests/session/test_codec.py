"""What parties can send each other, what they refuse, and what of an error they send."""

from __future__ import annotations

import collections
import copy
import math
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from heu import numpy as hnp
from heu import phe
from secretflow.device.device.spu import SPUIOInfo, SPUValueMeta
from secretflow.distributed.fed.exception import FedLocalError, FedRemoteError
from secretflow.utils import secure_pickle
from spu import libspu

from sfworker.errors import InputDataError, RecurringError
from sfworker.session import codec, fed_values, table_values  # noqa: F401 - they register their values

LONG = 1 << 62
Float = np.dtype("<f8")
META = SPUValueMeta(
    (2, 3), np.float32, libspu.Visibility.VIS_SECRET, libspu.ProtocolKind.SEMI2K, libspu.FieldType.FM128, 40
)


def sent(value: Any) -> Any:
    return codec.loads(bytearray(codec.dumps(value)))


def message(tree: Any, *buffers: bytes) -> bytes:
    """A message as a stranger writes it, who keeps to the format."""
    encoded = tree if isinstance(tree, bytes) else msgspec.msgpack.encode(tree)
    written = struct.pack(">Q", len(encoded)) + encoded
    for buffer in buffers:
        written += bytes(-len(written) % 16) + buffer
    return written


def value(kind: str, *parts: Any) -> Any:
    return {1: [kind, *parts]}


@pytest.mark.parametrize(
    "plain",
    [
        *(
            None,
            True,
            1,
            -1,
            (1 << 64) - 1,
            1 << 64,
            -(1 << 63) - 1,
            -(1 << 4000),
            1.5,
            math.inf,
            "ä\n",
            "",
            b"",
            b"x" * 9999,
        ),
        *([], (), {}, set(), [[]], [()], [(), ()], [(1,), (1, 2)], [(1, "a"), (2, None)], [[1, 2], [3, 1 << 70]]),
        *(
            {"a": {"b": [1, (2, {"c": ()})]}},
            {1: 2},
            {0: 1},
            {1: ["array"]},
            {("a", 1): [1]},
            {None: 1},
            {True: 1, "x": 2},
        ),
        *({1, 2}, frozenset({"a"}), slice(1, None, -1), bytearray(b"x"), [b"x" * 9999, b"y"], [(b"x" * 9999,)]),
        *(np.float64, np.bool_, int, str, np.dtype("<i2"), np.dtype(object), np.dtype("<U5"), np.dtype("<M8[ns]")),
    ],
)
def test_plain_values_arrive_as_they_are(plain: Any) -> None:
    arrived = sent(plain)
    assert arrived == plain
    assert type(arrived) is type(plain)


def test_elements_keep_their_types() -> None:
    rows = [(True, 1, 1.0), (False, 0, 0.0)]
    assert [list(map(type, row)) for row in sent(rows)] == [[bool, int, float]] * 2
    assert [type(each) for each in sent([np.float32(1), np.bool_(1), np.str_("a"), np.int8(1)])] == [
        np.float32,
        np.bool_,
        np.str_,
        np.int8,
    ]
    assert math.isnan(sent([1, math.nan])[1])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int16).reshape(3, 4),
        np.arange(12).reshape(3, 4).T,
        np.arange(12)[::-2],
        np.arange(3, dtype=">i4"),
        np.array(1.5),
        np.zeros((0, 5), np.float32),
        np.array([], "<U1"),
        np.array([True, False]),
        np.array(["a", "bcd", ""]),
        np.array([b"a", b"bcd"]),
        np.array(["2020-01-01", "NaT"], "M8[us]"),
        np.array([1 + 2j]),
        np.array([1.5, None, "a", [1, 2], (3,)], object).reshape(5, 1),
        np.array([[1, 2], [3, 4]], object),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_arrays_arrive_as_they_are(array: np.ndarray[Any, Any]) -> None:
    arrived = sent(array)
    assert arrived.dtype == array.dtype.newbyteorder("=")
    assert arrived.shape == array.shape
    assert arrived.flags.writeable
    assert arrived.flags.aligned
    assert arrived.tolist() == array.tolist() or array.dtype.kind == "M"


def test_arrays_are_sent_from_where_they_are_and_used_where_they_were_received() -> None:
    array, text = np.arange(1 << 16, dtype=np.float64), b"x" * (1 << 20)
    pieces = codec.encode({"a": array, "b": text})
    assert sum(len(piece) for piece in pieces if isinstance(piece, bytes)) < 200
    assert any(
        np.shares_memory(np.frombuffer(piece, np.uint8), array) for piece in pieces if len(piece) == array.nbytes
    )
    received = bytearray(b"".join(pieces))
    assert np.shares_memory(codec.loads(received)["a"], np.frombuffer(received, np.uint8))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5, None, 2.5]),
        pa.array(["a", None, "bcd"]),
        pa.array([True, None, False] * 5),
        pa.array([], pa.int8()),
        pa.array([None, None], pa.string()),
        pa.chunked_array([["a"], [], ["b", None]]),
        pa.chunked_array([], pa.int64()),
        pa.table({"a": [1, 2], "b": ["x", None]}),
        pa.table({"a": pa.array([1], pa.timestamp("ms"))}).replace_schema_metadata({"k": "v"}),
        pa.schema([pa.field("a", pa.float32(), nullable=False, metadata={"kind": "LABEL"})], {"x": "y"}),
    ],
    ids=lambda column: str(getattr(column, "type", type(column).__name__)),
)
def test_arrow_arrives_as_it_is(column: Any) -> None:
    arrived = sent(column)
    assert type(arrived) is type(column)
    assert arrived.equals(column, check_metadata=True) if hasattr(column, "metadata") else arrived.equals(column)


@pytest.mark.attack("links between parties")
def test_rows_around_a_slice_stay_with_their_party() -> None:
    column = pa.array(["secret-before", "shown", "secret-after"]).slice(1, 1)
    assert b"shown" in codec.dumps(column)
    assert b"secret" not in codec.dumps(pa.table({"a": column}))


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [True, False]}, index=[5, 6]),
        pd.DataFrame({"a": [1.5]}),
        pd.DataFrame([[1, 2.5]], columns=["a", "a"]),
        pd.DataFrame(),
        pd.Series([1.5, 2.5], index=["x", "y"], name="s"),
        pd.Series([1, "a", None], dtype=object),
    ],
    ids=str,
)
def test_pandas_arrives_as_it_is(frame: Any) -> None:
    same = pd.testing.assert_frame_equal if isinstance(frame, pd.DataFrame) else pd.testing.assert_series_equal
    same(sent(frame), frame)


def test_values_of_spu_heu_and_jax_arrive_as_they_are() -> None:
    kit = hnp.setup("mock", 512)
    plain = kit.array(np.arange(6).reshape(2, 3))
    cipher = kit.encryptor().encrypt(plain)
    for each in (plain, cipher, kit.public_key()):
        assert sent(each).__getstate__() == each.__getstate__()
    assert kit.decryptor().decrypt(sent(cipher)).__getstate__() == plain.__getstate__()
    info = SPUIOInfo(0, 2, b"meta")
    assert sent([META, info]) == [META, info]
    program = libspu.Executable(name="f", input_names=["x"], output_names=["y"], code=b"code")
    arrived = sent(program)
    assert (arrived.name, arrived.input_names, arrived.output_names, arrived.code) == ("f", ["x"], ["y"], b"code")
    assert sent(jax.ShapeDtypeStruct((2,), np.float32)) == jax.ShapeDtypeStruct((2,), np.float32)
    assert isinstance(sent(jnp.arange(3)), jax.Array)
    assert sent(jnp.arange(3)).tolist() == [0, 1, 2]


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_what_is_of_no_kind_is_not_sent_and_the_sentence_says_what_helps() -> None:
    @dataclass
    class Own:
        x: int

    strangers = [_Evil(), lambda: 1, os.system, collections.Counter("a"), Own(1), np.rec.array([1]), np.zeros(2, "V8")]
    more = [
        np.ma.array([1], mask=[True]),
        np.zeros(2, "i4,f4"),
        np.longdouble(1),
        pd.Categorical(["a"]),
        object(),
        ValueError(),
    ]
    for stranger in [*strangers, *more, [(1, _Evil())]]:
        with pytest.raises(RecurringError, match="cannot be sent to another party"):
            codec.dumps(stranger)


def test_a_job_module_may_describe_a_record_of_its_own() -> None:
    @dataclass
    class Own:
        x: int
        y: list[float]

    codec.record(Own, x=int, y=list)
    assert sent([Own(1, [2.0])]) == [Own(1, [2.0])]
    kind = f"{Own.__module__}.{Own.__qualname__}"
    for fields in ({"x": "1", "y": []}, {"x": 1, "y": [], "z": 1}, {"x": 1, "__class__": []}, [1, []], None, "x"):
        with pytest.raises(RecurringError):
            codec.loads(message(value(kind, fields)))
    own = Own(1, [])
    own.z = 1  # type: ignore[attr-defined]
    with pytest.raises(RecurringError, match="has no field z"):
        codec.dumps(own)


NESTED = 5000
REFUSED = {
    "nothing": b"",
    "half a length": b"\x00" * 7,
    "no tree": struct.pack(">Q", 0),
    "a longer tree than there is": struct.pack(">Q", 9) + b"\xc0",
    "a tree of 16 EiB": b"\xff" * 8 + b"\xc0",
    "more than a tree": message(None) + b"\x00",
    "two trees": message(b"\xc0\xc0"),
    "a pickle": pickle.dumps(_Evil()),
    "an array of 2^32 nodes": message(b"\xdd\xff\xff\xff\xff"),
    "a map of 2^32 nodes": message(b"\xdf\xff\xff\xff\xff"),
    "bytes of 4 GiB": message(b"\xc6\xff\xff\xff\xff"),
    "a deep list": message(b"\x91" * NESTED + b"\xc0"),
    "a list a little too deep": message(b"\x91" * (codec.DEEPEST + 2) + b"\x80"),
    "a deep map": message(b"\x81\xa1a" * NESTED + b"\xc0"),
    "deep values": message(b"\x81\x01\x92\xa5tuple" * NESTED + b"\xc0"),
    "a date": message(b"\xd6\xff\x00\x00\x00\x00"),
    "an extension": message(b"\xd4\x01\x00"),
    "no kind": message({1: []}),
    "a kind that is none": message(value("os.system", "true")),
    "a kind that is no name": message({1: [["tuple"]]}),
    "another tag": message({2: ["tuple"]}),
    "two tags": message({0: 0, 1: ["tuple"]}),
    "a map with other keys": message({1.5: 1}),
    "a buffer too many": message({0: 4}, b"1234", b"1234"),
    "a buffer too short": message({0: 5}, b"1234"),
    "a buffer of less than nothing": message({0: -1}, b"1234"),
    "a buffer of 4 EiB": message({0: LONG}, b"1234"),
    "a buffer of half a byte": message({0: 0.5}, b"1234"),
    "half a row": message(value("tuples", 2, [1, 2, 3])),
    "rows of nothing": message(value("tuples", 0, [])),
    "rows wider than there is": message(value("tuples", LONG, [1])),
    "a set of lists": message(value("set", [])),
    "a map of fewer values": message(value("map", [1], [])),
    "an array of objects by number": message(value("array", [1], "|O", {0: 8}), b"\x01" * 8),
    "objects among fields": message(value("array", [1], "O,i4", {0: 16}), b"\x01" * 16),
    "a type that is parsed": message(value("array", [1], "(100000000,)i4", {0: 8}), b"\x01" * 8),
    "elements of no size": message(value("array", [LONG], "<U0", {0: 0})),
    "more elements than bytes": message(value("array", [2], "<f8", {0: 8}), b"\x01" * 8),
    "fewer elements than bytes": message(value("array", [1], "<i2", {0: 8}), b"\x01" * 8),
    "a product that overflows to the right one": message(value("array", [1 << 32, 1 << 32], "<i8", {0: 0})),
    "a negative size": message(value("array", [-1], "<i8", {0: 8}), b"\x01" * 8),
    "a size that is none": message(value("array", [1.0], "<i8", {0: 8}), b"\x01" * 8),
    "33 dimensions": message(value("array", [1] * 33, "<i8", {0: 8}), b"\x01" * 8),
    "elements in the tree": message(value("array", [1], "<i8", b"\x01" * 8)),
    "trues that count twice": message(value("array", [2], "|b1", {0: 2}), b"\x02\x01"),
    "a character that is none": message(value("array", [1], "<U1", {0: 4}), b"\xff" * 4),
    "fewer objects than the shape": message(value("array", [2], [1])),
    "a scalar of two": message(value("scalar", value("array", [2], "<i2", {0: 4})), b"1234"),
    "a dtype that is none": message(value("dtype", "i4,O")),
    "a type that is none": message(value("type", "os.system")),
    "a long that is none": message(value("int", "__import__('os')")),
    "an offset beyond": message(
        value("arrow array", "string", 2, None, {0: 12}, {0: 2}), np.array([0, 9999, 2], np.int32).tobytes(), b"ab"
    ),
    "offsets that go back": message(
        value("arrow array", "string", 2, None, {0: 12}, {0: 2}), np.array([0, 2, 1], np.int32).tobytes(), b"ab"
    ),
    "a text that is none": message(
        value("arrow array", "string", 1, None, {0: 8}, {0: 1}), np.array([0, 1], np.int32).tobytes(), b"\xff"
    ),
    "a longer column than its buffer": message(value("arrow array", "double", 2, None, {0: 8}), b"\x00" * 8),
    "a column without buffers": message(value("arrow array", "double", 1, None, None)),
    "a column of 4 EiB": message(value("arrow array", "bool", LONG, None, {0: 1}), b"\x00"),
    "fewer bits than rows": message(value("arrow array", "int8", 64, {0: 1}, {0: 64}), b"\xff", b"\x00" * 64),
    "buffers that a type has not": message(value("arrow array", "int8", 1, None, {0: 1}, {0: 1}), b"\x00", b"\x00"),
    "a nested type": message(value("arrow array", "list<item: int8>", 1, None, {0: 8}), b"\x00" * 8),
    "chunks of another type": message(
        value("arrow chunks", "string", value("arrow array", "int8", 1, None, {0: 1})), b"\x00"
    ),
    "a table of one column for two": message(
        value("arrow table", value("arrow schema", [["a", "int8", True, None], ["b", "int8", True, None]], None))
    ),
    "an index that makes rows of one": message(
        value("pandas series", value("array", [], "<i8", {0: 8}), value("pandas range", 0, LONG, 1, None), None),
        b"\x00" * 8,
    ),
    "an index that makes rows of none": message(
        value("pandas frame", value("pandas range", 0, 0, 1, None), value("pandas range", 0, LONG, 1, None))
    ),
    "an index that makes rows of a text": message(
        value("pandas frame", value("pandas range", 0, 1, 1, None), value("pandas range", 0, LONG, 1, None), "x")
    ),
    "shares that are texts": message(value("spu share", "meta", ["x"])),
    "a program of texts": message(value("spu program", "f", [1], [], b"")),
    "an enumeration's number that is none": message(value("spu.libspu.FieldType", 77)),
    "a meta of other types": message(value("spu meta", [1], "<f4", 1, 2, 3, 4)),
    "a meta of a shape that is none": message(value("jax shape", [-1], value("dtype", "<f4"))),
    "objects as a jax array": message(value("jax array", value("array", [1], ["x"]))),
    "an error that is none": message(value("error", "bob", "SystemExit", "x")),
    "an error without a sentence": message(value("error", "bob", "InputDataError", 1)),
}


@pytest.mark.attack("links between parties")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_value_is_refused(name: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(RecurringError, match="what a party sent cannot be read"):
        codec.loads(REFUSED[name])
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10


def test_every_part_of_a_message_is_needed() -> None:
    whole = codec.dumps([META, np.arange(3), pa.array(["a"]), b"x" * 5000, {"a": (1, 2)}, pd.Series([1])])
    for end in [*range(300), *range(300, len(whole), 97), len(whole) - 1]:
        with pytest.raises(RecurringError):
            codec.loads(whole[:end])


@pytest.mark.attack("links between parties")
@pytest.mark.parametrize("of", [hnp.CiphertextArray, hnp.PlaintextArray])
@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"\xc0",
        b"\x94\x02\x03\x02\x90",  # 2 x 3 elements, of which there are none
        b"\x94\xce\x00\x01\x00\x00\xce\x00\x01\x00\x00\x02\x90",  # 2^32 elements, a product that overflows
        b"\x94\xff\xff\x02\x91\xa0",
        b"\x94\x01\x01\x09\x91\xa0",
        b"\x94\x01\x01\x02\xdd\xff\xff\xff\xff",
        b"\x94\x01\x01\x02\x91\xdb\xff\xff\xff\xff",
        b"\x94\x01\x01\x02\x91\xa9\x07\x02\x00\x00\x00\x00\x00\x00\x00more",
    ],
)
def test_arrays_of_heu_that_are_none_are_refused(of: type, state: bytes) -> None:
    kind = {hnp.CiphertextArray: "heu ciphertexts", hnp.PlaintextArray: "heu plaintexts"}[of]
    with pytest.raises(RecurringError):
        codec.loads(message(value(kind, state)))


def test_a_key_is_not_copied() -> None:
    key = hnp.setup(phe.SchemaType.OU, 1024).public_key()
    assert copy.deepcopy([key])[0] is key


@pytest.mark.attack("links between parties")
def test_keys_that_are_none_are_refused() -> None:
    state = hnp.setup("mock", 512).public_key().__getstate__()
    assert isinstance(codec.loads(message(value("heu key", state))), phe.PublicKey)
    for other in (b"", state[:-1], state + b"\x00", state[:-8], b"\xdd\xff\xff\xff\xff" + bytes(8), bytes(1 << 15)):
        with pytest.raises(RecurringError):
            codec.loads(message(value("heu key", other)))


def test_what_is_nested_too_deep_is_not_sent() -> None:
    deep: Any = ()
    for _ in range(codec.DEEPEST + 1):
        deep = (deep,)
    with pytest.raises(RecurringError, match="nested deeper than"):
        codec.dumps(deep)
    assert sent(deep[0][0]) == deep[0][0]


@pytest.mark.attack("links between parties")
@pytest.mark.parametrize("wrap", [lambda error: error, FedLocalError, lambda error: FedRemoteError("carol", error)])
def test_our_own_sentence_reaches_the_peer_and_foreign_text_does_not(wrap: Callable[[Exception], Exception]) -> None:
    own = sent(FedRemoteError("bob", wrap(InputDataError("task_config.x: wrong"))))
    assert (own.party(), type(own.cause()), str(own.cause())) == ("bob", InputDataError, "task_config.x: wrong")
    assert b"4711" not in codec.dumps(FedRemoteError("bob", wrap(ValueError("customer 4711"))))
    assert sent(FedRemoteError("bob", wrap(ValueError("customer 4711")))).cause() is None


def test_a_job_modules_own_error_arrives_as_the_one_it_is_derived_from() -> None:
    class OwnError(InputDataError):
        """An error that peers may not know."""

    assert type(sent(FedRemoteError("bob", OwnError("wrong"))).cause()) is InputDataError


@pytest.mark.attack("links between parties")
def test_a_strangers_sentence_is_short_and_on_one_line() -> None:
    told = codec.loads(message(value("error", "bob", "InputDataError", "a\nb\x1b[2J" + "x" * 10_000)))
    assert str(told.cause()).startswith("a b [2Jxxx")
    assert len(str(told.cause())) == 2000


@pytest.mark.attack("links between parties")
def test_secretflow_sends_saves_and_loads_by_the_codec() -> None:
    program = """
import io, pickle
from sfworker.session import fed_proxy
fed_proxy.use_unix_sockets()
from secretflow.component.core import checkpoint
from secretflow.component.core.dist_data import model
from secretflow.device.device import pyu, spu
from secretflow.distributed.fed.proxy.brpc_link import brpc_link
from secretflow.distributed.fed.proxy.grpc import grpc
class Evil:
    def __reduce__(self):
        return print, ("EVIL",)
for module in (checkpoint, model, pyu, spu, brpc_link, grpc):
    name = "pickle" if hasattr(module, "pickle") else "secure_pickle"
    library = getattr(module, name)
    for load in (library.load, lambda file, **named: library.loads(file.read(), **named)):
        for kind in library.FilterType:
            assert load(io.BytesIO(library.dumps([1, (2,)])), filter_type=kind) == [1, (2,)]
            try:
                load(io.BytesIO(pickle.dumps(Evil())), filter_type=kind)
            except Exception as error:
                print("REFUSED", module.__name__, type(error).__name__)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("REFUSED") == 6 * 2 * 2
    assert "EVIL" not in run.stdout
    assert secure_pickle.loads.__module__ == "secretflow.utils.secure_pickle"  # of this process, which has no session


@pytest.mark.attack("links between parties")
def test_mutants_of_every_kind_are_refused_or_harmless() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.attack.codec", "--mutants", "5000"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "'refused': " in run.stdout
