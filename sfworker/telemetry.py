"""Exports traces and metrics by OpenTelemetry, as its standard `OTEL_*` variables say. Runs in daemon and gateway.

Without them nothing is imported and every call does nothing. `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER` take
`otlp` (over HTTP, protobuf), `console`, several, or `none`; where one is not set, an `OTEL_EXPORTER_OTLP_ENDPOINT` (or
the signal's own) means `otlp`. A metrics take `prometheus`, too, which is also meant where none is set and the
worker or gateway has an HTTP server. Everything is exported by threads; a collector that is down costs spans, never time.

| span | kind | from, to | attributes |
|---|---|---|---|
| `process <stream>` | consumer | append to the stream, answer | `messaging.*`, the three ids, `sfworker.task.type`, `sfworker.attempt`, `sfworker.outcome`, `error.type` |
| `queue` | internal | append, a free slot | |
| `cluster` | internal | start of the party processes, parties joined | |
| `devices` | internal | parties joined, devices ready | |
| `task` | internal | devices ready, outcome known | |
| `step` | internal | the last message of progress, this one; inside `task` | `sfworker.step`, the message (`epoch 3 of 10`) |
| `join`, `make devices`, `compute` | internal | of each party process here | `sfworker.party`, `sfworker.spans.left_out` |
| `compile`, `run` | internal | a program for the SPU; inside `compute` | `sfworker.party` |
| `reveal`, `meet`, `intersect` | internal | waits for peers: for a value, for all to be there, in a PSI | `sfworker.party` |
| `publish` | internal | outcome known, answer published | |

The first attempt continues the entry's `traceparent`, so it stands under the web side's span. Each later attempt is a trace
of its own with a link to that span. Without a usable one all are. Where parties are elsewhere, each has
a trace of its own whose first span has links to those of the others (`sfworker.party`): none continues another's, so that
nobody decides what another party samples. A party process tells at most 64 spans, when it ends; it exports nothing itself, as it may
have no network.

Metrics are those of `METRICS`, which deploy/README.md explains. A party's gateway exports its own metrics, by `export`.
Metrics can be scraped, too: `prometheus` among the exporters is the page that `page` of either returns.

Both carry the resource attributes `service.name` (default `sfworker`), `service.version` and `service.instance.id` (the
worker's id, or `<host>-gateway-<party>`). Only the attributes in `_ATTRIBUTES` are ever exported: no parameters, no paths, no data.
"""  # noqa: E501 - tables

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sfworker.errors import SettingsError
from sfworker.settings import variable

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer

CLOSE_SECONDS = 3.0
OTHER = "_OTHER"
"""Stands for a name that is not ours, as OpenTelemetry has it, since of those there could be any number."""
READING_SECONDS = 20.0
"""Age at which figures of streams are told no more."""
_EXPORTERS = ("otlp", "console", "none")
_PROMETHEUS = "prometheus"
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
    "step": "sfworker.step",
    "left_out": "sfworker.spans.left_out",
    "worker_id": "messaging.client.id",
    "stream": "messaging.destination.name",
    "message_id": "messaging.message.id",
    "error_type": "error.type",
}
# Bounds of the histogram in seconds. The SDK's own are meant for milliseconds.
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_BYTE_BOUNDS = tuple(float(1 << power) for power in range(26, 39))
_DELAY_BOUNDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_log = logging.getLogger("sfworker.telemetry")

Incident = Literal[
    "lease_late", "lease_lost", "party_crash", "reclaim", "reconnect", "results_unread", "template_restart"
]
INCIDENTS: dict[Incident, str] = {
    "lease_late": "The leases of running jobs were renewed later than two thirds of a lease after the last time.",
    "lease_lost": "Another worker has taken over a job that ran here; the computation was ended.",
    "party_crash": "A party process ended without an outcome.",
    "reclaim": "A job was taken over from a worker that had renewed its lease no more.",
    "reconnect": "Redis was away or refused, and answers again.",
    "results_unread": "A consumer group holds the results stream longer than it is to be; seen once a minute.",
    "template_restart": "The template process was lost and is started again.",
}


