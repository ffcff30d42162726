"""`psi` on real SecretFlow, compared with what pandas joins: the right rows, each beside its partner, and no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.running_worker import RunningWorker, envelope

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}
PARTIES = ("alice", "bob")


def job(data: Path, **parameters: Any) -> dict[str, Any]:
    task = {
        "task_type": "psi",
        "keys": {"alice": ["id"], "bob": ["uid"]},
        "input_paths": {party: str(data / party / "in.csv") for party in PARTIES},
        "output_paths": {party: str(data / "out" / f"{party}.csv") for party in PARTIES},
        "receiver": "alice",
        **parameters,
    }
    return envelope(task, spu_config=SPU)


def write(data: Path, **contents: bytes | pd.DataFrame) -> None:
    for party, content in contents.items():
        (data / party).mkdir(exist_ok=True)
        path = data / party / "in.csv"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.to_csv(path, index=False)


def read(data: Path, party: str) -> pd.DataFrame:
    return pd.read_csv(data / "out" / f"{party}.csv", dtype=str, keep_default_na=False)


def pairs(data: Path) -> list[tuple[Any, ...]]:
    """What stands beside each other in the two outputs."""
    left, right = (read(data, party) for party in PARTIES)
    assert len(left) == len(right)
    return sorted(pd.concat([left, right], axis=1).itertuples(index=False, name=None))


def joined(left: pd.DataFrame, right: pd.DataFrame) -> list[tuple[Any, ...]]:
    found = left.astype(str).merge(right.astype(str), left_on="id", right_on="uid")
    return sorted(found[[*left.columns, *right.columns]].itertuples(index=False, name=None))


def customers(rows: int, seed: int, key: str, column: str, repeated: int = 0) -> pd.DataFrame:
    """Customers whose ids have leading zeros; `repeated` of the rows have the key of another row too."""
    chance = np.random.default_rng(seed)
    ids = [f"{number:06d}" for number in chance.choice(2 * rows, rows, replace=False)]
    ids += [ids[0]] * repeated
    return pd.DataFrame({column: [f"{column}{number}" for number in range(len(ids))], key: ids})


@pytest.fixture(autouse=True)
def _nothing_beside_the_files(data: Path) -> Iterator[None]:
    """An input's directory holds the input; an output's directory holds outputs that are complete."""
    yield
    for party in PARTIES:
        assert {path.stem for path in (data / party).iterdir()} == {"in"}
    assert not list((data / "out").glob(".*"))


@pytest.mark.parametrize(
    ("protocol", "means"),
    [
        ("PROTOCOL_RR22", "PROTOCOL_RR22"),
        ("PROTOCOL_KKRT", "PROTOCOL_KKRT"),
        ("PROTOCOL_ECDH", "PROTOCOL_ECDH"),
        ("KKRT_PSI_2PC", "PROTOCOL_KKRT"),
        ("ECDH_PSI_2PC", "PROTOCOL_ECDH"),
        ("RR22_FAST_PSI_2PC", "PROTOCOL_RR22"),
    ],
)
def test_finds_what_pandas_finds(worker: RunningWorker, data: Path, protocol: str, means: str) -> None:
    left, right = customers(500, 1, "id", "x"), customers(700, 2, "uid", "y")
    write(data, alice=left, bob=right)
    sent = job(data, protocol=protocol)
    result = worker.run(sent)
    expected = joined(left, right)
    assert result["result"] == {
        "intersection_count": len(expected),
        "output_paths": sent["task_config"]["output_paths"],
        "protocol": means,
        "parties": ["alice", "bob"],
    }
    assert pairs(data) == expected
    assert list(read(data, "alice")["id"]) == sorted(row[1] for row in expected)


@pytest.mark.parametrize("curve", ["CURVE_25519", "CURVE_SM2", "CURVE_SECP256K1"])
def test_other_curves(worker: RunningWorker, data: Path, curve: str) -> None:
    left, right = customers(20, 1, "id", "x"), customers(20, 2, "uid", "y")
    write(data, alice=left, bob=right)
    assert worker.run(job(data, protocol="PROTOCOL_ECDH", ecdh_curve=curve))["status"] == "success"
    assert pairs(data) == joined(left, right)


@pytest.mark.parametrize("receiver", PARTIES)
@pytest.mark.parametrize(("at_alice", "at_bob"), [(3, 0), (0, 3), (2, 3)])
def test_duplicated_keys_join_as_in_a_database(
    worker: RunningWorker, data: Path, receiver: str, at_alice: int, at_bob: int
) -> None:
    left = pd.DataFrame({"x": list("abcdefgh"), "id": ["01", "02", "03", "04", *["07"] * 4]})
    right = pd.DataFrame({"uid": ["02", "03", "09", *["07"] * 4], "y": list("ABCDEFG")})
    left, right = left[: 5 + at_alice], right[: 4 + at_bob]
    write(data, alice=left, bob=right)
    result = worker.run(job(data, receiver=receiver))
    assert result["result"]["intersection_count"] == 2 + (1 + at_alice) * (1 + at_bob)
    assert pairs(data) == joined(left, right)


def test_only_the_receiver_gets_a_file(worker: RunningWorker, data: Path) -> None:
    left, right = customers(50, 1, "id", "x"), customers(50, 2, "uid", "y", repeated=2)
    write(data, alice=left, bob=right)
    sent = job(data, broadcast_result=False, receiver="bob")
    result = worker.run(sent)["result"]
    assert result["output_paths"] == {"bob": sent["task_config"]["output_paths"]["bob"]}
    assert not (data / "out" / "alice.csv").exists()
    expected = sorted(row for row in right.itertuples(index=False, name=None) if row[1] in set(left["id"]))
    assert result["intersection_count"] == len(expected)
    assert sorted(read(data, "bob").itertuples(index=False, name=None)) == expected


@pytest.mark.parametrize("protocol", ["PROTOCOL_RR22", "PROTOCOL_KKRT", "PROTOCOL_ECDH"])
def test_nobody_in_common_is_a_success(worker: RunningWorker, data: Path, protocol: str) -> None:
    write(data, alice=b"x,id\n1,a\n2,b\n", bob=b"uid,y\nc,3\n")
    assert worker.run(job(data, protocol=protocol))["result"]["intersection_count"] == 0
    assert list(read(data, "alice").columns) == ["x", "id"]
    assert len(read(data, "alice")) == len(read(data, "bob")) == 0


def test_keys_are_text(worker: RunningWorker, data: Path) -> None:
    write(data, alice=b"id,x\n1,a\n01,b\n1.0,c\n1e0,d\n", bob=b"uid,y\n01,A\n1.0,B\n0001,C\n")
    worker.run(job(data))
    assert pairs(data) == [("01", "b", "01", "A"), ("1.0", "c", "1.0", "B")]


def test_cells_stay_as_they_are(worker: RunningWorker, data: Path) -> None:
    write(data, alice=b"id,x\n1,NA\n2,NULL\n3,0.10\n4,\n5, a \n", bob=b"uid,y\n1,nan\n2,1e5\n3,true\n4,00\n5,N/A\n")
    worker.run(job(data))
    assert list(read(data, "alice")["x"]) == ["NA", "NULL", "0.10", "", " a "]
    assert list(read(data, "bob")["y"]) == ["nan", "1e5", "true", "00", "N/A"]


@pytest.mark.parametrize(
    "alice",
    [
        b'name,id\n"Li, Na",1\n"say ""hi""",2\nplain,3\n',
        b'name,id\r\n"Li, Na",1\r\n"say ""hi""",2\r\nplain,3\r\n',
        b'\xef\xbb\xbfname,id\n"Li, Na",1\n\n"say ""hi""",2\n\nplain,3',
    ],
    ids=["quotes", "line ends of Windows", "byte order mark and empty lines"],
)
def test_what_a_shell_tool_cannot_sort(worker: RunningWorker, data: Path, alice: bytes) -> None:
    """SecretFlow sorts lines with `sort`, which would put these rows beside the wrong ones."""
    write(data, alice=alice, bob=b"y,uid\nC,3\nA,1\nB,2\n")
    worker.run(job(data))
    assert pairs(data) == [("Li, Na", "1", "A", "1"), ("plain", "3", "C", "3"), ('say "hi"', "2", "B", "2")]


