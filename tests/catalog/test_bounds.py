"""Every amount that an envelope may ask for has a largest value, which the schema states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from sfworker.catalog import all_task_types, load_modules

COMPARED = {
    ("biclassification_eval", "threshold"),
    ("condition_filter", "condition.value"),
    ("encoder", "categories"),
    ("fillna", "fill_value"),
    ("population_stability", "split_points"),
}
"""Numbers that stand beside those of a column, and are no amounts."""


def numbers(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The places in a struct's schema where a number may stand, with what it may be."""
    definitions = schema["$defs"]

    def within(name: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        if "$ref" in node:
            node = definitions[node["$ref"].rpartition("/")[2]]
        for key, each in node.get("properties", {}).items():
            yield from within(f"{name}.{key}".removeprefix("."), each)
        for each in node.get("anyOf", []):
            yield from within(name, each)
        for each in (node.get("items"), node.get("additionalProperties")):
            if isinstance(each, dict):
                yield from within(name, each)
        if node.get("type") in ("integer", "number"):
            yield name, node

    yield from within("", schema)


def test_amounts_have_a_largest_value() -> None:
    load_modules([])
    unbounded = {
        (task_type.name, name)
        for task_type in all_task_types()
        if task_type.params.__module__.startswith("sfworker.")
        for name, node in numbers(msgspec.json.schema(task_type.params))
        if not {"maximum", "exclusiveMaximum"} & set(node)
    }
    assert unbounded <= COMPARED


@pytest.mark.parametrize("task_type", ["sample", "sgb", "ss_lr", "groupby_statistics"])
def test_the_schema_is_looked_through(task_type: str) -> None:
    load_modules([])
    [found] = [each for each in all_task_types() if each.name == task_type]
    assert len(dict(numbers(msgspec.json.schema(found.params)))) >= 2