class Metric(NamedTuple):
    """A metric of a worker. Every figure of it has all of `attributes`, empty ones too, as Prometheus' labels do."""

    kind: Literal["counter", "up_down_counter", "gauge", "histogram"]
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets."""


_GROUP = ("messaging.system", "messaging.consumer.group.name")
_STREAM = (*_GROUP, "messaging.destination.name", "sfworker.tenant")
_TYPE = ("sfworker.task.type", "sfworker.outcome")
METRICS = {
    "sfworker.ready": Metric(
        "gauge", "{worker}", "1 where a job could be taken here now, as `/readyz` has it, else 0.", ("sfworker.state",)
    ),
    "sfworker.executions": Metric(
        "counter", "{execution}", "Attempts that ended here.", (*_STREAM, *_TYPE, "error.type")
    ),
    "sfworker.execution.duration": Metric(
        "histogram", "s", "Where the time of attempts went.", (*_TYPE, "sfworker.phase"), _BOUNDS
    ),
    "sfworker.execution.memory": Metric(
        "histogram", "By", "Peak of the resident memory of an attempt's largest process.", _TYPE, _BYTE_BOUNDS
    ),
    "sfworker.executions.running": Metric("up_down_counter", "{execution}", "Executions that run here now.", _GROUP),
    "sfworker.slots.free": Metric("up_down_counter", "{slot}", "Executions that could run beside them.", _GROUP),
    "sfworker.stream.queued": Metric("gauge", "{job}", "Jobs that nobody has taken yet.", _STREAM),
    "sfworker.stream.oldest_age": Metric("gauge", "s", "Time since the oldest of these was appended.", _STREAM),
    "sfworker.stream.lag": Metric("gauge", "{entry}", "Entries not delivered yet, by the server's count.", _STREAM),
    "sfworker.stream.pending": Metric("gauge", "{job}", "Jobs that workers have taken and not answered.", _STREAM),
    "sfworker.stream.retrying": Metric("gauge", "{job}", "Jobs that wait for their next attempt.", _STREAM),
    "sfworker.stream.held": Metric("gauge", "{job}", "Jobs of a task type that an operator has paused.", _STREAM),
    "sfworker.stream.limited": Metric("gauge", "{job}", "Jobs that wait because of a limit.", _STREAM),
    "sfworker.stream.dead": Metric("gauge", "{job}", "Jobs that failed for good and are kept.", _STREAM),
    "sfworker.results.lag": Metric("gauge", "{entry}", "Results and events that a reader has not read yet.", _STREAM),
    "sfworker.results.pending": Metric("gauge", "{entry}", "Those that it has read and not acknowledged.", _STREAM),
    "sfworker.incidents": Metric("counter", "{incident}", "Things that should be rare.", ("sfworker.incident",)),
    "sfworker.event_loop.delay": Metric("histogram", "s", "How late the daemon's event loop wakes.", (), _DELAY_BOUNDS),
}


class Reading(NamedTuple):
    """Figures of one stream and group at one time, by the last word of the metric's name."""

    stream: str
    tenant: str
    group: str
    figures: Mapping[str, float]


class ExecutionTrace:
    """The trace of one execution. This class records nothing."""

    traceparent: str | None = None
    """Of its first span, for workers of other parties."""
    records = False
    """Whether anybody wants spans of it."""

    def span(self, name: str, start: float, end: float, within: Any = None, **attributes: str | int) -> Any:
        """Record a step that is over, and return what later ones may be `within`. Times are in Unix seconds."""

    def link(self, party: str, traceparent: str) -> None:
        """Link to the span of another party's worker for this execution. What is no `traceparent` is left out."""

    def end(self, outcome: str, error_type: str | None = None) -> None:
        """Record that the execution was answered with `outcome`."""


class EndedAttempt(NamedTuple):
    """An attempt that ended. `task_type` and `error_type` are ours, `seconds` by phase that it came to."""

    task_type: str
    outcome: str
    error_type: str
    stream: str
    tenant: str
    seconds: Mapping[str, float]
    memory: int | None
    """Bytes that its largest process here had at its peak."""


