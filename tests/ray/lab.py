"""Real Ray clusters: a head and nodes with a raylet each, on 127.0.0.1 or on hosts in network namespaces.

Each node is a session of processes with a watcher, so that nothing of it outlives the test, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from sfworker.ray.head import ENVIRONMENT
from tests.gateway.lab import Lab
from tests.network import HOST, free_ports
from tests.processes import told
from tests.running_worker import ROOT, until

HEAD = "head"
START_SECONDS = 60.0
_ACTORS = """
import json, sys, ray
from ray._private.state import state
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
nodes = {node["NodeID"]: node["NodeName"] for node in ray.nodes()}
actors = [each for each in state.actor_table(None).values() if each["State"] != "DEAD"]
print("TOLD", json.dumps({"nodes": {node["NodeName"]: node["Alive"] for node in ray.nodes()},
    "actors": [(each["ActorClassName"], nodes.get(each["Address"]["NodeID"], "")) for each in actors]}))
"""


def in_session(session: int, states: str = "RSDTtIKWP") -> set[int]:
    """Process ids of a session, zombies left out."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, _, _, of, *_ = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(of) == session and state in states:
                found.add(int(name))
    return found


def named(name: str, session: int) -> int:
    """The process of a session that runs this program."""
    [pid] = (pid for pid in in_session(session) if told(pid, "comm").decode().strip() == name)
    return pid


@dataclass
class Node:
    """A node of a cluster, or its head."""

    name: str
    resources: dict[str, float] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    cpus: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def session(self) -> int:
        """Process id of the node's first process, and number of its session."""
        assert self.process is not None
        return self.process.pid

    @property
    def raylet(self) -> int:
        return named("raylet", self.session)

    def signal(self, number: int) -> None:
        """Signal everything that Ray runs on the node."""
        for pid in in_session(self.session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End it, as by a power cut: everything is killed."""
        if self.process is not None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.read()  # which the watcher closes when nothing is left
            self.process.stdout.close()
            self.process = None


class Cluster:
    """A head and nodes. Use as a context. `address` is the same after a restart.

    `python` is another environment's interpreter, whose Ray runs then.
    """

    def __init__(
        self,
        *nodes: Node,
        lab: Lab | None = None,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.nodes = {node.name: node for node in (Node(HEAD), *nodes)}
        self.lab = lab
        self._environment = dict(environment or {})
        self._python = python

    def __enter__(self) -> Cluster:
        self.directory = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
        [self._port] = free_ports(1)
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def address(self) -> str:
        return f"{self.ip(HEAD)}:{self._port}"

    def ip(self, name: str) -> str:
        return self.lab.address(name) if self.lab else HOST

    def start(self) -> None:
        """Start all nodes that do not run, and wait until they have joined."""
        begun = [node for node in self.nodes.values() if node.process is None]
        for node in begun:
            self._begin(node)
        for node in begun:
            assert node.process is not None
            assert node.process.stdout is not None
            said = node.process.stdout.readline().strip()
            assert said == self.address, (node.name, (self.directory / f"{node.name}.log").read_text()[-2000:])

    def stop(self) -> None:
        for node in self.nodes.values():
            node.stop()

    @contextlib.contextmanager
    def paused(self, *pids: int) -> Iterator[None]:
        """SIGSTOP for the block."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def alive(self) -> set[str]:
        """The nodes that the head takes for alive."""
        return {name for name, alive in self._told()["nodes"].items() if alive}

    def actors(self) -> list[tuple[str, str]]:
        """Class and node of every actor that is not dead."""
        return [(kind, node) for kind, node in self._told()["actors"]]

    def require_left_nothing(self) -> None:
        """Require that no process and actor is left on any node, beside Ray's own."""
        until(lambda: not self.actors(), 20.0)

    def environment(self) -> dict[str, str]:
        """Variables of a driver."""
        return {"PATH": os.environ["PATH"], **self._environment, **({} if self.lab else ENVIRONMENT)}

    def _told(self) -> dict[str, dict[str, bool]]:
        command = [*self._enter(HEAD), self._python, "-c", _ACTORS, self.address]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=True, timeout=60)
        [line] = re.findall("^TOLD (.*)", done.stdout, re.MULTILINE)  # as Ray prints there, too
        told: dict[str, dict[str, bool]] = json.loads(line)
        return told

    def _enter(self, name: str) -> list[str]:
        return self.lab[name].enter if self.lab else []

    def _begin(self, node: Node) -> None:
        asked = {"directory": f"{self.directory}/{node.name}", "name": node.name, "ip": self.ip(node.name)}
        asked |= {"head": None if node.name == HEAD else self.address, "port": self._port}  # type: ignore[dict-item]
        asked |= {"resources": node.resources, "cpus": node.cpus}  # type: ignore[dict-item]
        with open(self.directory / f"{node.name}.log", "ab") as log:
            node.process = subprocess.Popen(
                [*self._enter(node.name), self._python, "-m", "tests.ray.node_process", json.dumps(asked)],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **self._environment, **node.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
