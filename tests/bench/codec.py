"""The codec beside the pickles that SecretFlow would send, medians in milliseconds.

    python -m tests.bench.codec

Each is what a party does: writing into pieces to send, and reading what it has received.
"""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from secretflow.utils import secure_pickle

from sfworker.session import codec

REPETITIONS = 21
VALUES: dict[str, Any] = {
    "array of 32 MB": np.random.default_rng(0).random(4 << 20),
    "1,000 tuples": [(number, number / 2) for number in range(1000)],
    "1,000 lists": [[number, number / 2] for number in range(1000)],
    "1,000 arrays": [np.arange(10) for _ in range(1000)],
    "100,000 texts": [f"id{number}" for number in range(100_000)],
    "32 chunks of 1 MB": [bytes([number]) * (1 << 20) for number in range(32)],
}


def main() -> None:
    print("| value | pickle: write | read | codec: write | read |\n|---|---|---|---|---|")
    for name, value in VALUES.items():
        pickled, message = secure_pickle.dumps(value), bytearray(codec.dumps(value))
        works: list[Callable[[], Any]] = [
            lambda value=value: secure_pickle.dumps(value),
            lambda pickled=pickled: pickle.loads(pickled),  # noqa: S301 - its own
            lambda value=value: codec.encode(value),
            lambda message=message: codec.loads(message),
        ]
        print(f"| {name} |", " | ".join(f"{median(work):.3f}" for work in works), "|")


def median(work: Callable[[], Any]) -> float:
    taken = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


if __name__ == "__main__":
    main()