class Telemetry:
    """Takes the worker's traces and metrics. This class drops them; `from_environ` returns one that records."""

    measures = False
    """Whether anybody wants metrics."""

    @staticmethod
    def from_environ(
        environ: Mapping[str, str], worker_id: str, version: str, group: str = "", *, has_server: bool = False
    ) -> Telemetry:
        """Return telemetry as `environ` asks for. The SDK itself reads the process's environment.

        `has_server` says whether the worker has an HTTP server for `page`. Raises SettingsError, naming the variable,
        for values that are not supported here.
        """
        traces, metrics = _exporters(environ, "TRACES"), _exporters(environ, "METRICS", has_server=has_server)
        if _PROMETHEUS in metrics and not has_server:
            raise SettingsError(f"OTEL_METRICS_EXPORTER: prometheus needs {variable('health')}, where it is served")
        if not traces and not metrics:
            return Telemetry()
        return _recording(traces, metrics, worker_id, version, group)

    def execution(self, traceparent: str | None, started: float, attributes: Mapping[str, str | int]) -> ExecutionTrace:
        """Begin an execution's trace, `started` (Unix seconds) being the append. `_ATTRIBUTES` lists `attributes`."""
        return _NO_TRACE

    def slots(self, running: int, free: int) -> None:
        """Set the number of executions that run here, and of those that could run beside them."""

    def ready(self, state: str) -> None:
        """Set how the worker is, as `/readyz` has it."""

    def finished(self, attempt: EndedAttempt) -> None:
        """Count an ended attempt."""

    def count(self, incident: Incident) -> None:
        """Count a rare event."""

    def streams(self, jobs: Sequence[Reading], results: Sequence[Reading]) -> None:
        """Set the figures of the job streams and of the results streams' readers, until READING_SECONDS from now."""

    def loop_was_late(self, seconds: float) -> None:
        """Note by how much the event loop woke too late."""

    def page(self) -> bytes | None:
        """Return all metrics as Prometheus reads them, None where nobody wants that. Takes milliseconds."""
        return None

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


class Exported(NamedTuple):
    """Instruments that are exported. Both are as those of `Telemetry`."""

    close: Callable[[], None]
    page: Callable[[], bytes | None]


def export(
    environ: Mapping[str, str],
    instance_id: str,
    version: str,
    instruments: Iterable[Instrument],
    *,
    has_server: bool,
) -> Exported:
    """Export `instruments` as `environ` asks for. Raises SettingsError as `Telemetry.from_environ` does.

    `has_server` says whether there is an HTTP server for the page. Without one `prometheus` is what workers are to do,
    whose variables these are, too.
    """
    exporters = _exporters(environ, "METRICS", has_server=has_server)
    if not has_server:
        exporters = [name for name in exporters if name != _PROMETHEUS]
    if not exporters:
        return Exported(partial(_shut_down, []), _no_page)
    from opentelemetry.sdk.metrics import MeterProvider

    readers, page = _readers(exporters)
    provider = MeterProvider(readers, _resource(instance_id, version), shutdown_on_exit=False)
    meter = provider.get_meter("sfworker")
    for each in instruments:
        create = getattr(meter, f"create_observable_{each.kind}")
        create(each.name, [partial(_observe, each.read)], each.unit, each.description)
    return Exported(partial(_shut_down, [provider]), page)


