"""Sessions that are kept across sites, whose links stay open in the gateways: only where all sites keep theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from tests.gateway.sites import Sites
from tests.running_worker import PARTIES, kill, until


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    directory = tmp_path_factory.mktemp("kept")
    jobs = "tests.acting_job,tests.marking_job"
    with Sites(directory, PARTIES, session_jobs="8", jobs=jobs, tell_peers_why="true") as made:
        yield made


def places(sites: Sites, task: dict[str, Any], fresh: str = "", **more: Any) -> list[int]:
    """Run a job at all sites and return its place in each one's session."""
    jobs = sites.jobs(task, options={"session": "reuse"}, **more)
    if fresh:
        jobs[fresh]["options"] = {**jobs[fresh]["options"], "session": "fresh"}
    results = sites.run(jobs)
    assert {result["status"] for result in results.values()} == {"success"}, results
    return [results[party]["task_metadata"].get("session_job", 1) for party in sites.parties]


def act(sites: Sites, **more: Any) -> list[int]:
    return places(sites, {"task_type": "act"}, **more)


def test_one_serves_several_jobs_whose_results_are_right(sites: Sites) -> None:
    chance = np.random.default_rng(1)
    ids = [f"{number:05d}" for number in range(600)]
    frames = {party: pd.DataFrame({"id": ids, f"of_{party}": chance.normal(size=600)}) for party in PARTIES}
    for party, frame in frames.items():
        frame.iloc[100 * (party == "bob") :].to_csv(sites[party].data / "keys.csv", index=False)
        frame.to_csv(sites[party].data / "values.csv", index=False)
    common = {"keys": {party: ["id"] for party in PARTIES}}
    values = {"input_paths": dict.fromkeys(PARTIES, "values.csv"), **common}
    keys = {"input_paths": dict.fromkeys(PARTIES, "keys.csv"), **common}
    psi = {"task_type": "psi", **keys, "output_paths": dict.fromkeys(PARTIES, "out.csv"), "receiver": "alice"}
    assert act(sites) == [1, 1]
    for place in (2, 3):
        assert places(sites, psi) == [place, place]
        found = [pd.read_csv(sites[party].data / "out.csv", dtype={"id": str}) for party in PARTIES]
        assert [*found[0]["id"]] == [*found[1]["id"]]
        assert sorted(found[0]["id"]) == ids[100:]
        for party in PARTIES:
            (sites[party].data / "out.csv").unlink()
    jobs = sites.jobs({"task_type": "pearson_correlation", **values}, options={"session": "reuse"})
    expected = pd.concat([frame.drop(columns="id") for frame in frames.values()], axis=1).corr().to_numpy()
    assert all("session_job" not in result["task_metadata"] for result in sites.run(jobs).values())  # other links
    jobs = sites.jobs({"task_type": "pearson_correlation", **values}, options={"session": "reuse"})
    results = [*sites.run(jobs).values()]
    assert [result["task_metadata"]["session_job"] for result in results] == [2, 2], results
    told = [result["result"]["correlation"] for result in results if result["result"]]
    assert told
    assert all(np.abs(np.array(each) - expected).max() < 1e-3 for each in told)


def test_trainings_share_one_and_open_values_alike_where_a_site_wants_a_fresh_one(sites: Sites) -> None:
    x, y = (each[:300] for each in load_breast_cancer(return_X_y=True))
    x = StandardScaler().fit_transform(x)
    for party, columns in zip(PARTIES, (x[:, :15], x[:, 15:]), strict=True):
        frame = pd.DataFrame(columns).add_prefix(f"{party}_")
        frame = frame.assign(id=np.arange(300), **({"y": y} if party == "alice" else {}))
        frame.to_csv(sites[party].data / "rows.csv", index=False)
    common = {
        "keys": {party: ["id"] for party in PARTIES},
        "input_paths": dict.fromkeys(PARTIES, "rows.csv"),
        "model_path": dict.fromkeys(PARTIES, "model"),
    }
    training = {**common, "label": {"party": "alice", "column": "y"}}
    lr = {"task_type": "ss_lr", **training, "epochs": 2}
    xgb = {"task_type": "ss_xgb", **training, "num_boost_round": 2, "max_depth": 2}
    predictions = {"task_type": "ss_lr_predict", **common, "receiver": "alice", "output_paths": {"alice": "found.csv"}}

    def require_right() -> None:
        places(sites, predictions)
        found = pd.read_csv(sites["alice"].data / "found.csv").set_index("id")["pred"]
        assert roc_auc_score(y, found.loc[range(300)]) > 0.98

    act(sites)  # which ends the session of another kind of link
    places_of_trainings = [places(sites, task) for task in (lr, xgb, lr)]
    assert places_of_trainings == [[1, 1], [2, 2], [3, 3]], [
        line for party in PARTIES for line in sites[party].worker.log().splitlines() if "a session is" in line
    ]
    require_right()
    assert places(sites, lr, fresh="bob") == [1, 1]
    require_right()


def test_where_one_site_wants_a_fresh_one_both_are_fresh(sites: Sites) -> None:
    act(sites)
    assert act(sites, fresh="bob") == [1, 1]
    assert act(sites) == [1, 1]
    assert act(sites) == [2, 2]


def test_executions_are_compared_in_kept_sessions_too(sites: Sites) -> None:
    act(sites)
    jobs = sites.jobs({"task_type": "act"}, options={"session": "reuse"})
    jobs["bob"]["task_config"] = {"task_type": "act", "seconds": 1}
    results = sites.run(jobs)
    assert all("was sent another job under this execution_id" in result["error"] for result in results.values())
    assert act(sites) == [1, 1]


def test_none_is_used_after_an_error_at_one_site(sites: Sites) -> None:
    act(sites)
    task = {"task_type": "act", "action": "raise_final", "at": "bob"}
    results = sites.run(sites.jobs(task, options={"session": "reuse"}))
    assert {result["status"] for result in results.values()} == {"failure"}
    assert act(sites) == [1, 1]


def test_none_is_used_where_one_site_has_lost_its_own(sites: Sites) -> None:
    results = sites.run(sites.jobs({"task_type": "act"}, options={"session": "reuse"}))
    waiting = results["bob"]["result"]["pid"]
    kill(waiting)
    until(lambda: waiting not in sites["bob"].worker.parties())
    assert act(sites) == [1, 1]


def test_what_a_job_leaves_at_one_site_ends_it_at_both(sites: Sites) -> None:
    act(sites)
    told = sites["bob"].worker.log().count("a session is not kept")
    places(sites, {"task_type": "mark", "kind": "thread"})
    until(lambda: sites["bob"].worker.log().count("a session is not kept") > told)
    assert act(sites) == [1, 1]


def test_none_is_used_after_a_gateway_was_replaced(sites: Sites) -> None:
    act(sites)
    sites["alice"].stop_gateway()
    sites["alice"].start_gateway()
    assert act(sites) == [1, 1]
    assert act(sites) == [2, 2]


def test_a_job_whose_peer_does_not_come_is_cancelled(sites: Sites) -> None:
    act(sites)
    job = sites.jobs({"task_type": "act"}, options={"session": "reuse"})["alice"]
    worker = sites["alice"].worker
    worker.send(job)
    worker.until_said(job["execution_id"], "task_started")
    worker.redis.set(f"sf:cancel:{job['execution_id']}", 1, ex=60)
    worker.redis.publish("sf:control", job["execution_id"])
    assert worker.until_ended(job["execution_id"], 10)["status"] == "CANCELLED"
    assert act(sites) == [1, 1]