def test_keys_of_several_columns_with_any_character(worker: RunningWorker, data: Path) -> None:
    write(
        data,
        alice='姓名,城市,x\n"张,三",北京,1\n李四,上海,2\n"王\n五",广州,3\n'.encode(),
        bob='城市,人,y\n上海,李四,A\n北京,"张,三",B\n广州,"王\n五",C\n广州,李四,D\n'.encode(),
    )
    worker.run(job(data, keys={"alice": ["姓名", "城市"], "bob": ["人", "城市"]}))
    assert [(row[2], row[5]) for row in pairs(data)] == [("1", "B"), ("2", "A"), ("3", "C")]


def test_parquet_in_and_out(worker: RunningWorker, data: Path) -> None:
    left, right = customers(30, 1, "id", "x"), customers(30, 2, "uid", "y")
    for party, frame in (("alice", left.assign(amount=1.5)), ("bob", right)):
        (data / party).mkdir()
        frame.to_parquet(data / party / "in.parquet")
    paths = {party: str(data / party / "in.parquet") for party in PARTIES}
    outputs = {"alice": str(data / "out" / "alice.parquet"), "bob": str(data / "out" / "bob.csv")}
    assert worker.run(job(data, input_paths=paths, output_paths=outputs))["status"] == "success"
    found = pd.read_parquet(outputs["alice"])
    assert found["amount"].dtype == np.float64
    rows = pd.concat([found[["x", "id"]], read(data, "bob")], axis=1)
    assert sorted(rows.itertuples(index=False, name=None)) == joined(left, right)