def _no_page() -> None:
    """Return what those get who ask for metrics where they are not scraped."""


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
        self,
        resource: Resource,
        processors: Collection[SpanProcessor],
        readers: Collection[MetricReader],
        group: str = "",
        page: Callable[[], bytes | None] = _no_page,
    ) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
        from opentelemetry.sdk.trace import TracerProvider

        self.measures = bool(readers)
        self._traces = bool(processors)
        self._page = page
        self._messaging = {"messaging.system": "redis", "messaging.consumer.group.name": group}

        # `close` shuts both down. At exit they would wait for the collector without a bound.
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        for processor in processors:
            self._tracers.add_span_processor(processor)
        views = [
            View(instrument_name=name, aggregation=ExplicitBucketHistogramAggregation(metric.bounds))
            for name, metric in METRICS.items()
            if metric.bounds
        ]
        self._meters = MeterProvider(list(readers), resource, shutdown_on_exit=False, views=views)
        self._tracer = self._tracers.get_tracer("sfworker")
        self._running = self._free = 0
        self._state = "starting"
        self._readings: Mapping[str, Sequence[Reading]] = {}
        self._read_at = 0.0

        meter = self._meters.get_meter("sfworker")
        kept: dict[str, Any] = {}
        for name, metric in METRICS.items():
            if metric.kind in ("counter", "histogram"):
                create = getattr(meter, f"create_{metric.kind}")
                kept[name] = create(name, metric.unit, metric.description)
            else:
                create = getattr(meter, f"create_observable_{metric.kind}")
                create(name, [partial(_observe, partial(self._figures, name))], metric.unit, metric.description)
        self._executions, self._incidents = kept["sfworker.executions"], kept["sfworker.incidents"]
        self._duration, self._memory = kept["sfworker.execution.duration"], kept["sfworker.execution.memory"]
        self._delay = kept["sfworker.event_loop.delay"]
        for incident in INCIDENTS:  # of what first appears as 1, Prometheus sees no increase
            self._incidents.add(0, {"sfworker.incident": incident})

    def execution(self, traceparent: str | None, started: float, attributes: Mapping[str, str | int]) -> ExecutionTrace:
        if not self._traces:
            return _NO_TRACE
        return _RecordedTrace(self._tracer, traceparent, started, self._messaging, attributes)

    def slots(self, running: int, free: int) -> None:
        self._running, self._free = running, free

    def ready(self, state: str) -> None:
        self._state = state

    def finished(self, attempt: EndedAttempt) -> None:
        kind = {"sfworker.task.type": attempt.task_type, "sfworker.outcome": attempt.outcome}
        of_stream = self._of_stream(attempt.stream, attempt.tenant)
        self._executions.add(1, {**of_stream, **kind, "error.type": attempt.error_type})
        for phase, duration in attempt.seconds.items():
            self._duration.record(max(duration, 0.0), {**kind, "sfworker.phase": phase})
        if attempt.memory is not None:
            self._memory.record(attempt.memory, kind)

    def count(self, incident: Incident) -> None:
        self._incidents.add(1, {"sfworker.incident": incident})

    def streams(self, jobs: Sequence[Reading], results: Sequence[Reading]) -> None:
        self._readings = {"stream": jobs, "results": results}
        self._read_at = time.monotonic()

    def loop_was_late(self, seconds: float) -> None:
        self._delay.record(max(seconds, 0.0))

    def page(self) -> bytes | None:
        return self._page()

    def close(self) -> None:
        _shut_down([self._tracers, self._meters])

    def _figures(self, name: str) -> Iterable[tuple[float, Mapping[str, str]]]:
        if name == "sfworker.executions.running":
            return [(self._running, self._messaging)]
        if name == "sfworker.slots.free":
            return [(self._free, self._messaging)]
        if name == "sfworker.ready":
            return [(self._state == "ready", {"sfworker.state": self._state})]
        if time.monotonic() - self._read_at > READING_SECONDS:  # Redis is away; old figures would look like new ones
            return []
        _, kind, figure = name.split(".")
        return [
            (reading.figures[figure], self._of_stream(reading.stream, reading.tenant, reading.group))
            for reading in self._readings.get(kind, ())
            if figure in reading.figures
        ]

    def _of_stream(self, stream: str, tenant: str, group: str | None = None) -> dict[str, str]:
        told = {**self._messaging, "messaging.destination.name": stream, "sfworker.tenant": tenant}
        return told if group is None else {**told, "messaging.consumer.group.name": group}


