"""Takes out of results and jobs what somebody to whom they are shown need not know: where files lie, and addresses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

HIDDEN = "(not shown)"
UNREAD = "(no JSON, which may hold paths)"
# Those of components may be in camel case, and the paths of their attributes are no files.
_NAMES = re.compile(r"(?!attr_?[pP]aths$)(.*(_p|P)aths?|(.*_)?uris?|.*Uris?|env_vars)")
_LOOKS = re.compile(r"[/~].*|\.{1,2}/.*|.*(://|:\\).*|.*\.(csv|parquet|orc)", re.IGNORECASE | re.DOTALL)


def without_paths(result: Any) -> Any:
    """Return what a job has answered with each path replaced, as names of fields tell.

    Components name their outputs after the paths, so a path with directories is replaced wherever else it stands.
    """
    again = {path for path in _paths(result, of_path=False) if "/" in path}
    return _replaced(result, of_path=False, hides=lambda text: text in again)


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
    return kept if paths else dict(without_what_looks_like_paths(kept))


def without_what_looks_like_paths(envelope: Any) -> Any:
    """Return an envelope, or a part of one, with each path replaced, as names of fields tell or what it looks like.

    So are the values of variables of the environment, some of which are somebody's to keep.
    """
    if isinstance(envelope, str):
        return UNREAD
    return _replaced(envelope, of_path=False, hides=lambda text: bool(_LOOKS.fullmatch(text)))


def _inside(value: Any, *names: str) -> Any:
    """Return a field of a field; None where the job, which nobody need have checked, has none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _paths(value: Any, *, of_path: bool) -> Iterator[str]:
    """Yield the texts of fields that name paths."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _paths(each, of_path=of_path or bool(_NAMES.fullmatch(name)))
    elif isinstance(value, list):
        for each in value:
            yield from _paths(each, of_path=of_path)
    elif of_path and isinstance(value, str):
        yield value


def _replaced(value: Any, *, of_path: bool, hides: Callable[[str], bool]) -> Any:
    if isinstance(value, dict):
        return {
            HIDDEN if hides(name) else name: _replaced(
                each, of_path=of_path or bool(_NAMES.fullmatch(name)), hides=hides
            )
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_replaced(each, of_path=of_path, hides=hides) for each in value]
    return HIDDEN if isinstance(value, str) and (of_path or hides(value)) else value
