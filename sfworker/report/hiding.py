"""Takes out of results and jobs what a page that is passed on need not say: where files lie, and addresses."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "(a path)"
_NAMES = re.compile(r".*_paths?|(.*_)?uris?", re.IGNORECASE)
_LOOKS = re.compile(r"[/~].*|\.{1,2}/.*|.*(://|:\\).*|.*\.(csv|parquet|orc)", re.IGNORECASE | re.DOTALL)


def without_paths(result: Any) -> Any:
    """Return what a job has answered with each path replaced, as names of fields tell."""
    return _replaced(result, of_path=False, by_looks=False)


def job(envelope: dict[str, Any], *, paths: bool) -> dict[str, Any]:
    """Return what a job computed with: parties, task, devices, options. Addresses are no part of it.

    Without `paths`, also what looks like one is replaced, as task types may take paths under any name.
    """
    found = {
        "parties": _inside(envelope, "sf_init_config", "parties"),
        "task_config": envelope.get("task_config"),
        "runtime_config": _inside(envelope, "spu_config", "cluster_def", "runtime_config"),
        "heu_config": envelope.get("heu_config"),
        "options": envelope.get("options"),
    }
    kept = {name: value for name, value in found.items() if value}
    return kept if paths else dict(_replaced(kept, of_path=False, by_looks=True))


def _inside(value: Any, *names: str) -> Any:
    """Return a field of a field; None where the job, which nobody need have checked, has none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _replaced(value: Any, *, of_path: bool, by_looks: bool) -> Any:
    if isinstance(value, dict):
        return {
            name: _replaced(each, of_path=of_path or bool(_NAMES.fullmatch(name)), by_looks=by_looks)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_replaced(each, of_path=of_path, by_looks=by_looks) for each in value]
    hidden = isinstance(value, str) and (of_path or (by_looks and _LOOKS.fullmatch(value)))
    return HIDDEN if hidden else value
