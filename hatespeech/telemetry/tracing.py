"""Spans of requests and jobs, over OpenTelemetry: request, and in it queue and compute.

A span holds method, route template, status, ids, numbers of texts and tokens; never a text, a path
or a query. The trace goes on from ``traceparent`` (W3C Trace Context), if a caller sends it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry

from hatespeech.telemetry.otlp import Export
from hatespeech.telemetry.tally import Tally
from hatespeech.version import __version__

SCOPE: Final = "hatespeech"
# So many jobs that wait keep their request's trace; a job beyond them begins one of its own.
REMEMBERED_JOBS: Final = 10_000

_CARRIER: Final = TraceContextTextMapPropagator()


class RequestSpan:
    """The span of one request or job, open until :meth:`end`."""

    def __init__(self, span: Span, provider: TracerProvider) -> None:
        self.context = set_span_in_context(span)
        self._span = span
        self._tracer = provider.get_tracer(SCOPE, __version__)

    def scored(self, tally: Tally) -> None:
        """Add the spans of a reply that has just been made: its time in the queue, and after."""
        if not tally.tokens:
            return
        finished = time.time_ns()
        started = finished - int(tally.compute_ms * 1e6)
        submitted = started - int(tally.queue_ms * 1e6)
        size = {"hatespeech.texts": tally.texts, "hatespeech.tokens": tally.tokens}
        for name, begin, end in (("queue", submitted, started), ("compute", started, finished)):
            span = self._tracer.start_span(name, self.context, attributes=size, start_time=begin)
            span.end(end)

    def end(self, name: str, attributes: Mapping[str, str | int], error_type: str | None) -> None:
        """Close it, now that its name and what it was about are known."""
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if error_type is not None:
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Tracing:
    """Makes spans, and has them and the metrics sent to one collector."""

    def __init__(self, endpoint: str, registry: CollectorRegistry) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over this name.
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": SCOPE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._export = Export(endpoint, resource, registry)
        self._jobs: OrderedDict[str, Context] = OrderedDict()

    def start(self) -> None:
        """Start to send; again does nothing."""
        self._export.start(self._provider)

    def begin(self, headers: Mapping[str, str], job_id: str | None) -> RequestSpan:
        """Open a span in the trace that the headers name, or in that of the job's request."""
        context = self._jobs.pop(job_id, None) if job_id else None
        if context is None:
            context = _CARRIER.extract(headers)
        kind = SpanKind.SERVER if job_id is None else SpanKind.CONSUMER
        tracer = self._provider.get_tracer(SCOPE, __version__)
        return RequestSpan(tracer.start_span("request", context, kind), self._provider)

    def submitted(self, span: RequestSpan, job_id: str) -> None:
        """Remember which request submitted a job, for the span of the job."""
        self._jobs[job_id] = span.context
        if len(self._jobs) > REMEMBERED_JOBS:
            self._jobs.popitem(last=False)

    def close(self) -> None:
        """Send what is left, unless the collector is out of reach."""
        self._export.close()
