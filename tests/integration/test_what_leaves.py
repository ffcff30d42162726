"""What parties send each other holds no value, key, plain digest or order of rows of theirs. All messages are recorded.

Files hold keys and numbers that are nowhere else, so that whatever of them is found in a message comes from a file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import shutil
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.jobs.components import HEU, SEMI2K, Platform, node, table
from tests.recording_links import RECORDED
from tests.running_worker import RunningWorker, envelope

THREE = ["alice", "bob", "carol"]
ROWS = 120
COMMON = 40
"""Rows whose keys all parties have, which a set intersection may tell them."""
DIGESTS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake2s", "sha3_256", "sm3")
FRACTION_BITS = (8, 18, 20, 26, 40)
RUN = 12
"""Numbers of an order that are looked for beside each other."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    directory = tmp_path_factory.mktemp("recorded")
    for party in THREE:
        (directory / party).mkdir()
        frame(party).to_csv(directory / party / "in.csv", index=False)
    roots = json.dumps({party: [str(directory / party)] for party in THREE})
    with (
        EmbeddedRedis("--appendfsync", "no") as redis,
        RunningWorker(redis.url, directory, data_roots=roots, jobs="tests.recording_links") as worker,
    ):
        yield Platform(worker, directory)


_drawn: dict[str, pd.DataFrame] = {}
_common = [secrets.token_hex(16) for _ in range(COMMON)]


def frame(party: str) -> pd.DataFrame:
    """A party's file: keys, of which some are common to all, three columns of numbers, a label and a group."""
    if party not in _drawn:
        draw = np.random.default_rng()
        numbers = {f"{party}_{name}": draw.uniform(200, 2000, ROWS) for name in "xyz"}
        order = draw.permutation(ROWS)
        keys = np.array([*_common, *(secrets.token_hex(16) for _ in range(ROWS - COMMON))])[order]
        group, label = (
            [f"group-{row % 4}-{party}-{secrets.token_hex(1)}" for row in range(4)],
            draw.permutation(ROWS) % 2,
        )
        _drawn[party] = pd.DataFrame(
            {"id": keys, **numbers, f"{party}_label": label, f"{party}_group": [group[row % 4] for row in order]}
        )
    return _drawn[party]


def traces(party: str) -> Iterator[tuple[str, bytes]]:
    """Every form of a party's cells that is looked for, with its name."""
    own = frame(party)
    keys: list[str] = own["id"].tolist()
    for key in sorted(set(keys) - set(_common)):
        yield "key", key.encode()
        yield from digests("key", key)
    for name, among in (("all keys", keys), ("all keys, sorted", sorted(keys))):
        for separator in ("", ",", "\n", " ", "\0"):
            for end in ("", separator):
                yield from digests(name, separator.join(among) + end)
    for group in own[f"{party}_group"].unique():
        yield "group", group.encode()
    yield from orders("key", own["id"])
    for name in "xyz":
        column = own[f"{party}_{name}"]
        yield from numbers(name, column)
        yield from orders(name, column)
    yield "labels", own[f"{party}_label"].to_numpy(np.uint8).tobytes()[:48]
    for kind in (np.float32, np.float64, np.int32, np.int64):
        yield "labels", own[f"{party}_label"].to_numpy(kind).tobytes()[:256]


def digests(name: str, text: str) -> Iterator[tuple[str, bytes]]:
    for algorithm in DIGESTS:
        if algorithm in hashlib.algorithms_available:
            digest = hashlib.new(algorithm, text.encode())
            yield f"{algorithm} of {name}", digest.digest()
            yield f"{algorithm} of {name}", digest.hexdigest().encode()


def numbers(name: str, column: pd.Series[float]) -> Iterator[tuple[str, bytes]]:
    for value in column.tolist():
        yield f"{name} as text", repr(value).encode()[:12]
        yield f"{name} as double", struct.pack("<d", value)
        yield f"{name} as double", struct.pack(">d", value)
        for bits in FRACTION_BITS[1:]:
            for whole in {int(value * 2**bits), round(value * 2**bits)}:
                yield f"{name} as fixed-point number", whole.to_bytes(8, "little")
    singles = column.to_numpy(np.float32)
    for start in range(len(singles) - 2):
        yield f"{name} as floats", singles[start : start + 3].tobytes()


def orders(name: str, column: pd.Series[Any]) -> Iterator[tuple[str, bytes]]:
    order = np.argsort(column.to_numpy(), kind="stable")
    rank = np.argsort(order)
    for what, found in (("order", order), ("reversed order", order[::-1]), ("ranks", rank), ("ranks", rank + 1)):
        for kind in (np.int8, np.int16, np.int32, np.int64, ">i4", ">i8", np.float32, np.float64):
            yield f"{what} of {name}", found.astype(kind)[:RUN].tobytes()


