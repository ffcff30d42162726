"""Which SPU programs are the same, and which are kept. SecretFlow is imported in processes of their own."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from tests.jobs.test_linear import predict, succeed, train, write_halves
from tests.running_worker import ROOT, RunningWorker

TOLD_APART = """
from functools import partial
from sfworker.session.programs import identify

def plain(x, n=2):
    return x * n

def other(x, n=2):
    return x + n

def with_closure(x):
    return lambda y: x + y

class Model:
    def method(self, x):
        return x

def same(left, right):
    return identify(left) is not None and identify(left) == identify(right)

assert same(plain, plain)
assert same(partial(plain, n=3), partial(plain, n=3))
assert same(*(lambda o: None for _ in range(2)))
assert not same(plain, other)
assert not same(plain, partial(plain, n=3))
assert not same(partial(plain, n=1), partial(plain, n=1.0))
assert not same(partial(plain, n=1), partial(plain, n=True))
assert identify(with_closure(1)) is None
assert identify(partial(plain, n=[1])) is None
assert identify(partial(plain, 1)) is None
assert identify(len) is None
assert identify(Model().method) is None  # it carries the model
"""
COMPILED = """
import os
import pathlib
import sys
from functools import partial
import jax.numpy as jnp
import spu
from secretflow.device.device import spu as device
from sfworker.session.programs import Kept, use_compiled_again

def twice(x, y, factor=2):
    return {"product": (x @ y) * factor, "sums": [x.sum(), y.sum()]}

OF = spu.Visibility.VIS_SECRET, spu.ProtocolKind.SEMI2K, spu.FieldType.FM128, 26

def meta(*shape):
    return device.SPUValueMeta(shape, jnp.float32, *OF)

def compile_all():
    stock, compiled = device._spu_compile, []
    device._spu_compile = lambda *given, **named: compiled.append(given[2]) or stock(*given, **named)
    use_compiled_again(Kept(sys.argv[1], int(sys.argv[2])))
    twice.__module__ = "sfworker.jobs"
    options = spu.CompilerOptions()

    def call(function, name, *shapes):
        program, shape = device._spu_compile(function, options, name, *map(meta, *zip(*shapes)))
        return program.code, len(program.input_names), len(program.output_names), shape

    first = call(twice, "a", (2, 3), (3, 4))
    assert call(twice, "a", (2, 3), (3, 4)) == first
    assert call(partial(twice, factor=3), "b", (2, 3), (3, 4))[0] != first[0]
    call(twice, "c", (5, 3), (3, 4))
    twice.__module__ = "a_job_of_ones_own"  # which may read what its module holds
    call(twice, "own", (2, 3), (3, 4))
    returned = first[3]
    shapes = [each.shape for each in (returned["product"], *returned["sums"])]
    print(len(compiled), *compiled, returned["product"].dtype, shapes, flush=True)

for step in sys.argv[3:]:
    if step == "damage":
        damaged = sorted(pathlib.Path(sys.argv[1]).iterdir())[0]
        damaged.write_bytes(damaged.read_bytes()[:-20])
    elif not (pid := os.fork()):
        compile_all()
        os._exit(0)
    elif os.waitpid(pid, 0)[1]:
        sys.exit("failed")
"""


def run(program: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_programs_are_told_apart() -> None:
    run(TOLD_APART)


def test_another_process_takes_the_programs_of_installed_packages_and_compiles_the_others(tmp_path: Path) -> None:
    kept = tmp_path / "programs" / "tenant"
    lines = run(COMPILED, str(kept), str(1 << 20), "run", "run", "damage", "run", "run")
    returned = "float32 [(2, 4), (), ()]"
    first, second, repaired, last = [line for line in lines if returned in line]
    assert first == f"4 a b c own {returned}"
    assert second == last == f"1 own {returned}"
    assert repaired.startswith("2 ")
    assert len(list(kept.iterdir())) == 3
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700


def test_a_process_that_has_loaded_its_code_itself_compiles_and_the_oldest_programs_give_way(tmp_path: Path) -> None:
    run(COMPILED, str(tmp_path), str(1 << 20), "run")
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    assert run(COMPILED, str(tmp_path), str(2 * size), "run")[-1].startswith("4 ")
    assert len(list(tmp_path.iterdir())) == 2


def programs(worker: RunningWorker) -> dict[str, int]:
    """When each was used last."""
    return {path.name: path.stat().st_mtime_ns for path in worker.run_dir.glob("sfworker-run-*/programs/*/*")}


def test_the_next_job_takes_the_programs_of_its_own_parameters(worker: RunningWorker, data: Path) -> None:
    chance = np.random.default_rng(8)
    x = chance.normal(size=(203, 3))
    write_halves(data, x, (x.sum(axis=1) + chance.normal(size=203) > 0) * 1)
    predictions = []
    used = [programs(worker)]
    for penalty in ({}, {"penalty": "l2", "l2_norm": 5.0}, {}):
        succeed(worker, train(data, epochs=2, **penalty))
        used.append(programs(worker))
        succeed(worker, predict(data))
        predictions.append(pd.read_csv(data / "predicted.csv")["pred"].to_numpy())
    before, plain, penalised, again = used
    assert len(before) < len(plain) < len(penalised)
    assert again.keys() >= penalised.keys()
    assert any(again[name] > at for name, at in plain.items())
    assert np.abs(predictions[0] - predictions[2]).max() < 1e-3
    assert np.abs(predictions[0] - predictions[1]).max() > 0.01
