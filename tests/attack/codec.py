"""Mutants of every kind of value that parties send each other, against the codec that reads them.

    python -m tests.attack.codec --mutants 1000000

A mutant has to be refused, or to be a value that can be used and sent again. Crashes of libraries are why this is a
process of its own. It ends with 0 and a line of figures where no mutant ran code, opened a file or took memory.
"""

from __future__ import annotations

import argparse
import collections
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import spu
from heu import numpy as hnp
from secretflow import compute
from secretflow.component.preprocessing.preprocessing import ArrowRunner
from secretflow.compute import Table
from secretflow.device.device.spu import SPUIOInfo, SPUValueMeta
from secretflow.distributed.fed.exception import FedRemoteError
from secretflow.ml.boost.ss_xgb_v.core.xgb_tree import XgbTree
from secretflow_spec.core.dist_data.vtable import VTableFieldKind
from secretflow_spec.v1.data_pb2 import DistData
from spu import libspu

from sfworker.components import values  # noqa: F401 - registers what components send
from sfworker.errors import InputDataError, RecurringError
from sfworker.session import codec, fed_values, table_values  # noqa: F401 - the last two register theirs

LONGEST_GROWTH = 256 << 20
"""Bytes by which all mutants together may let the process grow; each is a few kilobytes."""
ALLOWED_SECONDS = 20
KEYS = 0.0002
"""Share of mutants of a key."""
WATCHED = (
    "exec",
    "compile",
    "import",
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "pickle.",
    "marshal.",
    "code.",
)
EDGES = [
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    1 << 31,
    (1 << 32) - 1,
    1 << 48,
    1 << 62,
    (1 << 63) - 1,
    -(1 << 63),
    (1 << 64) - 1,
]
NASTY = [
    *(None, True, 0.5, float("nan"), "", "|O", "<U1", "<U9999999", "|V8", "O", "float64", "i4,i4", "<M8[ns]", "|b1"),
    *(b"", b"\xff" * 9, [], {}, [[]], {0: 0}, {0: 1 << 62}, {0: -1}, {1: []}, {1: ["tuple"]}, {1: ["array", [], "|O"]}),
    *({1: ["tuples", 1 << 62, [1]]}, {1: ["slice", 1 << 62]}, {1: ["pandas range", 0, 1 << 62, 1, None]}),
    *({1: ["int", "f" * 5000]}, {1: ["type", "builtins.int"]}, {1: ["error", "bob", "InputDataError", "x"]}),
]
HEU = hnp.setup("ou", 1024)
SPU_IO = spu.Io(2, libspu.RuntimeConfig(protocol=libspu.ProtocolKind.SEMI2K, field=libspu.FieldType.FM64))
SHARES = SPU_IO.make_shares(np.arange(6, dtype=np.float32), libspu.Visibility.VIS_SECRET)


def samples() -> list[Any]:
    """Return values of every kind, most of them with something inside that a mutant can break."""
    plain = HEU.array(np.arange(6).reshape(2, 3))
    tree = XgbTree()
    tree.insert_split_node(1, 0.5)
    schema = pa.schema([pa.field("a", pa.float64(), metadata={"k": "v"}), ("b", pa.string())])
    table = Table.from_schema(schema)
    table = table.set_column(0, "a", compute.cast(table.column("a"), options=pc.CastOptions(pa.float64())))
    runner = ArrowRunner(table.dump_runner(), {"a": VTableFieldKind.FEATURE})
    program = libspu.Executable(name="f", input_names=["x"], output_names=["y"], code=b"module {}")
    meta = SPUValueMeta(
        (2, 3), np.float32, libspu.Visibility.VIS_SECRET, libspu.ProtocolKind.SEMI2K, libspu.FieldType.FM64, 18
    )
    return [
        [None, True, -1, 2.5, "text", b"bytes", (1, ("a",)), {"k": [1]}, {1: {2, 3}}, slice(1, None), 1 << 200],
        [(1, 0.5), (2, 1.5)],
        [[1, 2], [3, 4]],
        b"long" * 2000,
        np.arange(12, dtype=np.int16).reshape(3, 4),
        np.array([True, False, True]),
        np.array(["a", "bcd"]),
        np.array(["2020-01-01"], "M8[ns]"),
        np.array(["a", None, 1.5], object),
        [np.float32(1), np.bool_(True), np.dtype("<f8"), np.int64, np.array(1.5)],
        pa.array([1.5, None, 2.5]),
        pa.array(["a", None, "bcd"]),
        pa.table({"a": [1, 2], "b": pa.chunked_array([["x"], ["y"]])}),
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=[5, 6]),
        pd.Series([1.5, 2.5], name="s"),
        schema,
        [jnp.arange(3), jax.ShapeDtypeStruct((2, 3), np.dtype("<f4"))],
        [meta, SPUIOInfo(0, 1, SHARES[0].meta), program],
        SHARES[0],
        plain,
        HEU.encryptor().encrypt(plain),
        FedRemoteError("bob", InputDataError("task_config.x: wrong")),
        [tree, runner, DistData(name="d"), VTableFieldKind.FEATURE_LABEL],
        HEU.public_key(),
    ]


