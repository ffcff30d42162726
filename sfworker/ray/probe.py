"""Looks at a Ray cluster for `sfworker doctor`, in a process of its own, and prints what it has seen as JSON."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from typing import Any

import msgspec
from msgspec import Struct

NODE_SECONDS = 20.0
"""Longest wait for all nodes to say what is installed there, for which each starts a process."""
_PACKAGES = ("ray", "secretflow", "sfworker")
_STARTED_WITH = re.compile(r"started with:\s+Ray: (\S+)\s+Python: (\S+)")
_OF_RAY = re.compile(r"CPU|GPU|memory|object_store_memory|node:.*|accelerator_type:.*")
"""Resources that Ray itself gives a node."""


class SeenNode(Struct, frozen=True):
    """A node that is alive. `versions` is empty where it did not say in time what is installed there."""

    name: str
    address: str
    parties: dict[str, float]
    """Its own resources, whose names are those of parties, with the number of party processes."""
    versions: dict[str, str]


class Seen(Struct, frozen=True):
    """What was seen of a cluster: its nodes; or, as it has other versions, these; or why nothing was seen."""

    nodes: list[SeenNode] = []
    ours: dict[str, str] = {}
    other_versions: dict[str, str] = {}
    trouble: str = ""


def look(address: str) -> Seen:
    """Join the cluster as a driver, and ask each node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here: dict[str, Any] = {"_node_ip_address": "127.0.0.1"} if address.startswith("127.") else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **here)
    except Exception as error:  # noqa: BLE001 - Ray's are many
        if found := _STARTED_WITH.search(str(error)):
            return Seen(other_versions=dict(zip(("ray", "Python"), found.groups(), strict=True)))
        return Seen(trouble=type(error.__cause__ or error).__name__)

    packages = _PACKAGES

    def installed() -> dict[str, str]:  # travels by value, as nodes may have no sfworker
        import importlib.metadata
        import platform

        found = {"Python": platform.python_version()}
        for name in packages:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = ""
        return found

    nodes: list[dict[str, Any]] = sorted(ray.nodes(), key=lambda node: str(node["NodeName"]))  # type: ignore[no-untyped-call]
    nodes = [node for node in nodes if node["Alive"]]
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[ray.remote(installed).options(num_cpus=0, scheduling_strategy=there).remote()] = node["NodeID"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
    said = {}
    for answer in answered:
        with contextlib.suppress(Exception):  # the node has ended meanwhile, or cannot start a process
            said[asked[answer]] = ray.get(answer)
    return Seen(
        nodes=[
            SeenNode(
                node["NodeName"],
                node["NodeManagerAddress"],
                {name: amount for name, amount in node["Resources"].items() if not _OF_RAY.fullmatch(name)},
                said.get(node["NodeID"], {}),
            )
            for node in nodes
        ],
        ours=installed(),
    )


def main() -> None:
    """Entry of the process, with the address."""
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)  # Ray's workers import from a driver's directory, which may be a data root
        sys.stdout.buffer.write(msgspec.json.encode(look(sys.argv[1])))
