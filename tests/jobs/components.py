"""What tests of SecretFlow's components share: a worker whose parties have storage of their own, and parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfworker.cli.embedded_redis import EmbeddedRedis
from tests.files import below
from tests.running_worker import RunningWorker, envelope

SEMI2K = {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}
HEU = {
    "sk_keeper": {"party": "alice"},
    "evaluators": [{"party": "bob"}],
    "mode": "PHEU",
    "he_parameters": {"schema": "ou", "key_pair": {"generate": {"bit_size": 2048}}},
}
_TYPE = "type.googleapis.com/secretflow_spec.v1."
_FIELDS = {bool: "b", int: "i64", float: "f", str: "s"}


class Platform:
    """A worker whose parties have a data root each, and how a platform that knows components uses it."""

    def __init__(self, worker: RunningWorker, directory: Path) -> None:
        self.worker = worker
        self.directory = directory

    def root(self, party: str) -> Path:
        return self.directory / party

    def answer(self, parameter: dict[str, Any], runtime_config: dict[str, Any] | None = None, **more: Any) -> Any:
        """The result of a `component` job."""
        configured = {"spu_config": {"cluster_def": {"runtime_config": {**SEMI2K, **(runtime_config or {})}}}, **more}
        given = {name: value for name, value in configured.items() if value is not None}
        return self.worker.run(envelope({"task_type": "component", "node_eval_param": parameter}, **given))

    def run(self, parameter: dict[str, Any], runtime_config: dict[str, Any] | None = None, **more: Any) -> Any:
        """What a `component` job answers; it has to succeed."""
        result = self.answer(parameter, runtime_config, **more)
        assert result["status"] == "success", result
        return result["result"]

    def files(self, party: str) -> set[str]:
        """Every file of a party, below its data root."""
        root = self.root(party)
        return {str(path.relative_to(root)) for path in below(root) if path.is_file()}


@contextmanager
def running(directory: Path, *, started_by: Sequence[str] = (), **settings: Any) -> Iterator[Platform]:
    roots = {party: [str(directory / party)] for party in ("alice", "bob")}
    for party in roots:
        (directory / party).mkdir(exist_ok=True)
    with (
        EmbeddedRedis("--appendfsync", "no") as redis,
        RunningWorker(redis.url, directory, started_by=started_by, data_roots=json.dumps(roots), **settings) as worker,
    ):
        yield Platform(worker, directory)


def node(
    component: str, inputs: Sequence[Any], outputs: Sequence[str], attributes: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """A NodeEvalParam."""
    return {
        "comp_id": component,
        "attr_paths": list(attributes),
        "attrs": [attribute(value) for value in attributes.values()],
        "inputs": list(inputs),
        "output_uris": list(outputs),
        **more,
    }


def attribute(value: Any) -> dict[str, Any]:
    """A value in the field of its type."""
    if isinstance(value, list):
        return {f"{_FIELDS[type(value[0])]}s": value}
    return {_FIELDS[type(value)]: value}


def table(
    party: str, uri: str, features: dict[str, str], ids: Sequence[str] = (), labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """The DistData of a party's CSV file; types of columns as SecretFlow spells them."""
    schema = {
        "ids": list(ids),
        "id_types": ["str"] * len(ids),
        "features": list(features),
        "feature_types": list(features.values()),
        "labels": list(labels or {}),
        "label_types": list((labels or {}).values()),
    }
    return {
        "name": uri,
        "type": "sf.table.individual",
        "data_refs": [{"uri": uri, "party": party, "format": "csv", "null_strs": [""]}],
        "meta": {"@type": f"{_TYPE}IndividualTable", "schema": schema, "line_count": -1},
    }


def vertical(*tables: dict[str, Any]) -> dict[str, Any]:
    """The DistData of tables whose n-th rows belong together."""
    return {
        "name": "joined",
        "type": "sf.table.vertical",
        "data_refs": [reference for each in tables for reference in each["data_refs"]],
        "meta": {
            "@type": f"{_TYPE}VerticalTable",
            "schemas": [each["meta"]["schema"] for each in tables],
            "line_count": -1,
        },
    }
