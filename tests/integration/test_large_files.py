"""What files of many rows take is bounded: memory grows with a few columns, not with all that a file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.bench.files import run, task, write_files
from tests.bench.measuring import worker
from tests.running_worker import PARTIES

FEW, MANY = 200_000, 2_000_000
TRAINED, BLOCKS = 1_000, 140_000
"""Rows of a training, and rows of which a model with eight leaves is computed in several blocks."""
MOST_MEGABYTES = {"scaler": 150, "binning": 150, "train_test_split": 150, "table_statistics": 150}
"""Growth with a million rows, of which each has eight columns and about 75 bytes."""


@pytest.mark.slow
@pytest.mark.parametrize("task_type", MOST_MEGABYTES)
def test_memory_grows_little_with_rows(tmp_path: Path, task_type: str) -> None:
    for rows in (FEW, MANY):
        write_files(tmp_path, rows)
    with worker(data_roots=str(tmp_path)) as running:
        few, many = (run(running, task(task_type, tmp_path, rows))[1] for rows in (FEW, MANY))
    assert (many - few) * 1_000_000 / (MANY - FEW) < MOST_MEGABYTES[task_type]


@pytest.mark.slow
def test_predictions_in_blocks_are_those_of_few_rows(tmp_path: Path) -> None:
    for rows in (TRAINED, BLOCKS):
        write_files(tmp_path, rows)
    many, few = ({**task("ss_lr_predict", tmp_path, rows), "task_type": "ss_xgb_predict"} for rows in (BLOCKS, TRAINED))
    for party in PARTIES:
        lines = Path(many["input_paths"][party]).read_text().splitlines(keepends=True)
        Path(few["input_paths"][party]).write_text("".join([*lines[: TRAINED // 2], *lines[1 - TRAINED // 2 :]]))
    label = {"label": {"party": PARTIES[1], "column": f"{PARTIES[1]}_0"}, "num_boost_round": 2, "max_depth": 3}
    with worker(data_roots=str(tmp_path)) as running:
        training = {**task("ss_lr", tmp_path, TRAINED), "task_type": "ss_xgb", **label}
        del training["epochs"]
        run(running, training)
        predicted = []
        for each in (many, few):
            run(running, each)
            predicted.append(pd.read_csv(each["output_paths"][PARTIES[0]])["pred"].to_numpy())
    ends = TRAINED // 2 - 1
    np.testing.assert_allclose(np.concatenate([predicted[0][:ends], predicted[0][-ends:]]), predicted[1], atol=1e-5)
