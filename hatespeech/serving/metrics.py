"""What Prometheus reads: requests, latency, errors, windows and the device's counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from hatespeech.contract import TextScore
from hatespeech.errors import ServiceError
from hatespeech.labels import WARNINGS
from hatespeech.serving.served_model import ServedModel

if TYPE_CHECKING:
    from hatespeech.engine.batcher import Counters

# A creation time for every counter would double the reply, and no one needs it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs

PREFIX = "hate_speech_"
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
WINDOW_BUCKETS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            f"{PREFIX}requests",
            "Requests answered, by method, route template and status (499: the client hung up).",
            ("method", "route", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}request_seconds",
            "Seconds from a request's head to the end of its reply.",
            ("method", "route"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._errors = Counter(
            f"{PREFIX}errors",
            "Errors by code, including those of single items and of failed jobs.",
            ("code",),
            registry=self.registry,
        )
        self._warnings = Counter(
            f"{PREFIX}warnings",
            "Scored texts with a warning, by its code.",
            ("code",),
            registry=self.registry,
        )
        for code in WARNINGS:
            self._warnings.labels(code)  # a rate needs the zero before the first one
        self._protocols = Counter(
            f"{PREFIX}protocol_texts",
            "Texts scored for clients of other services, by their protocol.",
            ("protocol",),
            registry=self.registry,
        )
        self._windows = Histogram(
            f"{PREFIX}text_windows",
            "Windows of each scored text.",
            buckets=WINDOW_BUCKETS,
            registry=self.registry,
        )

    def observe_request(
        self, method: str, route: str, status: int, seconds: float, error_type: str | None
    ) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        if error_type is not None:
            self._errors.labels(error_type).inc()

    def observe_error(self, error: ServiceError) -> None:
        """Count the error of a job or of one text."""
        self._errors.labels(error.code).inc()

    def observe_protocol(self, protocol: str, texts: int) -> None:
        """Count texts that came over another service's protocol."""
        self._protocols.labels(protocol).inc(texts)

    def observe_reply(self, items: Iterable[TextScore]) -> None:
        """Count the texts of a reply."""
        for item in items:
            if item.error is not None:
                self.observe_error(item.error)
            elif item.windows is not None:
                self._windows.observe(item.windows)
                for code in item.warnings or ():
                    self._warnings.labels(code).inc()

    def watch(self, model: ServedModel, queued_jobs: Callable[[], int]) -> None:
        """Report the state of these at the time of each scrape."""
        self.registry.register(_Live(model, queued_jobs))


class _Live(Collector):
    def __init__(self, model: ServedModel, queued_jobs: Callable[[], int]) -> None:
        self._model = model
        self._queued_jobs = queued_jobs

    @override
    def collect(self) -> Iterator[Metric]:
        model = self._model
        ready = GaugeMetricFamily(f"{PREFIX}ready", "1 if texts can be scored.")
        ready.add_metric((), float(model.state == "ready"))
        yield ready
        jobs = GaugeMetricFamily(f"{PREFIX}queue_jobs", "Asynchronous jobs that wait or run.")
        jobs.add_metric((), self._queued_jobs())
        yield jobs
        if model.scorer is None:
            return
        served = GaugeMetricFamily(f"{PREFIX}model", "The model served.", labels=("model",))
        served.add_metric((model.model_id or "",), 1)
        yield served
        batcher = model.scorer.batcher
        queue = GaugeMetricFamily(f"{PREFIX}queue_texts", "Texts that wait or are being scored.")
        queue.add_metric((), batcher.queued_texts)
        yield queue
        counters = batcher.counters
        largest = GaugeMetricFamily(f"{PREFIX}largest_batch", "Sequences in the largest batch.")
        largest.add_metric((), counters.largest_batch)
        yield largest
        yield from _totals(counters)
        lost = CounterMetricFamily(
            f"{PREFIX}audit_unwritten", "Decisions that AUDIT_LOG has no line for."
        )
        lost.add_metric((), model.scorer.unwritten_decisions)
        yield lost


def _totals(counters: Counters) -> Iterator[Metric]:
    for name, help_text in {
        "texts": "Texts accepted.",
        "batches": "Forward passes.",
        "shared_batches": "Forward passes with sequences of more than one request.",
        "sequences": "Sequences scored; divided by batches, the mean batch size.",
        "tokens": "Tokens scored; divided by batches, the mean batch in tokens.",
        "padding": "Padding tokens, which only attention reads; not among the tokens.",
    }.items():
        family = CounterMetricFamily(f"{PREFIX}{name}", help_text)
        family.add_metric((), getattr(counters, name))
        yield family
