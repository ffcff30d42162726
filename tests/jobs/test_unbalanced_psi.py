"""`unbalanced_psi` on real SecretFlow, compared with pandas merges of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.jobs import test_psi
from tests.jobs.test_psi import PARTIES, Frames, run
from tests.jobs.test_psi_joins import JOIN_TYPES, assert_is_join, assert_rows
from tests.running_worker import RunningWorker


def unbalanced_psi(data: Path, **parameters: Any) -> dict[str, Any]:
    return test_psi.psi(data, **{"task_type": "unbalanced_psi", "server": "bob", **parameters})


def large_and_small() -> Frames:
    """The server's rows are many, and some of both parties' keys occur several times."""
    chance = np.random.default_rng(11)
    ids = {"alice": chance.integers(0, 300, 40), "bob": chance.integers(100, 2000, 3000)}
    return {p: pd.DataFrame({f"of_{p}": np.arange(len(k)), "id": [f"k{n:04d}" for n in k]}) for p, k in ids.items()}


@pytest.mark.parametrize("join_type", JOIN_TYPES)
@pytest.mark.parametrize("left", PARTIES)
def test_join_types(worker: RunningWorker, data: Path, join_type: str, left: str) -> None:
    frames = large_and_small()
    job = unbalanced_psi(data, join_type=join_type, left_side=left)
    result, found = run(worker, data, frames, job)
    assert_is_join(frames, found, left, join_type)
    assert result["intersection_count"] == len(frames["alice"].merge(frames["bob"], on="id"))
    assert "protocol" not in result


@pytest.mark.parametrize("receiver", PARTIES)
@pytest.mark.parametrize("server", PARTIES)
def test_the_receiver_alone(worker: RunningWorker, data: Path, receiver: str, server: str) -> None:
    frames = large_and_small()
    job = unbalanced_psi(data, receiver=receiver, server=server, broadcast_result=False)
    _, found = run(worker, data, frames, job)
    assert list(found) == [receiver]
    other = next(party for party in PARTIES if party != receiver)
    own = frames[receiver].merge(frames[other][["id"]], on="id")
    names = list(own.columns)
    pd.testing.assert_frame_equal(
        found[receiver].sort_values(names, ignore_index=True),
        own.astype(str).sort_values(names, ignore_index=True),
    )


def test_files_that_go_as_keys_alone(worker: RunningWorker, data: Path) -> None:
    """Cells that need quotes at the client, Parquet at the server."""
    ids = ["甲", "a, b", "a", "a b", 'say "x"', "two\nlines"]
    frames = {
        "alice": pd.DataFrame({"id": ids[:4], "注": ["x", "y,z", "", "丁"]}),
        "bob": pd.DataFrame({"v": range(6), "id": ids[::-1]}),
    }
    frames["bob"].to_parquet(data / "bob.parquet")
    inputs = {"alice": str(data / "alice.csv"), "bob": str(data / "bob.parquet")}
    _, found = run(worker, data, frames, unbalanced_psi(data, input_paths=inputs))
    assert_rows(frames, found, "alice", "inner")


def test_nothing_in_common(worker: RunningWorker, data: Path) -> None:
    frames = {party: pd.DataFrame({"id": [f"{party}{n}" for n in range(9)], "v": range(9)}) for party in PARTIES}
    result, found = run(worker, data, frames, unbalanced_psi(data))
    assert result["row_count"] == 0
    assert list(found["bob"].columns) == ["id", "v"]


@pytest.mark.parametrize(
    ("parameters", "error_type", "said"),
    [
        ({"keys": {"alice": ["id"], "bob": ["customer"]}}, "InputDataError", "task_config.keys.bob"),
        ({"keys": {"alice": ["id"], "bob": ["id", "v"]}}, "ParameterValidationError", "task_config.keys"),
        ({"table_keys_duplicated": False}, "InputDataError", "task_config.input_paths.bob"),
        ({"server": "carol"}, "ParameterValidationError", "task_config.server"),
    ],
)
def test_what_cannot_work(
    worker: RunningWorker, data: Path, parameters: dict[str, Any], error_type: str, said: str
) -> None:
    (data / "alice.csv").write_text("id,v\n4711,1\n")
    (data / "bob.csv").write_text("id,v\n4711,1\n4711,2\n")
    before = sorted(data.iterdir())
    result = worker.run(unbalanced_psi(data, **parameters))
    assert result["error_type"] == error_type
    assert result["error"].startswith(said)
    assert "4711" not in result["error"]
    assert sorted(data.iterdir()) == before


def test_a_row_of_another_length(worker: RunningWorker, data: Path) -> None:
    (data / "alice.csv").write_text("id,v\n1,a\n2\n")
    (data / "bob.csv").write_text("id,w\n1,5\n")
    result = worker.run(unbalanced_psi(data))
    assert result["error_type"] == "InputDataError"
    assert result["error"].startswith("task_config.input_paths.alice: row 2 has")
