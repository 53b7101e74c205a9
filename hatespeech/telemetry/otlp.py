"""Sends spans and metrics to a collector over OTLP (http/protobuf), in threads of its own.

A collector that is out of reach costs one warning. What it misses is lost, and a stop does not wait
for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.core import Sample
from typing_extensions import override

log = logging.getLogger(__name__)

METRICS_SECONDS: Final = 15.0  # between two exports of the metrics
REQUEST_SECONDS: Final = 5  # for which one export waits, with all its retries
STOP_SECONDS: Final = 1.0  # for the last export, if the one before it arrived


class Reachable:
    """Whether the collector took the last export; each change is one line of the log."""

    def __init__(self) -> None:
        self.now = True
        self.matters = True  # until the process stops

    def note(self, *, arrived: bool) -> None:
        """Note how an export went."""
        if arrived == self.now or not self.matters:
            return
        self.now = arrived
        if arrived:
            log.warning("OTEL_EXPORTER_OTLP_ENDPOINT: the collector answers again")
        else:
            log.warning(
                "OTEL_EXPORTER_OTLP_ENDPOINT: the collector does not take traces and metrics; "
                "they are lost until it does"
            )


class NotedSpanExporter(SpanExporter):
    """Exports spans and notes whether they arrived."""

    def __init__(self, inner: SpanExporter, reachable: Reachable) -> None:
        self._inner = inner
        self._reachable = reachable

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        self._reachable.note(arrived=result is SpanExportResult.SUCCESS)
        return result

    @override
    def shutdown(self) -> None:
        self._inner.shutdown()


class Export:
    """The threads that send. They are daemons: none keeps the process alive."""

    def __init__(self, endpoint: str, resource: Resource, registry: CollectorRegistry) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._resource = resource
        self._registry = registry
        self._reachable = Reachable()
        self._started = 0  # in nanoseconds since the epoch; 0 until it is started
        self._spans: BatchSpanProcessor | None = None
        self._metrics: OTLPMetricExporter | None = None
        self._stopping = threading.Event()

    def start(self, provider: TracerProvider) -> None:
        """Start the threads; again does nothing."""
        if self._started:
            return
        self._started = time.time_ns()
        # Its own lines would come for each try, and name the URL.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        logging.getLogger("opentelemetry").propagate = False
        inner = OTLPSpanExporter(f"{self._endpoint}/v1/traces", timeout=REQUEST_SECONDS)
        self._span_exporter = NotedSpanExporter(inner, self._reachable)
        self._spans = BatchSpanProcessor(self._span_exporter)
        provider.add_span_processor(self._spans)
        self._metrics = OTLPMetricExporter(f"{self._endpoint}/v1/metrics", timeout=REQUEST_SECONDS)
        threading.Thread(target=self._send_metrics, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Send the rest, in at most ``STOP_SECONDS``, unless the collector is out of reach."""
        self._stopping.set()
        if self._spans is None or self._metrics is None:
            return
        last = threading.Thread(
            target=self._send_rest, args=(self._spans,), name="last export", daemon=True
        )
        last.start()
        last.join(STOP_SECONDS if self._reachable.now else 0.0)
        self._reachable.matters = False
        # They give up what they are trying.
        self._span_exporter.shutdown()
        self._metrics.shutdown()

    def _send_rest(self, spans: BatchSpanProcessor) -> None:
        if self._reachable.now:
            spans.force_flush()
            self._export_metrics()
        spans.shutdown()  # type: ignore[no-untyped-call]  # theirs

    def _send_metrics(self) -> None:
        while not self._stopping.wait(METRICS_SECONDS):
            self._export_metrics()

    def _export_metrics(self) -> None:
        assert self._metrics is not None  # noqa: S101 - it is started
        now = time.time_ns()
        found = [
            metric
            for family in self._registry.collect()
            for metric in converted(family, self._started, now)
        ]
        scope = ScopeMetrics(InstrumentationScope("hatespeech"), found, "")
        data = MetricsData([ResourceMetrics(self._resource, [scope], "")])
        result = self._metrics.export(data)
        self._reachable.note(arrived=result is MetricExportResult.SUCCESS)


def converted(family: Family, since: int, now: int) -> Iterator[Metric]:
    """Yield what OTLP calls the metrics of one of Prometheus, under the same name.

    ``since`` and ``now`` are nanoseconds since the epoch.
    """
    temporality = AggregationTemporality.CUMULATIVE
    data: Sum | Gauge | Histogram
    if family.type == "histogram":
        data = Histogram(list(_histograms(family.samples, since, now)), temporality)
    else:
        points = [
            NumberDataPoint(sample.labels, since, now, float(sample.value))
            for sample in family.samples
        ]
        data = Sum(points, temporality, True) if family.type == "counter" else Gauge(points)
    if data.data_points:
        name = f"{family.name}_info" if family.type == "info" else family.name
        yield Metric(name, family.documentation, "", data)


def _histograms(samples: Sequence[Sample], since: int, now: int) -> Iterator[HistogramDataPoint]:
    bounds: list[float] = []
    counts: list[int] = []
    found: dict[str, Any] = {}
    for sample in samples:  # of each histogram first its buckets, then count and sum
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        if sample.name.endswith("_bucket"):
            bounds.append(float(sample.labels["le"]))
            counts.append(int(sample.value))
        else:
            found[sample.name.rpartition("_")[2]] = sample.value
        if {"count", "sum"} <= found.keys():
            single = [each - before for each, before in zip(counts, [0, *counts], strict=False)]
            unknown: Any = None  # Prometheus keeps neither the least nor the most
            yield HistogramDataPoint(
                *(labels, since, now, int(found["count"]), found["sum"]),
                *(single, bounds[:-1], unknown, unknown),
            )
            bounds, counts, found = [], [], {}