def found_in(platform: Platform, execution_id: str, parties: Iterable[str]) -> dict[str, list[str]]:
    """What of the parties' cells is in messages of an execution, by party."""
    recorded = platform.worker.run_dir / RECORDED / execution_id
    blob = b"\n\n".join(path.read_bytes() for path in sorted(recorded.iterdir()))
    assert len(blob) > 1000, "nothing was recorded"
    # Only what begins like a trace is compared with it.
    begins = {
        begin.tobytes()
        for party in parties
        for offset in range(8)
        for begin in np.intersect1d(_begins(party), np.frombuffer(blob, np.uint64, (len(blob) - offset) // 8, offset))
    }
    told = {
        party: sorted({name for name, trace in _traces(party) if trace[:8] in begins and trace in blob})
        for party in parties
    }
    return {party: names for party, names in told.items() if names}


@functools.cache
def _traces(party: str) -> list[tuple[str, bytes]]:
    return list(traces(party))


@functools.cache
def _begins(party: str) -> npt.NDArray[np.uint64]:
    return np.unique(np.frombuffer(b"".join(trace[:8] for _, trace in _traces(party)), np.uint64))


def run(platform: Platform, task: dict[str, Any], parties: list[str], **more: Any) -> dict[str, list[str]]:
    """Run a job, which has to succeed, and return what of the parties' cells is in its messages."""
    job = envelope(
        task,
        sf_init_config={"parties": parties, "address": "local"},
        spu_config={
            "cluster_def": {"runtime_config": {**SEMI2K, "protocol": "ABY3" if len(parties) == 3 else "SEMI2K"}}
        },
        heu_config=HEU,
        **more,
    )
    for output in platform.directory.glob("*/out*.csv"):
        output.unlink()
    result = platform.worker.run(job, 120)
    assert result["status"] == "success", result
    return found_in(platform, job["execution_id"], parties)


TWO = ["alice", "bob"]


def psi(parties: list[str], **more: Any) -> dict[str, Any]:
    return {
        "task_type": "psi",
        "keys": {party: ["id"] for party in parties},
        "input_paths": dict.fromkeys(parties, "in.csv"),
        "output_paths": dict.fromkeys(parties, "out.csv"),
        "receiver": "alice",
        **more,
    }


JOINS: list[dict[str, Any]] = [
    *({"protocol": name} for name in ("PROTOCOL_RR22", "PROTOCOL_KKRT", "PROTOCOL_ECDH")),
    {"broadcast_result": False},
    *({"join_type": name} for name in ("left", "full", "difference")),
    {"task_type": "unbalanced_psi", "server": "bob"},
    {"task_type": "unbalanced_psi", "server": "alice", "join_type": "full"},
]


@pytest.mark.attack("links between parties")
@pytest.mark.parametrize(
    "join",
    [
        pytest.param(
            join, marks=pytest.mark.slow if join.get("join_type") == "difference" else ()
        )  # sends as full does
        for join in JOINS
    ],
    ids=lambda join: "-".join(map(str, join.values())),
)
def test_an_intersection_sends_nothing_of_other_rows(platform: Platform, join: dict[str, Any]) -> None:
    assert run(platform, psi(TWO, **join), TWO) == {}


@pytest.mark.attack("links between parties")
def test_an_intersection_of_three_sends_nothing_of_other_rows(platform: Platform) -> None:
    assert run(platform, psi(THREE, protocol="PROTOCOL_ECDH_3PC"), THREE) == {}


@pytest.mark.attack("links between parties")
def test_a_cache_for_unbalanced_intersections_holds_no_key(platform: Platform) -> None:
    cache = {
        "task_type": "unbalanced_psi_cache",
        "server": "bob",
        "keys": {"bob": ["id"]},
        "input_paths": {"bob": "in.csv"},
        "cache_path": dict.fromkeys(TWO, "cache"),
    }
    assert run(platform, cache, TWO) == {}
    by_cache = {"task_type": "unbalanced_psi", "server": "bob", "cache_path": dict.fromkeys(TWO, "cache")}
    assert run(platform, psi(TWO, **by_cache), TWO) == {}


def of_component(join: str) -> dict[str, Any]:
    tables = [table(party, "in.csv", {f"{party}_x": "float64"}, ["id"]) for party in TWO]
    attributes = {"join_type": join, "input/input_ds1/keys": ["id"], "input/input_ds2/keys": ["id"]}
    if join == "left_join":
        attributes["join_type/left_join/left_side"] = ["alice"]
    outputs = [f"out-{join}.orc", f"report-{join}"]
    return {"task_type": "component", "node_eval_param": node("data_prep/psi:1.0.0", tables, outputs, attributes)}


@pytest.mark.attack("links between parties")
@pytest.mark.parametrize(
    "join",
    ["inner_join", "left_join", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full_join", "difference"))],
)
def test_a_component_sends_nothing_of_other_rows(platform: Platform, join: str) -> None:
    assert run(platform, of_component(join), TWO) == {}


# --- tasks on rows that belong together


INPUTS: dict[str, Any] = {"input_paths": dict.fromkeys(TWO, "in.csv")}
IDS = {party: ["id", f"{party}_group"] for party in TWO}
LABEL = {"party": "alice", "column": "alice_label"}
FEATURES = {"alice": ["alice_x", "alice_y"], "bob": ["bob_x", "bob_y", "bob_z"]}
OUTPUTS = {"output_paths": dict.fromkeys(TWO, "out.csv")}


def trained(name: str, **more: Any) -> dict[str, Any]:
    model = {"model_path": dict.fromkeys(TWO, f"out-{name}")}
    return {"task_type": name, **INPUTS, "keys": IDS, "features": FEATURES, "label": LABEL, **model, **more}


def predicted(name: str) -> dict[str, Any]:
    model = {"model_path": dict.fromkeys(TWO, f"out-{name}")}
    outputs = {"output_paths": {"alice": "out.csv"}, "receiver": "alice"}
    return {"task_type": f"{name}_predict", **INPUTS, **model, **outputs}


TREES = {"num_boost_round": 2, "max_depth": 3}
TASKS: list[tuple[dict[str, Any], ...]] = [
    (
        trained("ss_lr", epochs=2),
        predicted("ss_lr"),
        {"task_type": "p_value", **INPUTS, "model_path": dict.fromkeys(TWO, "out-ss_lr")},
    ),
    (trained("ss_glm", distribution="Bernoulli", epochs=2),),
    (trained("ss_xgb", **TREES), predicted("ss_xgb")),
    (trained("sgb", **TREES), predicted("sgb")),
    (
        {
            "task_type": "binning",
            **INPUTS,
            "features": {"bob": ["bob_x"]},
            "label": LABEL,
            "substitution": "woe",
            **OUTPUTS,
        },
    ),
    ({"task_type": "pearson_correlation", **INPUTS, "features": FEATURES},),
    ({"task_type": "vif", **INPUTS, "features": FEATURES},),
    (
        {
            "task_type": "groupby_statistics",
            **INPUTS,
            "by": {"bob": ["bob_group"]},
            "values": {"alice": ["alice_x"]},
            "aggregations": ["sum", "mean", "var"],
        },
    ),
    ({"task_type": "scaler", **INPUTS, "features": FEATURES, **OUTPUTS},),
]
TOLD = {"groupby_statistics": {"bob": {"group"}}}
"""What a catalogue entry says that readers of the result learn."""


@pytest.mark.attack("links between parties")
@pytest.mark.parametrize("tasks", TASKS, ids=lambda tasks: tasks[0]["task_type"])
def test_a_computation_sends_no_cell_and_no_order(platform: Platform, tasks: tuple[dict[str, Any], ...]) -> None:
    for task in tasks:
        found = run(platform, task, TWO)
        told = TOLD.get(task["task_type"], {})
        assert {party: names for party, names in found.items() if set(names) - told.get(party, set())} == {}, task


OF_THREE: dict[str, Any] = {
    "input_paths": dict.fromkeys(THREE, "in.csv"),
    "features": {**FEATURES, "carol": ["carol_x", "carol_y"]},
}
_OF_THREE_TRAINED = {
    **OF_THREE,
    "keys": {party: ["id", f"{party}_group"] for party in THREE},
    "label": LABEL,
    "model_path": dict.fromkeys(THREE, "out-three"),
}
OF_THREE_TASKS: dict[str, dict[str, Any]] = {
    "pearson_correlation": OF_THREE,
    "vif": OF_THREE,
    "ss_lr": {**_OF_THREE_TRAINED, "epochs": 1},
    "ss_glm": {**_OF_THREE_TRAINED, "distribution": "Bernoulli", "epochs": 1},
    "ss_xgb": {**_OF_THREE_TRAINED, **TREES},
}


@pytest.mark.slow
@pytest.mark.attack("links between parties")
@pytest.mark.parametrize("name", OF_THREE_TASKS)
def test_a_computation_of_three_sends_no_cell_and_no_order(platform: Platform, name: str) -> None:
    for model in platform.directory.glob("*/out-three"):
        shutil.rmtree(model)
    assert run(platform, {"task_type": name, **OF_THREE_TASKS[name]}, THREE) == {}


def test_what_is_told_is_found(platform: Platform) -> None:
    """Otherwise the other tests would find nothing whatever was sent."""
    task = {"task_type": "table_statistics", **INPUTS, "keys": {party: ["id"] for party in TWO}}
    assert "x as double" in run(platform, task, TWO)["bob"]
