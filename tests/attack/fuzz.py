"""Coverage-guided fuzzing of one reader: `python -m tests.attack.fuzz --seconds 600 envelopes`.

libFuzzer, by atheris, mutates what `targets` begins with and keeps what reaches new branches of the reader's modules. A
finding ends the run with its traceback and is written to `--into`, where a later run goes on from what was kept.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from random import Random

import atheris

BEGIN_WITH = 2_000
NAMES = ("components", "envelopes", "frames", "lines", "parameters", "peers", "tables")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.attack.fuzz", description="Fuzz one reader.")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--runs", type=int, default=-1, help="executions, instead of seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--into", type=Path, help="directory of what is kept; default: one that is new")
    arguments = parser.parse_args()
    # Only what is imported inside is counted, so the modules come before anything that imports them.
    with atheris.instrument_imports(
        include=[
            "sfworker.wire",
            "sfworker.catalog",
            "sfworker.components.params",
            "sfworker.tables",
            "sfworker.pool.channel",
            "sfworker.pool.remotes",
            "sfworker.logs",
        ]
    ):
        targets = importlib.import_module("tests.attack.targets")
        target = targets.TARGETS[arguments.target]
        for module in target.modules:
            importlib.import_module(module)
    kept = arguments.into or Path(tempfile.mkdtemp(prefix=f"sfworker-fuzz-{target.name}-"))
    kept.mkdir(parents=True, exist_ok=True)
    for data in target.some(BEGIN_WITH, Random(arguments.seed)):
        if len(data) <= targets.LONGEST:
            (kept / sha256(data).hexdigest()[:16]).write_bytes(data)
            target.judge(data)  # memory that the corpus takes once is no finding
    before = _peak()

    def judge(data: bytes) -> None:
        target.judge(data)
        assert _peak() - before < targets.LIMIT_BYTES, f"{_peak() - before} bytes more for {len(data)} bytes"

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        random = Random(seed)
        changed = target.mutate(data, random) if random.random() < 0.7 else atheris.Mutate(data, longest)
        return bytes(changed[:longest])

    options = [f"-max_len={targets.LONGEST}", f"-seed={arguments.seed}", f"-artifact_prefix={kept}/finding-"]
    options += [f"-runs={arguments.runs}"] if arguments.runs >= 0 else [f"-max_total_time={arguments.seconds}"]
    options += ["-rss_limit_mb=4096", "-timeout=20", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *options, str(kept)], judge, custom_mutator=mutate)
    atheris.Fuzz()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
