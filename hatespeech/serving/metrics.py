"""What Prometheus reads of the server: requests, latency, jobs, and what every front tells."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hatespeech.serving.http_errors import STATUSES
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings
from hatespeech.telemetry.families import PREFIX
from hatespeech.telemetry.recorder import HTTP, Recorder
from hatespeech.telemetry.tally import add_counts

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one application, in a registry of its own."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raise the errors of :class:`Recorder`."""
        self.registry = CollectorRegistry()
        self.recorder = Recorder(settings, self.registry)
        totals = self.recorder.totals  # a rate needs the zero before the first one
        add_counts(totals.errors, dict.fromkeys((kind.code for kind in STATUSES), 0))
        protocols = [HTTP, *settings.protocols, *(["grpc"] if settings.grpc else [])]
        add_counts(totals.texts_by_protocol, dict.fromkeys(protocols, 0))
        self.requests = Counter(
            f"{PREFIX}requests",
            "Requests answered, by method, route template, status (499: the client hung up) and "
            "protocol.",
            ("method", "route", "code", "protocol"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            f"{PREFIX}request_seconds",
            "Seconds from a request's head to the end of its reply.",
            ("method", "route", "protocol"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )

    def count_error(self, code: str) -> None:
        """Count an error."""
        add_counts(self.recorder.totals.errors, {code: 1})

    def watch(self, model: ServedModel, queued_jobs: Callable[[], int]) -> None:
        """Report the state of these at the time of each scrape."""
        self.recorder.watch(lambda: model.scorer)
        ready = Gauge(f"{PREFIX}ready", "1 if texts can be scored.", registry=self.registry)
        ready.set_function(lambda: model.state == "ready")
        jobs = Gauge(
            f"{PREFIX}queue_jobs", "Asynchronous jobs that wait or run.", registry=self.registry
        )
        jobs.set_function(queued_jobs)
