"""What a worker answers to input that cannot work: one FAILURE that names the field and the remedy and shows no data.

After each, the `worker` fixture sees the same worker serve the next job with nothing left over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.running_worker import RunningWorker, envelope, until

SPU = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM128", "fxp_fraction_bits": 40}}}
SECRETS = ("47110815", "Zhang", "balance", "1234.5")
Change = Callable[[dict[str, Any], Path], None]


def write_inputs(data: Path) -> None:
    """Two good files; `Zhang-47110815` is a customer of both."""
    rows = [f"Zhang-47110815,1234.5,{number % 2}" for number in range(1)]
    rows += [f"c{number},{number * 1.5},{number % 2}" for number in range(30)]
    (data / "alice.csv").write_text("\n".join(["id,balance,label", *rows]) + "\n")
    rows = [f"Zhang-47110815,{47110815}"] + [f"c{number},{number * 2.5}" for number in range(30)]
    (data / "bob.csv").write_text("\n".join(["id,income", *rows]) + "\n")


def psi(data: Path) -> dict[str, Any]:
    return envelope(
        {
            "task_type": "psi",
            "keys": {"alice": ["id"], "bob": ["id"]},
            "input_paths": {"alice": str(data / "alice.csv"), "bob": str(data / "bob.csv")},
            "output_paths": {"alice": str(data / "out-alice.csv"), "bob": str(data / "out-bob.csv")},
            "receiver": "alice",
        },
        spu_config=SPU,
        options={"max_retries": 3},
    )


def ss_lr(data: Path) -> dict[str, Any]:
    return envelope(
        {
            "task_type": "ss_lr",
            "keys": {"alice": ["id"], "bob": ["id"]},
            "input_paths": {"alice": str(data / "alice.csv"), "bob": str(data / "bob.csv")},
            "label": {"party": "alice", "column": "label"},
            "model_path": {"alice": str(data / "model-alice"), "bob": str(data / "model-bob")},
            "epochs": 1,
        },
        spu_config=SPU,
        options={"max_retries": 3},
    )


def fails(worker: RunningWorker, job: dict[str, Any] | bytes, error_type: str, *said: str) -> dict[str, Any]:
    """Send it; there is one final event, it says all of `said`, and nothing said or logged shows data or a path."""
    result = worker.run(job)
    about = job["execution_id"] if isinstance(job, dict) and job.get("execution_id") else None
    assert result["status"] == "failure"
    assert (result["error_type"], [part for part in said if part not in result["error"]]) == (error_type, []), result
    if about:
        finals = [event for event in worker.said(about) if event["status"] in {"FAILURE", "RETRY", "SUCCESS"}]
        assert [event["status"] for event in finals] == ["FAILURE"]
        assert finals[0]["error"] == result["error"]
        published = json.dumps(worker.said(about)) + json.dumps(result)
        assert not [secret for secret in (*SECRETS, str(worker.log_file.parent)) if secret in published]
    return result


# --- the envelope


@pytest.mark.parametrize(
    ("data", "error_type", "said"),
    [
        (b"{not json", "EnvelopeError", "not valid JSON"),
        (b'"text"', "EnvelopeError", "one JSON object"),
        (b"\xff\xfe", "EnvelopeError", "UTF-8"),
        (b"[" * 100_000, "EnvelopeError", "envelope"),
        (b"", "EnvelopeError", "envelope"),
        (b"{}", "ParameterValidationError", "required and missing"),
    ],
)
def test_entries_without_an_id_are_answered_under_the_entrys(
    worker: RunningWorker, data: bytes, error_type: str, said: str
) -> None:
    result = fails(worker, data, error_type, said)
    assert (
        result["message_id"]
        == worker.redis.xpending_range("sf:jobs", "secretflow", "-", "+", 1000, "@dead")[-1]["message_id"].decode()
    )
    assert result["task_metadata"]["execution_id"] is None


def test_an_entry_without_an_envelope(worker: RunningWorker) -> None:
    entry_id = worker.redis.xadd("sf:jobs", {"something": "else"}).decode()
    assert worker.until_ended(entry_id)["error_type"] == "EnvelopeError"


@pytest.mark.attack("stream entry")
def test_an_envelope_of_10_mb_is_refused_under_its_own_id(worker: RunningWorker) -> None:
    job = envelope({"task_type": "hello", "name": "x" * 10_000_000})
    fails(worker, job, "EnvelopeError", "1048576", "by path")


@pytest.mark.parametrize("field", ["task_id", "subtask_id", "execution_id", "sf_init_config", "task_config"])
def test_a_field_is_missing(worker: RunningWorker, field: str) -> None:
    job = envelope({"task_type": "hello"})
    del job[field]
    fails(worker, job if field != "execution_id" else json.dumps(job).encode(), "ParameterValidationError", field)


@pytest.mark.parametrize("value", ["", 7, None, "x" * 300])
def test_an_execution_id_that_is_none(worker: RunningWorker, value: Any) -> None:
    job = envelope({"task_type": "hello"}) | {"execution_id": value}
    fails(worker, json.dumps(job).encode(), "ParameterValidationError", "execution_id")


@pytest.mark.parametrize(
    ("task_config", "error_type", "said"),
    [
        ({"task_type": "helo"}, "TaskTypeNotFoundError", ["task_config.task_type", "did you mean hello"]),
        ({}, "ParameterValidationError", ["task_config.task_type", "required"]),
        ({"task_type": "hello", "nmae": "x"}, "ParameterValidationError", ["task_config.nmae", "sfworker tasks hello"]),
        ({"task_type": "hello", "name": 7}, "ParameterValidationError", ["task_config.name", "expected `str`"]),
        ({"task_type": "psi"}, "ParameterValidationError", ["task_config.", "required and missing"]),
    ],
)
def test_task_types_and_parameters(
    worker: RunningWorker, task_config: dict[str, Any], error_type: str, said: list[str]
) -> None:
    fails(worker, envelope(task_config), error_type, *said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"options": {"time_limit": -1}}, ["options.time_limit"]),
        ({"options": {"time_limt": 5}}, ["options.time_limt", "unknown"]),
        ({"options": {"expires_at": "tomorrow"}}, ["options.expires_at"]),
        ({"sf_init_config": {"parties": ["alice", "alice"]}}, ["sf_init_config.parties", "twice"]),
        ({"sf_init_config": {"parties": ["../alice"]}}, ["sf_init_config.parties"]),
    ],
)
def test_options_and_parties(worker: RunningWorker, more: dict[str, Any], said: list[str]) -> None:
    fails(worker, envelope({"task_type": "hello"}, **more), "ParameterValidationError", *said)


@pytest.mark.parametrize(
    ("runtime_config", "said"),
    [
        ({"protocol": "REF2K"}, "keeps no secrets"),
        ({"protocol": "ABY3"}, "exactly 3"),
        ({"protocol": "SEMI3K"}, "one of"),
        ({"protocol": "SEMI2K", "field": "FM256"}, "FM128"),
    ],
)
def test_protocols(worker: RunningWorker, data: Path, runtime_config: dict[str, Any], said: str) -> None:
    job = psi(data) | {"spu_config": {"cluster_def": {"runtime_config": runtime_config}}}
    fails(worker, job, "ParameterValidationError", "spu_config.cluster_def.runtime_config", said)


def test_a_device_is_missing(worker: RunningWorker, data: Path) -> None:
    job = psi(data)
    del job["spu_config"]
    fails(worker, job, "ParameterValidationError", "spu_config", "psi")


def test_a_job_that_came_too_late(worker: RunningWorker) -> None:
    job = envelope({"task_type": "hello"}, options={"expires_at": "2020-01-01T00:00:00Z"})
    fails(worker, job, "ExpiredError", "options.expires_at")
    assert [event["status"] for event in worker.said(job["execution_id"])] == ["FAILURE"]


# --- files and columns


def other_party(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["input_paths"]["carol"] = "x.csv"


def missing_file(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["input_paths"]["bob"] = str(data / "nothing.csv")


def directory(job: dict[str, Any], data: Path) -> None:
    (data / "directory.csv").mkdir()
    job["task_config"]["input_paths"]["bob"] = str(data / "directory.csv")


def empty_file(job: dict[str, Any], data: Path) -> None:
    (data / "bob.csv").write_text("")


def header_only(job: dict[str, Any], data: Path) -> None:
    (data / "bob.csv").write_text("id,income\n")


def header_without_a_line_end(job: dict[str, Any], data: Path) -> None:
    (data / "bob.csv").write_text("id,income")


def no_such_key(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["keys"]["bob"] = ["customer"]


def dots(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["input_paths"]["bob"] = "../../../../etc/passwd"


def link(job: dict[str, Any], data: Path) -> None:
    (data / "link.csv").symlink_to("/etc/passwd")
    job["task_config"]["input_paths"]["bob"] = str(data / "link.csv")


def url(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["input_paths"]["bob"] = "http://localhost/bob.csv"


def output_outside(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["output_paths"]["bob"] = "/etc/out.csv"


def output_below_a_file(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["output_paths"]["bob"] = str(data / "bob.csv" / "out.csv")


def output_not_writable(job: dict[str, Any], data: Path) -> None:
    # Root may write everywhere but where the kernel allows nobody to.
    (data / "locked").symlink_to("/proc/self")
    job["task_config"]["output_paths"]["bob"] = str(data / "locked" / "out.csv")


@pytest.mark.parametrize(
    ("change", "error_type", "said"),
    [
        (other_party, "ParameterValidationError", ["task_config.input_paths", "alice, bob"]),
        (missing_file, "InputDataError", ["task_config.input_paths.bob", "no such file"]),
        (directory, "InputDataError", ["task_config.input_paths.bob", "directory"]),
        (empty_file, "InputDataError", ["task_config.input_paths.bob", "empty"]),
        (header_only, "InputDataError", ["task_config.input_paths.bob", "no rows"]),
        (header_without_a_line_end, "InputDataError", ["task_config.input_paths.bob", "no rows"]),
        (no_such_key, "InputDataError", ["task_config.keys.bob", "customer"]),
        (dots, "ParameterValidationError", ["task_config.input_paths.bob", "outside the data roots"]),
        (link, "ParameterValidationError", ["task_config.input_paths.bob", "outside the data roots"]),
        (url, "ParameterValidationError", ["task_config.input_paths.bob", "URL"]),
        (output_outside, "ParameterValidationError", ["task_config.output_paths.bob", "outside the data roots"]),
        (output_below_a_file, "ResultSaveError", ["task_config.output_paths.bob"]),
        (output_not_writable, "ParameterValidationError", ["task_config.output_paths.bob"]),
    ],
)
def test_psi(worker: RunningWorker, data: Path, change: Change, error_type: str, said: list[str]) -> None:
    write_inputs(data)
    job = psi(data)
    change(job, data)
    before = {path.name for path in data.iterdir()}
    fails(worker, job, error_type, *said)
    assert {path.name for path in data.iterdir()} == before


def duplicated_keys(job: dict[str, Any], data: Path) -> None:
    with (data / "bob.csv").open("a") as file:
        file.write("c7,1\n")
    job["task_config"]["table_keys_duplicated"] = False


def test_keys_that_are_said_to_be_unique_and_are_not(worker: RunningWorker, data: Path) -> None:
    write_inputs(data)
    job = psi(data)
    duplicated_keys(job, data)
    fails(worker, job, "InputDataError", "task_config.input_paths.bob")


def text_in_a_number(job: dict[str, Any], data: Path) -> None:
    with (data / "bob.csv").open("a") as file:
        file.write("c31,Zhang\n")
    with (data / "alice.csv").open("a") as file:
        file.write("c31,1.0,1\n")


def no_label(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["label"]["column"] = "outcome"


def label_nowhere(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["label"]["party"] = "carol"


def different_rows(job: dict[str, Any], data: Path) -> None:
    with (data / "bob.csv").open("a") as file:
        file.write("c31,1.0\n")


def missing_value(job: dict[str, Any], data: Path) -> None:
    with (data / "bob.csv").open("a") as file:
        file.write("c31,\n")
    with (data / "alice.csv").open("a") as file:
        file.write("c31,1.0,1\n")


def unknown_feature(job: dict[str, Any], data: Path) -> None:
    job["task_config"]["features"] = {"alice": ["balance"], "bob": ["incme"]}


@pytest.mark.parametrize(
    ("change", "error_type", "said"),
    [
        (text_in_a_number, "InputDataError", ["bob", "income", "row"]),
        (no_label, "InputDataError", ["task_config.label", "outcome"]),
        (label_nowhere, "ParameterValidationError", ["task_config.label.party", "alice, bob"]),
        (different_rows, "InputDataError", ["rows"]),
        (missing_value, "InputDataError", ["bob", "income", "row"]),
        (unknown_feature, "InputDataError", ["task_config.features.bob", "incme"]),
    ],
)
def test_ss_lr(worker: RunningWorker, data: Path, change: Change, error_type: str, said: list[str]) -> None:
    write_inputs(data)
    job = ss_lr(data)
    change(job, data)
    before = {path.name for path in data.iterdir()}
    fails(worker, job, error_type, *said)
    assert {path.name for path in data.iterdir()} == before


@pytest.mark.attack("logs")
def test_nothing_of_the_data_is_in_the_log(worker: RunningWorker, data: Path) -> None:
    write_inputs(data)
    assert worker.run(psi(data))["status"] == "success"
    until(lambda: "succeeded after" in worker.log())
    assert not [secret for secret in ("Zhang", "1234.5", str(data)) if secret in worker.log()]
