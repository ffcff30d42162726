"""Envelopes as web sides in several languages write them mean what they mean to, and say what they cannot."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from sfworker.catalog import all_task_types, load_modules, validate
from sfworker.catalog.job import Job, accept
from sfworker.catalog.schema import envelope_schema
from sfworker.errors import EnvelopeError, ParameterValidationError
from sfworker.settings import Settings
from sfworker.wire import tolerance
from tests.catalog.test_schema import ajv
from tests.node.packages import Node
from tests.running_worker import RunningWorker

IDS = '"task_id": "t", "subtask_id": "s", "execution_id": "e"'
PSI = {
    "task_type": "psi",
    "keys": {"alice": ["id"], "bob": ["uid"]},
    "input_paths": {"alice": "a.csv", "bob": "b.csv"},
    "output_paths": {"alice": "oa.csv", "bob": "ob.csv"},
    "receiver": "alice",
}
PLAIN: dict[str, Any] = {
    "task_id": "t",
    "subtask_id": "s",
    "execution_id": "e",
    "sf_init_config": {"parties": ["alice", "bob"], "address": "local"},
    "spu_config": {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128"}}},
    "task_config": PSI,
}
# Jackson writes every field of a class, and a Double where somebody was careless.
JACKSON = f"""{{
    {IDS}, "createdBy": null, "sf_init_config": {{"parties": ["alice", "bob"], "address": "local",
    "cluster_config": null, "engine": null, "num_cpus": 8}},
    "spu_config": {{"cluster_def": {{"nodes": null, "runtime_config": {{"protocol": "SEMI2K", "field": "FM128",
        "fxp_fraction_bits": null, "max_concurrency": null}}}}, "link_desc": null}},
    "heu_config": null,
    "task_config": {{"task_type": "psi", "keys": {{"alice": ["id"], "bob": ["uid"], "carol": null}},
        "input_paths": {{"alice": "a.csv", "bob": "b.csv"}}, "output_paths": {{"alice": "oa.csv", "bob": "ob.csv"}},
        "receiver": "alice", "protocol": null, "ecdh_curve": null, "join_type": null, "left_side": null,
        "broadcast_result": null, "epochs": null, "features": null}},
    "options": {{"priority": null, "soft_time_limit": 3000.0, "time_limit": null, "max_retries": 3.0,
        "retry_delay": 60, "expires_at": null, "memory_limit_bytes": null, "threads": null, "session": null}}
}}"""
# Go writes nil maps, slices and pointers as null, and escapes `<`, `>` and `&`.
GO = f"""{{
    {IDS}, "sf_init_config": {{"parties": ["alice", "bob"], "address": "local", "cluster_config": null}},
    "spu_config": {{"cluster_def": {{"nodes": null, "runtime_config": {{"protocol": "semi2k", "field": "fm128"}}}},
        "link_desc": null}},
    "heu_config": null,
    "task_config": {{"task_type": "psi", "keys": {{"alice": ["id"], "bob": ["uid"]}},
        "input_paths": {{"alice": "a.csv", "bob": "b.csv"}}, "output_paths": {{"alice": "oa.csv", "bob": "ob.csv"}},
        "receiver": "alice", "left_side": null}},
    "options": null
}}"""
# JSON.stringify leaves undefined out, and has one kind of number.
NODE = f"""{{
    {IDS}, "sf_init_config": {{"parties": ["alice", "bob"], "address": "local"}},
    "spu_config": {{"cluster_def": {{"nodes": [], "runtime_config": {{"protocol": "SEMI2K", "field": 3}}}}}},
    "task_config": {{"task_type": "psi", "keys": {{"alice": "id", "bob": "uid"}},
        "input_paths": {{"alice": "a.csv", "bob": "b.csv"}}, "output_paths": {{"alice": "oa.csv", "bob": "ob.csv"}},
        "receiver": "alice"}},
    "options": {{"max_retries": 3}}, "sentAt": 1767225600000
}}"""
# As the original document and SecretFlow's own examples have it: options for Ray, addresses of nodes, members of enums.
PYTHON = f"""{{
    {IDS},
    "sf_init_config": {{"parties": ["alice", "bob"], "address": "local", "log_to_driver": true, "num_cpus": 4,
        "runtime_env": {{"env_vars": {{"PYTHONPATH": "/app/src", "EXECUTION_ID": "e"}}}}}},
    "spu_config": {{"cluster_def": {{"nodes": [
            {{"party": "alice", "address": "127.0.0.1:12945", "listen_address": ""}},
            {{"party": "bob", "address": "127.0.0.1:12946", "listen_address": ""}}],
        "runtime_config": {{"protocol": 2, "field": 3}}}}}},
    "heu_config": null,
    "task_config": {{"task_type": "psi", "keys": {{"alice": "id", "bob": ["uid"]}},
        "input_paths": {{"alice": "a.csv", "bob": "b.csv"}}, "output_paths": {{"alice": "oa.csv", "bob": "ob.csv"}},
        "receiver": "alice"}}
}}"""
SENT = {"Jackson": JACKSON, "Go": GO, "Node": NODE, "Python": PYTHON}
WARNINGS = {
    "Jackson": ["sf_init_config.num_cpus"],
    "Go": [],
    "Node": ["sentAt"],
    "Python": ["sf_init_config.log_to_driver", "sf_init_config.num_cpus", "sf_init_config.runtime_env"],
}


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    load_modules([])


def accepted(sent: str | dict[str, Any]) -> Job:
    text = sent if isinstance(sent, str) else json.dumps(sent)
    return accept(text.encode(), Settings(data_roots="/data"), now=0.0)


def meaning(job: Job) -> Any:
    """All that a worker makes of an envelope, without the addresses that a mesh replaces."""
    spu = msgspec.to_builtins(job.envelope.spu_config)
    spu["cluster_def"].pop("nodes")
    _, params = validate(job.envelope.task_config, job.parties)
    return params, spu, job.envelope.heu_config, job.envelope.options, job.parties, job.mode, job.task_type.name


@pytest.mark.parametrize("web_side", SENT)
def test_what_each_web_side_means(web_side: str) -> None:
    job = accepted(SENT[web_side])
    assert meaning(job) == meaning(accepted(PLAIN))
    assert [warning.partition(":")[0] for warning in job.warnings] == WARNINGS[web_side]


def test_ajv_takes_them(node: Node) -> None:
    ours = [task_type for task_type in all_task_types() if task_type.params.__module__.startswith("sfworker.")]
    sent = {name: json.loads(text) for name, text in SENT.items()}
    # No schema can tell an unknown parameter that is null from one that has a value.
    for name in ("epochs", "features"):
        del sent["Jackson"]["task_config"][name]
    assert ajv(node, envelope_schema(ours), list(sent.values())) == [True] * len(sent)


def task(**parameters: Any) -> dict[str, Any]:
    return {**PLAIN, "task_config": {**PSI, **parameters}}


def lr(**parameters: Any) -> dict[str, Any]:
    paths = {"input_paths": PSI["input_paths"], "model_path": {"alice": "m", "bob": "m"}}
    label = {"label": {"party": "alice", "column": "y"}}
    return {**PLAIN, "task_config": {"task_type": "ss_lr", **paths, **label, **parameters}}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (task(keys={"alice": [], "bob": ["uid"]}), "task_config.keys.alice: expected `array` of length >= 1"),
        (task(keys={"alice": ["id"], "bob": [7]}), "task_config.keys.bob[0]: expected `str`, got `int`"),
        (task(keys={"alice": ["id"], "bob": 7}), "task_config.keys.bob: expected `array`, got `int`"),
        (task(keys={"alice": ["id"], "bob": None}), "task_config.keys.bob: required and missing"),
        (task(keys={"alice": ["id"], "bob": [None]}), "task_config.keys.bob[0]: expected `str`, got `null`"),
        (task(keys=["id"]), "task_config.keys: expected `object`, got `array`"),
        (task(keys={"a/b": ["id"]}), "task_config.keys.(a name in it): expected `str` of ASCII letters"),
        (task(receiver=None), "task_config.receiver: required and missing"),
        (task(input_paths={"alice": "a.csv", "bob": ""}), "task_config.input_paths.bob: expected `str` of length >= 1"),
        (lr(epochs=10.5), "task_config.epochs: expected `int | null`, got `float`"),
        (lr(epochs=1e300), "task_config.epochs: "),
        (lr(epochs="10 "), "task_config.epochs: expected `int | null`, got `str`"),
        (lr(epochs="0x10"), "task_config.epochs: expected `int | null`, got `str`"),
        (lr(epochs="1_0"), "task_config.epochs: expected `int | null`, got `str`"),
        (lr(epochs="10.5"), "task_config.epochs: expected `int | null`, got `float`"),
        (lr(learning_rate="NaN"), "task_config.learning_rate: expected `float`, got `str`"),
        (lr(learning_rate="1e999"), "task_config.learning_rate: expected `float`, got `str`"),
        (task(broadcast_result=2), "task_config.broadcast_result: expected `bool`, got `int`"),
        (task(broadcast_result="yes"), "task_config.broadcast_result: expected `bool`, got `str`"),
        (task(broadcast_result=1.0), "task_config.broadcast_result: expected `bool`, got `float`"),
        (task(receiver=1), "task_config.receiver: expected `str`, got `int`"),
        (task(keys=""), "task_config.keys: required and missing"),
        (task(protocol=2), "task_config.protocol: expected `str`, got `int`"),
        ({**PLAIN, "options": {"priority": "hi"}}, "options.priority: invalid enum value"),
        ({**PLAIN, "options": {"expires_at": 1795797253353}}, "options.expires_at: expected Unix seconds, got what"),
        (lr(epochs=True), "task_config.epochs: expected `int | null`, got `bool`"),
        ({**PLAIN, "spu_config": {"cluster_def": {"runtime_config": {"protocol": 9}}}}, "spu_config.cluster_def"),
        ({**PLAIN, "spu_config": {"cluster_def": {"runtime_config": {"protocol": True}}}}, "spu_config.cluster_def"),
        ({**PLAIN, "spu_config": {"cluster_def": {"runtime_config": {"protocol": "Semi"}}}}, "spu_config.cluster_def"),
        ({**PLAIN, "spu_config": {"cluster_def": {"runtime_config": {"protocol": None}}}}, "spu_config.cluster_def"),
        ({**PLAIN, "options": {"max_retries": 1.5}}, "options.max_retries: expected `int`, got `float`"),
    ],
)
def test_what_is_wrong_is_named(sent: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterValidationError) as caught:
        accepted(sent)
    assert str(caught.value).startswith(said)


def test_the_entry_that_is_wrong_is_named_in_maps_of_maps() -> None:
    types = {"alice": {"x": "int", "z": "float"}, "bob": {"x": "int", "amount": "decimal"}}
    scaling = {"task_type": "scaler", "input_paths": PSI["input_paths"], "output_paths": PSI["output_paths"]}
    with pytest.raises(ParameterValidationError, match=r"^task_config\.column_types\.bob\.amount: invalid enum value;"):
        accepted({**PLAIN, "task_config": {**scaling, "column_types": types}})


class Own(msgspec.Struct, forbid_unknown_fields=True):
    """A null, and a number with a point, that are values of their own, beside those that are not."""

    bound: int | None = 5
    anything: Any = 5
    several: dict[str, int | None] = {}
    values: dict[str, float] = {}
    either: int | float = 5
    numbers: list[int] = []
    count: int = 5


def test_what_means_something_stays() -> None:
    given = {"bound": None, "anything": None, "several": {"a": None, "b": 2.0}, "either": 2.0, "unknown": None}
    given |= {"values": {"a": None, "b": 2.0}, "numbers": [1.0, 2.0], "count": None}
    made = tolerance.convert(given, Own)
    assert made == Own(
        bound=None, anything=None, several={"a": None, "b": 2}, values={"b": 2.0}, numbers=[1, 2], either=2.0
    )
    assert (type(made.either), type(made.several["b"])) == (float, int)
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        tolerance.convert({"unknown": 1}, Own)


def test_configurations_as_they_are_spelled_elsewhere() -> None:
    heu = {"mode": "PHEU", "schema": None, "he_parameters": {"key_pair": {"generate": {"bit_size": 2048.0}}}}
    link = {"recvTimeoutMs": "1000", "http_timeout_ms": None}
    runtime = {"protocol": "Cheetah", "fxpFractionBits": "40", "fxp_exp_iters": 8.0, "enable_pphlo_profile": None}
    runtime |= {"field": 3.0, "fxpLogMode": 1.0, "sigmoid_mode": "sigmoid_mm1", "trunc_allow_msb_error": "true"}
    sent = {**PLAIN, "heu_config": heu, "spu_config": {"cluster_def": {"runtime_config": runtime}, "link_desc": link}}
    envelope = accepted(sent).envelope
    assert msgspec.to_builtins(envelope.heu_config) == {
        "mode": "PHEU",
        "he_parameters": {"key_pair": {"generate": {"bit_size": 2048}}},
    }
    assert msgspec.to_builtins(envelope.spu_config) == {
        "cluster_def": {
            "runtime_config": {
                "protocol": "CHEETAH",
                "field": "FM128",
                "fxp_fraction_bits": 40,
                "fxp_exp_iters": 8,
                "fxp_log_mode": 1,
                "sigmoid_mode": "SIGMOID_MM1",
                "trunc_allow_msb_error": True,
            },
            "nodes": [],
        },
        "link_desc": {"recv_timeout_ms": 1000},
    }


RUNTIME = "spu_config.cluster_def.runtime_config"


# How each is written in JSON beside how the other languages write it, of which some know fewer kinds of values.
ALIKE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (lr(epochs="10", learning_rate="0.1"), lr(epochs=10, learning_rate=0.1)),
    (lr(epochs="1e1", learning_rate="1"), lr(epochs=10, learning_rate=1.0)),
    (lr(penalty="L2", epochs="", sig_type=""), lr(penalty="l2")),
    (task(broadcast_result=1), task(broadcast_result=True)),
    (task(broadcast_result="False"), task(broadcast_result=False)),
    (task(protocol="kkrt_psi_2pc", join_type="Inner", ecdh_curve=""), task(protocol="KKRT_PSI_2PC", join_type="inner")),
    ({**PLAIN, "options": []}, PLAIN),
    ({**PLAIN, "options": ""}, PLAIN),
    ({**PLAIN, "heu_config": []}, PLAIN),
    ({**PLAIN, "sf_init_config": {"parties": ["alice", "bob"], "runtime_env": None}}, PLAIN),
    (
        {**PLAIN, "options": {"priority": "NORMAL", "session": "", "max_retries": "3", "time_limit": "3600.0"}},
        {**PLAIN, "options": {"max_retries": 3}},
    ),
    (
        {**PLAIN, "heu_config": {"mode": "pheu", "key_size": "2048"}},
        {**PLAIN, "heu_config": {"mode": "PHEU", "key_size": 2048}},
    ),
]


@pytest.mark.parametrize(("sent", "plain"), ALIKE)
def test_what_other_languages_write_means_the_same(sent: dict[str, Any], plain: dict[str, Any]) -> None:
    assert meaning(accepted(sent)) == meaning(accepted(plain))
    assert accepted(sent).warnings == []


@pytest.mark.parametrize("unset", ["", "0001-01-01T00:00:00Z", None])
def test_a_time_that_is_not_set_does_not_expire(unset: str | None) -> None:
    assert accepted({**PLAIN, "options": {"expires_at": unset}}).warnings == []


def test_what_is_given_twice_is_named_unless_it_is_the_same() -> None:
    text = json.dumps(PLAIN)
    assert meaning(
        accepted(text.replace('"receiver": "alice"', '"receiver": "alice", "receiver": "alice"'))
    ) == meaning(accepted(PLAIN))
    for name, others in (("receiver", '"bob"'), ("keys", "{}"), ("task_type", "1")):
        with pytest.raises(
            ParameterValidationError, match=rf"^task_config\.{name}: given twice, with different values"
        ):
            accepted(text.replace(f'"{name}": ', f'"{name}": {others}, "{name}": ', 1))
    with pytest.raises(ParameterValidationError) as caught:
        accepted(text[:-1] + ', "options": {"a - at `b\\n": 1, "a - at `b\\n": 2}}')
    assert str(caught.value).startswith("options.a - at �b�: given twice")
    assert accepted(text[:-1] + ', "unknown": 1, "unknown": 2}').warnings == ["unknown: has no effect in this worker"]
    nodes = '"nodes": [{"party": "alice"}, {"party": "bob", "party": "carol"}]'
    with pytest.raises(ParameterValidationError, match=r"^spu_config\.cluster_def\.nodes\[1\]\.party: given twice"):
        accepted(text.replace('"cluster_def": {', f'"cluster_def": {{{nodes}, ', 1))


@pytest.mark.parametrize(
    ("runtime", "said"),
    [
        ({"fxpFractionBits": 10, "fxp_fraction_bits": 20}, "object has `fxp_fraction_bits` in two spellings"),
        ({"enable_runtime_snapshot": True}, "enable_runtime_snapshot: unknown parameter"),
        ({"snapshot_dump_dir": "/data"}, "snapshot_dump_dir: unknown parameter"),
        ({"snapshotDumpDir": "/data"}, "snapshot_dump_dir: unknown parameter"),
        ({"enable_action_trace": True}, "enable_action_trace: unknown parameter"),
        ({"enable_pphlo_trace": True}, "enable_pphlo_trace: unknown parameter"),
        ({"public_random_seed": 1}, "public_random_seed: unknown parameter"),
        ({"ttp_beaver_config": {"server_host": "h:1"}}, "ttp_beaver_config: unknown parameter"),
        ({"beaver_type": "TrustedThirdParty"}, "beaver_type: invalid enum value"),
        ({"beaver_type": 1}, "beaver_type: invalid enum value"),
        ({"fxp_fraction_bits": 1e300}, "fxp_fraction_bits: expected `int"),
        ({"fxp_exp_iters": 10**9}, "fxp_exp_iters: expected `int`"),
        ({"fxp_exp_mode": "EXP_NONE"}, "fxp_exp_mode: invalid enum value"),
        ({"cheetah_2pc_config": {"ot_kind": "None"}}, "cheetah_2pc_config.ot_kind: invalid enum value"),
        ({"protocol": ["SEMI2K"]}, "protocol: expected"),
        ({"protocol": {}}, "protocol: expected"),
        ({"protocol": None}, "protocol: required and missing"),
        ({"field": ["FM128"]}, "field: expected"),
        ({"field": "FM64\n"}, "field: one of FM128, FM32, FM64"),
        ({"field": ""}, "field: one of FM128, FM32, FM64"),
        ({"field": 0}, "field: one of FM128, FM32, FM64"),
        ({"share_max_chunk_size": 1}, "share_max_chunk_size: expected `int` >="),
    ],
)
def test_configurations_of_an_spu_that_are_refused(runtime: dict[str, Any], said: str) -> None:
    config = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", **runtime}}}
    with pytest.raises(ParameterValidationError) as caught:
        accepted({**PLAIN, "spu_config": config})
    assert str(caught.value).startswith((f"{RUNTIME}.{said}", f"{RUNTIME}: {said}"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("heu_config", {"schema": "mock"}, "heu_config.schema: invalid enum value"),
        ("heu_config", {"schema": "plain", "mode": "PHEU"}, "heu_config.schema: invalid enum value"),
        ("heu_config", {"he_parameters": {"schema": "none"}}, "heu_config.he_parameters.schema: invalid enum value"),
        ("heu_config", {"key_size": 512}, "heu_config.key_size: expected `int` >= 2048"),
        (
            "heu_config",
            {"he_parameters": {"key_pair": {"generate": {"bit_size": 128}}}},
            "heu_config.he_parameters.key_pair.generate.bit_size: expected `int` >= 2048",
        ),
        ("heu_config", {"he_parameters": {"key_pair": {"load": "/k"}}}, "heu_config.he_parameters.key_pair"),
        ("heu_config", [1], "heu_config: expected `object"),
        ("link_desc", {"server_ssl_opts": {}}, "spu_config.link_desc.server_ssl_opts: unknown parameter"),
        ("link_desc", {"http_max_payload_size": 1 << 40}, "spu_config.link_desc.http_max_payload_size: expected"),
        ("link_desc", {"brpc_channel_protocol": "x"}, "spu_config.link_desc.brpc_channel_protocol: invalid enum"),
    ],
)
def test_other_configurations_that_are_refused(name: str, value: Any, said: str) -> None:
    more = {"heu_config": value} if name == "heu_config" else {"spu_config": {**PLAIN["spu_config"], name: value}}
    with pytest.raises(ParameterValidationError) as caught:
        accepted({**PLAIN, **more})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("depth", [101, 900, 5000])
def test_what_is_nested_too_deep_is_answered(depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deep = f"{opening * depth}1{closing * depth}"
        for at in ("task_config", "spu_config", "unknown"):
            sent = json.dumps({**PLAIN, at: 0}).replace(f'"{at}": 0', f'"{at}": {deep}')
            with pytest.raises(EnvelopeError, match="nested too deep"):
                accepted(sent)
        node = json.dumps({**PLAIN, "task_config": {"task_type": "component", "node_eval_param": {"attrs": 0}}})
        with pytest.raises(EnvelopeError, match="nested too deep"):
            accepted(node.replace('"attrs": 0', f'"attrs": {deep}'))


def test_what_has_no_effect_is_told_to_a_bound() -> None:
    many = json.dumps({**PLAIN, **{f"k{number}": 1 for number in range(1000)}, "x" * 1000: 1})
    told = accepted(many).warnings
    assert len(told) == 20
    assert max(map(len, told)) < 120
    assert accepted({**PLAIN, "x" * 1000: 1}).warnings == [f"{'x' * 64}: has no effect in this worker"]
    assert accepted({**PLAIN, "options": {"session": "reuse"}}).warnings[0].startswith("options.session: ")


def test_a_worker_runs_what_csharp_and_php_write(worker: RunningWorker, data: Path) -> None:
    for party, column in (("a", "id"), ("b", "uid")):
        pd.DataFrame({column: [1, 2, 3]}).to_csv(data / f"{party}.csv", index=False)
    sent = json.loads(NODE) | {"heu_config": [], "options": {"priority": "HIGH", "max_retries": "1", "session": ""}}
    sent["sf_init_config"]["runtime_env"] = []
    sent["task_config"] |= {"broadcast_result": 1, "protocol": "kkrt_psi_2pc", "join_type": "INNER", "ecdh_curve": ""}
    for name in ("input_paths", "output_paths"):
        paths = sent["task_config"][name]
        sent["task_config"][name] = {party: str(data / path) for party, path in paths.items()}
    sent["execution_id"] = f"marked-{data.name}"
    text = codecs.BOM_UTF8 + json.dumps(sent).replace('"task_type"', r'"\u0074ask_type"').encode() + b" \r\n"
    worker.send(text)
    worker.until_ended(sent["execution_id"])
    [result] = worker.said(sent["execution_id"], "result")
    assert (result["status"], result["result"]["intersection_count"]) == ("success", 3)
    assert result["warnings"] == [
        "sentAt: has no effect in this worker",
        "options.priority: has no effect, as the stream decides; append the job to sf:jobs:high",
    ]


def test_a_worker_runs_one_and_warns(worker: RunningWorker, data: Path) -> None:
    for party, column in (("a", "id"), ("b", "uid")):
        pd.DataFrame({column: [1, 2, 3]}).to_csv(data / f"{party}.csv", index=False)
    sent = json.loads(PYTHON) | {"execution_id": f"web-{data.name}"}
    for name in ("input_paths", "output_paths"):
        paths = sent["task_config"][name]
        sent["task_config"][name] = {party: str(data / path) for party, path in paths.items()}
    result = worker.run(sent)
    assert result["result"]["intersection_count"] == 3
    assert result["warnings"] == [f"{path}: has no effect in this worker" for path in WARNINGS["Python"]]
    assert "warnings" not in worker.run(
        sent | {"execution_id": f"plain-{data.name}", "sf_init_config": PLAIN["sf_init_config"]}
    )
