"""Exports traces and metrics by OpenTelemetry, as its standard `OTEL_*` variables say. Runs in daemon and gateway.

Without them nothing is imported and every call does nothing. `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER` take
`otlp` (over HTTP, protobuf), `console`, both, or `none`; where one is not set, an `OTEL_EXPORTER_OTLP_ENDPOINT` (or the
signal's own) means `otlp`. Everything is exported by threads; a collector that is down costs spans, never time.

| span | kind | from, to | attributes |
|---|---|---|---|
| `process <stream>` | consumer | append to the stream, answer | `messaging.*`, the three ids, `sfworker.task.type`, `sfworker.attempt`, `sfworker.outcome`, `error.type` |
| `queue` | internal | append, a free slot | |
| `cluster` | internal | start of the party processes, parties joined | |
| `devices` | internal | parties joined, devices ready | |
| `task` | internal | devices ready, outcome known | |
| `publish` | internal | outcome known, answer published | |

One trace per execution: its first span continues the entry's `traceparent`, so all attempts of an execution stand beside
each other under the web side's span. Without a usable one it is a trace of its own. Where parties are elsewhere, each has
a trace of its own whose first span has links to those of the others (`sfworker.party`): none continues another's, so that
nobody decides what another party samples.

| metric | kind, unit | attributes |
|---|---|---|
| `sfworker.executions` | counter, `{execution}` | `sfworker.task.type`, `sfworker.outcome` |
| `sfworker.execution.duration` | histogram, `s` | `sfworker.phase` (`queue`, `cluster`, `devices`, `execution`, `total`), `sfworker.task.type`, `sfworker.outcome` |
| `sfworker.executions.running` | up-down counter, `{execution}` | |
| `sfworker.slots.free` | up-down counter, `{slot}` | |
| `sfworker.incidents` | counter, `{incident}` | `sfworker.incident` (`lease_lost`, `template_restart`, `reconnect`, `results_unread`, ...) |

A party's gateway exports its own metrics, by `export`; deploy/README.md lists them.

Both carry the resource attributes `service.name` (default `sfworker`), `service.version` and `service.instance.id` (the
worker's id, or `<host>-gateway-<party>`). Only the attributes in `_ATTRIBUTES` are ever exported: no parameters, no paths, no data.
"""  # noqa: E501 - tables

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sfworker.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer

CLOSE_SECONDS = 3.0
_EXPORTERS = ("otlp", "console", "none")
_PROTOCOL = "http/protobuf"
# The caller's name of each attribute and the exported one. Attributes that are not listed are never exported.
_ATTRIBUTES = {
    "task_id": "sfworker.task.id",
    "subtask_id": "sfworker.subtask.id",
    "execution_id": "sfworker.execution.id",
    "task_type": "sfworker.task.type",
    "attempt": "sfworker.attempt",
    "party": "sfworker.party",
    "parties": "sfworker.parties",
    "worker_id": "messaging.client.id",
    "stream": "messaging.destination.name",
    "group": "messaging.consumer.group.name",
    "message_id": "messaging.message.id",
    "error_type": "error.type",
}
# Bounds of the histogram in seconds. The SDK's own are meant for milliseconds.
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_log = logging.getLogger("sfworker.telemetry")


class ExecutionTrace:
    """The trace of one execution. This class records nothing."""

    traceparent: str | None = None
    """Of its first span, for workers of other parties."""

    def span(self, name: str, start: float, end: float, **attributes: str | int) -> None:
        """Record a step that is over. Times are in Unix seconds."""

    def link(self, party: str, traceparent: str) -> None:
        """Link to the span of another party's worker for this execution. What is no `traceparent` is left out."""

    def end(self, outcome: str, error_type: str | None = None) -> None:
        """Record that the execution was answered with `outcome`."""


class Telemetry:
    """Takes the worker's traces and metrics. This class drops them; `from_environ` returns one that records."""

    @staticmethod
    def from_environ(environ: Mapping[str, str], worker_id: str, version: str) -> Telemetry:
        """Return telemetry as `environ` asks for. The SDK itself reads the process's environment.

        Raises SettingsError, naming the variable, for values that are not supported here.
        """
        traces, metrics = _exporters(environ, "TRACES"), _exporters(environ, "METRICS")
        if not traces and not metrics:
            return Telemetry()
        return _recording(traces, metrics, worker_id, version)

    def execution(self, traceparent: str | None, started: float, attributes: Mapping[str, str | int]) -> ExecutionTrace:
        """Begin an execution's trace, `started` (Unix seconds) being the append. `_ATTRIBUTES` lists `attributes`."""
        return _NO_TRACE

    def slots(self, running: int, free: int) -> None:
        """Set the number of executions that run here, and of those that could run beside them."""

    def finished(self, task_type: str, outcome: str, seconds: Mapping[str, float]) -> None:
        """Count an ended execution. `task_type` is from the catalogue, `seconds` are by phase that it came to."""

    def count(self, name: str) -> None:
        """Count a rare event such as `lease_lost`, `template_restart` or `reconnect`."""

    def close(self) -> None:
        """Send what is left, blocking for at most CLOSE_SECONDS. Not for the event loop's thread while it has work."""