def test_an_input_directory_may_be_read_only(worker: RunningWorker, data: Path) -> None:
    """SecretFlow would leave a file beside its input; for root, who may write anyway, the fixture sees that none is."""
    write(data, alice=b"id,x\n1,a\n2,b\n", bob=b"uid,y\n2,A\n")
    (data / "alice").chmod(0o500)
    assert worker.run(job(data))["result"]["intersection_count"] == 1
    (data / "alice").chmod(0o700)


# --- what cannot work


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"protocol": "BC22_PSI_2PC"}, "task_config.protocol: "),
        ({"ecdh_curve": "CURVE_X"}, "task_config.ecdh_curve: "),
        ({"keys": {"alice": ["id"]}}, "task_config.keys.bob: required"),
        ({"keys": {"alice": ["id"], "bob": ["uid", "y"]}}, "task_config.keys: both parties need the same number"),
        ({"keys": {"alice": ["id", "id"], "bob": ["uid", "y"]}}, "task_config.keys.alice: names a column twice"),
        ({"receiver": "carol"}, "task_config.receiver: "),
        ({"output_paths": {"alice": "a.csv"}}, "task_config.output_paths.bob: required"),
        ({"input_paths": {"alice": "a.csv", "bob": "b.csv"}, "output_paths": {"alice": "./a.csv", "bob": "c.csv"}},
         "task_config.output_paths.alice: is the party's input"),
    ],
)  # fmt: skip
def test_parameters(worker: RunningWorker, data: Path, parameters: dict[str, Any], said: str) -> None:
    write(data, alice=b"id\n1\n", bob=b"uid,y\n1,2\n")
    result = worker.run(job(data, **parameters))
    assert result["error_type"] == "ParameterValidationError"
    assert result["error"].startswith(said)


@pytest.mark.parametrize(
    ("files", "parameters", "said"),
    [
        (
            {"bob": b"uid,y\n1,a\n2,b\n1,c\n"},
            {"table_keys_duplicated": False},
            "task_config.input_paths.bob: a key occ",
        ),
        ({"alice": b"x,y\n1,2\n"}, {}, "task_config.keys.alice: the party's input file has no column 'id'"),
        ({"alice": b"id,id\n1,2\n"}, {}, "task_config.input_paths.alice: the header names a column twice"),
        ({"alice": b"id,x\n"}, {}, "task_config.input_paths.alice: the file has a header and no rows"),
        ({"alice": b""}, {}, "task_config.input_paths.alice: the file is empty"),
        (
            {"bob": b"uid,y\n1,2\n2,3\n4711\n"},
            {},
            "task_config.input_paths.bob: row 3 has 1 cells where the header has 2",
        ),
        ({"bob": "uid,城市\n1,北京\n".encode("gbk")}, {}, "task_config.input_paths.bob: not a CSV file in UTF-8"),
    ],
)
def test_inputs(
    worker: RunningWorker, data: Path, files: dict[str, bytes], parameters: dict[str, Any], said: str
) -> None:
    write(data, **({"alice": b"id,x\n1,2\n2,3\n", "bob": b"uid,y\n1,2\n"} | files))
    result = worker.run(job(data, **parameters))
    assert result["error_type"] == "InputDataError", result
    assert result["error"].startswith(said)
    assert not list((data / "out").glob("*"))
