"""What is heard of deaths and cuts between a worker and its parties' nodes on a Ray cluster, and how soon, as a table.

    python -m tests.ray.faults [WORD ...]       # all faults, or those whose names hold a word

Each fault happens to a real cluster, with bounds that are asserted. After it nothing of the job is left anywhere, no
process, file or actor, and the next job succeeds.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.gateway.lab import Lab, missing
from tests.grounds import print_all
from tests.network import free_ports
from tests.processes import told
from tests.ray.lab import HEAD, Cluster, Node
from tests.ray.nodes import OnNodes, on_nodes, settings_of_node
from tests.ray.test_faults import begin, bridge, host
from tests.running_worker import PARTIES, envelope, until

AT_ONCE = 1.0
"""Seconds by which a fault that shows is known."""
SILENT = 7.0
"""Seconds by which one is known that shows by silence alone, of which 5 are waited for."""
BRIDGE = 4.0
"""Seconds in which a bridge starts on two cores that others load."""
OWN = "own"
"""The worker's host in the cluster of hosts."""
NOBODY = "10.78.0.200"
DEAD_VERSION = "2.42.0"


@dataclass(frozen=True)
class Heard:
    """How a job ended."""

    kind: str
    error: str
    seconds: float

    def require(self, kind: str, says: str = "", within: float = AT_ONCE) -> None:
        assert self.kind == kind, self
        assert re.search(says, self.error), self
        assert self.seconds < within, self


