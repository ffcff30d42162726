"""Sums of encrypted numbers by bins, and their differences, beside SecretFlow's own ones. HEU is real."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pickle
from types import SimpleNamespace

import numpy as np
from heu import numpy as hnp, phe
from secretflow.device.device.heu import HEUActor
from sfworker.secure.sgb import encrypted_sums

ROWS = 2_500
kit = hnp.setup(phe.SchemaType.OU, 1024)
coder = phe.BatchFloatEncoderParams(scale=2**20).instance(kit.get_schema())


class Counting:
    # Counts how often a row is added to a sum.
    def __init__(self, evaluator):
        self.evaluator, self.added = evaluator, 0

    def __getattr__(self, name):
        def called(data, nodes, *others):
            if name.endswith("bucket_sum"):
                self.added += np.count_nonzero(nodes) * others[0].shape[1]
            return getattr(self.evaluator, name)(data, nodes, *others)

        return called


counting = Counting(kit.evaluator())
actor = SimpleNamespace(evaluator=counting)
draw = np.random.default_rng(1)
numbers = draw.normal(size=(ROWS, 2))
data = kit.encryptor().encrypt(kit.array(numbers, coder))
stock_sums, stock_operation = encrypted_sums._stock_sums, encrypted_sums._stock_operation
encrypted_sums.use_fewer_operations()

def cipher(arrays):
    return [pickle.dumps(each) for each in arrays]

of_nodes = [(draw.permutation(ROWS) < rows).astype(np.int8) for rows in (ROWS, 999, 1_000, 1, 0)]
for features in (1, 2, 3, 10):
    for bins in (2, 11, 12, 60):
        places = draw.integers(0, bins, size=(ROWS, features), dtype=np.int8)
        for cumsum in (True, False):
            wanted = stock_sums(actor, data, of_nodes, places, bins, cumsum)
            counting.added = 0
            found = HEUActor.batch_feature_wise_bucket_sum(actor, data, of_nodes, places, bins, cumsum)
            assert cipher(found) == cipher(wanted), (features, bins, cumsum)
            assert (counting.added < 4_500 * features) == (features > 1 and bins < 12), (features, bins, counting.added)

plain = kit.array(numbers, coder)
assert str(HEUActor.batch_feature_wise_bucket_sum(actor, plain, of_nodes, places, bins, True)[0]) == str(
    stock_sums(actor, plain, of_nodes, places, bins, True)[0]
)
actor.evaluator = kit.evaluator()
for rows in (1, 2, 3, 110, 127):
    one, other = data[:rows], data[rows : 2 * rows]
    found = HEUActor.do_binary_op(actor, "sub", one, other)
    assert cipher([found]) == cipher([stock_operation(actor, "sub", one, other)]), rows
    shown = kit.decryptor().decrypt(found).to_numpy(coder)
    assert np.allclose(shown, numbers[:rows] - numbers[rows : 2 * rows], atol=1e-5), rows
for name, one, other in (("add", data[:3], data[3:6]), ("sub", data[:3], plain[:3]), ("sub", data[:3], data[:1])):
    found = HEUActor.do_binary_op(actor, name, one, other)
    assert cipher([found]) == cipher([stock_operation(actor, name, one, other)]), name
"""


def test_the_same_ciphertexts_with_fewer_operations() -> None:
    """HEU's threads are of a process of its own."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)
