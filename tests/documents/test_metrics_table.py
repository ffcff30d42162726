"""The tables of metrics in deploy/README.md are those of the code."""

from __future__ import annotations

from sfworker.telemetry import INCIDENTS, METRICS
from tests.documents.test_commands import DEPLOY

SUFFIXES = {"s": "_seconds", "By": "_bytes"}
KINDS = {"up_down_counter": "up-down counter"}


def prometheus_name(name: str) -> str:
    """The metric's name at `/metrics`."""
    metric = METRICS[name]
    unit = SUFFIXES.get(metric.unit, "")
    return name.replace(".", "_") + unit + ("_total" if metric.kind == "counter" else "")


def tables() -> str:
    """The tables as they have to be; printed by `python -m tests.documents.test_metrics_table`."""
    metrics = [
        f"| `{name}` | {KINDS.get(each.kind, each.kind)}, `{each.unit}` | `{prometheus_name(name)}` "
        f"| {each.description} | {', '.join(f'`{attribute}`' for attribute in each.attributes)} |"
        for name, each in METRICS.items()
    ]
    incidents = [f"| `{name}` | {what} |" for name, what in INCIDENTS.items()]
    return "\n".join(
        [
            *("| metric of a worker | kind, unit | at `/metrics` | what it is | attributes |", "|---|---|---|---|---|"),
            *metrics,
            *("", "| `sfworker.incident` | what it counts |", "|---|---|"),
            *incidents,
        ]
    )


def test_every_metric_is_there_as_it_is() -> None:
    assert tables() in DEPLOY.read_text(), "run python -m tests.documents.test_metrics_table"


if __name__ == "__main__":
    print(tables())
