"""`psi` on real SecretFlow, compared with a pandas merge of the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.running_worker import RunningWorker, envelope

PARTIES = ("alice", "bob")
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}
Frames = dict[str, pd.DataFrame]


def psi(data: Path, ending: str = "csv", **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "psi",
        "keys": {"alice": ["id"], "bob": ["id"]},
        "input_paths": {party: str(data / f"{party}.{ending}") for party in PARTIES},
        "output_paths": {party: str(data / f"out-{party}.{ending}") for party in PARTIES},
        "receiver": "alice",
        **parameters,
    }
    return envelope(task, spu_config=SPU)


def run(worker: RunningWorker, data: Path, frames: Frames, job: dict[str, Any]) -> tuple[dict[str, Any], Frames]:
    """Write the frames as CSV, run the job, and return its result and what was written, all as text."""
    for party, frame in frames.items():
        frame.to_csv(data / f"{party}.csv", index=False)
    before = {path.name for path in data.iterdir()}
    ended = worker.run(job)
    assert ended["status"] == "success", ended
    result = ended["result"]
    written = {path.name for path in data.iterdir()} - before
    assert written == {f"out-{party}.csv" for party in result["output_paths"]}  # nothing is left beside the inputs
    outputs = {name[4:-4]: pd.read_csv(data / name, dtype=str, keep_default_na=False) for name in written}
    assert {len(output) for output in outputs.values()} == {result.get("row_count", result["intersection_count"])}
    return result, outputs


def intersect(worker: RunningWorker, data: Path, frames: Frames, **parameters: Any) -> tuple[int, Frames]:
    """As `run` for `psi`; returns the count and what was written."""
    result, outputs = run(worker, data, frames, psi(data, **parameters))
    return result["intersection_count"], outputs


def assert_is_merge(frames: Frames, found: Frames, count: int, keys: dict[str, list[str]] | None = None) -> None:
    """The two outputs beside each other are the rows of the inner join, each pair once."""
    keys = keys or {party: ["id"] for party in PARTIES}
    text = {party: frame.astype(str) for party, frame in frames.items()}
    expected = text["alice"].merge(text["bob"], left_on=keys["alice"], right_on=keys["bob"], suffixes=("", "_bob"))
    beside = pd.concat([found["alice"], found["bob"].add_suffix("@bob")], axis=1)
    assert count == len(expected) == len(beside)
    for left, right in zip(keys["alice"], keys["bob"], strict=True):
        assert (beside[left] == beside[f"{right}@bob"]).all()
    own, other = list(frames["alice"].columns), [c for c in frames["bob"].columns if c not in keys["bob"]]
    names = [*own, *[f"{c}@bob" for c in other]]
    wanted = expected[[*own, *[c if c not in own else f"{c}_bob" for c in other]]].set_axis(names, axis=1)
    pd.testing.assert_frame_equal(
        beside[names].sort_values(names, ignore_index=True), wanted.sort_values(names, ignore_index=True)
    )


def some(rows: int = 500, seed: int = 1) -> Frames:
    """Two parties' customers, half of them common, in an order of their own; ids with leading zeros."""
    chance = np.random.default_rng(seed)
    ids = np.array([f"{number:06d}" for number in range(2 * rows)])
    frames = {}
    for party, chosen in {"alice": ids[:rows], "bob": ids[rows // 2 : rows // 2 + rows]}.items():
        frames[party] = pd.DataFrame({"id": chance.permutation(chosen), f"of_{party}": chance.integers(0, 9999, rows)})
    return frames


@pytest.mark.parametrize(
    ("parameters", "protocol"),
    [
        ({}, "PROTOCOL_RR22"),
        ({"protocol": "PROTOCOL_KKRT"}, "PROTOCOL_KKRT"),
        ({"protocol": "PROTOCOL_ECDH"}, "PROTOCOL_ECDH"),
        ({"protocol": "PROTOCOL_ECDH", "ecdh_curve": "CURVE_SM2"}, "PROTOCOL_ECDH"),
        pytest.param({"protocol": "KKRT_PSI_2PC"}, "PROTOCOL_KKRT", marks=pytest.mark.slow),
        ({"protocol": "ECDH_PSI_2PC", "receiver": "bob"}, "PROTOCOL_ECDH"),
        ({"table_keys_duplicated": False}, "PROTOCOL_RR22"),
    ],
)
def test_every_protocol_finds_the_merge(
    worker: RunningWorker, data: Path, parameters: dict[str, Any], protocol: str
) -> None:
    frames = some()
    result, found = run(worker, data, frames, psi(data, **parameters))
    assert (result["intersection_count"], result["protocol"]) == (250, protocol)
    assert "input_rows" not in result
    assert_is_merge(frames, found, 250)


@pytest.mark.parametrize("receiver", PARTIES)
@pytest.mark.parametrize("at", PARTIES)
def test_keys_that_are_duplicated_at_one_party(worker: RunningWorker, data: Path, at: str, receiver: str) -> None:
    frames = some(60)
    frames[at] = pd.concat([frames[at], frames[at].assign(**{f"of_{at}": -1})], ignore_index=True)
    count, found = intersect(worker, data, frames, receiver=receiver)
    assert count == 60
    assert_is_merge(frames, found, count)


@pytest.mark.parametrize("receiver", PARTIES)
def test_keys_that_are_duplicated_at_both_parties(worker: RunningWorker, data: Path, receiver: str) -> None:
    chance = np.random.default_rng(3)
    frames = {
        party: pd.DataFrame({"id": chance.integers(0, 40, 100).astype(str), f"of_{party}": np.arange(100)})
        for party in PARTIES
    }
    count, found = intersect(worker, data, frames, receiver=receiver)
    assert_is_merge(frames, found, count)


def test_several_key_columns_of_different_names(worker: RunningWorker, data: Path) -> None:
    frames = {
        "alice": pd.DataFrame({"name": ["a", "a", "b", "c"], "year": [1, 2, 1, 3], "x": [1, 2, 3, 4]}),
        "bob": pd.DataFrame({"y": [5, 6, 7], "born": [2, 1, 1], "called": ["a", "c", "b"]}),
    }
    keys = {"alice": ["name", "year"], "bob": ["called", "born"]}
    count, found = intersect(worker, data, frames, keys=keys)
    assert_is_merge(frames, found, count, keys)
    assert count == 2


def test_keys_that_begin_with_each_other(worker: RunningWorker, data: Path) -> None:
    """One file goes to SecretFlow as it is, of the other the keys alone; both have to be sorted alike."""
    ids = ["a", "a b", "ab", "a!", "a#", "b", "a "]
    frames = {
        "alice": pd.DataFrame({"id": [*ids, "c"], "x": range(8)}),
        "bob": pd.DataFrame({"id": [*ids[::-1], 'quoted"'], "y": range(8)}),
    }
    count, found = intersect(worker, data, frames)
    assert count == 7
    assert_is_merge(frames, found, count)


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("repeated", [True, False])
def test_the_parties_files_may_be_put_in_order_in_different_ways(
    worker: RunningWorker, data: Path, quoted: bool, repeated: bool
) -> None:
    """Here where their keys are different, by SecretFlow where not; all of their lines, or the keys alone."""
    chance = np.random.default_rng(11)
    texts = ["".join(chance.choice([*"ab !-.~", "é", "中"], length)).strip() or "-" for length in (1, 2, 3) * 20]
    cells = pd.DataFrame([(left, right) for left in texts for right in texts], columns=["a", "b"]).drop_duplicates()
    one, other = (cells.sample(1000, random_state=seed, ignore_index=True) for seed in (1, 2))
    if repeated:
        other = pd.concat([other, other.head(50)], ignore_index=True)
    if quoted:
        other.loc[0, "a"] = 'say "x"'
    frames = {"alice": one.assign(v=range(len(one))), "bob": other.assign(w=range(len(other)))}
    keys = {party: ["b", "a"] for party in PARTIES}
    count, found = intersect(worker, data, frames, keys=keys, left_side="bob")
    assert_is_merge(frames, found, count, keys)


@pytest.mark.parametrize("duplicated", [True, False])
def test_a_key_that_is_not_the_first_column(worker: RunningWorker, data: Path, duplicated: bool) -> None:
    frames = some(100)
    frames["bob"] = frames["bob"][["of_bob", "id"]]
    count, found = intersect(worker, data, frames, table_keys_duplicated=duplicated)
    assert_is_merge(frames, found, count)


def test_several_key_columns_are_not_run_together(worker: RunningWorker, data: Path) -> None:
    """Rows that differ only in where one key column ends and the next begins."""
    cells = [["x,1", "y"], ["x", "1,y"], ["x\x1f", "y"], ["x", "\x1fy"], ["x", "y"]]
    frames = {
        "alice": pd.DataFrame(cells, columns=["a", "b"]).assign(v=range(5)),
        "bob": pd.DataFrame(cells[1:], columns=["c", "d"]).assign(w=range(4)),
    }
    keys = {"alice": ["a", "b"], "bob": ["c", "d"]}
    count, found = intersect(worker, data, frames, keys=keys)
    assert count == 4
    assert_is_merge(frames, found, count, keys)


def test_the_receiver_alone(worker: RunningWorker, data: Path) -> None:
    count, found = intersect(worker, data, some(), broadcast_result=False, receiver="bob")
    assert list(found) == ["bob"]
    assert count == len(found["bob"]) == 250


def test_progress_is_coarse_and_says_nothing_of_the_data(worker: RunningWorker, data: Path) -> None:
    for party, frame in some(20_000).items():
        frame.to_csv(data / f"{party}.csv", index=False)
    job = psi(data, join_type="full")
    assert worker.run(job)["status"] == "success"
    heard = [event for event in worker.said(job["execution_id"]) if event["stage"] == "progress"]
    assert {event["message"] for event in heard} <= {"inputs prepared", "intersected", "outputs written"}
    assert [event["progress"] for event in heard] == sorted(event["progress"] for event in heard)
    assert heard


def test_no_row_in_common(worker: RunningWorker, data: Path) -> None:
    frames = {party: pd.DataFrame({"id": [f"{party}-{n}" for n in range(20)], "v": range(20)}) for party in PARTIES}
    count, found = intersect(worker, data, frames)
    assert count == 0
    assert {party: len(frame) for party, frame in found.items()} == {"alice": 0, "bob": 0}
    assert list(found["bob"].columns) == ["id", "v"]


def test_cells_with_commas_quotes_and_newlines(worker: RunningWorker, data: Path) -> None:
    notes = ["plain", "a, b", 'say "x"', "two\nlines", " spaces ", ""]
    frames = {
        "alice": pd.DataFrame({"id": [f"k{n}" for n in range(6)], "note": notes}),
        "bob": pd.DataFrame({"id": [f"k{n}" for n in reversed(range(6))], "word": notes[::-1]}),
    }
    count, found = intersect(worker, data, frames)
    assert_is_merge(frames, found, count)


def test_chinese_columns_and_values(worker: RunningWorker, data: Path) -> None:
    frames = {
        "alice": pd.DataFrame({"编号": ["甲", "乙", "丙"], "年龄": [1, 2, 3]}),
        "bob": pd.DataFrame({"客户": ["丙", "丁", "甲"], "收入": [7, 8, 9]}),
    }
    keys = {"alice": ["编号"], "bob": ["客户"]}
    count, found = intersect(worker, data, frames, keys=keys)
    assert_is_merge(frames, found, count, keys)


def test_files_of_another_system(worker: RunningWorker, data: Path) -> None:
    """With a byte order mark and CRLF at one party."""
    (data / "alice.csv").write_bytes("\ufeffid,v\r\n001,1\r\n002,2\r\n".encode())
    (data / "bob.csv").write_text("id,w\n002,5\n003,6\n")
    result = worker.run(psi(data))
    assert result["result"]["intersection_count"] == 1
    assert pd.read_csv(data / "out-alice.csv", dtype=str).to_dict("records") == [{"id": "002", "v": "2"}]
    assert pd.read_csv(data / "out-bob.csv", dtype=str).to_dict("records") == [{"id": "002", "w": "5"}]


@pytest.mark.parametrize("alice", ["\nid,v\n1,a\n2,b\n", "id,v\n1,a\n\n2,b\n", "id,v\n1,a\n2,b\n\n", "id,v\n1,a\n2,b"])
def test_blank_lines_and_a_last_line_without_an_end(worker: RunningWorker, data: Path, alice: str) -> None:
    (data / "alice.csv").write_text(alice)
    (data / "bob.csv").write_text("id,w\n2,5\n3,6\n")
    result = worker.run(psi(data))
    assert result["status"] == "success", result
    assert pd.read_csv(data / "out-alice.csv", dtype=str).to_dict("records") == [{"id": "2", "v": "b"}]
    assert pd.read_csv(data / "out-bob.csv", dtype=str).to_dict("records") == [{"id": "2", "w": "5"}]


def test_rows_shorter_than_the_header_end_in_empty_cells(worker: RunningWorker, data: Path) -> None:
    (data / "alice.csv").write_text("id,v,x\n2\n1,a,5\n3,b\n")
    (data / "bob.csv").write_text("id,w\n1,5\n3\n2,6\n4,7\n")
    assert worker.run(psi(data))["result"]["intersection_count"] == 3
    lines = {"alice": ['"id","v","x"', "1,a,5", "2,,", "3,b,"], "bob": ['"id","w"', "1,5", "2,6", "3,"]}
    assert {party: sorted((data / f"out-{party}.csv").read_text().splitlines()) for party in lines} == lines


def test_a_row_longer_than_the_header(worker: RunningWorker, data: Path) -> None:
    (data / "alice.csv").write_text("id,v\n1,a\n4711,b,c\n")
    (data / "bob.csv").write_text("id,w\n1,5\n")
    result = worker.run(psi(data))
    assert result["error_type"] == "InputDataError"
    assert result["error"].startswith("task_config.input_paths.alice: row 2 has")
    assert "4711" not in result["error"]
    assert {path.name for path in data.iterdir()} == {"alice.csv", "bob.csv"}


def test_cells_that_look_like_something_stay_as_they_are(worker: RunningWorker, data: Path) -> None:
    cells = ["NA", "NULL", "0.10", "1e5", "true", " a "]
    ids = ["1", "01", "1.0", "1e0", "NA", "null"]
    frames = {
        "alice": pd.DataFrame({"id": ids, "x": cells}),
        "bob": pd.DataFrame({"y": cells, "id": ids[::-1]}),
    }
    count, found = intersect(worker, data, frames)
    assert_is_merge(frames, found, count)


def test_two_outputs_at_one_path(worker: RunningWorker, data: Path) -> None:
    """Parties may share a data root; neither output is to replace the other."""
    for party, frame in some(10).items():
        frame.to_csv(data / f"{party}.csv", index=False)
    before = sorted(data.iterdir())
    result = worker.run(psi(data, output_paths=dict.fromkeys(PARTIES, str(data / "out.csv"))))
    assert result["error_type"] == "ParameterValidationError"
    assert result["error"].startswith("task_config.output_paths.")
    assert "same path" in result["error"]
    assert sorted(data.iterdir()) == before


def test_parquet_in_and_out(worker: RunningWorker, data: Path) -> None:
    frames = some(100)
    for party, frame in frames.items():
        frame.to_parquet(data / f"{party}.parquet")
    assert worker.run(psi(data, "parquet"))["result"]["intersection_count"] == 50
    found = {party: pd.read_parquet(data / f"out-{party}.parquet") for party in PARTIES}
    assert (found["alice"]["id"] == found["bob"]["id"]).all()
    assert found["bob"]["of_bob"].dtype == frames["bob"]["of_bob"].dtype
    merged = frames["bob"].merge(frames["alice"][["id"]], on="id").sort_values("id", ignore_index=True)
    pd.testing.assert_frame_equal(found["bob"].sort_values("id", ignore_index=True), merged)
