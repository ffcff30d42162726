"""`unbalanced_psi` on real SecretFlow, compared with pandas merges of the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.jobs import test_psi
from tests.jobs.test_psi import PARTIES, Frames, run
from tests.jobs.test_psi_joins import JOIN_TYPES, assert_is_join, assert_rows, expected
from tests.running_worker import RunningWorker, envelope


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


def cache(data: Path, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "unbalanced_psi_cache",
        "server": "bob",
        "keys": {"bob": ["id"]},
        "input_paths": {"bob": str(data / "bob.csv")},
        "cache_path": cache_path(data),
        **parameters,
    }
    return envelope(task, spu_config=test_psi.SPU)


def cache_path(data: Path) -> dict[str, str]:
    return {party: str(data / f"cache-{party}") for party in PARTIES}


def test_one_cache_for_several_joins(worker: RunningWorker, data: Path) -> None:
    frames = large_and_small()
    frames["bob"].to_csv(data / "bob.csv", index=False)
    made = worker.run(cache(data))
    assert made["status"] == "success", made
    assert made["result"]["cache_path"] == cache_path(data)
    content = {path: path.read_bytes() for path in data.glob("cache-*/**/*") if path.is_file()}
    for join_type, broadcast in (("inner", True), ("full", True), ("left", False)):
        frames["alice"]["id"] = np.roll(frames["bob"]["id"].to_numpy(), len(join_type))[:40]
        job = unbalanced_psi(data, cache_path=cache_path(data), join_type=join_type, broadcast_result=broadcast)
        _, found = run(worker, data, frames, job)
        if broadcast:
            assert_is_join(frames, found, "alice", join_type)
        else:
            assert len(found["alice"]) == len(expected(frames, "alice", join_type))
        for output in data.glob("out-*"):
            output.unlink()
    assert content == {path: path.read_bytes() for path in data.glob("cache-*/**/*") if path.is_file()}


def another_file(data: Path, job: dict[str, Any]) -> None:
    with (data / "bob.csv").open("a") as file:
        file.write("5000,k5000\n")


def other_keys(data: Path, job: dict[str, Any]) -> None:
    job["task_config"]["keys"]["bob"] = ["of_bob"]


def other_server(data: Path, job: dict[str, Any]) -> None:
    job["task_config"]["server"] = "alice"


def no_cache(data: Path, job: dict[str, Any]) -> None:
    (data / "cache-alice" / "psi-cache.json").unlink()


def part_of_another_cache(data: Path, job: dict[str, Any]) -> None:
    about = data / "cache-alice" / "psi-cache.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"cache_id": "0"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_file, "task_config.cache_path.bob: was made from another file"),
        (other_keys, "task_config.cache_path.bob: was made from another file"),
        (other_server, "task_config.cache_path."),
        (no_cache, "task_config.cache_path.alice: holds no cache"),
        (part_of_another_cache, "task_config.cache_path: the parties' directories hold parts of different caches"),
    ],
)
def test_a_cache_that_does_not_fit(worker: RunningWorker, data: Path, change: Any, said: str) -> None:
    frames = large_and_small()
    for party, frame in frames.items():
        frame.to_csv(data / f"{party}.csv", index=False)
    assert worker.run(cache(data))["status"] == "success"
    job = unbalanced_psi(data, cache_path=cache_path(data))
    change(data, job)
    result = worker.run(job)
    assert result["error_type"] == "InputDataError", result
    assert result["error"].startswith(said)
    assert not list(data.glob("out-*"))


def test_a_cache_of_a_broken_file(worker: RunningWorker, data: Path) -> None:
    (data / "bob.csv").write_text("id,w\n1,5\n2,6,7\n")
    result = worker.run(cache(data))
    assert result["error"].startswith("task_config.input_paths.bob: row 2 has")
    assert [path.name for path in data.iterdir()] == ["bob.csv"]


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
    assert result["intersection_count"] == 0
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
    (data / "alice.csv").write_text("id,v\n1,a\n2,b,c\n")
    (data / "bob.csv").write_text("id,w\n1,5\n")
    result = worker.run(unbalanced_psi(data))
    assert result["error_type"] == "InputDataError"
    assert result["error"].startswith("task_config.input_paths.alice: row 2 has")
