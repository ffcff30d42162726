"""Telemetry: nothing unless asked for, and then what a collector on loopback and in memory really gets."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import timeit
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sfworker import telemetry as telemetry_module
from sfworker.errors import SettingsError
from sfworker.telemetry import INCIDENTS, EndedAttempt, Incident, Reading, RecordingTelemetry, Telemetry

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
ATTRIBUTES: dict[str, str | int] = {
    "execution_id": "e",
    "task_id": "t",
    "subtask_id": "s",
    "task_type": "psi",
    "attempt": 1,
    "stream": "sf:jobs",
    "message_id": "1-0",
}
ENDED = EndedAttempt("psi", "success", "", "sf:jobs", "", {}, None)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


class Memory:
    """Telemetry into memory."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        processors = [SimpleSpanProcessor(self.spans)]
        self.telemetry = RecordingTelemetry(Resource({}), processors, [self.reader], "secretflow")

    def span(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans.get_finished_spans() if span.name == name]
        return found

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    memory.telemetry.close()


class TestNothingAsked:
    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"OTEL_SERVICE_NAME": "x"},
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "True"},
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h",
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_METRICS_EXPORTER": "none",
            },
        ],
    )
    def test_records_nothing(self, environ: dict[str, str]) -> None:
        assert type(Telemetry.from_environ(environ, "host-1", "0.1")) is Telemetry

    def test_imports_nothing(self) -> None:
        program = (
            "import sys\n"
            "from sfworker.telemetry import Telemetry\n"
            "telemetry = Telemetry.from_environ({}, 'host-1', '0.1')\n"
            "telemetry.execution('x', 1.0, {}).end('success', None)\n"
            "telemetry.close()\n"
            "print('opentelemetry' in sys.modules, 'requests' in sys.modules)"
        )
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert run.stdout == "False False\n"

    def test_costs_nothing(self) -> None:
        telemetry = Telemetry.from_environ({}, "host-1", "0.1")
        trace = telemetry.execution(TRACEPARENT, 1.0, ATTRIBUTES)
        assert trace.traceparent is None
        calls = [
            lambda: telemetry.execution(TRACEPARENT, 1.0, ATTRIBUTES),
            lambda: trace.span("task", 1.0, 2.0, attempt=1),
            lambda: trace.end("success", None),
            lambda: telemetry.slots(1, 2),
            lambda: telemetry.finished(ENDED),
            lambda: telemetry.loop_was_late(0.1),
            lambda: telemetry.count("reconnect"),
        ]
        for call in calls:
            assert min(timeit.repeat(call, number=1000, repeat=20)) / 1000 < 1e-6


