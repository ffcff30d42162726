"""What a key is: the same text in CSV, Parquet and ORC, and nothing where a part of it is missing."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import orc, parquet

from tests.jobs import test_psi_three, test_unbalanced_psi
from tests.jobs.test_psi import PARTIES, psi, run
from tests.jobs.test_psi_joins import JOIN_TYPES, assert_rows
from tests.running_worker import RunningWorker

DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, 30)


def join(worker: RunningWorker, data: Path, job: dict[str, Any]) -> dict[str, Any]:
    ended = worker.run(job)
    assert ended["status"] == "success", ended
    result: dict[str, Any] = ended["result"]
    return result


@pytest.mark.parametrize("ending", ["parquet", "orc"])
def test_a_key_is_the_same_text_in_every_format(worker: RunningWorker, data: Path, ending: str) -> None:
    """Each column is a key of its own type; on the other side it is the text that people write."""
    typed = pa.table(
        {
            "gaps": pa.array([13800000001.0, None, 13800000003.0]),
            "int": pa.array([1, 2, 3], pa.int16()),
            "decimal": pa.array([Decimal("10.50"), Decimal("7.00"), Decimal("7.00")]),
            "day": pa.array([DAY] * 3),
            "midnight": pa.array([datetime.datetime(2024, 2, 29)] * 3, pa.timestamp("ns")),
            "time": pa.array([NOON] * 3, pa.timestamp("ns")),
            "yes": pa.array([True] * 3),
        }
    )
    rows = [
        "13800000001,1,10.5,2024-02-29,2024-02-29,2024-02-29 12:30:00,true",
        ",2,7,2024-02-29,2024-02-29,2024-02-29 12:30:00,true",
        "13800000003,3,7,2024-02-29,2024-02-29,2024-02-29 12:30:00,true",
    ]
    text = ",".join(typed.column_names) + "\n" + "\n".join(rows) + "\n"
    {"parquet": parquet.write_table, "orc": orc.write_table}[ending](typed, data / f"alice.{ending}")
    (data / "bob.csv").write_text(text)
    job = psi(
        data,
        keys=dict.fromkeys(PARTIES, typed.column_names),
        input_paths={"alice": str(data / f"alice.{ending}"), "bob": str(data / "bob.csv")},
    )
    assert join(worker, data, job)["intersection_count"] == 2
    for party in PARTIES:
        assert (data / f"out-{party}.csv").read_text().replace('"', "") == text.replace(f"{rows[1]}\n", "")


def test_upper_case_endings_and_compressed_files(worker: RunningWorker, data: Path) -> None:
    frame = pd.DataFrame({"id": ["007", "1.50"], "v": [1, 2]})
    frame.to_parquet(data / "alice.PARQUET")
    frame.to_csv(data / "bob.csv.gz", index=False)
    endings = {"alice": "parquet", "bob": "csv.gz"}
    job = psi(
        data,
        input_paths={"alice": str(data / "alice.PARQUET"), "bob": str(data / "bob.csv.gz")},
        output_paths={party: str(data / f"out.{ending}") for party, ending in endings.items()},
    )
    assert join(worker, data, job)["intersection_count"] == 2
    pd.testing.assert_frame_equal(pd.read_parquet(data / "out.parquet"), frame)
    pd.testing.assert_frame_equal(pd.read_csv(data / "out.csv.gz", dtype={"id": str}), frame)


def test_a_csv_file_keeps_its_keys_in_a_parquet_file(worker: RunningWorker, data: Path) -> None:
    """Other columns get types, so that the next job computes with them."""
    frame = pd.DataFrame({"id": ["1.50", "1.5", "07"], "zip": ["01", "02", "NA"], "v": [1.5, np.nan, 2.0]})
    for party in PARTIES:
        frame.to_csv(data / f"{party}.csv", index=False)
    job = psi(data, output_paths={party: str(data / f"out-{party}.parquet") for party in PARTIES})
    assert join(worker, data, job)["intersection_count"] == 3
    found = pd.read_parquet(data / "out-alice.parquet").sort_values("id", ignore_index=True)
    pd.testing.assert_frame_equal(found, frame.sort_values("id", ignore_index=True))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_missing_keys_match_nothing(worker: RunningWorker, data: Path, kind: str) -> None:
    frames = {
        "alice": pd.DataFrame({"id": ["1", "NA", *[None] * 3000], "v": range(3002)}),
        "bob": pd.DataFrame({"id": [*[None] * 3000, "NA", "2"], "w": range(3002)}),
    }
    for party, frame in frames.items():
        frame.to_csv(data / f"{party}.csv", index=False)
        frame.to_parquet(data / f"{party}.parquet")
    outputs = {party: str(data / f"out-{party}.csv") for party in PARTIES}
    assert join(worker, data, psi(data, kind, output_paths=outputs))["intersection_count"] == 1
    assert (data / "out-alice.csv").read_text().splitlines()[1:] == ["NA,1"]
    assert (data / "out-bob.csv").read_text().splitlines()[1:] == ["NA,3000"]
    unique = psi(data, kind, output_paths=outputs, table_keys_duplicated=False)
    assert join(worker, data, unique)["intersection_count"] == 1


@pytest.mark.parametrize("join_type", JOIN_TYPES)
@pytest.mark.parametrize("task", ["psi", "unbalanced_psi"])
def test_missing_keys_stay_in_outer_joins(worker: RunningWorker, data: Path, join_type: str, task: str) -> None:
    frames = {
        "alice": pd.DataFrame({"id": ["1", "2", "2", "", ""], "v": [1, 2, 3, 4, 5]}),
        "bob": pd.DataFrame({"id": ["", "2", "3", ""], "w": [6, 7, 8, 9]}),
    }
    job = psi(data, join_type=join_type)
    if task == "unbalanced_psi":
        job = test_unbalanced_psi.unbalanced_psi(data, join_type=join_type)
    result, found = run(worker, data, frames, job)
    assert result["intersection_count"] == 2
    # pandas would match them, so that they get texts of their own.
    apart = {p: f.assign(id=[i or f"{p}{n}" for n, i in enumerate(f["id"])]) for p, f in frames.items()}
    shown = {p: f.copy() for p, f in found.items()}
    numbers = {"alice": "v", "bob": "w"}
    for party, column in numbers.items():
        own = dict(zip(apart[party][column].astype(str), apart[party]["id"], strict=True))
        shown[party]["id"] = [own.get(number, "") for number in shown[party][column]]
    assert_rows(apart, shown, "alice", join_type)


def test_a_key_that_lacks_one_part_matches_nothing(worker: RunningWorker, data: Path) -> None:
    rows = "a,b,v\n1,x,1\n1,,2\n,x,3\n,,4\n"
    for party in PARTIES:
        (data / f"{party}.csv").write_text(rows)
    job = psi(data, keys={party: ["a", "b"] for party in PARTIES})
    assert join(worker, data, job)["intersection_count"] == 1
    assert (data / "out-bob.csv").read_text().splitlines()[1:] == ["1,x,1"]


def test_missing_keys_of_three_parties(worker: RunningWorker, data: Path) -> None:
    for party in test_psi_three.THREE:
        (data / f"{party}.csv").write_text("id,v\n,1\n,2\n7,3\n7,4\n")
    assert join(worker, data, test_psi_three.psi(data))["intersection_count"] == 8
    assert {line[:2] for line in (data / "out-carol.csv").read_text().splitlines()[1:]} == {"7,"}


def test_missing_keys_in_a_cache(worker: RunningWorker, data: Path) -> None:
    for party in PARTIES:
        (data / f"{party}.csv").write_text("id,v\n,1\n,2\n7,3\n8,4\n")
    join(worker, data, test_unbalanced_psi.cache(data))
    job = test_unbalanced_psi.unbalanced_psi(data, cache_path=test_unbalanced_psi.cache_path(data))
    assert join(worker, data, job)["intersection_count"] == 2
    assert (data / "out-bob.csv").read_text().splitlines()[1:] == ["7,3", "8,4"]


def test_keys_that_have_lost_digits_are_refused(worker: RunningWorker, data: Path) -> None:
    pd.DataFrame({"id": [110101199003074518.0, 1.0], "v": [1, 2]}).to_parquet(data / "alice.parquet")
    (data / "bob.csv").write_text("id,v\n110101199003074518,1\n")
    paths = {"alice": str(data / "alice.parquet"), "bob": str(data / "bob.csv")}
    ended = worker.run(psi(data, input_paths=paths))
    assert ended["error_type"] == "InputDataError"
    assert "too large to be exact" in ended["error"]


def test_where_nothing_matches_each_log_says_why(worker: RunningWorker, data: Path) -> None:
    (data / "alice.csv").write_text("id,v\n0047,1\n0048,2\n")
    (data / "bob.csv").write_text("id,v\n 47,1\n48.0,2\n")
    job = psi(data)
    result = join(worker, data, job)
    assert result["intersection_count"] == 0
    [warning] = result["warnings"]
    assert "blanks" in warning
    logged = [line for line in worker.log().splitlines() if job["execution_id"] in line and "has no match" in line]
    alice, bob = sorted(logged, key=lambda line: ".bob" in line)
    assert "leading zeros" in alice
    assert "blanks" not in alice
    assert "blanks at an end" in bob
    assert ".0" in bob
    assert not any(key in line for line in logged for key in ("0047", "0048", "48.0"))


def test_quoted_line_breaks_in_large_files(worker: RunningWorker, data: Path) -> None:
    chance = np.random.default_rng(1)
    ids = [f"k{number:06d}" for number in range(30_000)]
    frames = {
        party: pd.DataFrame(
            {"id": chance.permutation(ids), "addr": [f"{party} road,\n{n} town" for n in range(30_000)]}
        )
        for party in PARTIES
    }
    result, found = run(worker, data, frames, psi(data))
    assert result["intersection_count"] == 30_000
    assert (found["alice"]["id"] == found["bob"]["id"]).all()
    for party in PARTIES:
        alike = found[party].equals(frames[party].sort_values("id", ignore_index=True))
        assert alike
