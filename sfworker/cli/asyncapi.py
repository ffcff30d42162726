"""Describes the streams and channels as an AsyncAPI 3 document, for `sfworker schema asyncapi`.

A stream's entry is a message: the field that holds JSON is its payload, the others are its headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from sfworker import __version__
from sfworker.broker.keys import PRIORITIES, Keys
from sfworker.catalog.base import TaskType
from sfworker.catalog.schema import envelope_schema, event_schema, job_result_schema, notice_schema
from sfworker.wire.events import FINAL_STATUSES, Status

_SCHEMAS = "#/components/schemas/"
_TEXT = {"type": "string"}


def document(task_types: Iterable[TaskType]) -> dict[str, Any]:
    """Make the document, with the default prefix; jobs are of one of `task_types`."""
    keys = Keys()
    channels: dict[str, Any] = {
        f"jobs-{priority}": _stream(
            keys.jobs(priority), ["job"], f"Jobs of {priority} priority. A web side appends, and cannot read."
        )
        for priority in PRIORITIES
    }
    channels |= {
        "results": _stream(keys.results, ["event", "result"], "All status events and results, in order."),
        "notices": _stream(keys.notices, ["notice"], "Executions that were sent again."),
        "statuses": _channel(keys.all_statuses, ["published"], "Status events of all executions."),
        "statuses-of-one": {
            **_channel(keys.statuses("{executionId}"), ["published"], "Status events of one execution."),
            "parameters": {"executionId": {"description": "The execution's `execution_id`."}},
        },
        "control": _channel(keys.control, ["cancellation"], "Executions to cancel."),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "sfworker",
            "version": __version__,
            "description": (
                "The streams and channels between a web side and workers, as the workers see them. "
                f"Beside these are keys: `{keys.result('<execution_id>')}` holds the final result as JSON, and "
                f"`{keys.cancel('<execution_id>')}` is set to cancel. Where the workers' prefix is another one than "
                f"`{keys.prefix}`, it takes its place in all names but `{keys.all_statuses}`."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            **{f"take-{priority}": _operation("receive", f"jobs-{priority}") for priority in PRIORITIES},
            "heed": _operation("receive", "control"),
            "tell": _operation("send", "results"),
            "notify": _operation("send", "notices"),
            "publish": _operation("send", "statuses"),
            "publish-of-one": _operation("send", "statuses-of-one"),
        },
        "components": {"messages": _messages(keys), "schemas": _schemas(task_types)},
    }


def _stream(address: str, messages: list[str], description: str) -> dict[str, Any]:
    return _channel(address, messages, f"A stream. {description}")


def _channel(address: str, messages: list[str], description: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _operation(action: str, channel: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _messages(keys: Keys) -> dict[str, Any]:
    return {
        "job": {
            "summary": "An execution that the web side asks for. The field `envelope` of its entry is the payload.",
            "headers": {
                "type": "object",
                "properties": {"traceparent": {"type": "string", "description": "W3C trace context."}},
            },
            "payload": _reference("envelope"),
        },
        "event": {
            "summary": "One change of an execution. The field `payload` of its entry is the payload.",
            "headers": _said("status", get_args(Status)),
            "payload": _reference("event"),
        },
        "result": {
            "summary": "The final answer of an execution. The field `payload` of its entry is the payload.",
            "headers": _said("result", sorted(FINAL_STATUSES)),
            "payload": _reference("result"),
        },
        "notice": {
            "summary": "What became of an execution sent again. The field `payload` of its entry is the payload.",
            "headers": {
                "type": "object",
                "properties": {
                    "execution_id": _TEXT,
                    "entry_id": {**_TEXT, "description": "The entry of what was sent again."},
                },
                "required": ["execution_id", "entry_id"],
            },
            "payload": _reference("notice"),
        },
        "published": {"summary": "One change of an execution.", "payload": _reference("event")},
        "cancellation": {
            "summary": f"The `execution_id`, as text, once `{keys.cancel('<execution_id>')}` is set to `1`.",
            "contentType": "text/plain",
            "payload": {"type": "string", "minLength": 1},
        },
    }


def _said(kind: str, statuses: Iterable[str]) -> dict[str, Any]:
    """Describe the other fields of an entry of the results stream."""
    return {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "const": kind},
            "execution_id": {**_TEXT, "description": "Always there but where `message_id` is in its place."},
            "message_id": {**_TEXT, "description": "The job's entry, where no execution_id could be read from it."},
            "task_id": _TEXT,
            "subtask_id": _TEXT,
            "status": {"type": "string", "enum": list(statuses)},
        },
        "required": ["kind", "task_id", "subtask_id", "status"],
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"{_SCHEMAS}{name}"}


def _schemas(task_types: Iterable[TaskType]) -> dict[str, Any]:
    """Bring the schemas and what they refer to together under names of this document."""
    roots = {
        "envelope": envelope_schema(task_types),
        "event": event_schema(),
        "result": job_result_schema(),
        "notice": notice_schema(),
    }
    found: dict[str, Any] = {}
    for name, schema in roots.items():
        parts = schema.pop("$defs", {})
        root = {key: value for key, value in schema.items() if not key.startswith("$")}
        found |= {name: root} | parts
    config = found["envelope"]["properties"]["task_config"]
    config["discriminator"] = config["discriminator"]["propertyName"]  # which is spelled so here
    moved: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(found).replace(b'"#/$defs/', f'"{_SCHEMAS}'.encode())
    )
    return moved
