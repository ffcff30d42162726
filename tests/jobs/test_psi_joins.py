"""Outer joins of `psi` and `unbalanced_psi`, compared with pandas merges of the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.jobs.test_psi import PARTIES, Frames, psi, run, some
from tests.running_worker import RunningWorker

JOIN_TYPES = ("inner", "left", "full", "difference")


def expected(frames: Frames, left: str, join_type: str, on: str = "id") -> pd.DataFrame:
    """The parties' columns beside each other, empty where a party has no such row."""
    right = next(party for party in frames if party != left)
    sides = [frames[party].astype(str).add_suffix(f"@{party}") for party in (left, right)]
    keys = {"left_on": f"{on}@{left}", "right_on": f"{on}@{right}"}
    how = "outer" if join_type in {"full", "difference"} else join_type
    merged = sides[0].merge(sides[1], how=how, **keys)
    if join_type == "difference":
        merged = merged[merged[list(keys.values())].isna().any(axis=1)]
    return merged.fillna("")


def assert_rows(frames: Frames, found: Frames, left: str, join_type: str) -> pd.DataFrame:
    """Beside each other the outputs are the merge's rows, in whatever order; returns them."""
    wanted = expected(frames, left, join_type)
    names = list(wanted.columns)
    beside = pd.concat([found[party].add_suffix(f"@{party}") for party in PARTIES], axis=1)[names]
    pd.testing.assert_frame_equal(
        beside.sort_values(names, ignore_index=True), wanted.sort_values(names, ignore_index=True), check_dtype=False
    )
    return beside


def assert_is_join(frames: Frames, found: Frames, left: str, join_type: str) -> None:
    """The merge's rows: matches by key, then the left side's others, then the right side's, each as in its file."""
    beside = assert_rows(frames, found, left, join_type)
    right = next(party for party in PARTIES if party != left)
    kinds = np.where(beside[f"id@{right}"] == "", 1, np.where(beside[f"id@{left}"] == "", 2, 0))
    assert (np.diff(kinds) >= 0).all()
    matched = list(beside[f"id@{left}"][kinds == 0])
    assert matched == sorted(matched)
    common = set(frames[left]["id"]) & set(frames[right]["id"])
    for party, kind in ((left, 1), (right, 2)):
        own = frames[party][[key not in common for key in frames[party]["id"]]].astype(str)
        if (kinds == kind).any():
            pd.testing.assert_frame_equal(
                found[party][kinds == kind].reset_index(drop=True), own.reset_index(drop=True)
            )


def duplicated(seed: int = 5) -> Frames:
    """Keys that both parties have several times, and some that one has alone."""
    chance = np.random.default_rng(seed)
    ids = {"alice": chance.integers(0, 40, 100), "bob": chance.integers(20, 60, 90)}
    return {p: pd.DataFrame({f"of_{p}": np.arange(len(k)), "id": [f"k{n:02d}" for n in k]}) for p, k in ids.items()}


@pytest.mark.parametrize("join_type", JOIN_TYPES)
@pytest.mark.parametrize("left", PARTIES)
def test_join_types_with_keys_duplicated_at_both(worker: RunningWorker, data: Path, join_type: str, left: str) -> None:
    frames = duplicated()
    result, found = run(worker, data, frames, psi(data, join_type=join_type, left_side=left))
    assert_is_join(frames, found, left, join_type)
    assert result["intersection_count"] == len(expected(frames, left, "inner"))
    assert ("row_count" in result) == (join_type != "inner")


@pytest.mark.parametrize("join_type", JOIN_TYPES)
@pytest.mark.parametrize("left", PARTIES)
def test_only_the_receiver_gets_its_side(worker: RunningWorker, data: Path, join_type: str, left: str) -> None:
    frames = duplicated()
    job = psi(data, join_type=join_type, left_side=left, broadcast_result=False)
    _, both = run(worker, data, frames, psi(data, join_type=join_type, left_side=left))
    for output in data.glob("out-*"):
        output.unlink()
    _, found = run(worker, data, frames, job)
    assert list(found) == ["alice"]
    pd.testing.assert_frame_equal(found["alice"], both["alice"])


@pytest.mark.parametrize("join_type", JOIN_TYPES)
def test_nothing_and_everything_in_common(worker: RunningWorker, data: Path, join_type: str) -> None:
    frames = some(20)
    frames["bob"]["id"] = [f"b{n}" for n in range(20)]
    result, found = run(worker, data, frames, psi(data, join_type=join_type))
    assert result["intersection_count"] == 0
    assert len(found["bob"]) == {"inner": 0, "left": 20}.get(join_type, 40)
    assert_is_join(frames, found, "alice", join_type)
    for output in data.glob("out-*"):
        output.unlink()
    frames["bob"]["id"] = frames["alice"]["id"].to_numpy()[::-1]
    result, found = run(worker, data, frames, psi(data, join_type=join_type))
    assert result["intersection_count"] == 20
    assert len(found["bob"]) == (0 if join_type == "difference" else 20)
    assert_is_join(frames, found, "alice", join_type)


def test_absent_rows_of_a_single_column_are_rows(worker: RunningWorker, data: Path) -> None:
    frames = {party: frame[["id"]] for party, frame in duplicated().items()}
    _, found = run(worker, data, frames, psi(data, join_type="full"))
    assert_is_join(frames, found, "alice", "full")


def test_absent_rows_in_parquet_are_null(worker: RunningWorker, data: Path) -> None:
    frames = duplicated()
    for party, frame in frames.items():
        frame.to_parquet(data / f"{party}.parquet")
    assert worker.run(psi(data, "parquet", join_type="full"))["status"] == "success"
    found = {party: pd.read_parquet(data / f"out-{party}.parquet") for party in PARTIES}
    assert_is_join(
        frames,
        {p: f.convert_dtypes().astype("string").fillna("").astype(object) for p, f in found.items()},
        "alice",
        "full",
    )
    assert found["bob"].isna().any(axis=1).equals(found["bob"].isna().all(axis=1))


def test_cells_that_need_quotes_and_chinese(worker: RunningWorker, data: Path) -> None:
    frames = {
        "alice": pd.DataFrame({"id": ["甲", "乙", "a, b", "丙"], "注": ['say "x"', "two\nlines", "", "丁"]}),
        "bob": pd.DataFrame({"id": ["a, b", "丁", "甲"], "收入": [7, 8, 9]}),
    }
    for join_type in ("left", "full"):
        _, found = run(worker, data, frames, psi(data, join_type=join_type))
        assert_rows(frames, found, "alice", join_type)
        for output in data.glob("out-*"):
            output.unlink()
