"""What a collector gets of a real worker's executions: where their time went, in the daemon and at each party."""

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
from tests.acting_job import SECRET
from tests.attack.test_frames import frame
from tests.running_worker import RunningWorker, envelope, until
from tests.test_telemetry import SPAN_ID, TRACE_ID, TRACEPARENT, Collector


class Traced(NamedTuple):
    worker: RunningWorker
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
def traced(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[Traced]:
    directory: Path = tmp_path_factory.mktemp("traced")
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
        thread.start()
        worker = RunningWorker(redis_server.url, directory, jobs="tests.acting_job,tests.attack.framing_job")
        worker.environment |= {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces"}
        worker.environment |= {"OTEL_BSP_SCHEDULE_DELAY": "200"}
        try:
            with worker:
                yield Traced(worker, collector)
        finally:
            collector.shutdown()
            thread.join()


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
