"""`psi` of three parties, compared with pandas merges of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.jobs.test_psi import SPU, Frames, run
from tests.running_worker import RunningWorker, envelope

THREE = ["alice", "bob", "carol"]


def psi(data: Path, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "psi",
        "protocol": "PROTOCOL_ECDH_3PC",
        "keys": {party: ["id"] for party in THREE},
        "input_paths": {party: str(data / f"{party}.csv") for party in THREE},
        "output_paths": {party: str(data / f"out-{party}.csv") for party in THREE},
        "receiver": "alice",
        **parameters,
    }
    return envelope(task, spu_config=SPU, sf_init_config={"parties": THREE, "address": "local"})


def some(*, unique: bool) -> Frames:
    """Keys of 20 to 59 that each party has about twice, or once, in an order of its own; some are common."""
    chance = np.random.default_rng(7)
    frames = {}
    for number, party in enumerate(THREE):
        ids = np.arange(20 + 5 * number, 50 + 5 * number)
        chosen = chance.permutation(ids) if unique else chance.choice(ids, 60)
        frames[party] = pd.DataFrame({f"of_{party}": np.arange(len(chosen)), "id": [f"k {n}" for n in chosen]})
    return frames


def assert_is_merge(frames: Frames, found: Frames, on: dict[str, str] | None = None) -> None:
    """The outputs beside each other are the rows of the inner join of three, by key."""
    on = on or dict.fromkeys(THREE, "id")
    beside = pd.concat([found[party].add_suffix(f"@{party}") for party in THREE], axis=1)
    sides = {party: frame.astype(str).add_suffix(f"@{party}") for party, frame in frames.items()}
    key = {party: f"{column}@{party}" for party, column in on.items()}
    wanted = sides["alice"][sides["alice"][key["alice"]] != ""]  # pandas takes empty keys for equal
    for party in THREE[1:]:
        wanted = wanted.merge(sides[party], left_on=key["alice"], right_on=key[party])
    names = list(wanted.columns)
    pd.testing.assert_frame_equal(
        beside[names].sort_values(names, ignore_index=True), wanted.sort_values(names, ignore_index=True)
    )
    assert beside[key["alice"]].is_monotonic_increasing


@pytest.mark.parametrize("receiver", THREE)
def test_keys_that_all_have_several_times(worker: RunningWorker, data: Path, receiver: str) -> None:
    frames = some(unique=False)
    result, found = run(worker, data, frames, psi(data, receiver=receiver))
    assert_is_merge(frames, found)
    assert result["protocol"] == "PROTOCOL_ECDH_3PC"
    assert result["intersection_count"] == len(found["carol"])


@pytest.mark.parametrize("parameters", [{}, {"left_side": "bob"}, {"ecdh_curve": "CURVE_25519"}])
def test_unique_keys(worker: RunningWorker, data: Path, parameters: dict[str, Any]) -> None:
    frames = some(unique=True)
    job = psi(data, table_keys_duplicated=False, protocol="ECDH_PSI_3PC", **parameters)
    result, found = run(worker, data, frames, job)
    assert result["intersection_count"] == 20
    assert_is_merge(frames, found)


@pytest.mark.parametrize("receiver", THREE)
def test_the_receiver_alone(worker: RunningWorker, data: Path, receiver: str) -> None:
    frames = some(unique=True)
    job = psi(data, receiver=receiver, table_keys_duplicated=False, broadcast_result=False)
    _, found = run(worker, data, frames, job)
    assert list(found) == [receiver]
    common = [f"k {n}" for n in range(30, 50)]
    own = frames[receiver].astype(str).set_index("id").loc[common].reset_index()[list(frames[receiver].columns)]
    pd.testing.assert_frame_equal(found[receiver], own)


def test_files_that_are_the_same(worker: RunningWorker, data: Path) -> None:
    """SecretFlow leaves out the protocol where digests of the files' keys are equal; they never are."""
    frame = pd.DataFrame({"id": ["a", "b", "c"]})
    frames = {party: frame.assign(**{f"of_{party}": range(3)}) for party in THREE}
    _, found = run(worker, data, frames, psi(data))
    assert_is_merge(frames, found)


def test_no_key_that_all_have(worker: RunningWorker, data: Path) -> None:
    """Any two of the parties have some in common."""
    ids = {"alice": ["ab", "ac"], "bob": ["ab", "bc"], "carol": ["ac", "bc"]}
    result, found = run(worker, data, {p: pd.DataFrame({"id": k, "v": k}) for p, k in ids.items()}, psi(data))
    assert result["intersection_count"] == 0
    assert list(found["carol"].columns) == ["id", "v"]


def test_columns_of_other_names_with_cells_that_need_quotes(worker: RunningWorker, data: Path) -> None:
    ids = ["甲", "a, b", 'say "x"', "two\nlines", ""]
    frames = {
        "alice": pd.DataFrame({"编号": ids, "x": range(5)}),
        "bob": pd.DataFrame({"y": range(5), "key": ids[::-1]}),
        "carol": pd.DataFrame({"id": [*ids[1:], "乙"]}),
    }
    on = {"alice": "编号", "bob": "key", "carol": "id"}
    _, found = run(worker, data, frames, psi(data, keys={party: [column] for party, column in on.items()}))
    assert_is_merge(frames, found, on)


def test_a_key_twice_in_a_file_of_unique_ones(worker: RunningWorker, data: Path) -> None:
    for party, frame in some(unique=False).items():
        frame.to_csv(data / f"{party}.csv", index=False)
    result = worker.run(psi(data, table_keys_duplicated=False))
    assert result["error_type"] == "InputDataError"
    assert result["error"].startswith("task_config.input_paths.")
    assert "table_keys_duplicated" in result["error"]
