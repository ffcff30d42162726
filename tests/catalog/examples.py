"""A job of every task type with little more than it needs; alice and bob take part."""

from __future__ import annotations

from typing import Any

from tests.running_worker import envelope

PATHS = {"alice": "a.csv", "bob": "b.csv"}
OUTPUTS = {"alice": "out-a.csv", "bob": "out-b.csv"}
KEYS = {"alice": ["id"], "bob": ["id"]}
LABEL = {"party": "alice", "column": "y"}
PREDICTION = {"party": "alice", "column": "pred"}
MODEL = {"alice": "model-a", "bob": "model-b"}
_COPY = {"input_paths": PATHS, "output_paths": OUTPUTS}
_PSI = {**_COPY, "keys": KEYS, "receiver": "alice"}
_TRAIN = {"input_paths": PATHS, "label": LABEL, "model_path": MODEL, "keys": KEYS}
_PREDICT = {"input_paths": PATHS, "model_path": MODEL, "receiver": "alice", "output_paths": {"alice": "pred.csv"}}
_EVAL = {"input_paths": {"alice": "a.csv"}, "label": LABEL, "prediction": PREDICTION}
_ALIGNED = {"input_paths": PATHS, "keys": KEYS}
_TABLE = {"type": "sf.table.vertical", "data_refs": [{"uri": f"{p}.csv", "party": p} for p in ("alice", "bob")]}
_NODE = {
    "comp_id": "stats/ss_vif:1.0.0",
    "attr_paths": ["input/input_data/feature_selects"],
    "attrs": [{"ss": ["x"]}],
    "inputs": [_TABLE],
    "output_uris": ["report"],
}
_TASKS: dict[str, dict[str, Any]] = {
    "biclassification_eval": _EVAL,
    "binning": _COPY,
    "component": {"node_eval_param": _NODE},
    "condition_filter": {**_COPY, "condition": {"party": "alice", "column": "x", "comparator": ">", "value": 1}},
    "encoder": {**_COPY, "method": "one_hot"},
    "feature_filter": {**_COPY, "keep": {"alice": ["x"]}},
    "fillna": {**_COPY, "strategy": "constant", "fill_value": 0},
    "groupby_statistics": {"input_paths": PATHS, "by": {"alice": ["city"]}, "values": {"bob": ["income"]}},
    "health_check": {},
    "hello": {"name": "甲方"},
    "model_export": {
        "model_name": "scores",
        "components": [{"node_eval_param": _NODE, "outputs": [{"type": "sf.model.ss_sgd"}]}],
        "output_paths": {"alice": "a.tar.gz", "bob": "b.tar.gz"},
    },
    "p_value": {"input_paths": PATHS, "model_path": MODEL},
    "pearson_correlation": _ALIGNED,
    "population_stability": {"input_paths": PATHS, "test_paths": OUTPUTS, "split_points": {"alice": {"x": [1, 2.5]}}},
    "prediction_bias_eval": _EVAL,
    "preprocessing_apply": {**_COPY, "model_path": MODEL},
    "psi": _PSI,
    "regression_eval": _EVAL,
    "sample": {**_COPY, "frac": 0.5, "stratify": LABEL},
    "scaler": {**_COPY, "features": {"alice": ["x"]}, "column_types": {"alice": {"x": "float"}}},
    "scorecard": {"input_paths": {"alice": "a.csv"}, "output_paths": {"alice": "out.csv"}, "prediction": PREDICTION},
    "sgb": {**_TRAIN, "objective": "tweedie"},
    "sgb_predict": _PREDICT,
    "ss_glm": {**_TRAIN, "distribution": "Poisson", "offset": {"party": "bob", "column": "exposure"}},
    "ss_glm_predict": _PREDICT,
    "ss_lr": {**_TRAIN, "epochs": 3, "learning_rate": 1},
    "ss_lr_predict": {**_PREDICT, "keys": KEYS, "saved_columns": ["y"]},
    "ss_xgb": _TRAIN,
    "ss_xgb_predict": _PREDICT,
    "table_statistics": {"input_paths": PATHS, "statistics": ["mean", "q2"]},
    "train_test_split": {"input_paths": PATHS, "train_paths": OUTPUTS, "test_paths": MODEL},
    "unbalanced_psi": {**_PSI, "server": "bob"},
    "unbalanced_psi_cache": {"server": "bob", "keys": KEYS, "input_paths": PATHS, "cache_path": MODEL},
    "vif": _ALIGNED,
}
TASKS = {name: {"task_type": name, **parameters} for name, parameters in _TASKS.items()}
SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}}
HEU = {"mode": "PHEU", "schema": "ou", "key_size": 2048}


def job(task: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An envelope with every device; `more` replaces or adds keys at the top."""
    return envelope(task, **{"spu_config": SPU, "heu_config": HEU, **more})
