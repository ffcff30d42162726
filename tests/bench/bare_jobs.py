"""Trainings and factors as SecretFlow computes them alone, from two parties' files to the known result.

    python -m tests.bench.bare_jobs JOB DIRECTORY PROTOCOL

JOB is one of `JOBS`, on the files of DIRECTORY, one for each party. Forked processes join over Unix sockets as those
of a worker do, and compute; prints seconds and the largest peak of memory in bytes as JSON. Counts from the start of a
session, SecretFlow being imported already.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.bare_psi import join, seconds_of_parties

EPOCHS, BATCH, RATE = 3, 1024, 0.1
TREES = {"num_boost_round": 5, "max_depth": 5, "learning_rate": 0.3, "objective": "logistic", "sketch_eps": 0.1}
GLM_EPOCHS = 5


def features_of(inputs: dict[str, str]) -> Any:
    """Return the features, brought to mean 0 and deviation 1."""
    import pandas as pd
    import secretflow as sf
    from secretflow.data import FedNdarray, PartitionWay

    def read(path: str) -> Any:
        frame = pd.read_csv(path).drop(columns=["id", "y"], errors="ignore")
        return ((frame - frame.mean()) / frame.std()).to_numpy()

    devices = map(sf.PYU, inputs)
    return FedNdarray({device: device(read)(inputs[device.party]) for device in devices}, PartitionWay.VERTICAL)


def label_of(inputs: dict[str, str]) -> Any:
    """Return the label, which alice has."""
    import pandas as pd
    import secretflow as sf
    from secretflow.data import FedNdarray, PartitionWay

    def read(path: str) -> Any:
        return pd.read_csv(path)[["y"]].to_numpy()

    alice = sf.PYU("alice")
    return FedNdarray({alice: alice(read)(inputs["alice"])}, PartitionWay.VERTICAL)


def ss_lr(spu: Any, inputs: dict[str, str]) -> None:
    import secretflow.distributed as sfd
    from secretflow.ml.linear.ss_sgd import SSRegression

    x, y = features_of(inputs), label_of(inputs)
    model = SSRegression(spu)
    model.fit(x, y, EPOCHS, RATE, BATCH, "t1", "logistic", "l2", 0.1)
    sfd.get(model.spu_w.meta)


def ss_glm(spu: Any, inputs: dict[str, str]) -> None:
    import secretflow.distributed as sfd
    from secretflow.ml.linear import SSGLM

    x, y = features_of(inputs), label_of(inputs)
    model = SSGLM(spu)
    model.fit_irls(x, y, None, None, GLM_EPOCHS, "Logit", "Bernoulli")
    sfd.get(model.spu_w.meta)


def ss_xgb(spu: Any, inputs: dict[str, str], **more: Any) -> None:
    import secretflow.distributed as sfd
    from secretflow.ml.boost.ss_xgb_v import Xgb

    x, y = features_of(inputs), label_of(inputs)
    model = Xgb(spu).train(TREES | more, x, y)
    sfd.get(model.weights[-1].meta)


def sgb(_: Any, inputs: dict[str, str]) -> None:
    import secretflow as sf
    from secretflow.ml.boost.sgb_v import Sgb

    x, y = features_of(inputs), label_of(inputs)
    parameters = {"schema": "ou", "key_pair": {"generate": {"bit_size": 2048}}}
    about = {"sk_keeper": {"party": "alice"}, "evaluators": [{"party": "bob"}], "mode": "PHEU"}
    heu = sf.HEU(about | {"he_parameters": parameters}, "FM128")
    # As ours does: else the first tree has the features of one party alone.
    model = Sgb(heu).train(TREES | {"first_tree_with_label_holder_feature": False}, x, y)
    sf.wait(model.trees[-1].leaf_weight)


def vif(spu: Any, inputs: dict[str, str]) -> None:
    """Take the columns as they are: SecretFlow's own scaler sends objects that our codec has no words for."""
    import pandas as pd
    import secretflow as sf
    from secretflow.data.vertical import read_csv
    from secretflow.stats.ss_vif_v import VIF

    names = {
        party: [*pd.read_csv(path, nrows=0).columns.drop(["id", "y"], errors="ignore")]
        for party, path in inputs.items()
    }
    paths, columns = ({sf.PYU(party): each[party] for party in inputs} for each in (inputs, names))
    VIF(spu).vif(read_csv(paths, usecols=columns), standardize=False)


JOBS: dict[str, Callable[[Any, dict[str, str]], None]] = {
    "ss_lr": ss_lr,
    "ss_glm": ss_glm,
    "ss_xgb": ss_xgb,
    "sgb": sgb,
    "vif": vif,
}


def one(job: str, data: Path, protocol: str) -> float:
    inputs = {path.stem: str(path) for path in sorted(data.glob("*.csv"))}
    with tempfile.TemporaryDirectory() as directory:

        def work(party: str) -> None:
            os.environ["TMPDIR"] = tempfile.tempdir = directory
            os.chdir(directory)  # upstream writes its log there
            JOBS[job](join(party, directory, list(inputs), protocol), inputs)

        return seconds_of_parties(work, list(inputs))


def main(job: str, data: Path, protocol: str) -> None:
    import secretflow  # noqa: F401

    from sfworker.party.preload import hide_ray

    warnings.simplefilter("ignore")
    hide_ray()
    print(
        "FIGURES", json.dumps([one(job, data, protocol), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss])
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
