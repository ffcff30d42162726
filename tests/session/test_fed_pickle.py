"""What a party accepts from its peers, and what of an error it sends to them.

SecretFlow is imported in a process of its own, as everywhere in these tests.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import collections, json, os, pickle, sys
import numpy as np
from secretflow.distributed.fed.exception import FedLocalError, FedRemoteError
from sfworker.errors import InputDataError, TaskExecutionError
from sfworker.session import fed_pickle

class Evil:
    def __init__(self, function, *arguments):
        self.made_of = function, arguments
    def __reduce__(self):
        return self.made_of

def outcome(data):
    try:
        return repr(fed_pickle.loads(fed_pickle.dumps(data)))
    except TaskExecutionError as error:
        return f"refused: {error}"

def sent(error):
    remote = fed_pickle.loads(fed_pickle.dumps(fed_pickle.without_foreign_text(FedRemoteError("bob", error))))
    return [type(remote).__name__, remote.party(), type(remote.cause()).__name__, str(remote.cause())]

found = {
    "array": outcome(np.arange(3, dtype=np.float32)),
    "scalar": outcome(np.float64(1.5)),
    "plain": outcome({"a": [1, 2.5, None, b"x", ("y", True)]}),
    "system": outcome(Evil(os.system, "true")),
    "eval": outcome(Evil(eval, "1 + 1")),
    "getattr": outcome(Evil(getattr, "text", "upper")),
    "numpy that runs code": outcome(Evil(np.testing._private.utils.runstring, "1", {})),
    "function": outcome(lambda: 1),
    "counter": outcome(collections.Counter("a")),
    "own error": sent(FedLocalError(InputDataError("task_config.x: wrong"))),
    "foreign error": sent(FedLocalError(ValueError("customer 4711"))),
}
fed_pickle.allow("collections", "Counter")
found["allowed counter"] = outcome(collections.Counter("a"))
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    outcomes: dict[str, object] = json.loads(run.stdout.partition("FOUND ")[2])
    return outcomes


def test_data_passes(found: dict[str, object]) -> None:
    assert found["array"] == "array([0., 1., 2.], dtype=float32)"
    assert found["scalar"] == "1.5"
    assert found["plain"] == "{'a': [1, 2.5, None, b'x', ('y', True)]}"


@pytest.mark.parametrize("kind", ["system", "eval", "getattr", "numpy that runs code", "function", "counter"])
def test_what_could_run_code_is_refused(found: dict[str, object], kind: str) -> None:
    assert str(found[kind]).startswith("refused")


def test_a_job_module_may_allow_more(found: dict[str, object]) -> None:
    assert found["allowed counter"] == "Counter({'a': 1})"


def test_our_own_sentence_reaches_the_peer_and_foreign_text_does_not(found: dict[str, object]) -> None:
    assert found["own error"] == ["FedRemoteError", "bob", "InputDataError", "task_config.x: wrong"]
    assert found["foreign error"] == ["FedRemoteError", "bob", "NoneType", "None"]