_NO_TRACE = ExecutionTrace()


class Instrument(NamedTuple):
    """A metric that is read when it is exported, as pairs of a figure and its attributes."""

    kind: Literal["counter", "up_down_counter", "gauge"]
    name: str
    unit: str
    description: str
    read: Callable[[], Iterable[tuple[float, Mapping[str, str]]]]


def export(
    environ: Mapping[str, str], instance_id: str, version: str, instruments: Iterable[Instrument]
) -> Callable[[], None]:
    """Export `instruments` as `environ` asks for. Returns what sends the last figures, which blocks as `close` does.

    Raises SettingsError as `Telemetry.from_environ` does.
    """
    if not (exporters := _exporters(environ, "METRICS")):
        return partial(_shut_down, [])
    from opentelemetry.sdk.metrics import MeterProvider

    provider = MeterProvider(_readers(exporters), _resource(instance_id, version), shutdown_on_exit=False)
    meter = provider.get_meter("sfworker")
    for each in instruments:
        create = getattr(meter, f"create_observable_{each.kind}")
        create(each.name, [partial(_observe, each.read)], each.unit, each.description)
    return partial(_shut_down, [provider])


def _observe(
    read: Callable[[], Iterable[tuple[float, Mapping[str, str]]]], options: CallbackOptions
) -> Iterable[Observation]:
    from opentelemetry.metrics import Observation

    return [Observation(figure, attributes) for figure, attributes in read()]


