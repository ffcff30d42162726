"""How near the plain computation each task type comes, as one table: `make accuracy`, or ARGS="psi ss_lr" for a part.

Every job runs on a real worker, through Redis, over a protocol that keeps secrets. `seconds` is from the append to the
result, of training and prediction together where there are both. The field and its fraction bits are those that each
task type takes where an envelope says nothing, or what `--field` and `--fraction-bits` name.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from scipy import stats
from sklearn import linear_model, metrics, preprocessing
from sklearn.impute import SimpleImputer

from sfworker.cli.console import console, table
from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.accuracy.data_sets import DataSet, Vector, classes, diabetes, generated
from tests.running_worker import RunningWorker, envelope

PARTIES = {"SEMI2K": ["alice", "bob"], "CHEETAH": ["alice", "bob"], "ABY3": ["alice", "bob", "carol"]}
PLAIN = "no SPU"


@dataclass(frozen=True)
class Row:
    """A line of the table. Without `ours` and `plain`, `difference` is the largest among many figures."""

    task: str
    data_set: str
    protocol: str
    figure: str
    ours: float | None
    plain: float | None
    difference: float
    seconds: float


@dataclass(frozen=True)
class Worker:
    running: RunningWorker
    arithmetic: dict[str, str | int]
    """What envelopes say of the field, nothing or all."""


class Session:
    """Runs the jobs of one line, and writes the line."""

    def __init__(self, worker: Worker, data: DataSet, protocol: str = "SEMI2K") -> None:
        self._worker = worker.running
        self._arithmetic = worker.arithmetic
        self._data = data
        self._protocol = protocol
        self.parties = PARTIES.get(protocol, ["alice", "bob"])
        self.directory = Path(tempfile.mkdtemp(dir=self._worker.log_file.parent))
        self.inputs = data.write(self.directory, self.parties)
        self._seconds = 0.0

    @property
    def keys(self) -> dict[str, list[str]]:
        return {party: ["id"] for party in self.parties}

    def paths(self, name: str) -> dict[str, str]:
        return {party: str(self.directory / f"{party}-{name}") for party in self.parties}

    def run(self, task_type: str, **parameters: Any) -> Any:
        """The job's result. Raises RuntimeError with its sentence where it failed."""
        label_party, *others = self.parties
        job = envelope(
            {"task_type": task_type, "input_paths": self.inputs, **parameters},
            options={"time_limit": 3600, "soft_time_limit": 3500},
            spu_config={
                "cluster_def": {
                    "runtime_config": {
                        "protocol": self._protocol if self._protocol in PARTIES else "SEMI2K",
                        **self._arithmetic,
                    }
                }
            },
            heu_config={
                "sk_keeper": {"party": label_party},
                "evaluators": [{"party": party} for party in others],
                "mode": "PHEU",
                "he_parameters": {"schema": "ou", "key_pair": {"generate": {"bit_size": 2048}}},
            },
        )
        job["sf_init_config"] = {**job["sf_init_config"], "parties": self.parties}
        began = time.perf_counter()
        result = self._worker.run(job, 3600)
        self._seconds += time.perf_counter() - began
        if result["status"] != "success":
            raise RuntimeError(f"{task_type}: {result['error']}")
        return result["result"]

    def trained_and_predicted(self, task_type: str, **parameters: Any) -> Vector:
        """Predictions for the rows of the training, at the first party."""
        label = {"party": self.parties[0], "column": "y"}
        common = {"keys": self.keys, "model_path": self.paths("model")}
        self.run(task_type, label=label, **common, **parameters)
        output = str(self.directory / "predicted.csv")
        receiver = self.parties[0]
        self.run(f"{task_type}_predict", receiver=receiver, output_paths={receiver: output}, **common)
        return np.asarray(pd.read_csv(output)["pred"])

    def line(self, task: str, figure: str, ours: float, plain: float) -> Row:
        return Row(task, self._data.name, self._protocol, figure, ours, plain, abs(ours - plain), self._seconds)

    def largest(self, task: str, figure: str, ours: Any, plain: Any) -> Row:
        """A line of many figures, by the largest difference."""
        difference = float(np.abs(np.asarray(ours, dtype=float) - np.asarray(plain, dtype=float)).max())
        return Row(task, self._data.name, self._protocol, figure, None, None, difference, self._seconds)


