"""A collector of traces and metrics over OTLP (http/protobuf), which keeps what it is sent."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterable, Iterator

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.stand_ins.app_thread import AppThread


class OtlpCollector(AppThread):
    """Takes what is sent; tests read and set what is public at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.bodies: list[bytes] = []  # as sent, unpacked
        self.refuses = False  # answers 503
        self.hangs = False  # reads what is sent, and does not answer
        self.asked = 0
        self._released = asyncio.Event()

    @property
    def spans(self) -> list[Span]:
        """All spans so far, in the order of their ends."""
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def last_metrics(self) -> dict[str, Metric]:
        """The metrics of the last export, by name."""
        return {
            metric.name: metric
            for resource in self.metrics[-1].resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    @property
    def resources(self) -> Iterator[dict[str, str | int]]:
        """The attributes of the resource of each export."""
        for traces in self.traces:
            yield from (attributes(each.resource.attributes) for each in traces.resource_spans)
        for metrics in self.metrics:
            yield from (attributes(each.resource.attributes) for each in metrics.resource_metrics)

    def make_app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/v1/traces", self._traces)
        app.router.add_post("/v1/metrics", self._metrics)
        return app

    async def stop(self) -> None:
        self._released.set()

    async def _read(self, request: web.Request) -> bytes:
        self.asked += 1
        body = await request.read()
        if self.refuses:
            raise web.HTTPServiceUnavailable
        if self.hangs:
            await self._released.wait()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert request.content_type == "application/x-protobuf"
        self.bodies.append(body)
        return body

    async def _traces(self, request: web.Request) -> web.Response:
        self.traces.append(ExportTraceServiceRequest.FromString(await self._read(request)))
        return web.Response(body=ExportTraceServiceResponse().SerializeToString())

    async def _metrics(self, request: web.Request) -> web.Response:
        self.metrics.append(ExportMetricsServiceRequest.FromString(await self._read(request)))
        return web.Response(body=ExportMetricsServiceResponse().SerializeToString())


def attributes(pairs: Iterable[KeyValue]) -> dict[str, str | int]:
    """Return attributes by name: strings and whole numbers, which are all that we send."""
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in pairs}
