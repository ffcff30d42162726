"""What a real worker exports: every metric that deploy/README.md lists, and spans of where executions' time went."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sfworker.cli.embedded_redis import EmbeddedRedis
from sfworker.telemetry import METRICS
from tests.acting_job import SECRET
from tests.attack.test_frames import frame
from tests.documents.test_metrics_table import prometheus_name
from tests.integration.exported import Page
from tests.running_worker import RunningWorker, envelope, until
from tests.test_telemetry import SPAN_ID, TRACE_ID, TRACEPARENT, Collector


class Traced(NamedTuple):
    """A worker, where its metrics are, and who gets its spans."""

    worker: RunningWorker
    address: str
    collector: Collector

    def send(self, job: dict[str, Any]) -> str:
        self.worker.redis.xadd("sf:jobs", {"envelope": json.dumps(job), "traceparent": TRACEPARENT})
        return str(job["execution_id"])

    def spans(self) -> list[Any]:
        bodies = self.collector.bodies("/v1/traces")
        resources = [
            resource for body in bodies for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        ]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    def attempts(self, execution_id: str, count: int = 1) -> list[Any]:
        """The first spans of this many attempts, in order. They are the last of theirs to be exported."""

        def found() -> list[Any]:
            firsts = [span for span in self.spans() if named(span).get("sfworker.execution.id") == execution_id]
            return firsts if len(firsts) >= count else []

        return sorted(until(found), key=lambda span: named(span)["sfworker.attempt"])


def named(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    directory: Path = tmp_path_factory.mktemp("traced")
    address = f"unix:{directory}/health"
    settings = {"health": address, "concurrency": "2", "results_maxlen": "100", "tenants": "t"}
    settings |= {"jobs": "tests.acting_job,tests.attack.framing_job", "cancel_grace_seconds": "0.2"}
    with EmbeddedRedis("--appendfsync", "no") as server, Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
        thread.start()
        worker = RunningWorker(server.url, directory, **settings)
        for _ in range(300):
            worker.redis.xadd("sf:results", {"kind": "status"})
        worker.redis.xgroup_create("sf:results", "web", id="0")
        worker.environment |= {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces"}
        worker.environment |= {"OTEL_BSP_SCHEDULE_DELAY": "200"}
        try:
            with worker:
                yield Traced(worker, address, collector)
        finally:
            collector.shutdown()
            thread.join()


def act(action: str, **options: Any) -> dict[str, Any]:
    return envelope({"task_type": "act_alone", "action": action}, options=options)


def test_every_metric_that_is_documented_is_told_and_no_other(traced: Traced) -> None:
    """The first test of this worker, as it counts what has happened there."""
    worker, address = traced.worker, traced.address
    assert worker.run(act("succeed"))["status"] == "success"
    worker.run(act("kill"))
    refused = worker.run(envelope({"task_type": "psi", "no_such": SECRET}))
    assert refused["status"] == "failure"
    worker.run(envelope({"task_type": SECRET}))
    retried = worker.send(act("raise", max_retries=1, retry_delay=600))
    worker.until_said(retried, "task_retrying")
    hanging = [worker.send(act("hang")) for _ in range(2)]
    for execution_id in hanging:
        worker.until_said(execution_id, "task_started")
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
    for execution_id in hanging:
        worker.redis.set(f"sf:cancel:{execution_id}", "1")
        worker.redis.publish("sf:control", execution_id)
        worker.until_ended(execution_id)


def test_parties_say_where_their_time_went(traced: Traced) -> None:
    spu = {"cluster_def": {"runtime_config": {"protocol": "SEMI2K", "field": "FM64"}}}
    execution_id = traced.send(envelope({"task_type": "health_check"}, spu_config=spu))
    [first] = traced.attempts(execution_id)
    spans = [span for span in traced.spans() if span.trace_id == first.trace_id]
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    by_id = {span.span_id: span for span in spans}
    [task] = [span for span in spans if span.name == "task"]
    for party in ("alice", "bob"):
        own = [span for span in spans if named(span).get("sfworker.party") == party]
        names = {span.name for span in own}
        assert names >= {"join", "make devices", "compute", "run", "reveal"}
        [compute] = [span for span in own if span.name == "compute"]
        for span in own:
            assert first.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= first.end_time_unix_nano
            if span.name in ("join", "make devices", "compute"):
                assert span.parent_span_id == task.span_id
            else:
                above = span
                while above.span_id != compute.span_id:
                    above = by_id[above.parent_span_id]
        durations = {span.name: span.end_time_unix_nano - span.start_time_unix_nano for span in own}
        assert durations["compute"] > 0
    assert any(span.name == "compile" for span in spans)


def test_steps_and_a_retry_which_is_a_trace_of_its_own(traced: Traced) -> None:
    job = envelope({"task_type": "act_alone", "action": "report", "seconds": 1.0})
    [reported] = traced.attempts(traced.send(job))
    steps = [span for span in traced.spans() if span.name == "step" and span.trace_id == reported.trace_id]
    assert {named(step)["sfworker.step"] for step in steps} >= {f"step {number} of 5" for number in range(5)}

    options = {"max_retries": 1, "retry_delay": 0}
    execution_id = traced.send(envelope({"task_type": "act_alone", "action": "raise"}, options=options))
    first, second = traced.attempts(execution_id, 2)
    assert (first.trace_id.hex(), first.parent_span_id.hex(), list(first.links)) == (TRACE_ID, SPAN_ID, [])
    [link] = second.links
    assert (link.trace_id.hex(), link.span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert (second.trace_id != first.trace_id, second.parent_span_id) == (True, b"")
    assert named(second)["messaging.consumer.group.name"] == "secretflow"
    assert [named(span)["error.type"] for span in (first, second)] == ["TaskExecutionError"] * 2
    failed = [span for span in traced.spans() if span.trace_id == second.trace_id and span.name == "compute"]
    assert len(failed) == 1  # also of one that fails


def test_what_a_party_process_makes_up_stays_within_the_attempt(traced: Traced) -> None:
    spans = [["compute", 0.0, 9e9, 63], ["run", 9e9, 1.0, 0], ["meet", 1.0, 2.0, 2]]
    said = frame("Traced", spans=spans, left_out=7) + frame("Succeeded", result=b"{}", peak_rss_bytes=0)
    [first] = traced.attempts(traced.send(envelope({"task_type": "say", "said": b64encode(said).decode()})))
    told = {span.name: span for span in traced.spans() if span.trace_id == first.trace_id}
    begin, end = first.start_time_unix_nano, first.end_time_unix_nano
    for name in ("compute", "run", "meet"):
        assert begin <= told[name].start_time_unix_nano <= told[name].end_time_unix_nano <= end
    assert [told[name].parent_span_id for name in ("compute", "run", "meet")] == [
        *(told["task"].span_id, told["compute"].span_id, told["task"].span_id)
    ]
    assert named(told["compute"])["sfworker.spans.left_out"] == 7


def test_no_data_is_in_them(traced: Traced) -> None:
    traced.attempts(traced.send(envelope({"task_type": SECRET})))
    traced.attempts(traced.send(envelope({"task_type": "act", "action": "raise_foreign"})))
    assert all(SECRET.encode() not in body for body in traced.collector.bodies("/v1/traces"))