Case = Callable[[Worker], Row]


def logistic(data: Callable[[], DataSet], protocol: str = "SEMI2K", **parameters: Any) -> Case:
    def case(worker: Worker) -> Row:
        known = data()
        session = Session(worker, known, protocol)
        settings = {"epochs": 10, "learning_rate": 0.3, "batch_size": 128, **parameters}
        ours = session.trained_and_predicted("ss_lr", **settings)
        scaled = preprocessing.StandardScaler().fit_transform(known.x)
        plain = linear_model.LogisticRegression(max_iter=1000).fit(scaled, known.y).decision_function(scaled)
        return session.line(
            "ss_lr logistic", "AUC", metrics.roc_auc_score(known.y, ours), metrics.roc_auc_score(known.y, plain)
        )

    return case


def linear(worker: Worker) -> Row:
    known = diabetes()
    session = Session(worker, known)
    ours = session.trained_and_predicted("ss_lr", regression="linear", epochs=40, batch_size=64)
    plain = linear_model.LinearRegression().fit(known.x, known.y).predict(known.x)
    return session.line("ss_lr linear", "R2", metrics.r2_score(known.y, ours), metrics.r2_score(known.y, plain))


def glm(data: Callable[[], DataSet], plain: Any, protocol: str = "SEMI2K", **parameters: Any) -> Case:
    def case(worker: Worker) -> Row:
        known = data()
        session = Session(worker, known, protocol)
        ours = session.trained_and_predicted("ss_glm", epochs=8, **parameters)
        scaled = preprocessing.StandardScaler().fit_transform(known.x)
        fitted = plain.fit(scaled, known.y)
        expected = fitted.predict_proba(scaled)[:, 1] if hasattr(fitted, "predict_proba") else fitted.predict(scaled)
        largest = np.abs(expected).max()
        return session.largest(
            f"ss_glm {parameters['distribution']}", "prediction / largest one", ours / largest, expected / largest
        )

    return case


def boosted(task_type: str, data: Callable[[], DataSet], protocol: str = "SEMI2K", **parameters: Any) -> Case:
    def case(worker: Worker) -> Row:
        known = data()
        session = Session(worker, known, protocol)
        settings = {"num_boost_round": 5, "max_depth": 4, **parameters}
        ours = session.trained_and_predicted(task_type, **settings)
        booster = xgboost.train(
            {
                "objective": "binary:logistic",
                "max_depth": settings["max_depth"],
                "eta": 0.3,
                "tree_method": "hist",
                "max_bin": 10,
            },
            xgboost.DMatrix(known.x, known.y),
            num_boost_round=settings["num_boost_round"],
        )
        plain = booster.predict(xgboost.DMatrix(known.x))
        return session.line(
            task_type, "AUC", metrics.roc_auc_score(known.y, ours), metrics.roc_auc_score(known.y, plain)
        )

    return case


def pearson(data: Callable[[], DataSet], protocol: str = "SEMI2K") -> Case:
    def case(worker: Worker) -> Row:
        known = data()
        session = Session(worker, known, protocol)
        keys = {party: ["id", "y"] if party == session.parties[0] else ["id"] for party in session.parties}
        ours = session.run("pearson_correlation", keys=keys)["correlation"]
        return session.largest("pearson_correlation", "correlation", ours, np.corrcoef(known.x.T))

    return case


def vif(data: Callable[[], DataSet], protocol: str = "SEMI2K") -> Case:
    def case(worker: Worker) -> Row:
        known = data()
        session = Session(worker, known, protocol)
        keys = {party: ["id", "y"] if party == session.parties[0] else ["id"] for party in session.parties}
        found = session.run("vif", keys=keys)["vif"]
        ours = np.array([value for party in session.parties for value in found[party].values()])
        plain = np.diag(np.linalg.inv(np.corrcoef(known.x.T)))
        return session.largest("vif", "factor / itself", ours / plain, np.ones(len(plain)))

    return case


