"""Every format and compression on disks from one page on: it is written whole, or the disk is said to be full."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sfworker.errors import ResultSaveError
from sfworker.party import compressed
from sfworker.tables import files
from tests.mounting import PAGE, mounted

FIELD = "task_config.output_paths.alice"
ENDINGS = [".csv", ".parquet", ".orc", *(f".csv{each}" for each in (".gz", ".bz2", ".xz", ".zip", ".zst"))]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_is_whole_or_the_disk_is_full(tmp_path: Path, ending: str) -> None:
    numbers = np.random.default_rng(3).integers(0, 1 << 60, 3000)
    table = pa.table({"id": numbers.astype(str), "v": numbers})
    ample = tmp_path / f"ample{ending}"
    files.write(FIELD, ample, table)
    needed = ample.stat().st_size
    full = 0
    for pages in range(1, needed // PAGE + 2):
        with mounted(tmp_path / "disk", pages * PAGE) as disk:
            output = disk / f"output{ending}"
            try:
                files.write(FIELD, output, table)
            except ResultSaveError as error:
                full += str(error).startswith("the disk of the outputs is full; ")
                continue
            found = compressed.unpacked(FIELD, output, tmp_path)
            assert files.text(FIELD, found, ["id"]).column(0).to_pylist() == table.column("id").to_pylist()
            os.unlink(found)
    assert full == needed // PAGE
