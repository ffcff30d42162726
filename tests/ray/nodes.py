"""A worker whose parties live on nodes of a cluster, and what is to be seen on these."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.files import below
from tests.processes import told
from tests.ray.lab import Cluster
from tests.running_worker import FLOORS, RunningWorker, until

SPARES = 2
CLEAN_SECONDS = 60.0
"""Longest wait for a node to be clean, which may have to import SecretFlow anew first."""
TEMPLATE = b"sfworker.party.template"


def settings_of_node(directory: Path, *parties: str) -> dict[str, str]:
    """Variables of a node, each of whose parties has a data root of its own and one that all share."""
    roots = {party: [str(directory / party), str(directory / "shared")] for party in parties}
    for made in (directory / "shared", directory / f"run-{parties[0]}", *(directory / party for party in parties)):
        made.mkdir(exist_ok=True)
    return {
        "SFWORKER_DATA_ROOTS": json.dumps(roots),
        "SFWORKER_RUN_DIR": str(directory / f"run-{parties[0]}"),
        **{f"SFWORKER_{name.upper()}": "0" for name in FLOORS},
    }


class OnNodes:
    """A worker, to tests, whose jobs name a cluster."""

    def __init__(self, worker: RunningWorker, cluster: Cluster, directory: Path) -> None:
        self.worker = worker
        self.cluster = cluster
        self.directory = directory

    def root(self, party: str) -> Path:
        return self.directory / party

    def there(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job, on the cluster."""
        return job | {"sf_init_config": {**job["sf_init_config"], "address": self.cluster.address}}

    def run(self, job: dict[str, Any], seconds: float = 120.0) -> dict[str, Any]:
        """Send a job and return its result."""
        return self.worker.run(self.there(job), seconds)

    def said(self, execution_id: str, kind: str = "status") -> list[dict[str, Any]]:
        return self.worker.said(execution_id, kind)

    def parties(self, party: str) -> list[int]:
        """The party processes on a party's node, spares among them."""
        return children(self.template(party))

    def template(self, party: str) -> int:
        return until(lambda: next(iter(templates(self.node_process(party))), 0))

    def computing(self, party: str) -> int:
        """The party process that computes, which has its scratch directory as its working directory."""

        def found() -> int:
            for pid in self.parties(party):
                with suppress(OSError):
                    if os.readlink(f"/proc/{pid}/cwd").endswith("/scratch"):
                        return pid
            return 0

        return until(found)

    def waiting(self, party: str) -> list[int]:
        """The party processes of kept sessions that wait for a job."""
        return [pid for pid in self.parties(party) if os.readlink(f"/proc/{pid}/cwd") == "/"]

    def gateway(self, party: str) -> int:
        [gateway] = children(self.node_process(party), program=b"gateway")
        return gateway

    def node_process(self, party: str) -> int:
        [node] = self._nodes(party)
        return node

    def left(self) -> list[str]:
        """What is on the nodes of an execution: its directories, and what it has staged."""
        directories = [str(path) for path in self.directory.glob("run-*/sfworker-run-*/[0-9]*")]
        roots = [path for path in self.directory.iterdir() if not path.name.startswith("run-")]
        return directories + [str(path) for root in roots for path in below(root) if fnmatch(path.name, ".*.partial*")]

    def until_clean(self) -> None:
        """Wait until nothing of an execution is left on any node: no process but spares, no file."""
        until(lambda: not self.left(), CLEAN_SECONDS)
        until(lambda: all(len(forked) == SPARES for forked in self._forked()), CLEAN_SECONDS)

    def _forked(self) -> list[list[int]]:
        """What each node's template has forked. A node that is about to end is asked anew until it has."""
        nodes = [node for party in ("alice", "bob") for node in self._nodes(party)]
        return [children(*templates(node)) for node in nodes]

    def serving(self, program: bytes = b"sfworker") -> list[int]:
        """Every process of sfworker on the nodes."""
        own = str(self.directory).encode()
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with suppress(OSError):
                process = Path(f"/proc/{pid}")
                if program in (process / "cmdline").read_bytes() and own in (process / "environ").read_bytes():
                    found.append(pid)
        return found

    def _nodes(self, party: str) -> list[int]:
        """The processes that serve a party."""
        return [pid for pid in self.serving(b"sfworker.ray.node") if _serves(pid, party)]


def _serves(pid: int, party: str) -> bool:
    return any(
        f"SFWORKER_PARTY={party}".encode() in told(child, "environ").split(b"\0")
        for child in children(pid, program=b"gateway")
    )


def templates(node: int) -> list[int]:
    """The templates of a node, which its nursery has forked."""
    return children(*children(node, program=TEMPLATE))


def children(*parents: int, program: bytes = b"") -> list[int]:
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(parent) in parents and state != "Z" and program in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@contextmanager
def on_nodes(
    cluster: Cluster, redis_url: str, directory: Path, nodes_directory: Path, **settings: Any
) -> Iterator[OnNodes]:
    with RunningWorker(redis_url, directory, **{"ray_addresses": cluster.address, **settings}) as worker:
        try:
            yield OnNodes(worker, cluster, nodes_directory)
        except BaseException:
            print(worker.log())  # which pytest shows
            raise