def p_value(worker: Worker) -> Row:
    data = classes("breast_cancer")
    known = DataSet("breast_cancer, 4 features", data.x[:, :4], data.y)
    session = Session(worker, known)
    session.trained_and_predicted("ss_glm", distribution="Bernoulli", epochs=8)
    found = session.run("p_value", model_path=session.paths("model"), trained_by="ss_glm")["p_values"]
    ours = [value for party in session.parties for value in found[party].values()]
    scaled = preprocessing.StandardScaler().fit_transform(known.x)
    design = np.column_stack([scaled, np.ones(len(scaled))])
    fitted = linear_model.LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10).fit(scaled, known.y)
    mean = fitted.predict_proba(scaled)[:, 1]
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ ((mean * (1 - mean))[:, None] * design))))
    plain = 2 * stats.norm.sf(np.abs(fitted.coef_[0] / errors[:-1]))
    return session.largest("p_value logistic", "p value", ours, plain)


def psi(protocol: str) -> Case:
    def case(worker: Worker) -> Row:
        known = generated("numbers")
        session = Session(worker, known)
        chance = np.random.default_rng(5)
        frames = {}
        for party in session.parties:
            frames[party] = pd.read_csv(session.inputs[party], dtype={"id": str})
            frames[party]["id"] = chance.integers(0, 10**5, len(known.y)).astype(str)
            frames[party].to_csv(session.inputs[party], index=False)
        ours = session.run(
            "psi", keys=session.keys, output_paths=session.paths("out.csv"), receiver="alice", protocol=protocol
        )["intersection_count"]
        plain = len(frames["alice"].merge(frames["bob"], on="id"))
        return session.line(f"psi {protocol.removeprefix('PROTOCOL_')}", "rows", ours, plain)

    return case


def own_columns(task_type: str, plain: Any, gaps: float = 0.0, **parameters: Any) -> Case:
    """A preprocessing of each party's own columns, against a transformer of scikit-learn."""

    def case(worker: Worker) -> Row:
        data = classes("wine", 1)
        x = np.where(np.random.default_rng(2).random(data.x.shape) < gaps, np.nan, data.x)
        session = Session(worker, DataSet("wine", x, data.y), PLAIN)
        label = {"party": "alice", "column": "y"}
        outputs = session.paths("out.csv")
        session.run(task_type, keys=session.keys, label=label, output_paths=outputs, **parameters)
        frames = [pd.read_csv(outputs[party]) for party in session.parties]
        ours = pd.concat([frame.filter(regex=r"^f\d") for frame in frames], axis=1)
        name = " ".join([task_type, *map(str, parameters.values())])
        return session.largest(name, "cell", ours, plain.fit_transform(x))

    return case


def statistics(worker: Worker) -> Row:
    known = classes("iris", 2)
    session = Session(worker, known, PLAIN)
    found = session.run("table_statistics", keys=session.keys)["statistics"]
    frame = pd.DataFrame(known.x, columns=[f"f{number}" for number in range(known.x.shape[1])])
    plain = {"mean": frame.mean(), "std": frame.std(), "skew": frame.skew(), "kurtosis": frame.kurtosis()}
    ours = {name: values for party in session.parties for name, values in found[party].items()}
    pairs = [(ours[column][figure], plain[figure][column]) for figure in plain for column in frame]
    return session.largest("table_statistics", "mean, std, skew, kurtosis", *zip(*pairs, strict=True))


def woe(worker: Worker) -> Row:
    known = classes("breast_cancer")
    session = Session(worker, known)
    features = {
        party: [name for name in pd.read_csv(path, nrows=0) if name not in ("id", "y")]
        for party, path in session.inputs.items()
    }
    found = session.run(
        "binning",
        features=features,
        label={"party": "alice", "column": "y"},
        output_paths=session.paths("out.csv"),
        substitution="woe",
    )["iv"]
    ours = [value for party in session.parties for value in found[party].values()]
    plain = []
    for column in known.x.T:
        bins = pd.qcut(column, 10, duplicates="drop")
        counts = pd.crosstab(bins, known.y)
        counts = counts.where((counts > 0).all(axis=1), counts + 0.5)
        shares = counts / [(known.y == 0).sum(), (known.y == 1).sum()]
        plain.append(float(((shares[1.0] - shares[0.0]) * np.log(shares[1.0] / shares[0.0])).sum()))
    return session.largest("binning woe", "information value", ours, plain)


