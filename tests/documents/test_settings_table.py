"""The table of settings in deploy/README.md is the struct's."""

from __future__ import annotations

import json

import msgspec

from sfworker.settings import Settings, variable
from tests.documents.test_commands import DEPLOY
from tests.documents.test_tables import rows

IN_WORDS = {"data_roots": "`data` where it was started", "run_dir": "the temporary directory"}


def default(name: str, schema: dict[str, object]) -> str:
    if name in IN_WORDS:
        return IN_WORDS[name]
    value = schema["default"]
    text = value if isinstance(value, str) else "" if value in ([], {}) else json.dumps(value)
    return f"`{text}`" if text else ""


def table() -> str:
    """The table as it has to be; printed by `python -m tests.documents.test_settings_table`."""
    fields = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    lines = [f"| `{variable(name)}` | {default(name, each)} | {each['description']} |" for name, each in fields.items()]
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *lines])


def test_every_setting_is_there_as_it_is() -> None:
    assert table() in DEPLOY.read_text(), "run python -m tests.documents.test_settings_table"
    assert len(rows(DEPLOY, "variable | default")) == len(Settings.__struct_fields__)


if __name__ == "__main__":
    print(table())