class Ground:
    """The cluster and its worker, to which one fault happens after the other. What is heard stays in `record`."""

    def __init__(self, nodes: OnNodes, dead: str, other: Cluster | None) -> None:
        self.nodes = nodes
        self.worker = nodes.worker
        self.cluster = nodes.cluster
        self.dead = dead
        """Address at which nobody answers."""
        self.other = other
        """A cluster with another version of Ray, as it says."""
        self.record: list[Heard] = []

    def hear(self, execution_id: str, since: float, seconds: float = 60.0) -> Heard:
        """The end of a job."""
        event = self.worker.until_ended(execution_id, seconds)
        kind = event.get("error_type") or event["status"]
        self.record.append(Heard(kind, event.get("error") or "", time.monotonic() - since))
        return self.record[-1]

    def try_at(self, address: str, parties: list[str] = PARTIES) -> Heard:
        """Send a job there and hear its end."""
        job = envelope({"task_type": "health_check"}, sf_init_config={"parties": parties, "address": address})
        since = time.monotonic()
        self.worker.send(job)
        return self.hear(job["execution_id"], since)

    def on(self, node: str) -> list[int]:
        """Everything of sfworker that runs on a node."""
        party = {"one": "alice", "two": "bob"}[node]
        return [pid for pid in self.nodes.serving(b"") if f"/run-{party}".encode() in told(pid, "environ")]

    def cut_power(self, node: str) -> None:
        """Kill everything on a node at once."""
        for pid in self.on(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.cluster[node].stop()

    def require_well(self) -> None:
        """Require that nothing of the fault is left over, and that the next job succeeds."""
        since = time.monotonic()
        job = envelope({"task_type": "act"}, options={"max_retries": 3, "retry_delay": 0.5})
        result = self.nodes.run(job)
        assert result["status"] == "success", result
        self.well_after = time.monotonic() - since
        until(lambda: not self.worker.executions_on_disk())
        until(lambda: not self.nodes.left(), 60.0)  # what a node had staged is removed when it serves again
        self.nodes.until_clean()
        hosts = [("Host", "one"), ("Host", "two")]
        until(lambda: sorted(self.cluster.actors()) == hosts, 30.0)
        until(lambda: len(self.nodes.serving(b"sfworker.ray.node")) == len(hosts), 30.0)


@dataclass(frozen=True)
class Fault:
    """One row of the table: what happens, and on which ground."""

    name: str
    ground: str
    run: Callable[[Ground], None]


FAULTS: dict[str, Fault] = {}


def fault(name: str, ground: str = "one") -> Callable[[Callable[[Ground], None]], Any]:
    def add(run: Callable[[Ground], None]) -> Callable[[Ground], None]:
        FAULTS[run.__name__] = Fault(name, ground, run)
        return run

    return add


@contextmanager
def ground(kind: str, directory: Path) -> Iterator[Ground]:
    """Make a cluster of head and two nodes, on `one` host or on `hosts` of their own, where the worker has one, too."""
    data = directory / "data"
    data.mkdir()
    with ExitStack() as stack:
        one = Node("one", {"alice": 4}, settings_of_node(data, "alice"))
        two = Node("two", {"bob": 4}, settings_of_node(data, "bob"))
        redis = stack.enter_context(EmbeddedRedis())
        if kind == "hosts":
            lab = stack.enter_context(Lab([HEAD, "one", "two", OWN]))
            cluster = stack.enter_context(Cluster(one, two, Node(OWN), lab=lab))
            dead, other = f"{NOBODY}:6379", None
            settings: dict[str, Any] = {"started_by": lab[OWN].enter}
        else:
            cluster = stack.enter_context(Cluster(one, two))
            dead = f"127.0.0.1:{free_ports(1)[0]}"
            other = stack.enter_context(Cluster(environment={"LAB_RAY_VERSION": DEAD_VERSION}))
            settings = {}
        addresses = ",".join([cluster.address, dead, *([other.address] if other else [])])
        worker = directory / "w"
        nodes = stack.enter_context(
            on_nodes(cluster, redis.url, worker, data, ray_addresses=addresses, concurrency="2", **settings)
        )
        made = Ground(nodes, dead, other)
        made.require_well()
        yield made


def killed(ground: Ground, pid: int, number: int = signal.SIGKILL) -> float:
    os.kill(pid, number)
    return time.monotonic()


@fault("alice's party process is killed (kill -9)")
def process_killed(ground: Ground) -> None:
    job = begin(ground.nodes)
    since = killed(ground, ground.nodes.computing("alice"))
    ground.hear(job, since).require("PartyProcessLostError", "the process of alice was killed by signal 9")


@fault("bob's host, the actor, is killed (kill -9)")
def host_killed(ground: Ground) -> None:
    job = begin(ground.nodes)
    since = killed(ground, host(ground.nodes, "two"))
    ground.hear(job, since).require("PartyProcessLostError", "the process of bob was lost with its host")


@fault("bob's host hangs (kill -STOP)")
def host_hangs(ground: Ground) -> None:
    job = begin(ground.nodes)
    since = killed(ground, host(ground.nodes, "two"), signal.SIGSTOP)
    ground.hear(job, since).require("PartyProcessLostError", "the process of bob was lost", SILENT)


@fault("the process that serves bob on his node is killed (kill -9)")
def node_process_killed(ground: Ground) -> None:
    job = begin(ground.nodes)
    since = killed(ground, ground.nodes.node_process("bob"))
    ground.hear(job, since).require("PartyProcessLostError", "the process of bob was lost, as its node's process ended")


@fault("the process that serves bob on his node hangs (kill -STOP)")
def node_process_hangs(ground: Ground) -> None:
    job = begin(ground.nodes)
    since = killed(ground, ground.nodes.node_process("bob"), signal.SIGSTOP)
    ground.hear(job, since).require("PartyProcessLostError", "the process of bob was lost", SILENT)


@fault("the bridge is killed (kill -9)")
def bridge_killed(ground: Ground) -> None:
    job = begin(ground.nodes, attempts=1)
    since = killed(ground, bridge(ground.nodes))
    ground.hear(job, since).require("SUCCESS", within=60.0)  # of the next attempt, which nobody has used up


@fault("the bridge hangs (kill -STOP)")
def bridge_hangs(ground: Ground) -> None:
    job = begin(ground.nodes, attempts=1)
    since = killed(ground, bridge(ground.nodes), signal.SIGSTOP)
    ground.hear(job, since).require("SUCCESS", within=SILENT + 60.0)


@fault("the raylet of bob's node is killed (kill -9)")
def raylet_killed(ground: Ground) -> None:
    job = begin(ground.nodes)
    since = killed(ground, ground.cluster["two"].raylet)
    ground.hear(job, since).require("PartyProcessLostError", "the process of bob was lost", SILENT)
    ground.cluster["two"].stop()
    ground.cluster.start()


@fault("the raylet of bob's node hangs (kill -STOP)")
def raylet_hangs(ground: Ground) -> None:
    """Ray takes the node for dead, and its actors with it."""
    job = begin(ground.nodes)
    since = killed(ground, ground.cluster["two"].raylet, signal.SIGSTOP)
    ground.hear(job, since).require("PartyProcessLostError", "the process of bob was lost", 15.0)
    ground.cluster["two"].stop()
    ground.cluster.start()


@fault("bob's node loses its power (kill -9 of all)")
def power_cut(ground: Ground) -> None:
    job = begin(ground.nodes)
    since = time.monotonic()
    ground.cut_power("two")
    ground.hear(job, since).require("PartyProcessLostError", "the process of bob was lost", SILENT)
    ground.cluster.start()


@fault("all of bob's node hangs (kill -STOP), and goes on")
def node_hangs(ground: Ground) -> None:
    job = begin(ground.nodes)
    pids = ground.on("two")
    with ground.cluster.paused(*pids):
        ground.cluster["two"].signal(signal.SIGSTOP)
        since = time.monotonic()
        ground.hear(job, since).require("PartyProcessLostError", "the process of bob was lost", SILENT)
        ground.cluster["two"].signal(signal.SIGCONT)
    if "two" not in ground.cluster.alive():  # its raylet ends when it hears that it was given up
        ground.cluster["two"].stop()
        ground.cluster.start()


@fault("the head is killed with its node (kill -9), and started again")
def head_killed(ground: Ground) -> None:
    job = begin(ground.nodes)
    since = time.monotonic()
    ground.cluster.stop()
    ground.hear(job, since).require("PartyProcessLostError", within=SILENT)
    ground.cluster.start()


@fault("the cluster is started again between two jobs")
def restarted(ground: Ground) -> None:
    ground.cluster.stop()
    ground.cluster.start()
    ground.try_at(ground.cluster.address).require("SUCCESS", within=60.0)


@fault("the worker is killed (kill -9), and started again")
def worker_killed(ground: Ground) -> None:
    job = begin(ground.nodes, attempts=1)
    since = time.monotonic()
    ground.worker.kill()
    until(lambda: not ground.nodes.left() and not ground.nodes.serving(), 20.0)
    ground.record.append(Heard("", "nothing is left on the nodes", time.monotonic() - since))
    ground.record[-1].require("", within=SILENT)
    ground.worker.start()
    ground.hear(job, since).require("SUCCESS", within=90.0)  # after its lease


@fault("nothing listens at the address")
def dead_address(ground: Ground) -> None:
    ground.try_at(ground.dead).require("ClusterInitializationError", "does not answer", within=3.0 + BRIDGE)


@fault("no node offers carol")
def no_offer(ground: Ground) -> None:
    heard = ground.try_at(ground.cluster.address, ["alice", "carol"])
    heard.require("ClusterInitializationError", "no node of the Ray cluster offers party carol", within=BRIDGE)


@fault("the cluster has another Ray")
def other_version(ground: Ground) -> None:
    assert ground.other is not None
    heard = ground.try_at(ground.other.address)
    heard.require("ClusterInitializationError", "another version of Ray or Python", within=BRIDGE + AT_ONCE)


@fault("bob's host is cut off, and back", "hosts")
def node_cut_off(ground: Ground) -> None:
    job = begin(ground.nodes)
    cut_off(ground, "two", job, "the process of bob was lost, as nothing was heard of its node for 5 s")


@fault("the worker's host is cut off, and back", "hosts")
def worker_cut_off(ground: Ground) -> None:
    job = begin(ground.nodes)
    cut_off(ground, OWN, job, "was lost")


def cut_off(ground: Ground, name: str, job: str, says: str) -> None:
    """The worker hears it, and both nodes end what they compute."""
    lab = ground.cluster.lab
    assert lab is not None
    lab.pull(name)
    try:
        since = time.monotonic()
        ground.hear(job, since).require("PartyProcessLostError", says, SILENT)
        until(lambda: not ground.nodes.left(), 15.0)
        ground.record.append(Heard("", "nothing is computed on the nodes any more", time.monotonic() - since))
        until(lambda: name not in ground.cluster.alive(), 30.0)
    finally:
        lab.plug(name)
    ground.cluster[name].stop()  # its raylet ends when it hears that it was given up
    ground.cluster.start()


@fault("nobody has the address, so that packets vanish", "hosts")
def no_host(ground: Ground) -> None:
    ground.try_at(ground.dead).require("ClusterInitializationError", "does not answer", within=3.0 + BRIDGE)


def main(words: list[str]) -> int:
    """Try the faults, print what was heard, and return 1 where a bound was missed."""
    if missing():
        print(missing())
        return 1
    table = Table("fault", "the job's end", "after", "next job after", "bound")
    return print_all([*FAULTS.values()], words, ground, _tried, table, 160)


def _tried(fault: Fault, made: Ground, table: Table) -> str:
    """Add a fault's rows to the table and return whether its bounds were met."""
    made.record.clear()
    verdict, well = "met", ""
    try:
        fault.run(made)
        made.require_well()
        well = f"{made.well_after:.1f} s"
    except AssertionError as error:
        verdict = "MISSED"
        print(f"{fault.name}: {error}", file=sys.stderr, flush=True)
    for number, heard in enumerate(made.record or [Heard("", "", 0.0)]):
        says = f"{heard.kind}: {heard.error}" if heard.kind and heard.error else heard.kind or heard.error
        table.add_row(
            *(
                ("", says, f"{heard.seconds:.2f} s")
                if number
                else (fault.name, says, f"{heard.seconds:.2f} s", well, verdict)
            )
        )
    return verdict


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
