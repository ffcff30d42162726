"""PSI without sfworker, to compare with; prints the seconds of each repetition as JSON.

    python -m tests.bench.bare_psi HOST:PORT REPETITIONS ALICE.csv BOB.csv     sf.init(address=...), psi, sf.shutdown
    python -m tests.bench.bare_psi mesh      REPETITIONS ALICE.csv BOB.csv     two forked processes over Unix sockets

`mesh` is the shortest script that does what a mesh does: it forks, joins, intersects and reports, no more. Both
count from the start of a session to the known result, SecretFlow being imported already.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

PARTIES = ("alice", "bob")
RUNTIME = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}


def psi_arguments(inputs: dict[str, str], directory: str) -> dict[str, Any]:
    return {
        "keys": {party: ["id"] for party in PARTIES},
        "input_path": inputs,
        "output_path": {party: f"{directory}/out-{party}.csv" for party in PARTIES},
        "receiver": "alice",
        "table_keys_duplicated": dict.fromkeys(PARTIES, True),
        "protocol": "PROTOCOL_RR22",
    }


def on_ray(address: str, inputs: dict[str, str], directory: str) -> float:
    import secretflow as sf

    began = time.perf_counter()
    sf.init(list(PARTIES), address=address, log_to_driver=False)
    spu = sf.SPU(sf.utils.testing.cluster_def(list(PARTIES), RUNTIME))
    spu.psi(**psi_arguments(inputs, directory))
    sf.shutdown()
    return time.perf_counter() - began


def on_mesh(inputs: dict[str, str], directory: str) -> float:
    return seconds_of_parties(lambda party: join(party, directory).psi(**psi_arguments(inputs, directory)))


def seconds_of_parties(work: Callable[[str], None], parties: Sequence[str] = PARTIES) -> float:
    """Seconds until all parties, a forked process each, have done their work."""
    began = time.perf_counter()
    ends = {}
    for party in parties:
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            work(party)
            os.write(write, b"1")
            signal.pause()  # the others may still need what this one has sent
        os.close(write)
        ends[pid] = read
    all_done = [os.read(end, 1) == b"1" for end in ends.values()]
    seconds = time.perf_counter() - began
    for pid, end in ends.items():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(end)
    if not all(all_done):
        raise SystemExit("a party failed")
    return seconds


def join(party: str, directory: str, parties: Sequence[str] = PARTIES, protocol: str = "SEMI2K") -> Any:
    """Join the other parties over Unix sockets in `directory`, and return the SPU."""
    import secretflow as sf

    from sfworker.session.fed_proxy import use_unix_sockets
    from sfworker.session.spu_runtime import use_swift_links

    use_unix_sockets()
    use_swift_links(acknowledged=True)
    fed = {name: {"address": f"unix:{directory}/{name}.sock"} for name in parties}
    sf.init(
        cluster_config={"parties": fed, "self_party": party}, ray_mode=False, job_name="bare", logging_level="error"
    )
    nodes = [{"party": name, "address": f"unix:{directory}/spu-{name}.sock"} for name in parties]
    link = {"connect_retry_times": 200, "connect_retry_interval_ms": 10, "brpc_channel_connection_type": "pooled"}
    return sf.SPU({"nodes": nodes, "runtime_config": RUNTIME | {"protocol": protocol}}, link_desc=link)


def main(how: str, repetitions: int, alice: str, bob: str) -> None:
    import secretflow  # noqa: F401

    from sfworker.party.preload import hide_ray

    warnings.simplefilter("ignore")
    if how == "mesh":
        hide_ray()
    run: Callable[[dict[str, str], str], float] = on_mesh if how == "mesh" else partial(on_ray, how)
    seconds = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as directory:
            inputs = {}
            for party, path in zip(PARTIES, (alice, bob), strict=True):
                inputs[party] = f"{directory}/{party}.csv"  # upstream leaves a file beside its input
                os.symlink(path, inputs[party])
            os.environ["TMPDIR"] = tempfile.tempdir = directory
            os.chdir(directory)  # upstream writes its log there
            seconds.append(run(inputs, directory))
            os.chdir("/")
            tempfile.tempdir = None
            del os.environ["TMPDIR"]
    print("SECONDS", json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
