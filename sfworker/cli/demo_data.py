"""The demo's data: breast cancer records of scikit-learn, held by two parties that share only some customers."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "customer_id"
LABEL = "benign"
FILE = "customers.csv"
SHARED, ONLY_ALICE = 460, 55  # of 569 records; the rest are only bob's
_SEED = 20240229


@dataclass(frozen=True)
class DemoData:
    """The data that was written, and the figures to check against, which take both parties' data to know."""

    features: dict[str, list[str]]
    shared_ids: frozenset[str]
    _ids: list[str]
    _rows: Any
    _labels: Any

    def plain_auc(self, training: list[str], held_out: list[str]) -> float:
        """Return the AUC on `held_out` customers of scikit-learn's LogisticRegression, trained on `training` ones."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        row = {each: number for number, each in enumerate(self._ids)}
        fitted, seen = [row[each] for each in training], [row[each] for each in held_out]
        model.fit(self._rows[fitted], self._labels[fitted])
        return float(roc_auc_score(self._labels[seen], model.predict_proba(self._rows[seen])[:, 1]))


def write(directories: dict[str, Path]) -> DemoData:
    """Write `customers.csv` into the directories of alice (who has the label) and bob, each in an order of its own."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    middle = len(names) // 2
    features = {"alice": names[:middle], "bob": names[middle:]}
    chance = random.Random(_SEED)  # noqa: S311 - the same data each time is the point
    # Customer numbers are text with leading zeros, which a careless reader turns into other numbers.
    ids = [f"{number:08d}" for number in chance.sample(range(1, 10_000_000), len(data.target))]
    rows = list(range(len(ids)))
    chance.shuffle(rows)
    shared = rows[:SHARED]
    held = {"alice": rows[: SHARED + ONLY_ALICE], "bob": shared + rows[SHARED + ONLY_ALICE :]}
    chance.shuffle(held["alice"])
    chance.shuffle(held["bob"])
    _write_csv(
        directories["alice"] / FILE,
        [KEY, *features["alice"], LABEL],
        ([ids[row], *data.data[row, :middle].tolist(), int(data.target[row])] for row in held["alice"]),
    )
    _write_csv(
        directories["bob"] / FILE,
        [KEY, *features["bob"]],
        ([ids[row], *data.data[row, middle:].tolist()] for row in held["bob"]),
    )
    return DemoData(features, frozenset(ids[row] for row in shared), ids, data.data, data.target)


def ids_in(path: Path) -> list[str]:
    """The customer numbers of a CSV file, in its order."""
    with path.open(newline="") as file:
        return [row[KEY] for row in csv.DictReader(file)]


def _write_csv(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
