"""No file and no parameter makes more rows, columns or bytes than the operator allows; real files, real joins."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import orc, parquet

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.catalog.examples import SPU
from tests.jobs.components import node, running, table
from tests.running_worker import RunningWorker, envelope

LIMITS = {"max_rows": "3000000", "max_columns": "50", "max_output_rows": "100000", "max_expanded_bytes": str(1 << 24)}
MOST_MEMORY = 500_000_000
KEYS = {"alice": ["k"], "bob": ["k"]}
PATHS = {"input_paths": {"alice": "a.csv", "bob": "b.csv"}, "output_paths": {"alice": "oa.csv", "bob": "ob.csv"}}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    directory = tmp_path_factory.mktemp("bounded")
    with EmbeddedRedis() as redis, RunningWorker(redis.url, directory, **LIMITS) as worker:
        yield worker


@pytest.fixture
def data(bounded: RunningWorker) -> Path:
    return bounded.log_file.parent


def refused(worker: RunningWorker, task: dict[str, Any], field: str, limit: str, **more: Any) -> None:
    result = worker.run(envelope(task, spu_config=SPU, **more), 20)
    assert result["error_type"] == "InputDataError", result
    assert result["error"].startswith(f"task_config.{field}"), result["error"]
    assert result["error"].endswith(f"or raise SFWORKER_MAX_{limit.upper()}"), result["error"]
    assert max(result["performance_metrics"]["peak_rss_bytes"].values()) < MOST_MEMORY
    assert not list(worker.log_file.parent.glob(".*partial*"))


@pytest.mark.attack("input file")
@pytest.mark.parametrize(
    "asked",
    [
        {"task_type": "psi"},
        pytest.param({"task_type": "psi", "broadcast_result": False}, marks=pytest.mark.slow),
        {"task_type": "psi", "join_type": "full"},
        {"task_type": "unbalanced_psi", "server": "bob"},
    ],
)
def test_a_join_that_multiplies_rows_is_broken_off(bounded: RunningWorker, data: Path, asked: dict[str, Any]) -> None:
    for name in ("a.csv", "b.csv"):
        (data / name).write_text("k\n" + "x\n" * 6000)
    refused(bounded, {**PATHS, "keys": KEYS, "receiver": "alice", **asked}, "input_paths", "output_rows")


@pytest.mark.attack("input file")
def test_so_is_one_of_three_parties(bounded: RunningWorker, data: Path) -> None:
    names = ("a", "b", "c")
    parties = ["alice", "bob", "carol"]
    for name in names:
        (data / f"{name}.csv").write_text("k\n" + "x\n" * 60_000)
    task = {
        "task_type": "psi",
        "protocol": "PROTOCOL_ECDH_3PC",
        "keys": {party: ["k"] for party in parties},
        "input_paths": {party: f"{name}.csv" for party, name in zip(parties, names, strict=True)},
        "output_paths": {party: f"o{name}.csv" for party, name in zip(parties, names, strict=True)},
        "receiver": "alice",
    }
    session = {"parties": parties, "address": "local"}
    refused(bounded, task, "input_paths", "output_rows", sf_init_config=session)


@pytest.mark.attack("input file")
def test_rows_that_are_long_are_not_multiplied_either(bounded: RunningWorker, data: Path) -> None:
    (data / "a.csv").write_text(f"k,long\nx,{'y' * 10_000}\n")
    (data / "b.csv").write_text("k\n" + "x\n" * 90_000)
    for output in ("oa.csv", "oa.parquet"):
        paths = {**PATHS, "output_paths": {"alice": output, "bob": "ob.csv"}}
        task = {"task_type": "psi", **paths, "keys": KEYS, "receiver": "alice"}
        refused(bounded, task, "input_paths.alice", "expanded_bytes")


def test_as_many_rows_as_its_input_has_a_join_may_write(bounded: RunningWorker, data: Path) -> None:
    (data / "a.csv").write_text("k\n" + "".join(f"{number}\n" for number in range(150_000)))
    (data / "b.csv").write_text("k\n" + "".join(f"{number}\n" for number in range(150_000)))
    task = {"task_type": "psi", **PATHS, "keys": KEYS, "receiver": "alice"}
    assert bounded.run(envelope(task, spu_config=SPU))["result"]["intersection_count"] == 150_000


@pytest.mark.attack("input file")
@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"n": 2_000_000_000}, "n"),
        ({"n": 100_001}, "n"),
        ({"n": 60_000, "stratify": {"party": "alice", "column": "k"}}, "n"),
        ({"frac": 1000}, "frac"),
        ({"frac": 1000, "stratify": {"party": "alice", "column": "k"}}, "frac"),
    ],
)
def test_so_many_rows_are_not_drawn(bounded: RunningWorker, data: Path, asked: dict[str, Any], field: str) -> None:
    (data / "a.csv").write_text("k,v\n" + "x,1\ny,2\n" * 500)
    paths = {"input_paths": {"alice": "a.csv"}, "output_paths": {"alice": "oa.csv"}}
    refused(bounded, {"task_type": "sample", "replace": True, **paths, **asked}, field, "output_rows")


@pytest.mark.attack("input file")
def test_long_rows_are_not_drawn_so_often(bounded: RunningWorker, data: Path) -> None:
    (data / "a.csv").write_text(f"k,v\nx,{'y' * 10_000}\n")
    paths = {"input_paths": {"alice": "a.csv"}, "output_paths": {"alice": "oa.csv"}}
    refused(bounded, {"task_type": "sample", "n": 90_000, "replace": True, **paths}, "input_paths", "expanded_bytes")


def _repeated(cell: str, rows: int) -> pa.Table:
    return pa.table({"k": pa.DictionaryArray.from_arrays(np.zeros(rows, dtype=np.int32), [cell])})


def _parquet(path: Path, table: pa.Table) -> None:
    parquet.write_table(table, path, compression="zstd", store_schema=False)


def _csv(lines: int) -> bytes:
    return b"k\n" + b"x\n" * lines


@pytest.mark.attack("input file")
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("bomb.csv.gz", "expanded_bytes"),
        ("bomb.csv.zst", "expanded_bytes"),
        ("texts.parquet", "expanded_bytes"),
        ("long.parquet", "expanded_bytes"),
        ("numbers.parquet", "expanded_bytes"),
        ("texts.orc", "expanded_bytes"),
        ("long.orc", "expanded_bytes"),
        ("rows.parquet", "rows"),
        ("rows.orc", "rows"),
        ("rows.csv", "rows"),
        ("wide.csv", "columns"),
        ("wide.parquet", "columns"),
        ("wide.orc", "columns"),
    ],
)
def test_a_file_that_is_more_than_it_looks_is_refused(
    bounded: RunningWorker, data: Path, name: str, limit: str
) -> None:
    wide = pa.table({f"c{number}": [1] for number in range(51)})
    make = {
        "bomb.csv.gz": lambda path: path.write_bytes(gzip.compress(_csv(10_000_000))),
        "bomb.csv.zst": lambda path: path.write_bytes(pa.compress(_csv(10_000_000), "zstd", asbytes=True)),
        "texts.parquet": lambda path: _parquet(path, _repeated("x" * 100, 1 << 21)),
        "long.parquet": lambda path: _parquet(path, _repeated("x" * 1_000_000, 1 << 20)),
        "numbers.parquet": lambda path: _parquet(path, pa.table({"k": np.zeros(2_500_000)})),
        "texts.orc": lambda path: orc.write_table(pa.table({"k": ["x" * 1000] * (1 << 16)}), path, compression="zstd"),
        "long.orc": lambda path: orc.write_table(pa.table({"k": ["x" * 1_000_000] * 300}), path, compression="zstd"),
        "rows.parquet": lambda path: _parquet(path, pa.table({"k": np.zeros(3_000_001, dtype=bool)})),
        "rows.orc": lambda path: orc.write_table(pa.table({"k": np.zeros(3_000_001)}), path, compression="zstd"),
        "rows.csv": lambda path: path.write_bytes(_csv(3_000_001)),
        "wide.csv": lambda path: path.write_text(",".join(wide.column_names) + "\n" + ",".join("1" * 51) + "\n"),
        "wide.parquet": lambda path: _parquet(path, wide),
        "wide.orc": lambda path: orc.write_table(wide, path),
    }
    make[name](data / name)
    refused(bounded, {"task_type": "table_statistics", "input_paths": {"alice": name}}, "input_paths.alice", limit)


@pytest.mark.attack("input file")
def test_encoding_makes_no_more_columns_or_bytes(bounded: RunningWorker, data: Path) -> None:
    values = [f"c{number % 40}" for number in range(600_000)]
    parquet.write_table(pa.table({"k": values}), data / "bytes.parquet", compression="zstd")
    parquet.write_table(pa.table({"k": values[:40], "l": values[:40]}), data / "columns.parquet")
    for name in ("bytes", "columns"):
        limit = {"bytes": "expanded_bytes"}.get(name, name)
        paths = {"input_paths": {"alice": f"{name}.parquet"}, "output_paths": {"alice": "oa.parquet"}}
        refused(bounded, {"task_type": "encoder", "method": "one_hot", **paths}, "input_paths.alice", limit)


@pytest.mark.attack("input file")
def test_a_components_join_is_broken_off_too(tmp_path: Path) -> None:
    tables = []
    with running(tmp_path, **LIMITS) as platform:
        for party in ("alice", "bob"):
            (platform.root(party) / "in.csv").write_text("k,v\n" + "x,1\n" * 6000)
            tables.append(table(party, "in.csv", {"v": "float64"}, ["k"]))
        keys = {"input/input_ds1/keys": ["k"], "input/input_ds2/keys": ["k"]}
        result = platform.answer(node("data_prep/psi:1.0.0", tables, ["joined", "report"], keys))
        assert result["error_type"] == "InputDataError", result
        assert result["error"].endswith("or raise SFWORKER_MAX_OUTPUT_ROWS")
        for rows, columns, limit in ((3_000_001, 1, "ROWS"), (9, 51, "COLUMNS")):
            header, row = ",".join(["k", *(f"c{number}" for number in range(columns))]), ",".join(["1"] * (columns + 1))
            (platform.root("alice") / "in.csv").write_text(f"{header}\n" + f"{row}\n" * rows)
            result = platform.answer(node("data_prep/psi:1.0.0", tables, ["joined", "report"], keys))
            assert result["error_type"] == "InputDataError", result
            assert result["error"].endswith(f"or raise SFWORKER_MAX_{limit}")
