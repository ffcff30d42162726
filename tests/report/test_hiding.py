"""What a page leaves out of a result and a job."""

from __future__ import annotations

import pytest

from sfworker.report.hiding import HIDDEN, job, without_paths


def test_fields_that_name_paths_are_hidden_in_results_and_nothing_else() -> None:
    answer = {
        "output_paths": {"alice": "a.csv", "bob": "b"},
        "model_path": None,
        "component": "data_prep/psi:1.0.0",
        "outputs": [{"name": "chain/x", "type": "x", "data_refs": [{"uri": "chain/x", "party": "alice"}]}],
        "groups": [{"keys": ["/a/b", "2024/01"], "count": 3}],
    }
    assert without_paths(answer) == {
        "output_paths": {"alice": HIDDEN, "bob": HIDDEN},
        "model_path": None,
        "component": "data_prep/psi:1.0.0",
        "outputs": [{"name": HIDDEN, "type": "x", "data_refs": [{"uri": HIDDEN, "party": "alice"}]}],
        "groups": [{"keys": ["/a/b", "2024/01"], "count": 3}],
    }


@pytest.mark.attack("page of a result")
def test_of_a_job_only_what_it_computed_with_is_shown() -> None:
    envelope = {
        "execution_id": "e-1",
        "sf_init_config": {"parties": ["alice"], "address": "10.0.0.1:6379"},
        "spu_config": {"cluster_def": {"nodes": [{"address": "10.0.0.2"}], "runtime_config": {"field": "FM64"}}},
        "task_config": {
            "task_type": "own",
            "input_paths": {"alice": "in"},
            "table": "/data/x",
            "other": "x.Parquet",
            "keys": {"alice": ["a/b"]},
            "node_eval_param": {"attrPaths": ["input/input_ds/keys"], "outputUris": ["a"], "checkpoint_uri": "b"},
        },
        "secret": "x",
    }
    shown = job(envelope, paths=False)
    assert shown == {
        "parties": ["alice"],
        "task_config": {
            "task_type": "own",
            "input_paths": {"alice": HIDDEN},
            "table": HIDDEN,
            "other": HIDDEN,
            "keys": {"alice": ["a/b"]},
            "node_eval_param": {
                "attrPaths": ["input/input_ds/keys"],
                "outputUris": [HIDDEN],
                "checkpoint_uri": HIDDEN,
            },
        },
        "runtime_config": {"field": "FM64"},
    }
    assert job(envelope, paths=True)["task_config"] == envelope["task_config"]


def test_a_job_that_nobody_checked_is_shown_as_far_as_it_goes() -> None:
    assert job({"sf_init_config": "x", "spu_config": [], "task_config": 7}, paths=False) == {"task_config": 7}