def mutant(draw: random.Random, messages: list[bytes]) -> bytes:
    """Return a message in which a few bytes, or a few nodes of the tree, are others."""
    # A key is the last, as HEU computes long with each.
    message = messages[-1] if draw.random() < KEYS else draw.choice(messages[:-1])
    if draw.random() < 0.5:
        return _other_bytes(draw, message)
    length = int.from_bytes(message[:8], "big")
    tree = msgspec.msgpack.decode(message[8 : 8 + length])
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        tree = _other_node(draw, tree, draw.randrange(8))
    try:
        changed = msgspec.msgpack.encode(tree)
    except (TypeError, OverflowError):
        return _other_bytes(draw, message)
    # Buffers stay where a reader looks for them.
    padding = bytes(-(8 + len(changed)) % 16)
    buffers = message[8 + length + -(8 + length) % 16 :]
    return len(changed).to_bytes(8, "big") + changed + (padding + buffers if buffers else b"")


def _other_bytes(draw: random.Random, message: bytes) -> bytes:
    other = bytearray(message)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place = draw.randrange(len(other) + 1)
        what = draw.randrange(5)
        if what == 0:
            other[place : place + 1] = bytes([draw.randrange(256)])
        elif what == 1:
            other[place : place + 1] = bytes(each ^ 1 << draw.randrange(8) for each in other[place : place + 1])
        elif what == 2:
            del other[place : place + draw.choice((1, 4, 100))]
        elif what == 3:
            other[place:place] = draw.choice(
                (b"\xff" * 4, b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\x91" * 200)
            )
        else:
            del other[place:]
    return bytes(other)


def _other_node(draw: random.Random, node: Any, depth: int) -> Any:  # noqa: PLR0911 - one for each kind of node
    if depth and isinstance(node, list) and node:
        place = draw.randrange(len(node))
        what = draw.randrange(12)
        if what == 0:
            return node[:place] + node[place + 1 :]
        if what == 1:
            return [*node[:place], node[place], *node[place:]]
        return [*node[:place], _other_node(draw, node[place], depth - 1), *node[place + 1 :]]
    if depth and isinstance(node, dict) and node:
        chosen = draw.choice(list(node))
        return {**node, chosen: _other_node(draw, node[chosen], depth - 1)}
    if isinstance(node, bytes) and node and draw.random() < 0.8:
        return _other_bytes(draw, node)
    if type(node) is int and draw.random() < 0.5:
        return draw.choice((node + 1, node - 1, -node, *EDGES)) if abs(node) < 1 << 62 else 0
    return draw.choice((draw.choice(EDGES), draw.choice(NASTY), {1: [draw.choice(list(codec._makers)), node]}))


def use(value: Any) -> None:
    """Do with a value what its receiver may do. Python's errors are allowed, and crashes are not."""
    if isinstance(value, np.ndarray):
        value.sum() if value.dtype.kind in "biufc" else np.sort(value.astype(str), axis=None)
        value.astype(object).tolist()
        np.arange(value.size)[value.reshape(-1)] if value.dtype == bool else None
    elif isinstance(value, pa.Array | pa.ChunkedArray | pa.Table):
        value.to_pandas() if len(value) < 1 << 20 else None
    elif isinstance(value, pd.DataFrame | pd.Series):
        value.to_numpy()
    elif isinstance(value, hnp.CiphertextArray | hnp.PlaintextArray):
        value.transpose()
        value[0] if value.ndim == 1 else value[0, 0]
        HEU.evaluator().sum(value)
    elif isinstance(value, libspu.Share):
        SPU_IO.reconstruct([value, SHARES[1]])
    elif isinstance(value, ArrowRunner):
        value.dump_serving_pb("rule", value.trace.dag[0].output_schema)
        value.run(pa.table({"a": [1.5], "b": ["x"]}))
    elif isinstance(value, list | tuple | set):
        for each in value:
            with suppress(Exception):
                use(each)


def attack(count: int, seed: int) -> dict[str, int]:
    """Read mutants and return how many were refused, and how many were read. Raises AssertionError."""
    messages = [codec.dumps(sample) for sample in samples()]
    draw = random.Random(seed)
    happened: collections.Counter[str] = collections.Counter()
    watching = False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event.startswith(WATCHED):
            happened[f"{event} {arguments[:1]}"] += 1

    for message in messages:
        use(codec.loads(message))  # imports what libraries import when they are first used
    sys.addaudithook(watch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    found = collections.Counter(refused=0, read=0)
    for _ in range(count):
        message = mutant(draw, messages)
        signal.alarm(ALLOWED_SECONDS)
        watching = True
        try:
            value = codec.loads(message)
        except RecurringError:
            found["refused"] += 1
            continue
        finally:
            watching = False
        found["read"] += 1
        with suppress(Exception):
            use(value)
        with suppress(RecurringError):
            codec.dumps(value)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    assert not happened, happened
    assert grown < LONGEST_GROWTH, grown
    return {**found, "grown": grown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    found = attack(options.mutants, options.seed)
    print(f"{options.mutants} mutants in {time.monotonic() - started:.0f} s:", found)


if __name__ == "__main__":
    main()