class TestSettings:
    @pytest.mark.parametrize(
        ("environ", "variable"),
        [
            ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
            ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER"),
            ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
            (
                {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"},
                "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            ),
        ],
    )
    def test_what_is_not_supported_is_named(self, environ: dict[str, str], variable: str) -> None:
        with pytest.raises(SettingsError, match=f"^{variable}: "):
            Telemetry.from_environ(environ, "host-1", "0.1")

    def test_what_the_sdk_does_not_take(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
        with pytest.raises(SettingsError, match="OTEL_"):
            Telemetry.from_environ(os.environ, "host-1", "0.1")

    def test_console(self, capfd: pytest.CaptureFixture[str]) -> None:
        telemetry = Telemetry.from_environ({"OTEL_TRACES_EXPORTER": "console"}, "host-1", "0.1")
        telemetry.execution(None, 1.0, ATTRIBUTES).end("success", None)
        telemetry.close()
        assert '"name": "process sf:jobs"' in capfd.readouterr().out


class TestTrace:
    def test_spans_of_an_execution(self, memory: Memory) -> None:
        trace = memory.telemetry.execution(TRACEPARENT, 1_700_000_000.25, ATTRIBUTES)
        trace.span("queue", 1_700_000_000.25, 1_700_000_001.5)
        trace.span("task", 1_700_000_001.5, 1_700_000_003.0, party="alice")
        trace.end("success", None)
        root, queue, task = (memory.span(name) for name in ("process sf:jobs", "queue", "task"))
        assert root.kind is SpanKind.CONSUMER
        assert root.start_time == 1_700_000_000_250_000_000
        assert root.attributes == {
            "messaging.system": "redis",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "sf:jobs",
            "messaging.message.id": "1-0",
            "messaging.consumer.group.name": "secretflow",
            "sfworker.execution.id": "e",
            "sfworker.task.id": "t",
            "sfworker.subtask.id": "s",
            "sfworker.task.type": "psi",
            "sfworker.attempt": 1,
            "sfworker.outcome": "success",
        }
        assert root.status.status_code is StatusCode.UNSET
        assert root.parent is not None
        assert (root.parent.trace_id, root.parent.span_id) == (int(TRACE_ID, 16), int(SPAN_ID, 16))
        assert (queue.start_time, queue.end_time) == (1_700_000_000_250_000_000, 1_700_000_001_500_000_000)
        assert task.attributes == {"sfworker.party": "alice"}
        for child in (queue, task):
            assert child.parent == root.context
            assert child.kind is SpanKind.INTERNAL

    def test_failure(self, memory: Memory) -> None:
        memory.telemetry.execution(None, 1.0, ATTRIBUTES).end("failure", "InputDataError")
        root = memory.span("process sf:jobs")
        assert root.status.status_code is StatusCode.ERROR
        assert root.attributes is not None
        assert root.attributes["error.type"] == "InputDataError"
        assert root.events == ()

    def test_nothing_but_known_attributes(self, memory: Memory) -> None:
        trace = memory.telemetry.execution(None, 1.0, {"stream": "sf:jobs", "keys": "alice", "path": "/data"})
        trace.span("task", 1.0, 2.0, column="salary")
        trace.end("success", None)
        assert memory.span("task").attributes == {}
        assert "alice" not in memory.span("process sf:jobs").to_json()

    def test_a_clock_that_went_back(self, memory: Memory) -> None:
        memory.telemetry.execution(None, 1.0, ATTRIBUTES).span("task", 2.0, 1.0)
        task = memory.span("task")
        assert task.start_time == task.end_time

    @pytest.mark.parametrize(
        "garbage",
        [None, "", "x", f"00-{'0' * 32}-{SPAN_ID}-01", f"ff-{TRACE_ID}-{SPAN_ID}-01", "\0" * 10_000, "甲", "00-1-2-01"],
    )
    def test_a_root_of_its_own(self, memory: Memory, garbage: str | None) -> None:
        memory.telemetry.execution(garbage, 1.0, ATTRIBUTES).end("success", None)
        root = memory.span("process sf:jobs")
        assert root.parent is None
        assert root.context.trace_id not in {0, int(TRACE_ID, 16)}

    def test_never_under_what_happens_to_be_current(self, memory: Memory) -> None:
        with memory.telemetry._tracer.start_as_current_span("current"):
            memory.telemetry.execution(None, 1.0, ATTRIBUTES).end("success", None)
        assert memory.span("process sf:jobs").parent is None

    def test_a_party_could_continue_it(self, memory: Memory) -> None:
        trace = memory.telemetry.execution(TRACEPARENT, 1.0, ATTRIBUTES)
        assert trace.traceparent is not None
        carried: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carried, set_span_in_context(trace._span))  # type: ignore[attr-defined]
        assert carried == {"traceparent": trace.traceparent}
        assert trace.traceparent.split("-")[1] == TRACE_ID

    def test_a_link_to_a_peers_span(self, memory: Memory) -> None:
        trace = memory.telemetry.execution(None, 1.0, ATTRIBUTES)
        trace.link("bob", TRACEPARENT)
        trace.link("carol", f"00-{'0' * 32}-{SPAN_ID}-01")
        trace.link("carol", "x" * 10_000)
        trace.end("success", None)
        [link] = memory.span("process sf:jobs").links
        assert (link.context.trace_id, link.context.span_id) == (int(TRACE_ID, 16), int(SPAN_ID, 16))
        assert link.attributes == {"sfworker.party": "bob"}

    def test_not_sampled_by_the_web_side(self, memory: Memory) -> None:
        trace = memory.telemetry.execution(TRACEPARENT[:-1] + "0", 1.0, ATTRIBUTES)
        trace.span("queue", 1.0, 2.0)
        trace.end("success", None)
        assert memory.spans.get_finished_spans() == ()


class TestMetrics:
    def test_executions(self, memory: Memory) -> None:
        memory.telemetry.finished(ENDED._replace(seconds={"queue": 0.25, "total": 1.5}))
        memory.telemetry.finished(ENDED._replace(seconds={"queue": 0.5, "total": -0.1}))
        memory.telemetry.finished(ENDED._replace(outcome="failure", error_type="InputDataError"))
        counted = {point.attributes["sfworker.outcome"]: point.value for point in memory.points("sfworker.executions")}
        assert counted == {"success": 2, "failure": 1}
        phases = {p.attributes["sfworker.phase"]: p for p in memory.points("sfworker.execution.duration")}
        assert set(phases) == {"queue", "total"}
        assert (phases["queue"].count, phases["queue"].sum) == (2, 0.75)
        assert phases["total"].min == 0.0
        assert phases["queue"].explicit_bounds[0] < 0.1

    def test_slots_are_of_now(self, memory: Memory) -> None:
        memory.telemetry.slots(3, 1)
        memory.telemetry.slots(2, 2)
        assert [point.value for point in memory.points("sfworker.executions.running")] == [2]
        assert [point.value for point in memory.points("sfworker.slots.free")] == [2]

    def test_figures_of_streams_are_told_no_more_when_they_are_old(
        self, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading = Reading("sf:jobs", "", "secretflow", {"queued": 3, "lag": 2})
        memory.telemetry.streams([reading], [])
        assert [point.value for point in memory.points("sfworker.stream.queued")] == [3]
        assert memory.points("sfworker.stream.dead") == []  # which the server did not tell
        monkeypatch.setattr(telemetry_module, "READING_SECONDS", -1.0)
        assert memory.points("sfworker.stream.queued") == []

    def test_incidents(self, memory: Memory) -> None:
        happened: list[Incident] = ["reconnect", "lease_lost", "reconnect"]
        for incident in happened:
            memory.telemetry.count(incident)
        points = memory.points("sfworker.incidents")
        counted = {p.attributes["sfworker.incident"]: p.value for p in points}
        assert counted == dict.fromkeys(INCIDENTS, 0) | {"reconnect": 2, "lease_lost": 1}

    def test_ready_is_of_now(self, memory: Memory) -> None:
        memory.telemetry.ready("redis_away")
        [point] = memory.points("sfworker.ready")
        assert (point.value, point.attributes) == (0, {"sfworker.state": "redis_away"})
        memory.telemetry.ready("ready")
        [point] = memory.points("sfworker.ready")
        assert (point.value, point.attributes) == (1, {"sfworker.state": "ready"})


class Collector(ThreadingHTTPServer):
    """A collector on loopback that keeps what it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receive)
        self.received: list[tuple[str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def bodies(self, path: str) -> list[bytes]:
        return [body for received_path, body in self.received if received_path == path]


class _Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/x-protobuf"
        self.server.received.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


class TestCollector:
    def test_gets_traces_and_metrics_at_the_close(self, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        telemetry = Telemetry.from_environ(os.environ, "host-1", "0.1")
        trace = telemetry.execution(TRACEPARENT, 1_700_000_000.0, ATTRIBUTES)
        trace.span("queue", 1_700_000_000.0, 1_700_000_001.0)
        trace.end("success", None)
        telemetry.slots(1, 3)
        telemetry.finished(ENDED._replace(seconds={"total": 0.5}))
        telemetry.close()

        request = ExportTraceServiceRequest.FromString(b"".join(collector.bodies("/v1/traces")))
        (resource_spans,) = request.resource_spans
        resource = {item.key: item.value.string_value for item in resource_spans.resource.attributes}
        assert resource["service.name"] == "sfworker"
        assert resource["service.version"] == "0.1"
        assert resource["service.instance.id"] == "host-1"
        assert resource["deployment.environment"] == "test"
        spans = [span for scope in resource_spans.scope_spans for span in scope.spans]
        assert {span.name for span in spans} == {"queue", "process sf:jobs"}
        assert {span.trace_id.hex() for span in spans} == {TRACE_ID}

        metrics = ExportMetricsServiceRequest.FromString(collector.bodies("/v1/metrics")[-1])
        names = {m.name for s in metrics.resource_metrics[0].scope_metrics for m in s.metrics}
        assert names == {
            "sfworker.executions",
            "sfworker.execution.duration",
            "sfworker.executions.running",
            "sfworker.incidents",
            "sfworker.ready",
            "sfworker.slots.free",
        }

    def test_one_signal_under_a_name_of_ones_own(self, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/spans")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "psi-workers")
        telemetry = Telemetry.from_environ(os.environ, "host-1", "0.1")
        telemetry.execution(None, 1.0, ATTRIBUTES).end("success", None)
        telemetry.finished(ENDED)
        telemetry.close()
        assert {path for path, _ in collector.received} == {"/spans"}
        request = ExportTraceServiceRequest.FromString(collector.bodies("/spans")[0])
        resource = {item.key: item.value.string_value for item in request.resource_spans[0].resource.attributes}
        assert resource["service.name"] == "psi-workers"


class TestDeadCollector:
    def test_one_that_refuses_is_one_sentence(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # bound and not listening
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
            monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
            telemetry = Telemetry.from_environ(os.environ, "host-1", "0.1")
            assert isinstance(telemetry, RecordingTelemetry)
            for _ in range(3):
                telemetry.execution(None, 1.0, ATTRIBUTES).end("success", None)
                telemetry._tracers.force_flush()
            telemetry.close()
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
            "the collector cannot be reached (ConnectionError); what is sent to it is lost"
        ]

    def test_one_that_never_answers_delays_nobody(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(telemetry_module, "CLOSE_SECONDS", 0.3)
        before = set(threading.enumerate())
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            telemetry = Telemetry.from_environ(os.environ, "host-1", "0.1")
            telemetry.execution(None, 1.0, ATTRIBUTES).end("success", None)
            telemetry.finished(ENDED)
            began = time.monotonic()
            telemetry.close()
            assert time.monotonic() - began < 1.5
        assert "did not take the last spans" in caplog.text
        for thread in set(threading.enumerate()) - before:  # the listening socket is closed, so they end
            thread.join()