class _RecordedTrace(ExecutionTrace):
    def __init__(
        self,
        tracer: Tracer,
        traceparent: str | None,
        started: float,
        messaging: Mapping[str, str],
        attributes: Mapping[str, str | int],
    ) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, SpanKind, get_current_span, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent, links = _extracted(traceparent), []
        web_side = get_current_span(parent).get_span_context()
        if attributes.get("attempt", 1) != 1 and web_side.is_valid:
            # A later attempt may come long after that trace has ended, and is no step of it.
            parent, links = Context(), [Link(web_side)]
        fixed = {
            **messaging,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }
        self._tracer = tracer
        self._span: Span = tracer.start_span(
            f"process {attributes.get('stream', '')}".rstrip(),
            parent,
            SpanKind.CONSUMER,
            {**fixed, **_exported(attributes)},
            links,
            start_time=_nanoseconds(started),
        )
        self.records = self._span.is_recording()
        self._context_of = partial(set_span_in_context, context=Context())
        self._context = self._context_of(self._span)
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, self._context)
        self.traceparent = carrier.get("traceparent")

    def span(self, name: str, start: float, end: float, within: Any = None, **attributes: str | int) -> Any:
        child = self._tracer.start_span(
            name, within or self._context, attributes=_exported(attributes), start_time=_nanoseconds(start)
        )
        child.end(_nanoseconds(max(start, end)))
        return self._context_of(child)

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


def trace_id(traceparent: str | None) -> str | None:
    """Return the trace that a `traceparent` names, None where it is none."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


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


def _exporters(environ: Mapping[str, str], signal: str, *, has_server: bool = False) -> list[str]:
    """Return the exporters of a signal (TRACES, METRICS), none where nothing asks for any."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    setting = f"OTEL_{signal}_EXPORTER"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    default = "otlp" if any(environ.get(name) for name in endpoints) else "none"
    if has_server:
        default += f",{_PROMETHEUS}"
    taken = (*_EXPORTERS, _PROMETHEUS) if signal == "METRICS" else _EXPORTERS
    names = [name.strip().lower() for name in (environ.get(setting) or default).split(",") if name.strip()]
    if unknown := [name for name in names if name not in taken]:
        raise SettingsError(f"{setting}: exporter {unknown[0]!r} is not one of {', '.join(taken)}")
    if "otlp" in names:
        for name in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if protocol := environ.get(name):
                if protocol != _PROTOCOL:
                    raise SettingsError(f"{name}: only {_PROTOCOL} is supported; collectors take it on port 4318")
                break
    return [name for name in dict.fromkeys(names) if name != "none"]


def _recording(traces: list[str], metrics: list[str], worker_id: str, version: str, group: str) -> RecordingTelemetry:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        processors = [BatchSpanProcessor(_span_exporter(name)) for name in traces]
    except ValueError as error:
        raise _not_taken(error) from None
    readers, page = _readers(metrics)
    return RecordingTelemetry(_resource(worker_id, version), processors, readers, group, page)


def _resource(instance_id: str, version: str) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    # Merged last, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
    return Resource.create(
        {"service.name": "sfworker", "service.version": version, "service.instance.id": instance_id}
    ).merge(OTELResourceDetector().detect())


def _readers(exporters: Collection[str]) -> tuple[list[MetricReader], Callable[[], bytes | None]]:
    """Return what exports metrics, and what returns the page of those that are scraped."""
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    readers: list[MetricReader] = []
    try:
        for name in exporters:
            if name != _PROMETHEUS:
                readers.append(PeriodicExportingMetricReader(_metric_exporter(name)))
    except ValueError as error:
        raise _not_taken(error) from None
    if _PROMETHEUS not in exporters:
        return readers, _no_page
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, REGISTRY, generate_latest

    for about_python in (GC_COLLECTOR, PLATFORM_COLLECTOR):  # of no use here; PROCESS_COLLECTOR's figures are
        with contextlib.suppress(KeyError):  # gone already, by another one in this process
            REGISTRY.unregister(about_python)
    return [*readers, PrometheusMetricReader()], partial(generate_latest, REGISTRY)


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
