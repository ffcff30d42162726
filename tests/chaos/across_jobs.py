"""The jobs of parties on sites of their own under load and chaos, and what is right for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from tests.chaos.jobs import Kind
from tests.gateway.sites import Sites
from tests.running_worker import PARTIES

ROWS = 60
COMMON = 40
LONG_SECONDS = 6.0
"""How long a long job takes."""


def write_inputs(sites: Sites) -> None:
    """Write each site's file, of ids of which COMMON are the other's, too."""
    for first, party in enumerate(PARTIES):
        ids = [f"{number:04d}" for number in range(first * (ROWS - COMMON), first * (ROWS - COMMON) + ROWS)]
        pd.DataFrame({"id": ids, f"of_{first}": range(ROWS)}).to_csv(sites[party].data / "in.csv", index=False)


def kinds() -> list[Kind]:
    """What may be sent. Inputs are the sites' own."""
    good, bad = frozenset({"success", "failure"}), frozenset({"failure"})
    inputs = dict.fromkeys(PARTIES, "in.csv")
    keys = {party: ["id"] for party in PARTIES}
    psi = {"task_type": "psi", "keys": keys, "input_paths": inputs, "receiver": "alice"}

    def acting(name: str, weight: float, answers: frozenset[str], **task: Any) -> Kind:
        options = task.pop("options", {})
        return Kind(name, weight, answers, {"task_type": "act", **task}, options)

    return [
        Kind("psi", 25, good, psi, {}),
        Kind("health_check", 20, good, {"task_type": "health_check"}, {}),
        Kind("table_statistics", 15, good, {"task_type": "table_statistics", "keys": keys, "input_paths": inputs}, {}),
        acting("succeeds", 15, good, action="succeed"),
        acting("raises once", 5, good, action="raise", attempts=1),
        acting("kills itself once", 4, good, action="kill", at="bob", attempts=1, seconds=20.0),
        acting("longer than the lease", 2, good, action="report", seconds=LONG_SECONDS),
        acting("raises for good", 4, bad, action="raise_final", at="bob", seconds=20.0),
        acting("hangs", 2, bad, action="hang", options={"soft_time_limit": 3, "time_limit": 6}),
        Kind("no input at bob", 3, bad, {**psi, "input_paths": {"alice": "in.csv", "bob": "none.csv"}}, {}),
        Kind("refused at alice", 2, bad, {"task_type": "health_check"}, {}),
        Kind("another job at bob", 2, bad, {"task_type": "act", "action": "succeed"}, {}),
    ]


def jobs_of(sites: Sites, kind: Kind) -> dict[str, dict[str, Any]]:
    """What is sent to each party."""
    options = {"max_retries": 8, "retry_delay": 0.3, **kind.options}
    jobs = sites.jobs(kind.task, options=options)
    for party, job in jobs.items():
        job["task_config"] = task = dict(kind.task)
        if kind.task["task_type"] == "psi":
            task["output_paths"] = dict.fromkeys(PARTIES, f"{job['execution_id']}.csv")
        if (kind.name, party) == ("refused at alice", "alice"):
            task["unheard_of"] = 1
        if (kind.name, party) == ("another job at bob", "bob"):
            task["seconds"] = 7.0
    return jobs


def wrong(sites: Sites, kind: Kind, execution_id: str, results: list[dict[str, Any]]) -> Iterator[str]:
    """Sentences on what is not as plain computation has it, at any party that succeeded."""
    for party, result in zip(PARTIES, results, strict=True):
        figures = result["result"]
        if kind.name == "psi":
            path = sites[party].data / f"{execution_id}.csv"
            rows = len(pd.read_csv(path)) if path.exists() else None
            if (figures["intersection_count"], rows) != (COMMON, COMMON):
                yield f"{execution_id}: psi at {party} has {figures['intersection_count']}, its file {rows} rows"
        if kind.name == "table_statistics" and party == PARTIES[0]:  # who receives them
            for number, each in enumerate(PARTIES):
                if figures["statistics"][each][f"of_{number}"]["mean"] != (ROWS - 1) / 2:
                    yield f"{execution_id}: {party} has wrong statistics of {each}"
        if kind.name == "health_check" and not figures["healthy"]:
            yield f"{execution_id}: not healthy at {party}"