def breast_cancer() -> DataSet:
    return classes("breast_cancer")


def few_columns() -> DataSet:
    data = classes("breast_cancer")
    return DataSet("breast_cancer, 4 features", data.x[:, :4], data.y)


CASES: dict[str, list[Case]] = {
    "psi": [psi("PROTOCOL_RR22"), psi("PROTOCOL_KKRT"), psi("PROTOCOL_ECDH")],
    "ss_lr": [
        *(logistic(breast_cancer, protocol) for protocol in PARTIES),
        logistic(lambda: classes("wine", 1), batch_size=32, epochs=20),
        logistic(lambda: classes("digits", 8), epochs=30, sig_type="real", learning_rate=1.0),
        logistic(lambda: classes("iris", 2), batch_size=16, epochs=30),
        logistic(lambda: generated("classes"), batch_size=4096, epochs=3),
        linear,
    ],
    "ss_glm": [
        *(
            glm(
                few_columns,
                linear_model.LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10),
                protocol,
                distribution="Bernoulli",
            )
            for protocol in ("SEMI2K", "ABY3")
        ),
        glm(diabetes, linear_model.LinearRegression(), distribution="Tweedie", tweedie_power=0, link="Identity"),
        glm(
            lambda: generated("counts"),
            linear_model.PoissonRegressor(alpha=0, max_iter=1000, tol=1e-10),
            distribution="Poisson",
        ),
    ],
    "ss_xgb": [
        *(boosted("ss_xgb", breast_cancer, protocol) for protocol in ("SEMI2K", "ABY3")),
        boosted("ss_xgb", lambda: classes("wine", 1)),
        boosted("ss_xgb", lambda: classes("digits", 8)),
        boosted("ss_xgb", lambda: generated("classes"), num_boost_round=3, max_depth=3),
    ],
    "sgb": [
        boosted("sgb", breast_cancer, "HEU"),
        boosted("sgb", lambda: classes("wine", 1), "HEU"),
        boosted("sgb", lambda: classes("digits", 8), "HEU"),
        boosted("sgb", lambda: generated("classes"), "HEU"),
    ],
    "statistics": [
        statistics,
        *(pearson(breast_cancer, protocol) for protocol in PARTIES),
        pearson(lambda: classes("digits", 8)),
        pearson(lambda: generated("classes")),
        vif(diabetes),
        vif(lambda: generated("classes")),
        p_value,
    ],
    "preprocessing": [
        own_columns("scaler", preprocessing.StandardScaler(), method="standard"),
        own_columns("scaler", preprocessing.MinMaxScaler(), method="min_max"),
        own_columns("fillna", SimpleImputer(strategy="median"), gaps=0.1, strategy="median"),
        own_columns("encoder", preprocessing.OrdinalEncoder(), method="label"),
        woe,
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make accuracy")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(CASES)} (default: all)")
    parser.add_argument("--field", choices=("FM64", "FM128"), help="field of SPU's numbers (default: the task type's)")
    parser.add_argument("--fraction-bits", type=int, help="fraction bits (default: the field's)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - CASES.keys():
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(CASES)}")
    given = {"field": arguments.field, "fxp_fraction_bits": arguments.fraction_bits}
    arithmetic = {name: value for name, value in given.items() if value is not None}
    rows = []
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedRedis() as redis,
        RunningWorker(redis.url, Path(directory)) as running,
    ):
        for case in [case for part in arguments.parts or CASES for case in CASES[part]]:
            try:
                row = case(Worker(running, arithmetic))
            except RuntimeError as refused:
                if not arithmetic:
                    raise
                console(stderr=True).print(f"left out, as the field or its fraction bits will not do: {refused}")
                continue
            rows.append(row)
            console(stderr=True).print(f"{row.task}, {row.data_set}, {row.protocol}: {row.difference:.2g}")
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    out = table("task", "data set", "protocol", "figure", "ours >", "plain >", "difference >", "seconds >")
    for row in rows:
        figures = ["" if value is None else f"{value:,.6g}" for value in (row.ours, row.plain)]
        out.add_row(
            row.task, row.data_set, row.protocol, row.figure, *figures, f"{row.difference:.1e}", f"{row.seconds:.1f}"
        )
    console().print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
