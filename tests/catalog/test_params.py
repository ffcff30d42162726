"""Parameters that cannot work are refused before a process starts, by a sentence that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from sfworker import catalog
from sfworker.catalog.psi import PROTOCOLS, ProtocolName
from sfworker.errors import ParameterValidationError

PARTIES = ["alice", "bob"]
PSI: dict[str, Any] = {
    "task_type": "psi",
    "keys": {"alice": ["id"], "bob": ["uid"]},
    "input_paths": {"alice": "a.csv", "bob": "b.csv"},
    "output_paths": {"alice": "out.csv", "bob": "out.csv"},
    "receiver": "alice",
}
UNBALANCED = PSI | {"task_type": "unbalanced_psi", "server": "bob"}
CACHE: dict[str, Any] = {
    "task_type": "unbalanced_psi_cache",
    "server": "bob",
    "keys": {"bob": ["uid"]},
    "input_paths": {"bob": "b.csv"},
    "cache_path": {"alice": "cache", "bob": "cache"},
}
LR: dict[str, Any] = {
    "task_type": "ss_lr",
    "input_paths": {"alice": "a.csv", "bob": "b.csv"},
    "label": {"party": "alice", "column": "y"},
    "model_path": {"alice": "m", "bob": "m"},
}
PREDICT: dict[str, Any] = {
    "task_type": "ss_lr_predict",
    "input_paths": {"alice": "a.csv", "bob": "b.csv"},
    "model_path": {"alice": "m", "bob": "m"},
    "receiver": "bob",
    "output_paths": {"bob": "out.csv"},
}
EVAL: dict[str, Any] = {
    "task_type": "biclassification_eval",
    "input_paths": {"alice": "a.csv"},
    "label": {"party": "alice", "column": "y"},
    "prediction": {"party": "alice", "column": "pred"},
}


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    catalog.load_modules([])


@pytest.mark.parametrize("task", [PSI, UNBALANCED, CACHE, LR, PREDICT, EVAL], ids=lambda task: str(task["task_type"]))
def test_what_is_needed_is_enough(task: dict[str, Any]) -> None:
    task_type, params = catalog.validate(task, PARTIES)
    assert task_type.name == task["task_type"]
    assert isinstance(params, task_type.params)
    assert task_type.disclosures


def test_every_accepted_protocol_has_a_name_of_today() -> None:
    assert set(PROTOCOLS) == set(ProtocolName.__args__)  # type: ignore[attr-defined]
    assert {PROTOCOLS[name] for name in PROTOCOLS.values()} == set(PROTOCOLS.values())


@pytest.mark.parametrize(
    ("task", "parameters", "said"),
    [
        (PSI, {"protocol": "BC22_PSI_2PC"}, "task_config.protocol: "),
        (PSI, {"ecdh_curve": "CURVE_X"}, "task_config.ecdh_curve: "),
        (PSI, {"keys": {"alice": ["id"]}}, "task_config.keys.bob: required"),
        (PSI, {"keys": {"alice": [], "bob": ["uid"]}}, "task_config.keys"),
        (PSI, {"keys": {"alice": ["id"], "bob": ["uid", "y"]}}, "task_config.keys: the parties need the same"),
        (PSI, {"join_type": "right"}, "task_config.join_type: "),
        (PSI, {"left_side": "carol"}, "task_config.left_side: "),
        (PSI, {"keys": {"alice": ["i", "i"], "bob": ["u", "y"]}}, "task_config.keys.alice: names a column twice"),
        (PSI, {"receiver": "carol"}, "task_config.receiver: "),
        (PSI, {"output_paths": {"alice": "out.csv"}}, "task_config.output_paths.bob: required"),
        (PSI, {"output_paths": {"alice": "./a.csv", "bob": "c.csv"}}, "task_config.output_paths.alice: is the party's"),
        (UNBALANCED, {"server": "carol"}, "task_config.server: "),
        (UNBALANCED, {"cache_path": {"bob": "cache"}}, "task_config.cache_path.alice: required"),
        (CACHE, {"cache_path": {"bob": "cache"}}, "task_config.cache_path.alice: required"),
        (CACHE, {"server": "alice"}, "task_config.keys.alice: required"),
        (UNBALANCED, {"protocol": "PROTOCOL_ECDH"}, "task_config.protocol: "),
        (LR, {"label": {"party": "carol", "column": "y"}}, "task_config.label.party: "),
        (LR, {"label": {"party": "alice"}}, "task_config.label.column: required"),
        (LR, {"model_path": {"alice": "m"}}, "task_config.model_path.bob: required"),
        (LR, {"features": {"alice": ["x", "y"]}}, "task_config.features.alice: column 'y' is a key or has"),
        (LR, {"features": {"bob": ["x", "x"]}}, "task_config.features.bob: names a column twice"),
        (LR, {"epochs": 0}, "task_config.epochs: "),
        (LR, {"learning_rate": 0}, "task_config.learning_rate: "),
        (LR, {"penalty": "l1"}, "task_config.penalty: "),
        (LR, {"sig_type": "t9"}, "task_config.sig_type: "),
        (PREDICT, {"receiver": "alice"}, "task_config.output_paths.alice: required"),
        (PREDICT, {"saved_columns": ["pred"]}, "task_config.saved_columns: would be written twice"),
        (EVAL, {"prediction": {"party": "bob", "column": "pred"}}, "task_config.prediction.party: "),
        (EVAL, {"input_paths": {"bob": "b.csv"}}, "task_config.input_paths.alice: required"),
        (EVAL, {"bucket_count": 0}, "task_config.bucket_count: "),
    ],
)
def test_what_cannot_work_is_refused(task: dict[str, Any], parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterValidationError) as refused:
        catalog.validate(task | parameters, PARTIES)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("parties", "parameters", "said"),
    [
        (["alice"], {}, "sf_init_config.parties: psi joins two or three"),
        ([*PARTIES, "carol", "dave"], {}, "sf_init_config.parties: psi joins two or three"),
        ([*PARTIES, "carol"], {}, "task_config.protocol: joins exactly two parties; three take PROTOCOL_ECDH_3PC"),
        (PARTIES, {"protocol": "ECDH_PSI_3PC"}, "task_config.protocol: PROTOCOL_ECDH_3PC joins exactly three"),
        ([*PARTIES, "carol"], {"protocol": "PROTOCOL_ECDH_3PC", "join_type": "left"}, "task_config.join_type: three"),
        (
            [*PARTIES, "carol"],
            {"protocol": "PROTOCOL_ECDH_3PC", "broadcast_result": False},
            "task_config.table_keys_duplicated: of three parties",
        ),
    ],
)
def test_psi_is_between_two_or_three(parties: list[str], parameters: dict[str, Any], said: str) -> None:
    carols = {"keys": ["id"], "input_paths": "c.csv", "output_paths": "out-c.csv"}
    if "carol" in parties:
        parameters = {name: PSI[name] | {"carol": value} for name, value in carols.items()} | parameters
    with pytest.raises(ParameterValidationError) as refused:
        catalog.validate(PSI | parameters, parties)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("broadcast", [True, False])
def test_only_readers_need_an_output(broadcast: bool) -> None:
    task = PSI | {"broadcast_result": broadcast, "output_paths": {"alice": "out.csv"}}
    if not broadcast:
        catalog.validate(task, PARTIES)
        return
    with pytest.raises(ParameterValidationError):
        catalog.validate(task, PARTIES)
