"""The data sets of the accuracy table; parties share the columns in equal parts, and the first has the label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import datasets

GENERATED_ROWS = 100_000
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DataSet:
    """`x` of shape (rows, features), `y` of shape (rows,)."""

    name: str
    x: npt.NDArray[np.float64]
    y: Vector

    def write(self, directory: Path, parties: list[str]) -> dict[str, str]:
        """A CSV file for each party, with row numbers as ids; returns the paths."""
        frame = pd.DataFrame(self.x, columns=[f"f{number}" for number in range(self.x.shape[1])])
        ids = [f"{number:06d}" for number in range(len(self.y))]
        paths = {}
        for party, columns in zip(parties, np.array_split(frame.columns, len(parties)), strict=True):
            own = frame[columns].assign(id=ids)
            paths[party] = str(directory / f"{party}.csv")
            (own.assign(y=self.y) if party == parties[0] else own).to_csv(paths[party], index=False)
        return paths


def classes(name: str, positive: int | None = None) -> DataSet:
    """A data set of scikit-learn with a label of two classes: `positive` against the others."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    keep = x.std(axis=0) > 0
    return DataSet(name, x[:, keep], (y if positive is None else y == positive).astype(float))


def diabetes() -> DataSet:
    x, y = datasets.load_diabetes(return_X_y=True)
    return DataSet("diabetes", x, y)


def generated(kind: str) -> DataSet:
    """100,000 rows of ten features, with a label of two classes, of counts, or of any numbers."""
    chance = np.random.default_rng(11)
    x = chance.normal(size=(GENERATED_ROWS, 10)) @ chance.normal(size=(10, 10)) / 3
    score = x @ chance.normal(size=10) / 2
    labels: dict[str, Any] = {
        "classes": lambda: chance.random(GENERATED_ROWS) < 1 / (1 + np.exp(-score)),
        "counts": lambda: chance.poisson(np.exp(0.4 * score + 1)),
        "numbers": lambda: 3 * score + chance.normal(size=GENERATED_ROWS) + 20,
    }
    return DataSet(f"generated {kind}", x, labels[kind]().astype(float))