def _shut_down(providers: Iterable[Any]) -> None:
    # In threads side by side that may be left behind, as no shutdown keeps to a bound by itself.
    threads = [
        threading.Thread(target=provider.shutdown, name="telemetry-close", daemon=True) for provider in providers
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CLOSE_SECONDS
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    if any(thread.is_alive() for thread in threads):
        _log.warning("the collector did not take the last spans and metrics within %g s", CLOSE_SECONDS)


class RecordingTelemetry(Telemetry):
    """Telemetry with exporters behind it."""

    def __init__(
        self, resource: Resource, processors: Iterable[SpanProcessor], readers: Iterable[MetricReader]
    ) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
        from opentelemetry.sdk.trace import TracerProvider

        # `close` shuts both down. At exit they would wait for the collector without a bound.
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        for processor in processors:
            self._tracers.add_span_processor(processor)
        duration = "sfworker.execution.duration"
        view = View(instrument_name=duration, aggregation=ExplicitBucketHistogramAggregation(_BOUNDS))
        self._meters = MeterProvider(list(readers), resource, shutdown_on_exit=False, views=[view])
        self._tracer = self._tracers.get_tracer("sfworker")
        self._running = self._free = 0

        meter = self._meters.get_meter("sfworker")
        self._executions = meter.create_counter("sfworker.executions", "{execution}", "Executions that ended.")
        self._duration = meter.create_histogram(duration, "s", "Where the time of executions went.")
        self._incidents = meter.create_counter("sfworker.incidents", "{incident}", "Things that should be rare.")
        meter.create_observable_up_down_counter(
            "sfworker.executions.running", [self._observe_running], "{execution}", "Executions that run now."
        )
        meter.create_observable_up_down_counter(
            "sfworker.slots.free", [self._observe_free], "{slot}", "Executions that could run beside them."
        )

    def execution(self, traceparent: str | None, started: float, attributes: Mapping[str, str | int]) -> ExecutionTrace:
        return _RecordedTrace(self._tracer, traceparent, started, attributes)

    def slots(self, running: int, free: int) -> None:
        self._running, self._free = running, free

    def finished(self, task_type: str, outcome: str, seconds: Mapping[str, float]) -> None:
        attributes = {"sfworker.task.type": task_type, "sfworker.outcome": outcome}
        self._executions.add(1, attributes)
        for phase, duration in seconds.items():
            self._duration.record(max(duration, 0.0), {**attributes, "sfworker.phase": phase})

    def count(self, name: str) -> None:
        self._incidents.add(1, {"sfworker.incident": name})

    def close(self) -> None:
        _shut_down([self._tracers, self._meters])

    def _observe_running(self, options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [Observation(self._running)]

    def _observe_free(self, options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [Observation(self._free)]


class _RecordedTrace(ExecutionTrace):
    def __init__(
        self, tracer: Tracer, traceparent: str | None, started: float, attributes: Mapping[str, str | int]
    ) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = _extracted(traceparent)
        fixed = {
            "messaging.system": "redis",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }
        self._tracer = tracer
        self._span: Span = tracer.start_span(
            f"process {attributes.get('stream', '')}".rstrip(),
            parent,
            SpanKind.CONSUMER,
            {**fixed, **_exported(attributes)},
            start_time=_nanoseconds(started),
        )
        self._context = set_span_in_context(self._span, Context())
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, self._context)
        self.traceparent = carrier.get("traceparent")

    def span(self, name: str, start: float, end: float, **attributes: str | int) -> None:
        child = self._tracer.start_span(
            name, self._context, attributes=_exported(attributes), start_time=_nanoseconds(start)
        )
        child.end(_nanoseconds(max(start, end)))

    def link(self, party: str, traceparent: str) -> None:
        from opentelemetry.trace import get_current_span

        peers = get_current_span(_extracted(traceparent)).get_span_context()
        if peers.is_valid:
            self._span.add_link(peers, {"sfworker.party": party})

    def end(self, outcome: str, error_type: str | None = None) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("sfworker.outcome", outcome)
        if error_type is not None:
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _extracted(traceparent: str | None) -> Context:
    """Return a context that holds the span of `traceparent`, or nothing where that is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # From an empty one, so that nothing that happens to be current here becomes the parent.
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent} if traceparent else {}, Context())


class _Patient:
    """Mixed into an exporter, logs a collector that is away as one sentence instead of a traceback every time."""

    _failure: Any
    _away = False

    def export(self, *args: Any, **options: Any) -> Any:
        try:
            result = super().export(*args, **options)  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not worth more than a sentence
            if not self._away:
                self._away = True
                _log.warning("the collector cannot be reached (%s); what is sent to it is lost", type(error).__name__)
            return self._failure
        if self._away:
            self._away = False
            _log.info("the collector can be reached again")
        return result


def _exporters(environ: Mapping[str, str], signal: str) -> list[str]:
    """Return the exporters of a signal (TRACES, METRICS), none where nothing asks for any."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    variable = f"OTEL_{signal}_EXPORTER"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    default = "otlp" if any(environ.get(name) for name in endpoints) else "none"
    names = [name.strip().lower() for name in (environ.get(variable) or default).split(",") if name.strip()]
    if unknown := [name for name in names if name not in _EXPORTERS]:
        raise SettingsError(f"{variable}: exporter {unknown[0]!r} is not one of {', '.join(_EXPORTERS)}")
    if "otlp" in names:
        for name in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if protocol := environ.get(name):
                if protocol != _PROTOCOL:
                    raise SettingsError(f"{name}: only {_PROTOCOL} is supported; collectors take it on port 4318")
                break
    return [name for name in dict.fromkeys(names) if name != "none"]


def _recording(traces: list[str], metrics: list[str], worker_id: str, version: str) -> RecordingTelemetry:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        processors = [BatchSpanProcessor(_span_exporter(name)) for name in traces]
    except ValueError as error:
        raise _not_taken(error) from None
    return RecordingTelemetry(_resource(worker_id, version), processors, _readers(metrics))


def _resource(instance_id: str, version: str) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    # Merged last, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
    return Resource.create(
        {"service.name": "sfworker", "service.version": version, "service.instance.id": instance_id}
    ).merge(OTELResourceDetector().detect())


def _readers(exporters: Iterable[str]) -> list[MetricReader]:
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    try:
        return [PeriodicExportingMetricReader(_metric_exporter(name)) for name in exporters]
    except ValueError as error:
        raise _not_taken(error) from None


def _not_taken(error: ValueError) -> SettingsError:
    return SettingsError(f"OTEL_*: a variable holds what OpenTelemetry does not take ({error})")


def _span_exporter(name: str) -> Any:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExportResult

    if name == "console":
        return ConsoleSpanExporter(out=sys.stdout)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return type("PatientSpanExporter", (_Patient, OTLPSpanExporter), {"_failure": SpanExportResult.FAILURE})()


def _metric_exporter(name: str) -> Any:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExportResult

    if name == "console":
        return ConsoleMetricExporter(out=sys.stdout)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return type("PatientMetricExporter", (_Patient, OTLPMetricExporter), {"_failure": MetricExportResult.FAILURE})()


def _exported(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {_ATTRIBUTES[name]: value for name, value in attributes.items() if name in _ATTRIBUTES}


def _nanoseconds(seconds: float) -> int:
    # A float of Unix seconds is exact to the microsecond only.
    return round(seconds * 1e6) * 1000
