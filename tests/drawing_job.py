"""A task type for tests that shows what each source of randomness gives to each party. A worker gets it by `--jobs`."""

from __future__ import annotations

import random
import secrets
import ssl
import uuid

import numpy as np
import pandas as pd
from heu import numpy as hnp
from heu import phe
from msgspec import Struct
from scipy.stats import norm
from sklearn.utils import check_random_state

from sfworker.catalog import TaskParams, TaskType, register
from sfworker.models import device_objects
from sfworker.party.context import JobContext
from sfworker.party.task_dispatcher import TaskDispatcher

SEED = 42


class DrawParams(TaskParams, tag="draw", frozen=True, kw_only=True):
    """Draws."""


class DrawResult(Struct, frozen=True, kw_only=True):
    """What was drawn, by source and party."""

    drawn: dict[str, dict[str, str]]


register(TaskType(name="draw", summary="Draws", params=DrawParams, result=DrawResult, devices=frozenset({"spu"})))


def _numbers() -> dict[str, str]:
    from secretflow.ml.boost.sgb_v.factory.components.order_map_manager.order_map_actor import OrderMapActor
    from secretflow.ml.boost.sgb_v.factory.components.sampler.sample_actor import SampleActor
    from secretflow.ml.boost.sgb_v.factory.components.shuffler.worker_shuffler import WorkerShuffler

    kit = hnp.setup(phe.SchemaType.OU, 2048)
    plain = kit.array(np.zeros(1, dtype=np.int64), phe.IntegerEncoderParams(scale=1))
    # As `sgb` begins, with the seed of its job.
    OrderMapActor(0).build_order_map(np.arange(100.0).reshape(100, 1), 10, SEED)
    return {
        "sgb shuffle": str(WorkerShuffler(SEED).create_shuffle_mask(0, [50])),
        "sgb goss": str(SampleActor(SEED).goss(100, np.arange(100.0), 0.2, 0.1)[0].tolist()),
        "numpy": np.random.bytes(16).hex(),
        "numpy generator": np.random.default_rng().bytes(16).hex(),
        "scikit-learn": str(check_random_state(None).randint(2**62)),
        "pandas": str(pd.Series(range(10**6)).sample(3).tolist()),
        "scipy": str(norm.rvs(size=2).tolist()),
        "python": random.randbytes(16).hex(),
        "secrets": secrets.token_hex(16),
        "uuid": str(uuid.uuid4()),
        "openssl": ssl.RAND_bytes(16).hex(),
        "heu key": str(kit.public_key())[:2000],
        "heu ciphertext": str(kit.encryptor().encrypt(plain))[:2000],
    }


@TaskDispatcher.register_task("draw")
def draw(context: JobContext[DrawParams]) -> DrawResult:
    """Draw at each party, and let all see it. Each party's share of one number is random, too."""
    drawn = context.reveal({party: context.at(party, _numbers) for party in context.parties})
    secret = context.at(context.parties[0], np.zeros, 4).to(context.spu)
    _, parts = device_objects.take_apart(context, [secret])
    shares = context.reveal({party: context.at(party, str, parts.get(party)) for party in context.parties})
    return DrawResult(drawn={party: {**numbers, "spu": shares[party]} for party, numbers in drawn.items()})
