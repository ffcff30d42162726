"""Jobs whose parties live on the nodes of a cluster: what they compute, and what is left of those that fail."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from tests.jobs.test_linear import predict, succeed, train, write_halves
from tests.ray.nodes import OnNodes
from tests.running_worker import PARTIES, envelope, until

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}


def keys(party: str, rows: int) -> pd.DataFrame:
    first = {"alice": 0, "bob": rows // 2}[party]
    return pd.DataFrame({"id": [f"k{number:06d}" for number in range(first, first + rows)], f"of_{party}": range(rows)})


def psi(rows: int = 1000) -> dict[str, object]:
    return envelope(
        {
            "task_type": "psi",
            "keys": {party: ["id"] for party in PARTIES},
            "input_paths": dict.fromkeys(PARTIES, "in.csv"),
            "output_paths": dict.fromkeys(PARTIES, "out/joined.csv"),
            "receiver": "alice",
        },
        spu_config=SPU,
    )


def test_each_party_reads_and_writes_on_its_own_node(nodes: OnNodes) -> None:
    tables = {party: keys(party, 1000) for party in PARTIES}
    for party, table in tables.items():
        table.to_csv(nodes.root(party) / "in.csv", index=False)
    job = psi()
    result = nodes.run(job)
    assert result["status"] == "success", result["error"]
    assert result["result"]["intersection_count"] == 500
    assert result["result"]["output_paths"] == dict.fromkeys(PARTIES, "out/joined.csv")
    joined = tables["alice"].merge(tables["bob"])
    for party in PARTIES:
        found = pd.read_csv(nodes.root(party) / "out" / "joined.csv").sort_values("id", ignore_index=True)
        assert found["id"].tolist() == joined["id"].tolist()
        assert found[f"of_{party}"].tolist() == joined[f"of_{party}"].tolist()
    assert set(result["performance_metrics"]["peak_rss_bytes"]) == set(PARTIES)
    stages = [event["stage"] for event in nodes.said(str(job["execution_id"]))]
    assert stages[0] == "task_started"
    assert stages[-1] == "task_succeeded"
    assert not (nodes.worker.log_file.parent / "out").exists()


def test_a_regression_is_as_good_as_on_one_host(nodes: OnNodes) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x, y = StandardScaler().fit_transform(x)[:300], y[:300]
    data = nodes.root("shared")
    write_halves(data, x, y)
    succeed(nodes, train(data))  # type: ignore[arg-type]
    succeed(nodes, predict(data))  # type: ignore[arg-type]
    predicted = pd.read_csv(data / "predicted.csv")
    assert roc_auc_score(y[:300], predicted["pred"]) > 0.99
    here = nodes.worker.log_file.parent
    write_halves(here, x, y)
    succeed(nodes.worker, train(here))
    succeed(nodes.worker, predict(here))
    assert pd.read_csv(here / "predicted.csv")["pred"].tolist() == pytest.approx(predicted["pred"], abs=1e-3)


def test_a_party_process_that_is_killed_is_named(nodes: OnNodes) -> None:
    job = nodes.there(envelope({"task_type": "act", "action": "hang", "output_paths": {"alice": "a", "bob": "b"}}))
    execution_id = nodes.worker.send(job)
    nodes.computing("alice")
    os.kill(nodes.computing("bob"), signal.SIGKILL)
    nodes.worker.until_ended(execution_id, 10.0)
    [result] = nodes.said(execution_id, "result")
    assert result["error_type"] == "PartyProcessLostError"
    assert "the process of bob was killed by signal 9" in result["error"]
    nodes.until_clean()
    assert not (nodes.root("alice") / "a").exists()
    assert not (nodes.root("bob") / "b").exists()


@pytest.mark.parametrize("stop", ["cancel", "soft_time_limit"])
def test_a_job_can_be_stopped(nodes: OnNodes, stop: str) -> None:
    options = {"soft_time_limit": 1.0} if stop == "soft_time_limit" else {}
    job = nodes.there(envelope({"task_type": "act", "action": "hang"}, options=options))
    execution_id = nodes.worker.send(job)
    nodes.computing("alice")
    if stop == "cancel":
        nodes.worker.redis.set(f"sf:cancel:{execution_id}", 1, ex=60)
        nodes.worker.redis.publish("sf:control", execution_id)
    ended = nodes.worker.until_ended(execution_id, 10.0)
    assert ended["status"] == "CANCELLED" if stop == "cancel" else ended["error_type"] == "SoftTimeLimitExceededError"


def test_a_job_keeps_within_its_memory(nodes: OnNodes) -> None:
    options = {"memory_limit_bytes": 1 << 28}
    result = nodes.run(envelope({"task_type": "act", "action": "allocate", "at": "bob"}, options=options))
    assert result["error_type"] == "MemoryLimitExceededError"


def test_what_a_job_prints_stays_on_its_node(nodes: OnNodes) -> None:
    result = nodes.run(envelope({"task_type": "act", "action": "raise_foreign", "at": "bob", "seconds": 30.0}))
    assert "its text is withheld" in result["error"]
    until(lambda: '"acting: raise_foreign"' in nodes.worker.log())
    assert "customer 4711" not in nodes.worker.log() + nodes.worker.console()


def test_a_party_that_no_node_offers_is_named(nodes: OnNodes) -> None:
    job = envelope({"task_type": "health_check"})
    job["sf_init_config"]["parties"] = ["alice", "dave"]
    result = nodes.run(job)
    assert result["error_type"] == "ClusterInitializationError"
    assert "no node of the Ray cluster offers party dave" in result["error"]


def test_clusters_that_are_not_the_operators_are_refused(nodes: OnNodes) -> None:
    job = envelope({"task_type": "health_check"})
    job["sf_init_config"]["address"] = "127.0.0.1:1"
    result = nodes.worker.run(job)
    assert result["error_type"] == "ParameterValidationError"
    assert "SFWORKER_RAY_ADDRESSES" in result["error"]


def test_a_path_outside_a_nodes_data_roots_is_refused(nodes: OnNodes, tmp_path: Path) -> None:
    paths = {"bob": str(tmp_path / "elsewhere")}
    result = nodes.run(envelope({"task_type": "act", "output_paths": paths}))
    assert result["error_type"] == "ParameterValidationError"
    assert "outside the data roots" in result["error"]
