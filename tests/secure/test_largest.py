"""The search for the largest number, on the SPU and in the plain. The SPU runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import jax.numpy as jnp
import numpy as np
import spu
from spu.utils import simulation

from sfworker.secure.largest import largest

def found(values):
    places = jnp.broadcast_to(jnp.arange(values.shape[-1], dtype=values.dtype), values.shape)
    return largest(jnp.stack([values, places]))

draw = np.random.default_rng(1)
for width in (1, 2, 3, 5, 18):
    values = draw.integers(-3, 3, size=(5, width)).astype(np.float32)  # many are equal
    assert np.array_equal(found(values), [values.max(axis=1), values.argmax(axis=1)]), width

config = spu.RuntimeConfig(protocol=spu.ProtocolKind.SEMI2K, field=spu.FieldType.FM64)
values = draw.integers(-3, 3, size=(5, 37)).astype(np.float32)
shown = simulation.sim_jax(simulation.Simulator(2, config), found)(values)
assert np.array_equal(np.rint(shown), [values.max(axis=1), values.argmax(axis=1)]), shown
"""


def test_the_first_of_the_largest_is_found() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
