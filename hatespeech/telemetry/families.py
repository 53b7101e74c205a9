"""What a process tells about its texts and its device, as Prometheus reads it.

``docs/operations.md`` has a table of all metrics; a test compares it with what is exported.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client import disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from typing_extensions import override

from hatespeech.telemetry.tally import Buckets, Totals

# A creation time for every counter would double the reply, and no one needs it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs

PREFIX: Final = "hate_speech_"

DEVICE_COUNTERS: Final = {
    "texts": "Texts accepted.",
    "batches": "Forward passes.",
    "shared_batches": "Forward passes with sequences of more than one request.",
    "sequences": "Sequences scored; divided by batches, the mean batch size.",
    "tokens": "Tokens scored; divided by batches, the mean batch in tokens.",
    "padding": "Padding tokens, which only attention reads; not among the tokens.",
    "audit_unwritten": "Decisions that AUDIT_LOG has no line for.",
}
DEVICE_GAUGES: Final = {
    "queue_texts": "Texts that wait or are being scored.",
    "largest_batch": "Sequences in the largest batch.",
}


class LoadedModel(Protocol):
    """What a model tells about itself and its device once it is loaded."""

    @property
    def about(self) -> Mapping[str, str]:
        """Model, versions, device, dtype."""

    def measures(self) -> Mapping[str, int]:
        """Return the numbers that :data:`DEVICE_COUNTERS` and :data:`DEVICE_GAUGES` name."""


class TextFamilies(Collector):
    """Totals, and the model's state, as they are at each scrape."""

    def __init__(self, totals: Totals, model: Callable[[], LoadedModel | None]) -> None:
        """``model`` returns ``None`` until it is loaded."""
        self._totals = totals
        self._model = model

    @override
    def collect(self) -> Iterator[Metric]:
        totals, tally = self._totals, self._totals.tally
        yield _counter("labels", "Texts with scores, by their label.", "label", tally.labels)
        yield _counter("flags", "Texts that reach a threshold, by its name.", "flag", tally.flagged)
        yield _counter(
            "warnings", "Scored texts with a warning, by its code.", "code", tally.warnings
        )
        yield _counter(
            "errors",
            "Errors by code, including those of single items and of failed jobs.",
            "code",
            totals.errors,
        )
        yield _counter(
            "protocol_texts",
            "Texts answered, by the protocol that they came by.",
            "protocol",
            totals.texts_by_protocol,
        )
        yield _counter(
            "jobs", "Jobs that ended: finished, failed, stopped, returned.", "outcome", totals.jobs
        )
        scores = HistogramMetricFamily(
            f"{PREFIX}scores", "Scores of each label; a shift tells of a drift.", labels=("label",)
        )
        for label, buckets in totals.scores.items():
            _add(scores, buckets, label)
        yield scores
        for name, help_text, buckets in (
            ("text_windows", "Windows of each scored text.", totals.windows),
            (
                "queue_seconds",
                "Seconds until the device starts on a reply's first text.",
                totals.queue_seconds,
            ),
            (
                "compute_seconds",
                "Seconds from then until a reply's last result.",
                totals.compute_seconds,
            ),
        ):
            family = HistogramMetricFamily(f"{PREFIX}{name}", help_text)
            _add(family, buckets)
            yield family
        model = self._model()
        if model is not None:
            yield from _of_model(model)


def _of_model(model: LoadedModel) -> Iterator[Metric]:
    about = {**model.about, "python": platform.python_version()}
    yield InfoMetricFamily(
        f"{PREFIX}version", "1; its labels are the model, versions, device, dtype.", value=about
    )
    measures = model.measures()
    for name, help_text in DEVICE_COUNTERS.items():
        yield CounterMetricFamily(f"{PREFIX}{name}", help_text, value=measures[name])
    for name, help_text in DEVICE_GAUGES.items():
        yield GaugeMetricFamily(f"{PREFIX}{name}", help_text, value=measures[name])


def _counter(name: str, help_text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}{name}", help_text, labels=(label,))
    for key, count in list(counts.items()):  # the event loop may add keys while a thread reads
        family.add_metric((key,), count)
    return family


def _add(family: HistogramMetricFamily, buckets: Buckets, *labels: str) -> None:
    bounds = [
        ("+Inf" if math.isinf(bound) else str(bound), count)
        for bound, count in buckets.cumulative()
    ]
    family.add_metric(labels, buckets=bounds, sum_value=buckets.sum)
