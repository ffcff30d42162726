"""Reads what a worker tells at `/metrics`."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from sfworker.listening import ask

OURS = ("outcome", "phase", "task_type")  # labels that begin with our name


class Page:
    """The metrics of a worker at one time."""

    def __init__(self, address: str) -> None:
        status, body = ask(address, "/metrics")
        assert status == 200
        self.samples = [sample for family in text_string_to_metric_families(body) for sample in family.samples]

    def figure(self, name: str, **labels: str) -> float:
        """The sum of a metric's figures that have these labels, among others."""
        wanted = {f"sfworker_{label}" if label in OURS else label: value for label, value in labels.items()}
        found = [s.value for s in self.samples if s.name == f"sfworker_{name}" and wanted.items() <= s.labels.items()]
        return sum(found)


def incidents(address: str) -> dict[str, float]:
    """What happened to a worker, by name, but for what has not."""
    found = [s for s in Page(address).samples if s.name == "sfworker_incidents_total"]
    return {s.labels["sfworker_incident"]: s.value for s in found if s.value}
