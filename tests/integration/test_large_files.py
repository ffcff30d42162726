"""What files of many rows take is bounded: memory grows with a few columns, not with all that a file holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.files import run, task, write_files
from tests.bench.measuring import worker

FEW, MANY = 200_000, 2_000_000
MOST_MEGABYTES = {"scaler": 150, "train_test_split": 150, "table_statistics": 150}
"""Growth with a million rows, of which each has eight columns and about 75 bytes."""


@pytest.mark.slow
@pytest.mark.parametrize("task_type", MOST_MEGABYTES)
def test_memory_grows_little_with_rows(tmp_path: Path, task_type: str) -> None:
    for rows in (FEW, MANY):
        write_files(tmp_path, rows)
    with worker(data_roots=str(tmp_path)) as running:
        few, many = (run(running, task(task_type, tmp_path, rows))[1] for rows in (FEW, MANY))
    assert (many - few) * 1_000_000 / (MANY - FEW) < MOST_MEGABYTES[task_type]
