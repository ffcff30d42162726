"""Compressed files are read as pandas reads them, and written so that pandas reads them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from sfworker.errors import InputDataError
from sfworker.party import compressed
from sfworker.tables import files

FIELD = "task_config.input_paths.alice"
FRAME = pd.DataFrame({"id": ["007", "a,b"], "v": ["1", "2"]})


@pytest.mark.parametrize("ending", ["csv.gz", "csv.bz2", "csv.xz", "csv.zip", "GZ"])
def test_what_pandas_has_compressed(tmp_path: Path, ending: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    FRAME.to_csv(given := tmp_path / f"t.{ending.lower()}", index=False)
    given = given.rename(tmp_path / f"t.{ending}")
    plain = compressed.unpacked(FIELD, given, scratch)
    assert files.whole(FIELD, plain).to_pydict() == FRAME.to_dict("list")
    assert compressed.unpacked(FIELD, given, scratch) == plain
    assert list(scratch.iterdir()) == [plain]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip", "zst"])
@pytest.mark.parametrize("note", ["plain", "a, b"])
def test_what_is_written_is_read_again(tmp_path: Path, ending: str, note: str) -> None:
    output = tmp_path / f"out.csv.{ending}"
    files.write(FIELD, output, pa.table({"id": ["01", note], "v": [1.5, None]}))
    plain = compressed.unpacked(FIELD, output, tmp_path)
    assert files.typed(FIELD, plain, ["id", "v"]).to_pydict() == {"id": ["01", note], "v": [1.5, None]}
    if ending != "zst":  # pandas needs a package for it
        assert pd.read_csv(output, dtype=str)["id"].tolist() == ["01", note]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip", "zst"])
@pytest.mark.parametrize("cut", [0, 3])
def test_files_that_are_not_what_their_ending_says(tmp_path: Path, ending: str, cut: int) -> None:
    path = tmp_path / f"secret-name.csv.{ending}"
    files.write(FIELD, path, pa.table({"v": ["4711"] * 1000}))
    path.write_bytes(path.read_bytes()[:-cut] if cut else b"v\n4711\n")
    with pytest.raises(InputDataError, match="cannot be unpacked") as caught:
        compressed.unpacked(FIELD, path, tmp_path)
    assert "4711" not in str(caught.value)
    assert "secret-name" not in str(caught.value)
