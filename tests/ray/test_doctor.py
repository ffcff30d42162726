"""`sfworker doctor` on Ray clusters: one that is well, one that nobody answers at, and other versions."""

from __future__ import annotations

import json
import platform
import socket
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sfworker.cli.ray_findings import _judged, clusters
from sfworker.pool.ray_head import LONGEST_PARENT
from sfworker.settings import Settings
from tests.cli.conftest import Command, sfworker  # noqa: F401 - a fixture
from tests.ray.lab import HEAD, Cluster

OURS = {"Python": platform.python_version(), "ray": version("ray"), "secretflow": version("secretflow")}


@pytest.mark.attack("data roots")
def test_it_says_what_answers_what_is_installed_and_who_has_which_party(
    cluster: Cluster,
    sfworker: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What is called as a module in the directory in which it is started, maybe a data root, is not imported there."""
    (tmp_path / "data").mkdir()
    for name in sys.stdlib_module_names | {"numpy", "psutil", "pydantic", "setproctitle"}:
        (tmp_path / "data" / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__)")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("SFWORKER_RAY_ADDRESSES", f"{cluster.address},{dead}")
        monkeypatch.setenv("SECRETFLOW_PARTIES", "alice,bob,dave")
        monkeypatch.chdir(tmp_path / "data")
        outcome = sfworker("doctor", "--quick", "--json")
        monkeypatch.chdir(tmp_path)
    found = [each for each in json.loads(outcome.out)["findings"] if each["check"].startswith("ray ")]
    assert outcome.code == 1
    own = f"ray {cluster.address}"
    said = {each["check"]: each for each in found}
    assert [each["level"] for each in found] == ["ok", "ok", "ok", "ok", "warning", "error"], found
    assert "and has 3 nodes, with " in found[0]["message"]
    for node, party in ((HEAD, "no party"), ("one", "alice (8)"), ("two", "bob (8), carol (8)")):
        assert said[f"{own} node {node}"]["message"].startswith(f"{party}; "), found
        for name, each in OURS.items():
            assert f"{name} {each}" in said[f"{own} node {node}"]["message"]
    assert (found[4]["check"], found[4]["message"]) == (own, "no node offers dave, one of SECRETFLOW_PARTIES")
    assert f"ray start --address={cluster.address} --resources='{{\"dave\": 8}}'" in found[4]["remedy"]
    assert (found[5]["check"], found[5]["message"]) == (f"ray {dead}", "cannot be reached (ConnectionRefusedError)")
    assert cluster.actors() == []
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()


@pytest.mark.parametrize(
    ("seen", "level", "says"),
    [
        ({"other_versions": {"ray": "2.42.0", "Python": "3.11.2"}}, "error", "has Ray 2.42.0 and Python 3.11.2, which"),
        ({"trouble": "RuntimeError"}, "error", "answers, but could not be joined (RuntimeError)"),
        ({"ray": "2.42.0"}, "error", "alice (8); has ray 2.42.0 instead of"),
        ({"secretflow": "1.13.0b0"}, "error", "alice (8); has secretflow 1.13.0b0 instead of"),
        ({"secretflow": ""}, "error", "alice (8); has no SecretFlow"),
        ({"sfworker": ""}, "ok", "alice (8); Python"),
        (None, "error", "alice (8); starts no process"),
    ],
)
def test_what_a_cluster_lacks_is_told_with_a_remedy(seen: Any, level: str, says: str) -> None:
    if seen is None or not seen.keys() & {"trouble", "other_versions"}:
        node = {"name": "one", "parties": {"alice": 8}, "versions": {} if seen is None else OURS | seen}
        seen = {"nodes": [node], "ours": OURS}
    finding = list(_judged("ray 10.0.0.1:6379", seen, 0.01, Settings(parties="alice")))[-1]
    assert (finding.level, finding.message.startswith(says)) == (level, True), finding
    assert (finding.remedy is None) == (level == "ok")


@pytest.mark.parametrize(("length", "level"), [(LONGEST_PARENT, "ok"), (LONGEST_PARENT + 1, "error")])
async def test_a_path_that_is_too_long_for_the_workers_own_head_is_found(length: int, level: str) -> None:
    settings = Settings(ray_addresses=["local"], run_dir="/" + "d" * (length - 1))
    [finding] = [each async for each in clusters(settings)]
    assert (finding.check, finding.level) == ("ray local", level)
