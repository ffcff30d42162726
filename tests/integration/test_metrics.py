"""Every metric that deploy/README.md lists comes from a real worker, with the right figure; no other one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from sfworker.daemon.health import ask
from sfworker.telemetry import METRICS
from tests.documents.test_metrics_table import prometheus_name
from tests.running_worker import RunningWorker, envelope, until

OURS = ("outcome", "phase", "task_type")  # labels that begin with our name
SECRET = "customer_4711"


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
    """What happened to a worker, by name."""
    found = [s for s in Page(address).samples if s.name == "sfworker_incidents_total"]
    return {s.labels["sfworker_incident"]: s.value for s in found}


def act(action: str, **options: Any) -> dict[str, Any]:
    return envelope({"task_type": "act_alone", "action": action}, options=options)


def test_every_metric_that_is_documented_is_told_and_no_other(redis_url: str, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/health"
    worker = RunningWorker(redis_url, tmp_path, health=address, concurrency="2", results_maxlen="100", tenants="t")
    for _ in range(300):
        worker.redis.xadd("sf:results", {"kind": "status"})
    worker.redis.xgroup_create("sf:results", "web", id="0")
    with worker:
        assert worker.run(act("succeed"))["status"] == "success"
        worker.run(act("kill"))
        refused = worker.run(envelope({"task_type": "psi", "no_such": SECRET}))
        assert refused["status"] == "failure"
        worker.run(envelope({"task_type": SECRET}))
        retried = worker.send(act("raise", max_retries=1, retry_delay=600))
        worker.until_said(retried, "task_retrying")
        for _ in range(2):
            worker.until_said(worker.send(act("hang")), "task_started")
        worker.send(act("succeed"), "sf:jobs:low")
        worker.redis.xreadgroup("web", "one", {"sf:results": ">"}, count=5)

        def streams() -> dict[str, float]:
            page = Page(address)
            figures = ("queued", "lag", "pending", "retrying", "dead")
            return {name: page.figure(f"stream_{name}", messaging_consumer_group_name="secretflow") for name in figures}

        until(lambda: streams() == {"queued": 1, "lag": 1, "pending": 2, "retrying": 1, "dead": 3})
        page = Page(address)

    assert page.figure("stream_queued", messaging_destination_name="sf:jobs:low") == 1
    assert 0 < page.figure("stream_oldest_age_seconds", messaging_destination_name="sf:jobs:low") < 60
    assert page.figure("stream_dead", messaging_destination_name="sf:jobs", sfworker_tenant="") == 3
    assert page.figure("results_pending", messaging_consumer_group_name="web") == 5
    assert page.figure("results_lag", messaging_consumer_group_name="web") > 295
    assert (page.figure("executions_running"), page.figure("slots_free")) == (2, 0)
    for labels, count in [
        ({"outcome": "success", "error_type": "", "task_type": "act_alone"}, 1),
        ({"outcome": "failure", "error_type": "PartyProcessLostError", "task_type": "act_alone"}, 1),
        ({"outcome": "failure", "error_type": refused["error_type"], "task_type": "psi"}, 1),
        ({"outcome": "failure", "error_type": "TaskTypeNotFoundError", "task_type": "_OTHER"}, 1),
        ({"outcome": "retry", "task_type": "act_alone"}, 1),
    ]:
        assert page.figure("executions_total", messaging_destination_name="sf:jobs", **labels) == count, labels
    succeeded = {"outcome": "success", "task_type": "act_alone"}
    for phase in ("queue", "execution", "total"):
        assert page.figure("execution_duration_seconds_count", phase=phase, **succeeded) == 1
    assert 0 < page.figure("execution_duration_seconds_sum", phase="execution", **succeeded) < 30
    assert page.figure("execution_memory_bytes_count", **succeeded) == 1
    assert 1 << 24 < page.figure("execution_memory_bytes_sum", **succeeded) < 1 << 32
    assert page.figure("event_loop_delay_seconds_count") >= 1
    assert page.figure("incidents_total", sfworker_incident="party_crash") == 1
    assert page.figure("incidents_total", sfworker_incident="results_unread") == 1

    ours = [sample for sample in page.samples if sample.name.startswith("sfworker_")]
    for name, metric in METRICS.items():
        parts = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        names = {prometheus_name(name) + part for part in parts}
        told = [sample for sample in ours if sample.name in names]
        assert {sample.name for sample in told} == names
        attributes = frozenset(attribute.replace(".", "_") for attribute in metric.attributes)
        assert {frozenset(sample.labels.keys() - {"le"}) for sample in told} == {attributes}
        ours = [sample for sample in ours if sample not in told]
    assert ours == []
    assert SECRET not in json.dumps([sample.labels for sample in page.samples])
