"""When a program for the SPU is the same as one before. SecretFlow is imported in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from functools import partial
from sfworker.session.spu_runtime import _program

def plain(x, n=2):
    return x * n

def other(x, n=2):
    return x + n

def with_closure(x):
    return lambda y: x + y

def same(left, right):
    return _program(left) is not None and _program(left) == _program(right)

assert same(plain, plain)
assert same(partial(plain, n=3), partial(plain, n=3))
assert same(*(lambda o: None for _ in range(2)))
assert not same(plain, other)
assert not same(plain, partial(plain, n=3))
assert not same(partial(plain, n=1), partial(plain, n=1.0))
assert not same(partial(plain, n=1), partial(plain, n=True))
assert _program(with_closure(1)) is None
assert _program(partial(plain, n=[1])) is None
assert _program(partial(plain, 1)) is None
assert _program(len) is None
"""


def test_programs_are_told_apart() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
