"""`sfworker doctor`, the part of Ray clusters: are they reached, what is installed there, and who has which party."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sfworker.cli.findings import Finding, error, ok, warning
from sfworker.gateway.dialling import split
from sfworker.pool.ray_head import LONGEST_PARENT, OWN
from sfworker.settings import Settings, variable
from sfworker.wire import entry

REACH_SECONDS = 3.0
LOOK_SECONDS = 60.0
_SAME = ("Python", "ray", "secretflow")
"""Packages whose versions have to be the same on this host and on nodes. `sfworker` comes with the worker."""


async def clusters(settings: Settings) -> AsyncIterator[Finding]:
    """Look at each cluster that jobs may name, at one after the other."""
    for address in settings.ray_addresses:
        check, began = f"ray {address}", time.monotonic()
        if address == OWN:
            yield _own(check, settings)
            continue
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(*split(address)), REACH_SECONDS)
        except (OSError, asyncio.TimeoutError) as failure:
            remedy = (
                f"is its head running, does the network let this host through? Else correct {variable('ray_addresses')}"
            )
            yield error(check, f"cannot be reached ({type(failure).__name__})", remedy)
            continue
        writer.close()
        reached = time.monotonic() - began
        if importlib.util.find_spec("ray") is None:
            yield _not_installed(check)
            continue
        for finding in _judged(check, await _look(address), reached, settings):
            yield finding


def _own(check: str, settings: Settings) -> Finding:
    """Return whether the worker's own head can start."""
    if importlib.util.find_spec("ray") is None:
        return _not_installed(check)
    if (length := len(os.fsencode(os.path.realpath(settings.run_dir)))) > LONGEST_PARENT:
        name = variable("run_dir")
        said = f"the path of {name} is {length} bytes long, too long for the sockets of the worker's own Ray head"
        return error(check, said, f"set {name} to a directory with a path of at most {LONGEST_PARENT} bytes")
    return ok(check, "the worker starts a head of its own")


def _not_installed(check: str) -> Finding:
    return error(check, "Ray is not installed here", "`pip install 'sfworker[worker,ray]'` brings it")


async def _look(address: str) -> dict[str, Any]:
    """Return what `sfworker.ray.probe` has seen, in a process of its own, as the daemon's side never imports Ray."""
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address.startswith("127.") else {}
    process = await asyncio.create_subprocess_exec(
        *entry.command("sfworker.ray.probe", address),
        env={**os.environ, **loopback, "RAY_USAGE_STATS_ENABLED": "0", "RAY_NUM_REDIS_GET_RETRIES": "3"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), LOOK_SECONDS)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return {"trouble": f"no answer in {LOOK_SECONDS:.0f} s"}
    seen: dict[str, Any] = json.loads(said or b"{}")
    return seen or {"trouble": f"the look at it ended with exit code {process.returncode}"}


def _judged(check: str, seen: dict[str, Any], reached: float, settings: Settings) -> Iterator[Finding]:
    if other := seen.get("other_versions"):
        said = f"has Ray {other['ray']} and Python {other['Python']}, which this worker cannot join"
        yield error(check, said, "install the same Ray and Python on this host and on all nodes")
        return
    if trouble := seen.get("trouble"):
        remedy = (
            f"make this host a node of it (`ray start --address={check.split()[1]} --num-cpus=0`); where the cluster "
            f"asks for a token, let RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH say so to the worker, too"
        )
        yield error(check, f"answers, but could not be joined ({trouble})", remedy)
        return
    nodes, ours = seen["nodes"], seen["ours"]
    yield ok(check, f"answers after {reached * 1000:.0f} ms and has {len(nodes)} nodes, with {_words(ours)} here")
    for node in nodes:
        yield _node(f"{check} node {node['name']}", node, ours)
    offered = {party for node in nodes for party in node["parties"]}
    for party in [name.strip() for name in settings.parties.split(",")]:
        if party not in offered:
            yield warning(
                check,
                f"no node offers {party}, one of {variable('parties')}",
                f"start one there: `ray start --address={check.split()[1]} --resources='{{\"{party}\": 8}}'`",
            )


def _node(check: str, node: dict[str, Any], ours: dict[str, str]) -> Finding:
    parties = ", ".join(f"{party} ({count:g})" for party, count in sorted(node["parties"].items())) or "no party"
    versions = node["versions"]
    if not versions:
        return error(check, f"{parties}; starts no process", "look at its log; is it overloaded?")
    if node["parties"] and not versions["secretflow"]:
        return error(check, f"{parties}; has no SecretFlow", "`pip install 'sfworker[worker,ray]'` on it brings it")
    others = [name for name in _SAME if versions[name] and versions[name] != ours[name]]
    if others:
        said = ", ".join(f"{name} {versions[name]} instead of {ours[name]}" for name in others)
        return error(check, f"{parties}; has {said}", "install what this worker has")
    return ok(check, f"{parties}; {_words(versions)}")


def _words(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)
